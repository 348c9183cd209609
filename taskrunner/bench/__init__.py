"""`taskrunner bench`: what enqueue, drain and pickup take on the user's own server, in a schema of its own."""

from __future__ import annotations

from taskrunner.bench.measurement import measure
from taskrunner.bench.report import Delays, Rate, Report, Size, Tell
from taskrunner.bench.schemas import drop, left_over, room

__all__ = ["Delays", "Rate", "Report", "Size", "Tell", "drop", "left_over", "measure", "room"]
