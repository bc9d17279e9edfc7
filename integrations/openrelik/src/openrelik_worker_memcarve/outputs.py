"""Output files under names that follow from the task: whoever does the work again writes the same files."""

from __future__ import annotations

import os
import uuid
from typing import Any

from openrelik_worker_common.file_utils import OutputFile, create_output_file

from openrelik_worker_memcarve.inputs import TYPE


def placed(output_path: str, task_id: str, made: list[dict[str, Any]]) -> list[OutputFile]:
    """Give files that are whole their places in the output folder, on the same file system; return them in order."""
    files = []
    for each in made:
        file = create_output_file(output_path, display_name=each["name"], data_type=TYPE + each["type"])
        random, file.uuid = file.uuid, uuid.uuid5(uuid.NAMESPACE_URL, f"memcarve:{task_id}/{each['name']}").hex
        file.path = os.path.join(output_path, os.path.basename(file.path).replace(random, file.uuid))
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(each["path"], 0o666 & ~mask)  # for those who read outputs; memcarve writes for the owner alone
        os.rename(each["path"], file.path)
        files.append(file)
    return files
