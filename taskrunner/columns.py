"""The columns of a batch: lists that reach the server as binary arrays, at a third of what psycopg's own dumper costs.

That one asks each element how it is written; here a column's type is known. Format of array_recv: the number of
dimensions, whether there may be NULLs, the elements' type, the length, the lower bound; then each with its length.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, repeat
from struct import Struct, pack
from typing import ClassVar
from uuid import UUID

from psycopg.adapt import AdaptersMap, Dumper
from psycopg.pq import Format


class Uuids(list[UUID]):
    """A column of uuid."""


class Bigints(list[int]):
    """A column of bigint."""


class Doubles(list[float]):
    """A column of double precision."""


class Texts(list[str | None]):
    """A column of text, of which some may be NULL. Equal texts are encoded once."""


_HEAD = Struct(">iiIii")
_LENGTH = Struct(">i")
_UUID_LENGTH = _LENGTH.pack(16)
_NULL = _LENGTH.pack(-1)


class _Array(Dumper):
    """Writes a column; `element` is the elements' type, `oid` the array's."""

    format = Format.BINARY
    element: ClassVar[int]

    def dump(self, obj: Sequence[object]) -> bytes:
        """Return the array's binary form."""
        if not obj:
            return pack(">iiI", 0, 0, self.element)
        return _HEAD.pack(1, 1, self.element, len(obj), 1) + self.elements(obj)

    def elements(self, obj: Sequence[object]) -> bytes:
        """Return the elements, each behind its length."""
        raise NotImplementedError


class _Uuids(_Array):
    oid, element = 2951, 2950

    def elements(self, obj: Sequence[UUID]) -> bytes:  # type: ignore[override]  # each column has its own type
        return _UUID_LENGTH + _UUID_LENGTH.join([each.int.to_bytes(16, "big") for each in obj])


class _Bigints(_Array):
    oid, element = 1016, 20

    def elements(self, obj: Sequence[int]) -> bytes:  # type: ignore[override]
        return pack(">" + "iq" * len(obj), *chain.from_iterable(zip(repeat(8), obj, strict=False)))


class _Doubles(_Array):
    oid, element = 1022, 701

    def elements(self, obj: Sequence[float]) -> bytes:  # type: ignore[override]
        return pack(">" + "id" * len(obj), *chain.from_iterable(zip(repeat(8), obj, strict=False)))


class _Texts(_Array):
    oid, element = 1009, 25

    def elements(self, obj: Sequence[str | None]) -> bytes:  # type: ignore[override]
        # Not UTF-8 in every session: behind a pooler it may be what the URL or the environment says.
        encoding = self.connection.info.encoding if self.connection is not None else "utf-8"
        written = {each: _NULL if each is None else _text(each, encoding) for each in set(obj)}
        return b"".join([written[each] for each in obj])


def _text(each: str, encoding: str) -> bytes:
    data = each.encode(encoding)
    return _LENGTH.pack(len(data)) + data


def register(adapters: AdaptersMap) -> None:
    """Let a connection's adapters know how columns are written."""
    for kind, dumper in ((Uuids, _Uuids), (Bigints, _Bigints), (Doubles, _Doubles), (Texts, _Texts)):
        adapters.register_dumper(kind, dumper)
