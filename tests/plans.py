"""Plans of statements as they were executed: which index was used, how many rows were touched; never how long."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from taskrunner.db import Op


class Plan:
    """The nodes of an executed plan."""

    def __init__(self, top: Mapping[str, Any]) -> None:
        self.nodes = list(_walk(top))

    def scans(self, table: str) -> list[Mapping[str, Any]]:
        """Return the nodes that read the table and were executed at all."""
        nodes = [node for node in self.nodes if node["Actual Loops"] and node["Node Type"] != "ModifyTable"]
        return [node for node in nodes if node.get("Relation Name") == table]

    def touched(self, table: str) -> int:
        """Count the rows that were read from the table, those thrown away included."""
        thrown = ("Rows Removed by Filter", "Rows Removed by Index Recheck")
        rows = 0.0
        for node in self.scans(table):
            each = node["Actual Rows"] + sum(node.get(name, 0) for name in thrown)
            rows += each * node["Actual Loops"]
        return round(rows)

    def buffers(self) -> int:
        """Count the pages that the statement looked at."""
        top = self.nodes[0]
        return int(top["Shared Hit Blocks"] + top["Shared Read Blocks"])

    def indexes(self, table: str) -> set[str]:
        """Return the indexes by which the table's rows were found; a sequential scan counts as ''."""
        return {_index(node) for node in self.scans(table)}


def explain(conn: psycopg.Connection[Any], op: Op[Any], *, generic: bool = False) -> Plan:
    """Execute the statement, roll it back, and return its plan; `generic`: the plan of a long-prepared statement."""
    with conn.transaction(force_rollback=True), psycopg.Cursor(conn, row_factory=tuple_row) as cursor:
        prefix = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) "
        if generic:
            text, names = numbered(op.sql)
            cursor.execute("SET LOCAL plan_cache_mode = force_generic_plan")
            cursor.execute("DEALLOCATE ALL")
            cursor.execute(f"PREPARE explained AS {text}", prepare=False)  # type: ignore[arg-type]  # our constants
            values = sql.SQL(", ").join(sql.Literal(op.params[name]) for name in names)
            cursor.execute(sql.SQL("{}EXECUTE explained({})").format(sql.SQL(prefix), values), prepare=False)
        else:
            cursor.execute(prefix + op.sql, op.params, prepare=False)
        row = cursor.fetchone()
        assert row is not None
        return Plan(row[0][0]["Plan"])


def numbered(text: str) -> tuple[str, list[str]]:
    """Turn `%(name)s` and `%(name)b` into `$1`, `$2` …; returns the names in that order."""
    names: list[str] = []

    def number(match: re.Match[str]) -> str:
        if match[1] not in names:
            names.append(match[1])
        return f"${names.index(match[1]) + 1}"

    return re.sub(r"%\((\w+)\)[sb]", number, text).replace("%%", "%"), names


def _index(scan: Mapping[str, Any]) -> str:
    if scan["Node Type"] == "Bitmap Heap Scan":
        return str(scan["Plans"][0].get("Index Name", ""))
    return str(scan.get("Index Name", ""))


def _walk(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield node
    for child in node.get("Plans", ()):
        yield from _walk(child)
