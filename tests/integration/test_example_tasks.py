"""The tasks that ship with the project do what they say, run by a real runner."""

from __future__ import annotations

import asyncio
import email.policy
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from taskrunner import Task, TaskQueue
from taskrunner.errors import PayloadInvalid
from taskrunner.registry import Registry, discover, isolated
from taskrunner.testing.database import Database
from taskrunner.testing.plugin import RunDue

ROOT = Path(__file__).parents[2]
Make = Callable[..., Task]


@pytest.fixture(autouse=True)
def examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.chdir(tmp_path)
    for name in ("SMTP_URL", "OUTBOX", "REPORTS", "MAIL_FROM"):
        monkeypatch.delenv(name, raising=False)
    with isolated():
        yield discover(ROOT)


@pytest.fixture
def make(examples: Registry) -> Make:
    return lambda name, **fields: examples.get(name).cls(**fields)


def test_the_four_examples_are_found_by_import(examples: Registry) -> None:
    """SPEC REG 1."""
    assert examples.names() == ["DailyReport", "HealthCheck", "ProcessData", "SendEmail"]


# --- SendEmail -----------------------------------------------------------------------------------------------------


def read(data: bytes) -> EmailMessage:
    return message_from_bytes(data, _class=EmailMessage, policy=email.policy.default)


def test_without_a_server_a_mail_is_a_file_in_the_outbox(
    make: Make, taskrunner_queue: TaskQueue, run_due: RunDue, tmp_path: Path
) -> None:
    added = taskrunner_queue.add(make("SendEmail", to="ann@example.org", subject="Grüße", body="Guten Tag\n"))
    (ended,) = run_due()
    assert ended.result == {"message_id": f"<{added.id}@taskrunner>", "sent_to": f"outbox/{added.id}.eml"}
    message = read((tmp_path / "outbox" / f"{added.id}.eml").read_bytes())
    assert (message["To"], message["Subject"], message["Message-ID"]) == (
        "ann@example.org",
        "Grüße",
        f"<{added.id}@taskrunner>",
    )
    assert message.get_content() == "Guten Tag\n"


def test_a_mail_that_is_written_twice_is_one_file(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OUTBOX", str(tmp_path / "elsewhere"))
    task = make("SendEmail", to="ann@example.org")
    assert task.run() == task.run()
    assert [file.name for file in (tmp_path / "elsewhere").iterdir()] == [f"{task.id}.eml"]


@pytest.mark.parametrize(
    "fields",
    [{"to": "nobody"}, {"to": "a@b.c, d@e.f"}, {"to": "a@b.c", "subject": "x\r\nBcc: d@e.f"}, {"to": "a@b.c\n"}],
)
def test_a_mail_that_cannot_be_meant_is_refused_before_it_is_stored(fields: dict[str, str], make: Make) -> None:
    with pytest.raises(ValueError, match=r"\b(to|subject)\b"):
        make("SendEmail", **fields)


class Sink:
    """An SMTP server that takes every message, but for those that it is told to turn away first."""

    def __init__(self, turn_away: int = 0) -> None:
        self.messages: list[bytes] = []
        self.turn_away = turn_away
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._loop.run_until_complete, args=[self._serve()])

    def __enter__(self) -> Sink:
        self._thread.start()
        assert self._ready.wait(60)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(60)
        self._loop.close()

    async def _serve(self) -> None:
        self._closing = asyncio.Event()
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._closing.wait()
        server.close()
        await server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())
            await writer.drain()

        await say("220 sink")
        while command := (await reader.readline()).decode().strip().upper():
            if command.startswith("MAIL") and self.turn_away:
                self.turn_away -= 1
                await say("451 come back later")
            elif command == "DATA":
                await say("354 go on")
                self.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                await say("250 taken")
            elif command == "QUIT":
                await say("221 bye")
                break
            else:
                await say("250 ok")
        writer.close()
        await writer.wait_closed()


