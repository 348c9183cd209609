"""The spellings a setting's value may have (durations, queues, addresses), and how they are shown again."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from ipaddress import ip_address
from math import isfinite

from pydantic import SecretStr

from taskrunner.redaction import NAMES

MASK = "********"
SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")

_SHOWN = 200
_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_DURATION = re.compile(r"(?P<number>\d+(?:\.\d+)?) ?(?P<unit>ms|s|m|h|d)?", re.ASCII)
_QUEUE = re.compile(r"(?P<name>[^\s:,]+)(?::(?P<weight>[1-9]\d{0,3}))?", re.ASCII)
# A queue, perhaps with one of the states of history, or a state of every queue. A % would be a parameter's in SQL.
_SELECTOR = re.compile(r"(?:[^\s:,/%*]+|(?:\*|[^\s:,/%*]+)/(?:succeeded|ignored|cancelled))", re.ASCII)
_STATES_SAID = "the states of history are succeeded, ignored, cancelled"
_SHORTEST, _LONGEST = timedelta(hours=1), timedelta(days=3650)
_KEY = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
_HOST = re.compile(r"(?:\[[0-9a-zA-Z:.%]+\]|[^\s:\[\]@]*)(?::\d{1,5})?", re.ASCII)
_PASSWORD = re.compile(r"^(?P<user>\w+://[^:@/?]*:)[^@/?]*@")
_PARAMETER = re.compile(r"(?P<key>[?&](?:ssl)?password=)[^&]*")
_UNREADABLE = re.compile(r"^\s*(?P<scheme>[a-z0-9+]{1,24}://)?.*", re.DOTALL)


def parse_duration(value: object) -> timedelta:
    """Read seconds (15, "0.5") or a number with its unit ("500ms", "15s", "5m", "2h", "30d"); ValueError else."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _seconds(float(value))
    if isinstance(value, str) and (match := _DURATION.fullmatch(value.strip())):
        return _seconds(float(match["number"]) * _UNITS[match["unit"] or "s"])
    raise ValueError("must be a duration: seconds, or a number with ms, s, m, h or d, as in 15s")


def _seconds(number: float) -> timedelta:
    if not isfinite(number) or number < 0:
        raise ValueError("must be a duration of zero or more")
    try:
        return timedelta(seconds=number)
    except OverflowError:
        raise ValueError("is longer than any duration can be") from None


def format_duration(value: timedelta) -> str:
    """Write a duration in the largest unit that leaves a whole number; `parse_duration` reads it back."""
    if value % timedelta(seconds=1):
        return f"{value.total_seconds():f}".rstrip("0") + "s"
    for unit in ("d", "h", "m"):
        if value and not value % timedelta(seconds=_UNITS[unit]):
            return f"{value // timedelta(seconds=_UNITS[unit])}{unit}"
    return f"{value // timedelta(seconds=1)}s"


def parse_queues(text: str) -> dict[str, int]:
    """Read `mail:2,default` as {"mail": 2, "default": 1}: queue names with their weights (1–9999); ValueError else."""
    weights: dict[str, int] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        match = _QUEUE.fullmatch(item)
        if match is None:
            raise ValueError(f"{item!r} is no queue; write name or name:weight, as in mail:2,default")
        if match["name"] in weights:
            raise ValueError(f"names the queue {match['name']!r} twice")
        weights[match["name"]] = int(match["weight"] or 1)
    return weights


def read_queues(value: object) -> dict[str, int]:
    """Read queues from text, from a list of such texts, or from a table of weights, as TOML may have them."""
    if isinstance(value, str):
        return parse_queues(value)
    if isinstance(value, Mapping):
        return parse_queues(",".join(f"{name}:{weight}" for name, weight in value.items()))
    if isinstance(value, list | tuple) and all(isinstance(item, str) for item in value):
        return parse_queues(",".join(value))
    raise ValueError("must be queue names with optional weights, as in mail:2,default")


def format_queues(weights: Mapping[str, int]) -> str:
    """Write weights as `parse_queues` reads them."""
    return ",".join(f"{name}:{weight}" for name, weight in weights.items())


