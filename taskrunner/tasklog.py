"""What the tasks of one runner log, from the moment of writing until it is stored: bounded, batched, off their path.

Of each run the first lines are kept as they come and the last ones when it has ended; how many were left out between
them is told. A task that logs nothing costs nothing.
"""

from __future__ import annotations

import logging
import re
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg

from taskrunner.db import Op
from taskrunner.errors import TaskrunnerError
from taskrunner.store.log import Line, keep

if TYPE_CHECKING:
    from taskrunner.attempt import Attempt

log = logging.getLogger("taskrunner.runner")

LONGEST = 4000
"""Characters of a line that are kept: its beginning and its end."""

BATCH = 1000
"""Lines stored in one statement at most."""

MEMORY = 20_000
"""Lines that wait to be stored at most, of all runs together: more come only where the database is away or too slow."""

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")  # text in PostgreSQL is UTF-8 without NUL
_TRACEBACKS = logging.Formatter()


class _Entry(NamedTuple):
    at: float  # by the monotonic clock
    level: str
    text: str


@dataclass(slots=True)
class _Run:
    """The lines of one run that are not stored."""

    tail: deque[_Entry]
    head: list[_Entry] = field(default_factory=list)
    room: int = 0  # for lines of the head that are still to come
    dropped: int = 0


class _Waiting(NamedTuple):
    attempt: Attempt
    entry: _Entry


class TaskLog:
    """The lines of a runner's tasks. `add` from any thread, all else on the runner's loop."""

    def __init__(self, most: int) -> None:
        """Keep at most so many lines of a run; a quarter of them are its last ones."""
        self._tail = most // 4
        self._head = most - self._tail
        self._runs: dict[Attempt, _Run] = {}
        self._waiting: deque[_Waiting] = deque()
        self._adding = threading.Lock()
        self._count = 0  # of lines in memory

    def add(self, attempt: Attempt, record: logging.LogRecord) -> None:
        """Take a line of a run; one that is over says nothing more. Never raises."""
        if attempt.ended is not None:
            return
        try:
            text = _cut(attempt.veiled(_text(record)))
        except Exception:  # what is logged may be anything, and raise anything when it is to become text
            text = "<a line that cannot be written as text>"
        entry = _Entry(time.monotonic(), _level(record), text)
        with self._adding:
            run = self._runs.get(attempt)
            if run is None:
                run = self._runs[attempt] = _Run(deque(maxlen=self._tail), room=self._head)
            self._add(run, entry)

    def _add(self, run: _Run, entry: _Entry) -> None:
        if self._count >= MEMORY:
            run.dropped += 1
        elif run.room:
            run.room -= 1
            run.head.append(entry)
            self._count += 1
        elif len(run.tail) == self._tail:  # the oldest of the last gives way, if any is kept
            run.dropped += 1
            run.tail.append(entry)
        else:
            run.tail.append(entry)
            self._count += 1

    async def store(self, pump: Callable[[Op[None]], Awaitable[None]]) -> None:
        """Store what there is; what cannot be stored now is tried again with the next call."""
        self._collect()
        while self._waiting:
            batch = [self._waiting[place] for place in range(min(BATCH, len(self._waiting)))]
            try:
                await pump(keep(_lines(batch)))
            except (psycopg.DataError, psycopg.IntegrityError, UnicodeError) as error:
                log.warning("%d log lines of tasks are refused and dropped: %s", len(batch), error)
            except (TaskrunnerError, psycopg.Error, OSError) as error:
                log.debug("log lines of tasks wait: %s", error)
                return
            with self._adding:
                for _ in batch:
                    self._waiting.popleft()
                self._count -= len(batch)

    def _collect(self) -> None:
        """Take the lines of all runs; of those that are over also the last ones."""
        with self._adding:
            for attempt, run in list(self._runs.items()):
                over = attempt.ended is not None
                self._take(attempt, run.head)
                run.head.clear()
                if over:
                    if run.dropped:
                        self._count += 1
                        self._take(attempt, [_Entry(time.monotonic(), "warning", _left_out(run))])
                    self._take(attempt, run.tail)
                    del self._runs[attempt]

    def _take(self, attempt: Attempt, entries: Any) -> None:
        self._waiting.extend(_Waiting(attempt, entry) for entry in entries)


def _left_out(run: _Run) -> str:
    return f"… {run.dropped} more {'line' if run.dropped == 1 else 'lines'} dropped" + (
        " before the last ones" if run.tail else ""
    )


def _lines(batch: list[_Waiting]) -> list[Line]:
    now = time.monotonic()
    return [
        Line(claim.id, claim.tenant, claim.claim_no, now - entry.at, entry.level, entry.text)
        for claim, entry in ((attempt.claim, entry) for attempt, entry in batch)
    ]


def _level(record: logging.LogRecord) -> str:
    """Return the level's name, which anybody may choose, such as any database takes it."""
    name = record.levelname if isinstance(record.levelname, str) else logging.getLevelName(record.levelno)
    return _UNSTORABLE.sub("\ufffd", name.lower()[:20])


def _text(record: logging.LogRecord) -> str:
    """Return message and traceback."""
    text = _message(record)
    if record.exc_info and record.exc_info[0] is not None:
        text += "\n" + _TRACEBACKS.formatException(record.exc_info)
    elif record.exc_text:
        text += "\n" + record.exc_text
    return text


def _cut(text: str) -> str:
    """Return text such as any database takes, cut in the middle where it is long."""
    if len(text) > LONGEST:
        text = f"{text[: LONGEST // 2]}…{text[len(text) - (LONGEST - LONGEST // 2 - 1) :]}"
    return _UNSTORABLE.sub("\ufffd", text)


def _message(record: logging.LogRecord) -> str:
    """Return the message; structlog's loggers put an event with its fields in its place."""
    if isinstance(record.msg, dict):
        fields = {name: value for name, value in record.msg.items() if name not in ("level", "logger", "timestamp")}
        event = str(fields.pop("event", ""))
        return " ".join([event, *(f"{name}={value!r}" for name, value in fields.items())]).strip()
    try:
        return record.getMessage()
    except Exception:  # the arguments do not fit the text
        return f"{record.msg} {record.args}"
