"""Dead letters by what they died of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple
from uuid import UUID

from taskrunner.db import Op, Row
from taskrunner.statements import reads as sql

ROOM = 2_000
"""Dead letters that are looked at, the newest ones."""

_LONGEST = 200
_ID = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}")
_HEX = re.compile(r"\b(?:0x[0-9a-fA-F]+|(?=[a-f]*\d)[0-9a-f]{12,})\b")
_MAIL = re.compile(r"[^\s<>@\"']+@[^\s<>@\"']+")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")


class DeadGroup(NamedTuple):
    """Dead letters of one type whose errors differ in ids, addresses and numbers only; `ids` begins with the newest."""

    type: str
    error: str
    newest: datetime
    oldest: datetime
    ids: list[UUID]


class DeadGroups(NamedTuple):
    """The groups, the largest first; `whole` if all dead letters were looked at."""

    groups: list[DeadGroup]
    looked: int
    whole: bool


def dead_groups(type_: str | None = None, room: int = ROOM) -> Op[DeadGroups]:
    """Group the newest dead letters that nobody has requeued, of all types or of one."""

    def read(rows: Sequence[Row]) -> DeadGroups:
        return DeadGroups(_grouped(rows), len(rows), len(rows) < room)

    return Op(sql.DEAD_ERRORS, {"type": type_, "room": room}, read)


@lru_cache(2 * ROOM)  # the pages look at the same ones again and again
def alike(message: str | None) -> str:
    """Return the first line of an error without what tells one task from the next."""
    line = (message or "").strip().partition("\n")[0][:_LONGEST]
    for pattern, word in ((_ID, "<id>"), (_MAIL, "<address>"), (_HEX, "<hex>"), (_NUMBER, "<n>")):
        line = pattern.sub(word, line)
    return line


def _grouped(rows: Sequence[Row]) -> list[DeadGroup]:
    found: dict[tuple[str, str], DeadGroup] = {}
    for id_, type_, finished_at, message in rows:
        name = (type_, alike(message))
        group = found.get(name) or DeadGroup(*name, finished_at, finished_at, [])
        group.ids.append(id_)
        found[name] = group._replace(newest=max(group.newest, finished_at), oldest=min(group.oldest, finished_at))
    return sorted(found.values(), key=lambda group: (-len(group.ids), group.type, group.error))
