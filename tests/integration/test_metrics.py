"""`/metrics` of the API: what Prometheus reads is what the tables say, and counters never fall."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_text

from taskrunner import roles
from taskrunner.api import create_app
from taskrunner.api import metrics as api_metrics
from taskrunner.api.tally import Tally, Timing
from taskrunner.reads.metrics import EndedInMinute
from taskrunner.registry import Registry, register_task
from taskrunner.settings import Settings
from taskrunner.store import task as store
from taskrunner.store.task import Ending
from taskrunner.task import Task
from tests.engine import Engine
from tests.roles import connected, name_of, roles_of

pytestmark = pytest.mark.anyio

OPEN = "application/openmetrics-text; version=1.0.0"


class Scraper:
    """A Prometheus of the test's own."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def families(self, **headers: str) -> dict[str, Metric]:
        answer = await self._client.get("/metrics", headers=headers)
        assert answer.status_code == 200
        read = read_open if "openmetrics" in answer.headers["content-type"] else read_text
        return {family.name: family for family in read(answer.text)}

    async def values(self, **headers: str) -> dict[tuple[str, ...], float]:
        """Return the samples by their name and labels' values, which come in the order of their names."""
        found = await self.families(**headers)
        return {
            (sample.name, *sample.labels.values()): sample.value
            for family in found.values()
            for sample in family.samples
        }


@asynccontextmanager
async def scraping(url: str, **settings: Any) -> AsyncIterator[Scraper]:
    app = create_app(Settings(**settings), Registry(), url)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as client,
    ):
        yield Scraper(client)


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_metrics, "FRESH", -1.0)
    monkeypatch.setattr(api_metrics, "REST", 0)


def end(engine: Engine, runner: UUID, run_seconds: float = 0.2, **fields: Any) -> None:
    """Add a task, claim it and end it."""
    engine.add(**fields)
    type_, queue = fields.get("type", "T"), fields.get("queue", "default")
    (claim,) = engine.claim(runner, 1, [type_], queue=queue)
    engine.finish(runner, Ending(claim.id, claim.claim_no, run_seconds, run_seconds))


async def test_the_gauges_are_what_the_tables_say(engine: Engine) -> None:
    """FAULTS I7."""
    runner = engine.join()
    engine.add(3)
    engine.claim(runner)
    engine.flood(2, type="Later", queue="mail", maturity_at=("now() + interval '1 hour'",))
    engine.conn.execute("INSERT INTO taskrunner.queue_settings (queue, paused) VALUES ('mail', true)")
    async with scraping(engine.url) as scraper:
        found = await scraper.values()
    assert found["taskrunner_up",] == 1
    assert (found["taskrunner_tasks", "due", "T"], found["taskrunner_tasks", "running", "T"]) == (2, 1)
    assert (found["taskrunner_tasks", "pending", "Later"], found["taskrunner_tasks", "due", "Later"]) == (2, 0)
    assert (found["taskrunner_queue_paused", "mail"], found["taskrunner_queue_paused", "default"]) == (1, 0)
    assert found["taskrunner_queue_due", "default"] == 2
    assert found["taskrunner_queue_oldest_due_seconds", "default"] >= 0
    assert found["taskrunner_processes", "runner", "alive"] == 1
    assert found["taskrunner_unregistered_tasks", "Later"] == 2
    assert found["taskrunner_table_bytes", "task"] > 0
    assert found["taskrunner_server_max_connections",] > 0


async def test_a_login_without_pg_monitor_counts_everybodys_connections_and_tells_no_age_that_it_does_not_see(
    engine: Engine,
) -> None:
    """`backend_type` and `xact_start` of others' sessions are NULL to it: zero would be reassuring, and wrong."""
    with roles_of(engine.db) as lent, ExitStack() as others:
        roles.create(lent.database.url, lent.prefix)
        login = lent.login("worker")
        for _ in range(10):
            others.enter_context(connected(engine.url)).execute("SELECT 1")
        async with scraping(engine.url) as scraper:
            assert ("taskrunner_oldest_transaction_seconds",) in await scraper.values()
        async with scraping(login) as scraper:
            found = await scraper.values()
            own = engine.value("SELECT count(*) FROM pg_stat_activity WHERE usename = %s", name_of(login))
        assert own < 10 <= found["taskrunner_server_connections",]
        assert ("taskrunner_oldest_transaction_seconds",) not in found


async def test_there_are_twenty_series_each_with_help_and_in_both_formats(engine: Engine) -> None:
    end(engine, engine.join())
    async with scraping(engine.url) as scraper:
        plain, openly = await scraper.families(), await scraper.families(Accept=OPEN)
    assert len(plain) >= 20
    assert set(plain) == set(openly)
    for name, family in plain.items():
        assert name.startswith("taskrunner_")
        assert family.documentation.endswith("."), name


