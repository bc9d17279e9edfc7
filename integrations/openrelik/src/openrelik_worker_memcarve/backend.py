"""Where results are kept: Celery's store in Redis, which here outlives a broker that is away for a while."""

from __future__ import annotations

from typing import Any

from celery.backends.redis import RedisBackend


class Backend(RedisBackend):  # type: ignore[misc] # Celery has no types
    """Results in Redis; that one of many sub-tasks is done is told again until it is heard.

    Celery tells it once. If Redis were away just then, the last task would wait for ever. It may be told twice: what is
    counted is a set.
    """

    def on_chord_part_return(self, request: Any, state: str, result: Any, **more: Any) -> None:  # noqa: ANN401
        """Count that a sub-task is done, and send the last task if all are."""
        tell = super().on_chord_part_return
        self.ensure(lambda: tell(request, state, result, **more), ())
