"""Tasks are found by what they hold: payload fields, errors, keys, times, runners, ids; by Python, command and HTTP."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any
from uuid import UUID

import httpx
import pytest
from uuid_utils.compat import uuid7

from taskrunner import listing, reads
from taskrunner.api.app import create_app
from taskrunner.cli import main
from taskrunner.reads import TaskFilter
from taskrunner.redaction import MARKS
from taskrunner.settings import Settings
from taskrunner.store import steering
from taskrunner.store import task as store
from taskrunner.store.task import Ending
from tests.engine import Engine

HOUR = timedelta(hours=1)


def found(engine: Engine, text: str = "", **fields: Any) -> set[UUID]:
    wanted = listing.searched(text, engine.db.now(), **fields)
    return {task.id for task in engine.do(reads.list_tasks(wanted)).items}


def stored(engine: Engine, payload: Any = None, **fields: Any) -> UUID:
    return engine.add(payload=json.dumps(payload or {}), **fields)[0]


def dead(engine: Engine, message: str = "no", traceback: str = "", **fields: Any) -> UUID:
    id_ = stored(engine, **{"priority": 10**6, **fields})
    runner = engine.join()
    (claim,) = engine.claim(runner)
    assert claim.id == id_
    entry = json.dumps([{"message": message, "traceback": traceback}])
    engine.do(store.bury(runner, [Ending(claim.id, claim.claim_no, detail=entry)]))
    return id_


def test_a_payload_field_is_found_as_a_number_as_text_and_in_a_list(engine: Engine) -> None:
    """SPEC OPS 49."""
    number = stored(engine, {"user": {"id": 42}, "flag": True})
    text = stored(engine, {"user": {"id": "42"}, "flag": "true"})
    listed = stored(engine, {"user": {"id": [7, 42]}, "items": [{"sku": "a b"}]})
    stored(engine, {"user": {"id": 421}})
    stored(engine, {"user": 42})
    stored(engine, {})
    assert found(engine, "payload.user.id:42") == {number, text, listed}
    assert found(engine, "payload.user.id:42.0") == {number, listed}
    assert found(engine, "payload.flag:true") == {number, text}
    assert found(engine, 'payload.items.0.sku:"a b"') == {listed}
    assert found(engine, "payload.user.id:42 payload.flag:true type:T") == {number, text}
    assert found(engine, "payload.user.id:nobody") == set()


def test_a_field_is_found_in_every_state_and_in_meta(engine: Engine) -> None:
    """SPEC OPS 49."""
    wanted = {stored(engine, {"a": 1}, meta='{"tag": "x"}') for _ in range(3)}
    runner = engine.join()
    (claim, *_) = engine.claim(runner)
    engine.finish(runner, claim)
    engine.do(steering.cancel(next(iter(wanted - {claim.id}))))
    wanted.add(dead(engine, payload={"a": 1}, meta='{"tag": "x"}'))
    assert found(engine, "payload.a:1") == found(engine, "meta.tag:x") == wanted


def test_no_search_tells_what_is_secret_in_a_payload(engine: Engine) -> None:
    """FAULTS 4."""
    marked = {"meta": json.dumps({MARKS: [["card", "number"]]})}
    stored(engine, {"card": {"number": "4711"}, "open": "x"}, **marked)
    plain = stored(engine, {"card": {"number": "4711"}, "open": "x"})
    stored(engine, {"card": {"number": "4711"}}, meta=json.dumps({MARKS: [["*", "number"]]}))
    assert found(engine, "payload.card.number:4711") == {plain}
    assert len(found(engine, "payload.open:x")) == 2


@pytest.mark.parametrize("written", ["what", '{"a": 1}', "[1, null, {}]", "null"])
def test_marks_that_some_other_hand_wrote_break_no_search(engine: Engine, written: str) -> None:
    id_ = stored(engine, {"a": 1}, meta=json.dumps({MARKS: json.loads(written) if written != "what" else "what"}))
    assert found(engine, "payload.a:1") == {id_}


def test_the_last_error_is_searched_as_text_and_not_as_a_pattern(engine: Engine) -> None:
    """SPEC OPS 49."""
    odd = dead(engine, "100% of _it_ Timed Out (\\d+)", "Traceback: line 7")
    other = dead(engine, "refused")
    stored(engine)
    assert found(engine, 'error:"timed out"') == {odd}
    assert found(engine, "error:%") == found(engine, "error:_") == found(engine, r'error:"(\\d"') == {odd}
    assert found(engine, 'error:"LINE 7"') == {odd}
    assert found(engine, "error:refused") == {other}
    assert found(engine, "error:x%x") == set()
    page = engine.do(reads.dead_letters(listing.searched("error:refused", engine.db.now())))
    assert [letter.id for letter in page.items] == [other]


def test_keys_runners_ids_and_types_by_their_beginning(engine: Engine) -> None:
    """SPEC OPS 49."""
    keyed = stored(engine, unique_key="key:a:b", type="Mail.Send")
    other = stored(engine, unique_key="key:a", type="MailBox")
    stored(engine, type="Report%")
    assert found(engine, "key:a:b") == {keyed}
    assert found(engine, "type:Mail*") == {keyed, other}
    assert found(engine, "type:Mail") == found(engine, "type:%*") == set()
    assert found(engine, f"{keyed} {other} {uuid7()} type:MailBox") == {other}
    runner = engine.join("MailBox")
    engine.claim(runner, types=["MailBox"])
    assert found(engine, f"runner:{runner}") == {other}


def test_until_begins_below_what_is_younger_and_misses_nothing(engine: Engine) -> None:
    """SPEC OPS 49; docs/decisions/022."""
    old = stored(engine)
    between = engine.db.now()
    engine.db.travel(3 * HOUR)
    new = stored(engine)
    assert found(engine, until=between) == {old}
    assert found(engine, "since:1h") == {new}
    assert found(engine, "until:1h") == {old}
    assert found(engine, "since:1h until:1s") <= {new}


def test_a_page_goes_on_below_what_it_has_looked_at(engine: Engine) -> None:
    """docs/decisions/016."""
    wanted = stored(engine, {"a": 1})
    engine.add(40)
    pages, after, seen = 0, None, []
    while pages == 0 or after is not None:
        page = engine.do(reads.list_tasks(TaskFilter(where=("payload.a:1",), after=after), room=40))
        seen += [task.id for task in page.items]
        after, pages = page.next, pages + 1
    assert seen == [wanted]
    assert pages == 5, "a quarter of the room where each row's JSON is looked into"


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as left:
        main(words)
    out, err = capsys.readouterr()
    return left.value.code, out, err


def test_the_command_takes_a_search_and_options(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """SPEC OPS 49."""
    monkeypatch.setenv("DATABASE_URL", engine.url)
    id_ = dead(engine, "timed out", payload={"user": {"id": 42}})
    stored(engine)
    for words in (
        ["payload.user.id:42", "state:dead"],
        ["payload.user.id:42 state:dead"],
        ["error:timed out"],
        ["--where", "payload.user.id:42", "--error", "timed", "--until", "0s"],
        [str(id_)],
    ):
        code, out, err = run(["tasks", "list", "--json", *words], capsys)
        assert (code, [task["id"] for task in json.loads(out)]) == (0, [str(id_)]), err
    code, out, err = run(["dead", "list", "--json", "error:timed out", "payload.user.id:42"], capsys)
    assert (code, [task["id"] for task in json.loads(out)]) == (0, [str(id_)]), err
    code, _, err = run(["tasks", "list", "stat:dead"], capsys)
    assert code == 2
    assert "did you mean 'state'" in err


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_http_takes_a_search_and_parameters(engine: Engine) -> None:
    """SPEC OPS 49."""
    id_ = dead(engine, "timed out", payload={"user": {"id": 42}})
    stored(engine, {"user": {"id": 42}})
    app = create_app(Settings(), engine.registry, engine.url)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client,
    ):
        for params in (
            {"q": 'error:"timed out" state:dead since:1h'},
            {"q": "state:dead", "where": ["payload.user.id:42"]},
            {"error": "TIMED", "where": ["payload.user.id:42", "payload.user.id:42"]},
            {"ids": [str(id_)]},
            {"q": str(id_), "state": "dead"},
        ):
            answer = await client.get("/tasks", params=params)
            assert answer.status_code == 200, answer.text
            assert [task["id"] for task in answer.json()["tasks"]] == [str(id_)], params
        for bad in (
            {"q": "stat:dead"},
            {"q": "a\0b"},
            {"where": "payload.password:x"},
            {"where": "payload:1"},
            {"q": "state:dead", "state": "dead"},
            {"error": "a\0"},
            {"where": "payload" + ".a" * 99 + ":1"},
            {"q": "payload.a:" + "[" * 900},
        ):
            refused = await client.get("/tasks", params=bad)
            assert refused.status_code == (200 if "[" in str(bad) else 422), refused.text
