"""One truth for ORM and SQL: migrations equal the models, every statement fits the schema, the claim has its plan."""

from __future__ import annotations

import importlib
import pkgutil
import re
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple
from uuid import uuid4

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from psycopg.pq import ExecStatus
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from taskrunner import statements
from taskrunner.doctor.work import Front as WaitingFront
from taskrunner.models import SCHEMA, metadata
from taskrunner.reads import DeadView, Recent, Runner, Schedule, TaskView
from taskrunner.reads.answer import Task as AskedTask
from taskrunner.reads.live import Waiting
from taskrunner.states import HISTORY, LIVE
from taskrunner.store import steering
from taskrunner.store.runner import Rescued
from taskrunner.store.task import Claimed, Due, Fate, Prospect
from taskrunner.testing.database import Database
from tests.engine import Engine
from tests.plans import numbered

PARTS = {"COUNTED", "TOLD", "ENDING", "CLAIMED", "TAKES_OVER", "FORGOTTEN", "OVERWRITTEN"} | {
    "TYPE_PREFIX",
    "CLIENT",
    "PAYLOAD_FIELD",
    "META_FIELD",
}
"""Constants that are parts of others and no statements by themselves."""


def constants() -> dict[str, str]:
    """Return every SQL constant of `taskrunner.statements`, by module and name."""
    found = {}
    for module in pkgutil.iter_modules(statements.__path__):
        loaded = importlib.import_module(f"{statements.__name__}.{module.name}")
        for name, value in vars(loaded).items():
            if name.isupper() and not name.startswith("_") and isinstance(value, str):
                found[f"{module.name}.{name}"] = value
    found = {name: text for name, text in found.items() if not name.startswith("matching.")}  # parts, all of them
    return {name: text for name, text in found.items() if name.split(".")[1] not in PARTS}


@pytest.fixture
def prepared(engine: Engine) -> Any:
    """Return a function that PREPAREs a statement and describes it."""

    def prepare(text: str) -> Description:
        query, names = numbered(text)
        pgconn = engine.conn.pgconn
        name = f"s{uuid4().hex}".encode()
        made = pgconn.prepare(name, query.encode())
        assert made.status == ExecStatus.COMMAND_OK, f"{made.error_message.decode()}\n{query}"
        about = pgconn.describe_prepared(name)
        columns = [(about.fname(i) or b"").decode() for i in range(about.nfields)]
        return Description(columns, [about.ftype(i) for i in range(about.nfields)], about.nparams, names)

    return prepare


class Description(NamedTuple):
    columns: list[str]
    types: list[int]
    parameters: int
    names: list[str]


# ── migrations and models ────────────────────────────────────────────────────────────────────────────────────────────


def test_alembic_finds_no_difference_between_the_migrations_and_the_models(taskrunner_db: Database) -> None:
    with psycopg.connect(taskrunner_db.url) as conn:
        made = create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=NullPool)
        with made.connect() as connection:
            context = MigrationContext.configure(
                connection,
                opts={
                    "include_schemas": True,
                    "compare_type": True,
                    "compare_server_default": True,
                    "include_name": lambda name, kind, _: kind != "schema" or name == SCHEMA,
                    "include_object": lambda _, name, *__: name not in NOT_IN_MODELS,
                },
            )
            assert compare_metadata(context, metadata) == []


NOT_IN_MODELS = ("schema_version", "task_history_default")


def test_tables_made_from_the_models_are_the_migrated_ones_to_the_last_index_and_check(
    taskrunner_db: Database,
) -> None:
    """Alembic compares neither the WHERE of an index nor CHECKs: the catalogues are compared text by text."""
    migrated = described(taskrunner_db.url)
    with psycopg.connect(taskrunner_db.url) as conn:
        conn.execute(f"ALTER SCHEMA {SCHEMA} RENAME TO migrated")  # type: ignore[arg-type]  # a constant
        conn.execute(f"CREATE SCHEMA {SCHEMA}")  # type: ignore[arg-type]  # a constant
        conn.commit()
        made = create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=NullPool)
        metadata.create_all(made)
    modelled = described(taskrunner_db.url)
    assert modelled.keys() == migrated.keys()
    for kind, things in migrated.items():
        assert modelled[kind] == things, kind


