"""What every test runs under."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# deadlines would make a slow machine a failing test; with a fixed seed a failure can be repeated
settings.register_profile(
    "default", deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("ci", parent=settings.get_profile("default"), derandomize=True)
settings.register_profile("long", parent=settings.get_profile("default"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
