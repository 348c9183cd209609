"""Aware instants and named time zones, checked once at the edge of the triggers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, available_timezones

from taskrunner.errors import InvalidArgument, TriggerInvalid, suggest

TICK = timedelta(microseconds=1)
"""The smallest step between two instants, here and in PostgreSQL."""

# Files beside the zones that mean something else on every machine, or count leap seconds.
_NOT_ZONES = ("localtime", "posixrules", "Factory", "posix/", "right/")


def utc(instant: datetime) -> datetime:
    """Return the instant in UTC; raise InvalidArgument if it has no time zone."""
    if instant.utcoffset() is None:
        raise InvalidArgument(f"{instant!r} has no time zone: give an aware datetime, such as datetime.now(UTC)")
    return instant.astimezone(UTC)


def zone(name: str) -> tzinfo:
    """Return the zone of an IANA name; raise TriggerInvalid with near names if there is none."""
    if name == "UTC":
        return UTC
    try:
        if not isinstance(name, str) or name.startswith(_NOT_ZONES):
            raise ValueError(name)
        return ZoneInfo(name)
    except (ValueError, OSError, LookupError) as error:
        zones = available_timezones()
        asked = str(name).casefold()
        meant = [known for known in zones if asked in (known.casefold(), known.casefold().rpartition("/")[2])]
        hint = f"; did you mean {min(meant)!r}?" if meant else suggest(str(name), zones)
        raise TriggerInvalid(f"timezone {name!r} is not an IANA name such as 'Europe/Warsaw'{hint}") from error


def zone_name(zone_of_trigger: tzinfo) -> str:
    """Return the IANA name of a zone object; raise TriggerInvalid if it has none."""
    if zone_of_trigger is UTC:
        return "UTC"
    name = getattr(zone_of_trigger, "key", None)
    if not isinstance(name, str):
        raise TriggerInvalid(
            f"timezone {zone_of_trigger!r} has no IANA name: give one, such as timezone='Europe/Warsaw'"
        )
    zone(name)
    return name
