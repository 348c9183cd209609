"""A runner's own metrics: what it claims, runs and writes, on a port of its own."""

from __future__ import annotations

import asyncio
import re
import socket
import urllib.error
import urllib.request
from contextlib import ExitStack
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from taskrunner import events, register_task
from taskrunner import meter as meter_module
from taskrunner.meter import metered
from taskrunner.settings import Settings
from taskrunner.task import Task
from tests.engine import Engine
from tests.processes import eventually

pytestmark = pytest.mark.anyio


def scraped(address: str, token: str = "") -> dict[tuple[str, ...], float]:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(address, headers=headers)  # noqa: S310 - our own
    with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - our own
        text = answer.read().decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_runner_counts_what_it_claims_and_what_it_writes(engine: Engine) -> None:
    @register_task("Mixed", max_retries=0)
    class Mixed(Task):
        fails: bool = False

        async def run(self) -> None:
            if self.fails:
                raise ValueError

    with engine.door() as door:
        async with engine.running() as running:
            with metered(running.runner, Settings(metrics_port=0)) as address:
                ids = [door.add(Mixed(fails=number == 0)).id for number in range(5)]
                ids += engine.add(type="Mixed", payload='{"fails": "perhaps"}')
                await running.ended(*ids)
                await running.until(events.Settled, 6)
                found = await asyncio.to_thread(scraped, address)
            assert "taskrunner metrics" not in str(await asyncio.to_thread(meter_module.threading.enumerate))
    assert found["taskrunner_runner_claims_total",] == 6
    assert found["taskrunner_runner_ended_total", "succeeded", "default", "Mixed"] == 4
    assert found["taskrunner_runner_ended_total", "dead", "default", "Mixed"] == 2
    assert found["taskrunner_runner_run_seconds_count", "default", "Mixed"] == 5, "one of them never ran"
    assert found["taskrunner_runner_cycle_seconds_count",] >= 1
    assert (found["taskrunner_runner_slots",], found["taskrunner_runner_held",]) == (10, 0)
    assert found["taskrunner_runner_lease_seconds",] > 0
    assert found["process_resident_memory_bytes",] > 0


async def test_types_beyond_the_bound_are_counted_together(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meter_module, "MOST", 1)
    async with engine.running() as running:
        with metered(running.runner, Settings(metrics_port=0)) as address:
            for name in ("A", "B", "C"):
                events.emit(events.Stored, (events.StoredEnd("q", name, "succeeded", 0.5),))
            found = await asyncio.to_thread(scraped, address)
    assert found["taskrunner_runner_ended_total", "succeeded", "q", "A"] == 1
    assert found["taskrunner_runner_ended_total", "succeeded", "other", "other"] == 2


async def test_where_there_are_tokens_one_is_asked_for(engine: Engine) -> None:
    """FAULTS 4."""
    settings = Settings(metrics_port=0, api_token="right", api_tokens="grafana:read:looker")
    async with engine.running() as running:
        with metered(running.runner, settings) as address:
            for wrong in ("", "wrong", "grafana"):
                with pytest.raises(urllib.error.HTTPError, match="401"):
                    await asyncio.to_thread(scraped, address, wrong)
            for right in ("right", "looker"):
                assert ("taskrunner_runner_slots",) in await asyncio.to_thread(scraped, address, right)


async def test_a_port_that_is_taken_stops_no_runner_is_told_with_the_remedy_and_taken_when_it_is_free(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(meter_module, "AGAIN", 0.05)
    async with engine.running() as running:
        with ExitStack() as taken:
            port = taken.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1]
            with metered(running.runner, Settings(metrics_port=port)) as address:
                assert address == ""
                assert f"127.0.0.1 port {port} cannot be had: Address already in use" in caplog.text
                assert "TASKRUNNER_METRICS_PORT" in caplog.text
                taken.close()
                address = f"http://127.0.0.1:{port}/metrics"
                found = await asyncio.to_thread(eventually, partial(_scraped_or_none, address), "that it is taken")
                assert ("taskrunner_runner_slots",) in found


def _scraped_or_none(address: str) -> dict[tuple[str, ...], float] | None:
    try:
        return scraped(address)
    except OSError:
        return None


async def test_a_place_beyond_the_last_port_stops_no_runner_either(engine: Engine) -> None:
    async with engine.running() as running:
        with metered(running.runner, Settings(metrics_port=65535), place=1) as address:
            assert address == ""


async def test_starting_asks_no_name_server_who_it_is(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def asked(*_: object) -> str:
        raise AssertionError("a look-up that may take half a minute")

    monkeypatch.setattr(socket, "getfqdn", asked)
    async with engine.running() as running:
        with metered(running.runner, Settings(metrics_port=0)) as address:
            assert ("taskrunner_runner_slots",) in await asyncio.to_thread(scraped, address)


async def test_without_a_meter_nobody_counts(engine: Engine) -> None:
    async with engine.running():
        assert not events.heard(events.Stored)


def test_off_loopback_it_needs_a_token() -> None:
    """FAULTS 4."""
    with pytest.raises(ValueError, match=re.escape("can be reached from other machines")):
        Settings(metrics_host="0.0.0.0", metrics_port=9100)  # noqa: S104
    assert Settings(metrics_host="0.0.0.0", metrics_port=9100, api_token="x").metrics_host == "0.0.0.0"  # noqa: S104