def test_with_a_server_the_mail_is_handed_over(
    make: Make, taskrunner_queue: TaskQueue, run_due: RunDue, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with Sink() as sink:
        monkeypatch.setenv("SMTP_URL", f"smtp://127.0.0.1:{sink.port}")
        added = taskrunner_queue.add(make("SendEmail", to="ann@example.org", subject="Hi", body="Text\n"))
        (ended,) = run_due()
    assert ended.result == {"message_id": f"<{added.id}@taskrunner>", "sent_to": f"127.0.0.1:{sink.port}"}
    (message,) = map(read, sink.messages)
    assert (message["To"], message["Message-ID"]) == ("ann@example.org", f"<{added.id}@taskrunner>")
    assert not (tmp_path / "outbox").exists()


def test_a_mail_that_the_server_turns_away_is_tried_again(
    make: Make,
    taskrunner_queue: TaskQueue,
    taskrunner_db: Database,
    run_due: RunDue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Sink(turn_away=1) as sink:
        monkeypatch.setenv("SMTP_URL", f"smtp://127.0.0.1:{sink.port}")
        taskrunner_queue.add(make("SendEmail", to="ann@example.org"))
        assert run_due() == []
        taskrunner_db.travel(timedelta(seconds=6))
        (ended,) = run_due()
    assert (ended.state, ended.tries, len(sink.messages)) == ("succeeded", 1, 1)
    assert "451" in ended.errors[0]["message"]


def test_an_address_of_a_server_that_is_none_says_what_it_should_be(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SMTP_URL", "mail.example.org:25")
    with pytest.raises(ValueError, match="smtp://user:password@host:587"):
        make("SendEmail", to="ann@example.org").run()


# --- ProcessData ---------------------------------------------------------------------------------------------------


def test_the_sample_file_is_summed_exactly_in_a_child_process(
    make: Make, taskrunner_queue: TaskQueue, run_due: RunDue
) -> None:
    taskrunner_queue.add(make("ProcessData"))
    (ended,) = run_due()
    assert ended.result == {
        "rows": 12,
        "sums": {"east": "100.00", "north": "236.00", "south": "255.25", "west": "250.00"},
    }


def test_any_columns_of_any_file_can_be_grouped_and_summed(make: Make, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text("who,n\na,1\nb,2.5\na,0.1\n")
    task = make("ProcessData", file=str(tmp_path / "own.csv"), group_by="who", sum_of="n")
    assert task.run() == {"rows": 3, "sums": {"a": "1.1", "b": "2.5"}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("who,n\na,1\nb,many\n", "line 3: 'many' is no number"),
        ("who\na\n", "has no column n"),
        ("", "no column n, who"),
    ],
)
def test_a_file_that_cannot_be_summed_is_named_with_its_line(
    text: str, message: str, make: Make, tmp_path: Path
) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        make("ProcessData", file=str(tmp_path / "bad.csv"), group_by="who", sum_of="n").run()


def test_progress_is_reported_while_a_long_file_is_read(
    make: Make, taskrunner_queue: TaskQueue, run_due: RunDue, tmp_path: Path
) -> None:
    (tmp_path / "long.csv").write_text("who,n\n" + "a,1\n" * 2500)
    taskrunner_queue.add(make("ProcessData", file=str(tmp_path / "long.csv"), group_by="who", sum_of="n"))
    (ended,) = run_due()
    assert ended.result == {"rows": 2500, "sums": {"a": "2500"}}


# --- DailyReport ---------------------------------------------------------------------------------------------------


def test_the_report_counts_what_ended_and_names_what_needs_a_person(
    make: Make, taskrunner_queue: TaskQueue, run_due: RunDue, tmp_path: Path
) -> None:
    taskrunner_queue.add(make("SendEmail", to="ann@example.org"))
    taskrunner_queue.add(make("ProcessData", file="no-such-file.csv"), max_retries=0)
    run_due()
    taskrunner_queue.add(make("DailyReport"))
    (ended,) = run_due()
    (page,) = (tmp_path / "reports").iterdir()
    assert ended.result == {"report": f"reports/{page.name}"}
    text = page.read_text(encoding="utf-8")
    assert "1 tasks ended in the 24 hours" in text
    assert "1 dead letters need a person" in text
    assert "| succeeded | 1 |" in text


def test_the_report_of_a_quiet_day_says_so(examples: Registry) -> None:
    render = examples.get("DailyReport").cls.run.__globals__["render"]
    counts = dict.fromkeys(("pending", "due", "succeeded", "ignored", "cancelled", "dead"), 0)
    text = render(counts, datetime(2026, 3, 1, 6, tzinfo=UTC))
    assert text.startswith("# Tasks on Sunday, 01 March 2026\n")
    assert "Nothing needs a person." in text


def test_the_report_is_due_every_morning(examples: Registry) -> None:
    kind = examples.get("DailyReport")
    assert kind.unique is True
    assert kind.frequency is not None
    evening = datetime(2026, 3, 1, 20, tzinfo=UTC)
    assert kind.frequency.first_after(evening) == datetime(2026, 3, 2, 6, tzinfo=UTC)


# --- HealthCheck ---------------------------------------------------------------------------------------------------


def test_the_health_check_reads_itself_back_and_measures(
    make: Make, taskrunner_queue: TaskQueue, run_due: RunDue
) -> None:
    first = taskrunner_queue.add(make("HealthCheck"))
    again = taskrunner_queue.add(make("HealthCheck"))
    assert (again.id, again.created) == (first.id, False)
    (ended,) = run_due()
    result: dict[str, Any] = ended.result
    assert result["state"] == "running"
    assert result["connect_ms"] > 0
    assert result["query_ms"] > 0


def test_a_failing_health_check_is_tried_three_times_a_minute_apart_before_it_is_dead(
    make: Make,
    taskrunner_queue: TaskQueue,
    taskrunner_db: Database,
    run_due: RunDue,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SPEC RTY 25: `tries < 3` gives four runs."""
    taskrunner_queue.add(make("HealthCheck"))
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    for _ in range(3):
        assert run_due() == []
        taskrunner_db.travel(timedelta(seconds=59))
        assert run_due() == []
        taskrunner_db.travel(timedelta(seconds=1))
    (ended,) = run_due()
    assert (ended.state, ended.tries, len(ended.errors)) == ("dead", 4, 4)


def test_what_does_not_fit_a_payload_never_reaches_the_queue(taskrunner_queue: TaskQueue, examples: Registry) -> None:
    from taskrunner.payload import parse_payload

    with pytest.raises(PayloadInvalid, match="too"):
        parse_payload(examples.get("SendEmail").cls, '{"too": "ann@example.org"}')
