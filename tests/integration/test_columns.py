"""Columns of a batch reach the server as what they are."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID, uuid4

import psycopg
import pytest
from psycopg import RawCursor

from taskrunner import columns
from taskrunner.columns import Bigints, Doubles, Texts, Uuids
from taskrunner.db import connect
from taskrunner.testing.database import Server

ID = uuid4()
COLUMNS: list[tuple[Sequence[object], str]] = [
    (Uuids([ID, UUID(int=0), UUID(int=2**128 - 1), ID]), "uuid[]"),
    (Bigints([1, 0, -1, 2**63 - 1, -(2**63)]), "bigint[]"),
    (Doubles([0.0, -0.5, 1e308, 5e-324, float("inf")]), "double precision[]"),
    (Texts(["succeeded", None, "succeeded", "", "NULL", 'ä"{},\\', "🙂" * 1000]), "text[]"),
    (Uuids(), "uuid[]"),
    (Bigints(), "bigint[]"),
    (Doubles(), "double precision[]"),
    (Texts(), "text[]"),
]


def test_a_column_arrives_whole_and_of_its_type(taskrunner_server: Server) -> None:
    with connect(taskrunner_server.admin_url) as conn, RawCursor(conn) as cursor:
        for column, type_ in COLUMNS:
            arrived = cursor.execute("SELECT $1, pg_typeof($1)::text, cardinality($1)", [column], binary=True)
            assert arrived.fetchone() == (list(column), type_, len(column))


@pytest.mark.parametrize("ours", [True, False], ids=["a session of ours", "one behind a pooler"])
def test_texts_arrive_whole_whatever_encoding_the_client_has(
    taskrunner_server: Server, monkeypatch: pytest.MonkeyPatch, ours: bool
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", "LATIN1")
    url = taskrunner_server.admin_url
    with connect(url) if ours else psycopg.connect(url) as conn:
        columns.register(conn.adapters)
        arrived = RawCursor(conn).execute("SELECT ascii($1[1]), length($1[1])", [Texts(["ä"])], binary=True)
        assert arrived.fetchone() == (ord("ä"), 1)