def described(url: str) -> dict[str, set[tuple[Any, ...]]]:
    tables = "c.relnamespace = %(schema)s::regnamespace AND c.relname <> ALL(%(but)s)"
    queries = {
        "columns": f"""SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity,
                              pg_get_expr(d.adbin, d.adrelid)
                         FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
                         LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
                        WHERE c.relkind IN ('r', 'p') AND {tables}""",
        "indexes": f"""SELECT pg_get_indexdef(i.indexrelid) FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
                        WHERE {tables}""",
        "constraints": f"""SELECT c.relname, k.conname, pg_get_constraintdef(k.oid)
                             FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
                            WHERE k.contype <> 'n' AND {tables}""",
        "partitioned": f"SELECT c.relname, pg_get_partkeydef(c.oid) FROM pg_class c WHERE c.relkind = 'p' AND {tables}",
    }
    with psycopg.connect(url) as conn:
        bound = {"schema": SCHEMA, "but": list(NOT_IN_MODELS)}
        return {kind: set(conn.execute(query, bound).fetchall()) for kind, query in queries.items()}  # type: ignore[arg-type]


@pytest.mark.parametrize(("table", "states"), [("task", LIVE), ("task_history", HISTORY)])
def test_the_states_in_python_are_the_states_that_the_database_checks(
    engine: Engine, table: str, states: tuple[str, ...]
) -> None:
    check = engine.value(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = %s", f"{table}_state_check"
    )
    assert set(re.findall(r"'(\w+)'", check)) == {str(state) for state in states}


# ── statements ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_statement_can_be_prepared_on_the_migrated_database(prepared: Any) -> None:
    for name, text in constants().items():
        described = prepared(text)
        assert described.parameters == len(described.names), name


FILLS: dict[str, Any] = {
    "cycle.CYCLE": Claimed,
    "cycle.CYCLE_MERGED": Claimed,
    "cycle.SURVEY": Prospect,
    "task.FATE": Fate,
    "enqueue.ADD": Due,
    "task.RETRY": Due,
    "task.SNOOZE": Due,
    "task.RELEASE": Due,
    "steering.RESCHEDULE": Due,
    "steering.REQUEUE": Due,
    "steering.STATE": steering._Where,
    "runner.RESCUE": Rescued,
    "reads.ONE": TaskView,
    "reads.LIVE": TaskView,
    "reads.ENDED": TaskView,
    "reads.DEAD": TaskView,
    "reads.LIVE_BRIEF": TaskView,
    "reads.ENDED_BRIEF": TaskView,
    "reads.DEAD_BRIEF": TaskView,
    "reads.DEAD_LETTER_BRIEF": DeadView,
    "reads.ONE_DEAD_LETTER": DeadView,
    "reads.WAITING": Waiting,
    "reads.RUNNERS": Runner,
    "reads.RECENT": Recent,
    "why.TASK": AskedTask,
    "doctor.FRONTS": WaitingFront,
}


@pytest.mark.parametrize("name", FILLS)
def test_the_columns_of_a_statement_are_the_fields_of_what_it_fills(prepared: Any, name: str) -> None:
    assert prepared(constants()[name]).columns == field_names(FILLS[name])


def test_the_columns_of_a_shown_schedule_are_its_fields_but_the_description(prepared: Any) -> None:
    """That is made of the trigger, by Python."""
    fields = [name for name in field_names(Schedule) if name != "description"]
    for name in ("SCHEDULES", "SCHEDULE_PAGE", "SCHEDULE"):
        assert prepared(constants()[f"reads.{name}"]).columns == fields


def field_names(kind: Any) -> list[str]:
    if issubclass(kind, BaseModel):
        return list(kind.model_fields)
    return [field.name for field in fields(kind)] if is_dataclass(kind) else list(kind._fields)


def test_no_statement_writes_out_all_columns_by_a_star() -> None:
    """`t.*` is for rows that a CTE hands to another one by name, never for what leaves the database."""
    for name, text in constants().items():
        last = text.rsplit(")\n", 1)[-1]
        assert not re.search(r"(SELECT|RETURNING|,) \*|\.\*", last), name
