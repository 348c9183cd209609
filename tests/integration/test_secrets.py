"""Secrets of a payload reach `run()` whole, and nobody who looks (FAULTS 4)."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from pydantic import BaseModel, Field, Secret, SecretBytes, SecretStr

from taskrunner import Task, reads, redaction, register_task
from taskrunner.db import Op
from taskrunner.errors import InvalidArgument, PayloadInvalid
from taskrunner.payload import dump_marked, load_payload, parse_payload
from taskrunner.redaction import MARKS, MASK, by_name, by_path, secret_name
from taskrunner.testing.enqueued import assert_enqueued
from taskrunner.veil import Veil
from tests.engine import Engine

pytestmark = pytest.mark.anyio

TOKEN = 'tok-"5f3a9"/ü&x'  # noqa: S105 - of the tests
"""As JSON, Python and URLs write it, it looks different each time."""


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(autouse=True)
def default_names() -> Iterator[None]:
    redaction.use(redaction.NAMES)
    yield
    redaction.use(redaction.NAMES)


# ── where they are ───────────────────────────────────────────────────────────────────────────────────────────────────


class Login(BaseModel):
    user: str
    pass_: SecretStr = Field(alias="pass")


@dataclass
class Card:
    holder: str
    number: SecretStr


class Everywhere(Task):
    plain: str = "seen"
    one: SecretStr
    raw: SecretBytes
    maybe: SecretStr | None = None
    none: SecretStr | None = None
    many: list[SecretStr] = Field(default_factory=list)
    pairs: tuple[int, SecretStr] = (0, SecretStr("pair"))
    by_user: dict[str, SecretStr] = Field(default_factory=dict)
    logins: dict[str, list[Login]] = Field(default_factory=dict)
    card: Card | None = None
    number: Secret[int] = Secret[int](0)
    either: int | SecretStr = 1


def everywhere() -> Everywhere:
    return Everywhere(
        one=SecretStr("s-one"),
        raw=SecretBytes(b"\xffs-raw"),
        maybe=SecretStr("s-maybe"),
        many=[SecretStr("s-many"), SecretStr("")],
        by_user={"ada": SecretStr("s-ada")},
        logins={"eu": [Login(**{"user": "bob", "pass": SecretStr("s-bob")})]},
        card=Card("eve", SecretStr("s-card")),
        number=Secret[int](424242),
        either=SecretStr("s-either"),
    )


def test_secrets_at_any_depth_come_back_whole_and_are_known_by_their_paths() -> None:
    text, paths = dump_marked(everywhere())
    assert load_payload(Everywhere, text) == everywhere()
    shown = by_path(json.loads(text), paths)
    seen = json.dumps(shown)
    assert not [secret for secret in ("s-", "424242", "/3Mt") if secret in seen]
    assert (shown["plain"], shown["card"]["holder"], shown["logins"]["eu"][0]["user"]) == ("seen", "eve", "bob")
    assert (shown["none"], shown["pairs"], shown["many"]) == (None, [MASK, MASK], [MASK, MASK])


def test_a_task_without_secrets_has_no_marks(engine: Engine) -> None:
    @register_task("Plain")
    class Plain(Task):
        names: tuple[str, ...] = ("a",)

        def run(self) -> None: ...

    with engine.door() as door:
        added = door.add(Plain())
        door.add_many([Plain(), Plain()])
    assert engine.rows("SELECT DISTINCT meta FROM taskrunner.task") == [({},)]
    assert added.created


@pytest.mark.parametrize(
    "name", ["password", "PASSWORD", "db_password", "dbPassword", "X-Api-Key", "access_token", "Authorization", "token"]
)
def test_a_key_whose_last_words_are_a_secret_s_name_is_one(name: str) -> None:
    assert secret_name(name)
    assert by_name({"a": [{name: {"x": 1}}]}) == {"a": [{name: MASK}]}


@pytest.mark.parametrize(
    "name", ["tokens", "max_tokens", "token_count", "passwords_seen", "key", "author", "", 7, None]
)
def test_others_are_not(name: Any) -> None:
    assert not secret_name(name)


def test_the_setting_adds_names_and_replaces_them() -> None:
    redaction.use(("IBAN", "pin-code"))
    assert by_name({"iban": "x", "pinCode": 1, "token": "t"}) == {"iban": MASK, "pinCode": MASK, "token": "t"}


# ── texts ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "text",
    [
        f"refused: {TOKEN}",
        f"refused: {TOKEN!r}",
        json.dumps({"t": TOKEN}),
        json.dumps({"t": TOKEN}, ensure_ascii=False),
        "GET /x?t=tok-%225f3a9%22%2F%C3%BC%26x failed",
        '…5f3a9"/ü&x was refused',
        "input_value={'t': 'tok-\"5f3a...ü&x'}, input_type=dict]",
    ],
)
def test_a_secret_is_covered_as_it_is_and_as_others_write_it(text: str) -> None:
    covered = Veil([TOKEN]).text(text)
    assert "5f3a" not in covered
    assert MASK in covered


def test_short_secrets_would_cover_half_of_any_text_and_json_stays_json() -> None:
    assert Veil(["abc"]).text("abc") == "abc"
    veil = Veil(["1234", "true", '"a": '])
    assert json.loads(veil.json('{"a": 12345, "b": 1234, "c": true, "d": "x1234"}')) == {
        "a": 12345,
        "b": MASK,
        "c": True,
        "d": f"x{MASK}",
    }


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def register(way: str = "loop") -> type[Task]:
    class Pay(Task):
        amount: int = 5
        token: SecretStr
        nested: Login = Login(**{"user": "bob", "pass": SecretStr("bobs-own-secret")})

        def next_try(self) -> float | None:
            return 0 if self.tries == 0 else None

        def work(self) -> dict[str, str]:
            token = self.token.get_secret_value()
            assert token == TOKEN
            assert self.nested.pass_.get_secret_value() == "bobs-own-secret"
            assert MARKS not in self.context.meta
            self.context.progress(1, 2, f"with {token}")
            self.context.logger.info("paying with %s and %s", token, "bobs-own-secret")
            logging.getLogger("user").error("paying", extra={"header": f"Bearer {token}", "api_key": "other"})
            if self.tries == 0:
                try:
                    Login(user=token)  # type: ignore[call-arg]  # an error that echoes what it was given
                except Exception as error:
                    raise RuntimeError(f"refused {token!r}") from error
            return {"answer": f"paid with {token}", "session_token": "abc"}

    if way == "loop":

        async def run(self: Any) -> Any:
            return self.work()

        Pay.run = run  # type: ignore[method-assign]
    else:
        Pay.run = Pay.work  # type: ignore[method-assign]
    return register_task("Pay")(Pay)


def nothing_tells(text: str) -> None:
    for secret in ("5f3a9", "bobs-own"):
        assert secret not in text, text[max(0, text.index(secret) - 300) : text.index(secret) + 50]


@pytest.mark.parametrize("way", ["loop", "thread"])
async def test_run_gets_its_secrets_and_nothing_that_is_stored_of_the_run_has_them(engine: Engine, way: str) -> None:
    pay = register(way)
    with engine.door() as door:
        id_ = door.add(pay(token=TOKEN), meta={"password": "meta-secret", "tag": "x"}).id
        seen = door.get(id_)
        assert seen.payload == {"amount": 5, "token": MASK, "nested": {"user": "bob", "pass_": MASK}}
        assert seen.meta == {"password": MASK, "tag": "x"}
        whole = door.get(id_, whole=True)
        assert whole.payload["token"] == TOKEN
        assert whole.meta == {"password": "meta-secret", "tag": "x"}
        async with engine.running() as running:
            (view,) = await running.ended(id_)
        assert view.state == "succeeded"
        nothing_tells(view.model_dump_json())
        assert view.result == {"answer": f"paid with {MASK}", "session_token": MASK}
        assert door.result(id_) == {"answer": f"paid with {MASK}", "session_token": "abc"}  # code gets what was stored
        assert door.wait(id_).payload["token"] == MASK
        nothing_tells(door.list_tasks().model_dump_json())
    stored = engine.rows(
        "SELECT h.errors::text, h.progress::text, h.result::text FROM taskrunner.task_history h WHERE h.id = %s", id_
    )
    nothing_tells(str(stored))
    assert MASK in stored[0][0]
    lines = engine.do(reads.log_lines(id_)).lines
    assert lines
    nothing_tells(str(lines))


async def test_a_dead_letter_keeps_its_secrets_covered_and_is_requeued_whole(engine: Engine) -> None:
    @register_task("Fails", max_retries=0)
    class Fails(Task):
        token: SecretStr

        async def run(self) -> None:
            assert self.token.get_secret_value() == TOKEN
            raise ValueError(self.token.get_secret_value())

    with engine.door() as door:
        id_ = door.add(Fails(token=SecretStr(TOKEN))).id
        async with engine.running() as running:
            await running.ended(id_)
            fresh = door.retry(id_)
            (view,) = await running.ended(fresh)
    assert view.errors[-1]["message"] == f"ValueError: {MASK}"  # not an AssertionError: it had its token
    dead = engine.do(reads.dead_letter_by_id(id_))
    assert dead is not None
    nothing_tells(dead.model_dump_json())
    nothing_tells(engine.do(reads.dead_letters(reads.TaskFilter())).model_dump_json())


async def test_a_payload_that_no_longer_fits_dies_without_telling(engine: Engine) -> None:
    @register_task("Moved")
    class Moved(Task):
        token: SecretStr

        async def run(self) -> None: ...

    with engine.door() as door:
        id_ = door.add(Moved(token=SecretStr(TOKEN))).id
        engine.do(
            Op(
                "UPDATE taskrunner.task t SET payload = t.payload || %(more)s::jsonb RETURNING 1",
                {"more": f'{{"x": {json.dumps(TOKEN)}}}'},
            )
        )
        async with engine.running() as running:
            (view,) = await running.ended(id_)
    assert view.state == "dead"
    nothing_tells(json.dumps(view.errors))


async def test_flows_batches_keys_and_replacements_carry_the_marks(engine: Engine) -> None:
    pay = register()
    with engine.door() as door:
        ids = [answer.id for answer in door.add_many([pay(token=TOKEN), pay(token=TOKEN)])]
        keyed = door.add(pay(token="another-secret"), key="k").id
        assert door.add(pay(token=TOKEN), key="k", on_conflict="replace").id == keyed
        child = door.add(pay(token=TOKEN), after=ids[0]).id
        for id_ in (*ids, keyed, child):
            assert door.get(id_).payload["token"] == MASK
            assert door.get(id_, whole=True).payload["token"] == TOKEN


async def test_a_schedule_s_pattern_is_shown_covered_and_its_tasks_run_whole(engine: Engine) -> None:
    pay = register()
    with engine.door() as door:
        door.schedules.add("pay", pay(token=TOKEN), 3600)
        shown = engine.do(reads.schedule_named("pay"))
        assert shown is not None
        nothing_tells(shown.model_dump_json())
        assert shown.payload["amount"] == 5
        id_ = door.schedules.run("pay").id
        assert door.get(id_, whole=True).payload["token"] == TOKEN
        nothing_tells(door.get(id_).model_dump_json())
        door.schedules.change("pay", payload={"token": TOKEN, "amount": 7})
        shown = engine.do(reads.schedule_named("pay"))
        assert shown is not None
        assert shown.payload == {"token": MASK, "amount": 7}


def test_who_tests_tasks_sees_what_they_know(engine: Engine) -> None:
    pay = register()
    with engine.door() as door:
        door.add(pay(token=TOKEN))
        assert_enqueued(engine.conn, engine.registry, pay, token=SecretStr(TOKEN))
        with pytest.raises(AssertionError, match="live Pay") as raised:
            assert_enqueued(engine.conn, engine.registry, pay, token=SecretStr("else"))
        nothing_tells(str(raised.value))


def test_a_guess_at_a_secret_is_not_answered(engine: Engine) -> None:
    @register_task("Guessed")
    class Guessed(Task):
        card: SecretStr
        options: dict[str, str] = Field(default_factory=dict)

        def run(self) -> None: ...

    with engine.door() as door:
        door.add(Guessed(card=SecretStr("4929"), options={"password": "hunter2", "size": "XL"}))
        assert len(engine.do(reads.list_tasks(reads.TaskFilter(where=("payload.options.size:XL",)))).items) == 1
        assert engine.do(reads.list_tasks(reads.TaskFilter(where=("payload.card:4929",)))).items == []
    for term in ("payload.options.password:hunter2", 'payload.options:{"password":"hunter2"}'):
        try:
            found = engine.do(reads.list_tasks(reads.TaskFilter(where=(term,)))).items
        except (InvalidArgument, ValueError):
            continue
        assert found == [], term


def test_what_was_covered_is_not_taken_for_the_secret(engine: Engine) -> None:
    pay = register()
    with engine.door() as door, pytest.raises(PayloadInvalid, match=r"Pay\.token: this is how a secret is shown"):
        door.add(pay(token=MASK))

    @register_task("Named")
    class Named(Task):
        options: dict[str, str]

        def run(self) -> None: ...

    with pytest.raises(PayloadInvalid, match=r"Named\.options\.db_password: this is how"):
        parse_payload(Named, {"options": {"note": MASK, "db_password": MASK}})
    with pytest.raises(PayloadInvalid, match=r"Named\.options\.db_password: this is how"):
        parse_payload(Named, b'{"options": {"db_password": "**********"}}')
    assert parse_payload(Named, {"options": {"note": MASK}}).options == {"note": MASK}


def test_a_type_that_is_unique_by_a_secret_tells_two_of_them_apart_and_keeps_neither(engine: Engine) -> None:
    @register_task("Session", unique=("token",))
    class Session(Task):
        token: SecretStr

        def run(self) -> None: ...

    with engine.door() as door:
        first = door.add(Session(token=SecretStr("first-token")))
        assert door.add(Session(token=SecretStr("second-token"))).created
        assert door.add(Session(token=SecretStr("first-token"))).id == first.id
    assert "first-token" not in str(engine.rows("SELECT unique_key FROM taskrunner.task"))


def test_meta_cannot_say_what_is_secret(engine: Engine) -> None:
    pay = register()
    with engine.door() as door, pytest.raises(InvalidArgument, match="meta cannot have the key"):
        door.add(pay(token=TOKEN), meta={MARKS: []})
