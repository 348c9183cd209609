"""How far a task is: what it may say of it."""

from __future__ import annotations

import math
from typing import Any

from taskrunner.errors import InvalidArgument

MESSAGE = 1000
"""Characters of the message that are kept."""


def checked(done: float, total: float | None = None, message: str | None = None) -> dict[str, Any]:
    """Return a progress as it is stored. Raises: `InvalidArgument` for what is none."""
    _check_number("done", done)
    if total is not None:
        _check_number("total", total)
        if done > total:
            raise InvalidArgument(f"progress: done={done!r} is more than total={total!r}")
    if message is not None and not isinstance(message, str):
        raise InvalidArgument(f"progress: message= is a text or None, not {message!r:.100}")
    return {"done": done, "total": total, "message": message and message[:MESSAGE]}


def _check_number(name: str, value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
        raise InvalidArgument(f"progress: {name}= is a finite number and not negative, not {value!r:.100}")
