"""Values as the pages show them: the filters of the templates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from taskrunner.wording import brief, figure, some


def age(seconds: float | timedelta | None) -> str:
    """Return a length of time in one unit or two: `0.4s`, `3m`, `2d`; nothing for None."""
    if seconds is None:
        return ""
    return brief(seconds.total_seconds() if isinstance(seconds, timedelta) else seconds)


def ago(instant: datetime | None, now: datetime) -> str:
    """Return how long ago an instant was, or in how long it will be."""
    if instant is None:
        return ""
    seconds = (now - instant).total_seconds()
    return f"{age(seconds)} ago" if seconds >= 0 else f"in {age(-seconds)}"


def utc(instant: datetime | None) -> str:
    """Return an instant to the second, in UTC."""
    return "" if instant is None else f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def iso(instant: datetime) -> str:
    """Return an instant for `<time datetime>`."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds")


def count(number: float | None) -> str:
    """Return a number with its thousands apart."""
    return "" if number is None else figure(int(number))


def pretty(value: Any) -> str:
    """Return JSON over several lines, its integers exact however long."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def short(value: object) -> str:
    """Return the last twelve characters of an id: the first ones are when it was made, and alike on a page."""
    return f"…{str(value)[-12:]}"


def clock(instant: datetime) -> str:
    """Return the time of day, in UTC, to the millisecond."""
    return f"{instant.astimezone(UTC):%H:%M:%S}.{instant.microsecond // 1000:03}"


def upperfirst(text: str) -> str:
    """Return a sentence as it begins."""
    return text[:1].upper() + text[1:]


def level(name: str) -> str:
    """Return the class of a log line's level."""
    return {"warning": "warn", "error": "bad", "critical": "bad"}.get(name.lower(), "soft")


def inline(value: Any, most: int = 120) -> str:
    """Return JSON in one line, cut to so many characters."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= most else text[: most - 1] + "…"


def last_error(errors: list[Mapping[str, Any]]) -> str:
    """Return the first line of what the last try failed of."""
    return str(errors[-1].get("message", "")).partition("\n")[0] if errors else ""


FILTERS = {
    "age": age,
    "ago": ago,
    "utc": utc,
    "iso": iso,
    "count": count,
    "some": some,
    "pretty": pretty,
    "short": short,
    "clock": clock,
    "upperfirst": upperfirst,
    "level": level,
    "inline": inline,
    "last_error": last_error,
}
