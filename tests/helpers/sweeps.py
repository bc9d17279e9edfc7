"""How much of a sweep over layouts, seeds and containers is run: a sample, or with ``check.py --long`` all of it."""

from __future__ import annotations

import os

LONG = bool(os.environ.get("MEMCARVE_LONG"))
