"""The flight recorder: which tasks a runner has started, in memory that outlives its SIGKILL.

A supervisor maps the file and reads it when its child has died, so that a task which kills its runner in its first
millisecond is blamed, and the hundreds claimed beside it are not. Nothing here is ever synced to disk: if the
host dies, nobody needs it.
"""

from __future__ import annotations

import mmap
import os
from pathlib import Path
from struct import Struct
from uuid import UUID

_LAYOUT = Struct(">16sQ")  # the id, claim_no
_ENTRY = _LAYOUT.size
_EMPTY = bytes(_ENTRY)


class Recorder:
    """A table of `slots` entries in a shared file; one process writes, another reads after its death."""

    def __init__(self, path: Path, slots: int) -> None:
        """Map the file, creating it with 0600 if it is not there."""
        self._size = slots * _ENTRY
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(handle, self._size)
            self._map = mmap.mmap(handle, self._size)
        finally:
            os.close(handle)
        self._free = list(range(slots - 1, -1, -1))
        self._places: dict[int, int] = {}

    def start(self, id_: UUID, claim_no: int) -> None:
        """Note that a task begins to run, before it does."""
        if not self._free:
            return  # more at once than slots: only for an instant, when a stray's slot was given away
        place = self._free.pop()
        self._places[id_.int] = place
        _LAYOUT.pack_into(self._map, place * _ENTRY, id_.bytes, claim_no)

    def end(self, id_: UUID) -> None:
        """Note that a task no longer runs."""
        place = self._places.pop(id_.int, None)
        if place is not None:
            offset = place * _ENTRY
            self._map[offset : offset + _ENTRY] = _EMPTY
            self._free.append(place)

    def running(self) -> list[tuple[UUID, int]]:
        """Return the tasks noted as running, with their claim numbers."""
        entries = (self._map[offset : offset + _ENTRY] for offset in range(0, self._size, _ENTRY))
        found = [_LAYOUT.unpack(entry) for entry in entries if entry != _EMPTY]
        return [(UUID(bytes=id_), claim_no) for id_, claim_no in found]

    def clear(self) -> None:
        """Forget everything: a new process takes over the file."""
        self._map[:] = bytes(self._size)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()