def read_keep(value: object) -> dict[str, timedelta]:
    """Read `mail:7d,*/ignored:1d`, as text, a list of such texts or a table; ValueError else."""
    if isinstance(value, Mapping):
        items = [(str(selector), each) for selector, each in value.items()]
    else:
        parts = value.split(",") if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
            raise ValueError("must be queues or states with durations, as in mail:7d,*/ignored:1d")
        items = [_kept(part) for part in filter(None, (part.strip() for part in parts))]
    found: dict[str, timedelta] = {}
    for selector, each in items:
        if _SELECTOR.fullmatch(selector) is None:
            raise ValueError(f"{selector!r} selects nothing; write mail, mail/ignored or */ignored; {_STATES_SAID}")
        if selector in found:
            raise ValueError(f"names {selector!r} twice")
        found[selector] = parse_duration(each)
        if not _SHORTEST <= found[selector] <= _LONGEST:
            raise ValueError(f"{selector!r} must be kept for at least 1h and at most 3650d")
    return found


def _kept(item: str) -> tuple[str, str]:
    selector, colon, duration = item.rpartition(":")
    if not colon:
        raise ValueError(f"{item!r} has no duration: write {item}:7d")
    return selector, duration


def format_keep(kept: Mapping[str, timedelta]) -> str:
    """Write the times as `read_keep` reads them."""
    return ",".join(f"{selector}:{format_duration(duration)}" for selector, duration in kept.items())


def read_names(value: object) -> tuple[str, ...]:
    """Read `password,token`; names that begin with `+` are added to the default ones, and `none` is none at all."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise ValueError("must be names of keys, as in password,token")
    names = [part.strip() for part in parts if part.strip()]
    if names == ["none"]:
        return ()
    added = [name.removeprefix("+") for name in names if name.startswith("+")]
    if added and len(added) < len(names):
        raise ValueError("either adds to the default names, each with a + as in +iban,+pin, or says all of them")
    if bad := next((name for name in added or names if _KEY.fullmatch(name) is None), None):
        raise ValueError(f"{bad!r} is no name of a key: letters, digits, _ and -")
    return (*NAMES, *added) if added else tuple(names)


def normalise_url(url: str) -> str:
    """Return the database address under the scheme libpq knows; several hosts are allowed; ValueError else."""
    scheme, separator, rest = url.strip().partition("://")
    if not separator or scheme not in SCHEMES:
        raise ValueError(f"must begin with {', '.join(f'{name}://' for name in SCHEMES[:-1])} or {SCHEMES[-1]}://")
    if re.search(r"\s", rest):
        raise ValueError("must not contain white space: write %20")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    user, _, hosts = authority.rpartition("@")
    # An @ or # behind the hosts is a password with a bare / ? or #: read on, half of it would pass for a host.
    if "@" in user + tail or "#" in tail or any(_HOST.fullmatch(host) is None for host in hosts.split(",")):
        raise ValueError("cannot be read: in names, passwords and options write %40 for @, %3A :, %2F /, %3F ?, %23 #")
    return f"postgresql://{rest}"


def mask_url(url: str) -> str:
    """Return the address without its secrets: of one that cannot be read, nothing but the scheme remains."""
    try:
        readable = normalise_url(url)
    except ValueError:
        return _UNREADABLE.sub(rf"\g<scheme>{MASK}", url, count=1)
    return _PARAMETER.sub(rf"\g<key>{MASK}", _PASSWORD.sub(rf"\g<user>{MASK}@", readable, count=1))


def is_loopback(host: str) -> bool:
    """Whether a server bound to this host can be reached from this machine only; other names count as reachable."""
    if host.lower() == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def display(name: str, value: object) -> str:
    """Write a setting's value, good or bad, for people: secrets masked, durations with units, nothing too long."""
    text = value.get_secret_value() if isinstance(value, SecretStr) else value
    if text is None or text in ({}, ()):
        return "unset"
    if name in ("api_token", "api_tokens"):
        return MASK
    if name == "database_url":
        return mask_url(str(text))
    if isinstance(text, timedelta):
        return format_duration(text)
    if name == "queues" and isinstance(text, dict):
        return format_queues(text)
    if name == "history_keep" and isinstance(text, dict):
        return format_keep(text)
    if name == "redact" and isinstance(text, tuple):
        return ",".join(text) or "none"
    shown = str(text).lower() if isinstance(text, bool) else str(text)
    return shown if len(shown) <= _SHOWN else shown[: _SHOWN - 1] + "…"
