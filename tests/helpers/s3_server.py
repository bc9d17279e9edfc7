"""A real S3 server: moto's, with a bucket."""

from __future__ import annotations

import contextlib
import logging
import os
from typing import TYPE_CHECKING, Any

import boto3
from moto.server import ThreadedMotoServer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUCKET = "evidence"
LOGIN = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "hidden", "AWS_DEFAULT_REGION": "us-east-1"}


@contextlib.contextmanager
def bucket(objects: Mapping[str, bytes]) -> Iterator[Any]:
    """Serve objects as ``s3://evidence/NAME``; yield boto3's client. The environment says where the server is."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    before = {name: os.environ.get(name) for name in (*LOGIN, "AWS_ENDPOINT_URL")}
    os.environ.update(LOGIN, AWS_ENDPOINT_URL="http://127.0.0.1:{1}".format(*server.get_host_and_port()))
    try:
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        for name, data in objects.items():
            client.put_object(Bucket=BUCKET, Key=name, Body=data)
        yield client
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        server.stop()