async def test_what_ends_is_counted_from_the_first_look_on_and_agrees_with_history(engine: Engine) -> None:
    """FAULTS I7: also over the minute's end, and when retention takes the figures away."""
    runner = engine.join()
    end(engine, runner)
    async with scraping(engine.url) as scraper:
        counter = ("taskrunner_tasks_ended_total", "succeeded", "default", "T")
        assert (await scraper.values())[counter] == 0, "it begins with the process"
        for seconds in (0.0005, 0.02, 7200.0):
            end(engine, runner, seconds)
        found = await scraper.values()
        assert found[counter] == 3
        bucket = "taskrunner_task_run_seconds_bucket"
        assert [found[bucket, bound, "default", "T"] for bound in ("0.001", "0.01", "0.05", "3600.0", "+Inf")] == [
            1, 1, 2, 2, 3,
        ]  # fmt: skip
        assert found["taskrunner_task_run_seconds_count", "default", "T"] == 3
        assert found["taskrunner_task_run_seconds_sum", "default", "T"] == pytest.approx(7200.0205)
        assert found["taskrunner_task_wait_seconds_count", "default", "T"] == 3
        engine.conn.execute("UPDATE taskrunner.task_stats SET minute = minute - interval '1 minute'")
        end(engine, runner)
        later = await scraper.values()
        assert later[counter] >= 4, "rows of another minute are others"
        engine.conn.execute("DELETE FROM taskrunner.task_stats")
        assert (await scraper.values())[counter] == later[counter]


async def test_a_failed_try_is_counted_as_retried(engine: Engine) -> None:
    runner = engine.join()
    async with scraping(engine.url) as scraper:
        await scraper.values()
        engine.add()
        (claim,) = engine.claim(runner)
        engine.do(store.retry(runner, [Ending(claim.id, claim.claim_no, 1.0, 1.0, detail="{}", delay=60.0)]))
        found = await scraper.values()
    assert found["taskrunner_tasks_ended_total", "retried", "default", "T"] == 1
    assert found["taskrunner_tasks", "retrying", "T"] == 1


async def test_labels_are_bounded_and_hostile_names_are_escaped(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api_metrics, "MOST", 3)
    hostile = 'a"b\\c\nd}'
    for name in (hostile, *(f"Type{number}" for number in range(9))):
        engine.add(2, type=name, queue=f"of-{name[:1]}")
    async with scraping(engine.url) as scraper:
        for _ in range(2):
            found = await scraper.values()
            types = {labels[2] for labels in found if labels[0] == "taskrunner_tasks"}
            assert len(types) == 4
            assert "other" in types
            assert (
                sum(value for labels, value in found.items() if labels[0] == "taskrunner_tasks" and "due" in labels)
                == 20
            )
    assert not any("tenant" in label for labels in found for label in labels)


async def test_while_the_database_is_away_it_says_so_and_keeps_its_counters(engine: Engine) -> None:
    """FAULTS I11."""
    runner = engine.join()
    async with scraping(engine.url) as scraper:
        await scraper.values()
        end(engine, runner)
        counter = ("taskrunner_tasks_ended_total", "succeeded", "default", "T")
        assert (await scraper.values())[counter] == 1
        name = engine.value("SELECT current_database()")
        server = engine.db.server
        server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            engine.conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
                " AND pid <> pg_backend_pid()"
            )
            away = await scraper.values()
            assert (away["taskrunner_up",], away[counter]) == (0, 1)
            assert not any(labels[0] == "taskrunner_tasks" for labels in away), "nothing stale is told"
        finally:
            server.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        back = await scraper.values()
        assert (back["taskrunner_up",], back[counter]) == (1, 1)


async def test_many_scrapers_cost_one_look(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_metrics, "FRESH", 60.0)
    async with scraping(engine.url) as scraper:
        first = await scraper.values()
        engine.add(5)
        assert await scraper.values() == first


async def test_with_a_token_it_is_asked_for(engine: Engine) -> None:
    async with scraping(engine.url, api_token="secret") as scraper:
        with pytest.raises(AssertionError):
            await scraper.values()
        assert (await scraper.values(Authorization="Bearer secret"))["taskrunner_up",] == 1


def test_a_timing_counts_each_bucket_with_all_below_it() -> None:
    timing = Timing()
    timing.add([1] * 13, 5.0)
    timing.add([-1] * 13, -1.0)
    assert [count for _, count in timing.cumulative()] == list(range(1, 14))
    assert (timing.cumulative()[-1][0], timing.seconds) == ("+Inf", 5.0)


async def test_counters_of_what_may_end_are_there_from_zero_on(engine: Engine, registry: Registry) -> None:
    """Or the first dead letter would be no increase, and alert nobody."""

    @register_task("Known", queue="mail")
    class Known(Task):
        async def run(self) -> None: ...

    app = create_app(Settings(), registry, engine.url)
    async with app.router.lifespan_context(app):
        found = {
            tuple(sample.labels.values()): sample.value
            for family in (await app.state.fleet.snapshot()).collect()
            for sample in family.samples
            if sample.name == "taskrunner_tasks_ended_total"
        }
    assert found["mail", "Known", "dead"] == 0


def test_after_a_long_pause_what_was_made_coarser_meanwhile_is_not_counted_twice() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    first = EndedInMinute(at, "q", "T", "dead", 100, 0.0, 0.0, [0] * 13, [0] * 13)
    minute = [first._replace(minute=at + timedelta(minutes=n)) for n in range(5)]
    tally = Tally()
    tally.look([])
    tally.look(minute)
    assert tally.ended["q", "T", "dead"] == 500
    tally.skip()
    tally.look([minute[0]._replace(ended=500)])
    assert tally.ended["q", "T", "dead"] == 500
