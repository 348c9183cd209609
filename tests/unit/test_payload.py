"""The guard in front of jsonb: equal when read back, or refused with the path; error texts always pass."""

import json
import sys
import traceback
from collections import deque
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, PlainSerializer, SecretStr, computed_field, field_serializer

from taskrunner import payload
from taskrunner.errors import PayloadInvalid
from taskrunner.errortext import CUT
from taskrunner.jsonvalue import MAX_BYTES
from taskrunner.payload import (
    check_json,
    clean_text,
    dump,
    dump_json,
    dump_marked,
    error_entry,
    load_payload,
    parse_payload,
)
from taskrunner.task import Task

WARSAW = ZoneInfo("Europe/Warsaw")


class Loose(Task):
    value: Any = None


class Colour(Enum):
    RED = 1


class Address(BaseModel):
    street: str
    tags: set[str] = set()


@dataclass
class Point:
    x: float
    y: float = 0.0


class Typed(Task):
    text: str = ""
    whole: int = 0
    number: float = 0.0
    money: Decimal = Decimal(0)
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    day: date = date(2026, 1, 1)
    hour: time = time(1)
    span: timedelta = timedelta(0)
    blob: bytes = b""
    uid: UUID = UUID(int=0)
    colour: Colour = Colour.RED
    home: Address | None = None
    point: Point = Point(0)
    tags: frozenset[int] = frozenset()
    pair: tuple[int, str] = (1, "a")
    line: deque[int] = Field(default_factory=deque)
    named: dict[int, list[Decimal]] = Field(default_factory=dict)


class Plain(Task):
    text: str = ""
    whole: int = 0
    number: float = 0.0
    flag: bool = False


def through_jsonb(text: str) -> str:
    """Write numbers as PostgreSQL's numeric does: every digit, no exponent."""

    def written(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ",".join(f"{json.dumps(key)}:{written(item)}" for key, item in value.items()) + "}"
        if isinstance(value, list):
            return "[" + ",".join(map(written, value)) + "]"
        return f"{value:f}" if isinstance(value, Decimal) else json.dumps(value)

    return written(json.loads(text, parse_float=Decimal))


def returned(task: Task) -> Any:
    return load_payload(type(task), through_jsonb(dump(task)))


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('abü"\\', max_size=4), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
@settings(max_examples=100, deadline=None)
def test_any_json_value_compares_equal_after_a_stay_in_jsonb(value):
    """SPEC ENQ 8, FAULTS F27."""
    assert returned(Loose(value=value)).value == value
    assert load_payload(Loose, f'{{"value":{through_jsonb(dump_json(value))}}}').value == value


@given(st.recursive(st.text() | st.floats() | st.decimals() | st.binary() | st.datetimes(), st.lists))
@settings(max_examples=100, deadline=None)
def test_any_value_at_all_comes_back_equal_or_is_refused(value):
    """FAULTS F27."""
    try:
        text = dump(Loose(value=value))
    except PayloadInvalid:
        return
    assert load_payload(Loose, through_jsonb(text)).value == value


@given(
    st.builds(
        Typed,
        text=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
        whole=st.integers(),
        number=st.floats(allow_nan=False, allow_infinity=False),
        money=st.decimals(allow_nan=False, allow_infinity=False),
        at=st.datetimes(timezones=st.sampled_from([UTC, WARSAW])),
        day=st.dates(),
        hour=st.times(),
        span=st.timedeltas(),
        blob=st.binary(),
        uid=st.uuids(),
        home=st.none() | st.builds(Address, street=st.just("ü"), tags=st.sets(st.sampled_from("abc"))),
        point=st.builds(Point, x=st.floats(-1e9, 1e9), y=st.just(0.5)),
        tags=st.frozensets(st.integers()),
        line=st.builds(deque, st.lists(st.integers())),
        named=st.dictionaries(st.integers(), st.lists(st.decimals(allow_nan=False, allow_infinity=False))),
    )
)
@settings(max_examples=30, deadline=None)
def test_typed_fields_come_back_exactly(task):
    """SPEC ENQ 8."""
    again = returned(task)
    assert {**again.__dict__, "at": 0} == {**task.__dict__, "at": 0}
    assert again.at.astimezone(UTC) == task.at.astimezone(UTC)  # == between zones is False in repeated hours
    assert type(again.home) is type(task.home)


@pytest.mark.parametrize("number", [1e300, -1e300, 2.0**53, 1e16, 1e23, sys.float_info.max, 5e-324, 0.1, -0.0])
def test_floats_of_any_size_keep_their_value(number):
    assert returned(Loose(value=[number])).value == [number]
    assert returned(Typed(number=number)).number == number


@pytest.mark.parametrize("number", [2**53 + 1, 2**64, pytest.param(-(10**4299), id="4300 digits")])
def test_integers_of_any_size_keep_their_digits(number):
    assert returned(Loose(value=number)).value == number
    assert returned(Typed(whole=number)).whole == number


def test_a_megabyte_of_unicode_comes_back():
    """SPEC ENQ 8."""
    text = "żółw 🐢 " * 150_000
    assert returned(Typed(text=text)).text == text


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("value", "path", "said"),
    [
        (NAN, "Loose.value", "nan"),
        ([0, INF], "Loose.value[1]", "inf"),
        ({"a": {"b": -INF}}, "Loose.value.a.b", "-inf"),
        (Decimal("NaN"), "Loose.value", "NaN"),
        ([Decimal("sNaN")], "Loose.value[0]", "sNaN"),
        ({"a": Decimal("-Infinity")}, "Loose.value.a", "Infinity"),
        ("a\0b", "Loose.value", "NUL"),
        ({"a\0": 1}, r"Loose.value.a\x00", "NUL"),
        ("\ud800", "Loose.value", "surrogate"),
        ({"x": [{"\udfff": 1}]}, r"Loose.value.x[0].\udfff", "surrogate"),
        ({1.5: [NAN]}, "Loose.value.<float>[0]", "nan"),
        ({("a", "\0"): 1}, "Loose.value.<tuple>[1]", "NUL"),
        pytest.param(10**4300, "Loose.value", "4,300 digits", id="4301 digits"),
        (Point(NAN), "Loose.value.x", "nan"),
        ({"a": Address.model_construct(street="\0", tags=set())}, "Loose.value.a.street", "NUL"),
        (deque([1, INF]), "Loose.value[1]", "inf"),
    ],
)
def test_what_json_or_postgresql_cannot_hold_is_refused_with_its_path(value, path, said):
    """SPEC ENQ 8."""
    with pytest.raises(PayloadInvalid) as refusal:
        dump(Loose(value=value))
    assert str(refusal.value).startswith(f"{path}: ")
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "value", [datetime(2026, 1, 1, tzinfo=UTC), uuid4(), b"x", {1, 2}, {1: 2}, Decimal("0.1"), Colour.RED, Point(1), 1j]
)
def test_what_json_would_silently_change_is_refused(value):
    """FAULTS F27."""
    with pytest.raises(PayloadInvalid, match=r"Loose"):
        dump(Loose(value=value))


def test_a_tuple_may_become_a_list_and_a_decimal_an_exact_one():
    assert returned(Loose(value=(1, (2, 3)))).value == [1, [2, 3]]
    assert str(returned(Typed(money=Decimal("1.10"))).money) == "1.10"


def nested(depth):
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def test_a_hundred_levels_are_kept_and_one_more_is_refused():
    assert returned(Loose(value=nested(100))).value == nested(100)
    with pytest.raises(PayloadInvalid, match="deeper than 100"):
        dump(Loose(value=nested(101)))
    with pytest.raises(PayloadInvalid, match="deeper than 100"):
        dump(Loose(value=nested(10_000)))


def test_a_value_within_itself_is_refused():
    loop: dict[str, Any] = {}
    loop["self"] = [loop]
    with pytest.raises(PayloadInvalid, match="within itself"):
        check_json(loop)
    circle: Any = deque()
    circle.append(circle)
    with pytest.raises(PayloadInvalid, match="within itself"):
        dump(Loose.model_construct(value=circle))


def test_more_than_64_megabytes_are_refused_with_the_numbers():
    with pytest.raises(PayloadInvalid, match="at most 67,108,864"):
        dump(Typed.model_construct(text="x" * MAX_BYTES))
    with pytest.raises(PayloadInvalid, match="at most 67,108,864"):
        dump_json("x" * MAX_BYTES, "result")


class Secret(Task):
    token: SecretStr = SecretStr("")


class Hidden(Task):
    plain: str = ""
    total: int = 0

    @field_serializer("total")
    def shorten(self, total: int) -> str:
        return f"about {total}"


class Rough(Task):
    ratio: Annotated[float, PlainSerializer(lambda value: value / 3)] = 0.0
    home: Address | None = None


def test_a_secret_is_stored_whole_and_where_it_is_is_told():
    text, paths = dump_marked(Secret(token="hunter2"))
    assert json.loads(text) == {"token": "hunter2"}
    assert paths == [("token",)]
    assert load_payload(Secret, text) == Secret(token="hunter2")


def test_a_secret_that_cannot_be_stored_is_refused_and_not_shown():
    with pytest.raises(PayloadInvalid, match=r"Secret\.token: a NUL") as refusal:
        dump(Secret(token="hunter\0002"))
    assert "hunter" not in str(refusal.value)


def test_a_serializer_that_cannot_be_undone_is_refused():
    with pytest.raises(PayloadInvalid, match="could not be read back"):
        dump(Hidden(total=3))


def test_a_field_that_was_changed_behind_its_type_is_refused():
    task = Typed()
    task.line.append("no number")  # type: ignore[arg-type]  # that it is refused is the test
    with pytest.raises(PayloadInvalid, match="Typed"):
        dump(task)
    with pytest.raises(PayloadInvalid, match=r"Hidden\.plain: the field has no value"):
        dump(without("plain"))


def without(name):
    task = Hidden()
    del task.__dict__[name]
    return task


class Aliased(Task):
    sender: str = Field(alias="from", serialization_alias="From")
    size: int = Field(0, validation_alias="n")

    @computed_field
    def shout(self) -> str:
        return self.sender.upper()


def test_aliases_and_computed_fields_do_not_reach_the_row():
    task = Aliased(**{"from": "x", "n": 3})
    assert json.loads(dump(task)) == {"sender": "x", "size": 3}
    assert returned(task) == task


def test_people_may_write_aliases_or_names():
    assert parse_payload(Aliased, '{"from": "x"}') == parse_payload(Aliased, {"sender": "x"})
    with pytest.raises(PayloadInvalid, match=r"payload\.from: nan"):
        parse_payload(Aliased, {"from": float("nan")})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{}", "sender: Field required"),
        ('{"sender": 5}', "sender: Input should be a valid string"),
        ('{"sender": "x", "cc": 1}', "cc: Extra inputs are not permitted"),
        ('{"sender": "x", "tries": 1}', "tries: Extra inputs are not permitted"),
        ('{"sender": ', "Invalid JSON"),
        ("[]", "object"),
        ("\ud800", "Aliased"),
    ],
)
def test_a_stored_payload_that_does_not_fit_is_refused_with_the_fields(text, said):
    """SPEC ENQ 9."""
    with pytest.raises(PayloadInvalid, match=said):
        load_payload(Aliased, text)


def test_a_path_in_a_refusal_leads_into_nested_models_and_lists():
    class House(Task):
        homes: list[Address]

    with pytest.raises(PayloadInvalid, match=r"House: homes\[1\]\.street: Field required"):
        load_payload(House, '{"homes": [{"street": "a"}, {}]}')


def test_an_instant_in_a_repeated_hour_is_no_difference():
    task = Typed(at=datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=WARSAW))
    assert returned(task).at == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_a_json_value_is_written_and_what_is_none_is_named():
    assert dump_json({"a": (1, None, True, "ü")}) == '{"a":[1,null,true,"ü"]}'
    for value, said in [({"a": {1}}, r"meta\.a: set"), ({"a": b""}, "bytes"), ([object()], r"meta\[0\]: object")]:
        with pytest.raises(PayloadInvalid, match=said):
            check_json(value, "meta")


def test_clean_text_keeps_the_tail_within_the_limit_and_marks_the_cut():
    """SPEC ENQ 12."""
    assert clean_text("x" * 4095) == "x" * 4095
    cut = clean_text("head" + "x" * 5000 + "tail")
    assert len(cut) == 4095
    assert cut.startswith(CUT)
    assert cut.endswith("tail")


@given(st.text(st.characters(), max_size=50))
def test_clean_text_can_always_be_stored(text):
    """FAULTS F27."""
    clean = clean_text(text, 20)
    assert "\0" not in clean
    assert len(clean.encode()) <= 80


def caught(raise_it):
    try:
        raise_it()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


class Unspeakable(Exception):
    def __str__(self):
        raise SystemExit("no")

    __repr__ = __str__


def deep(n=0):
    return deep(n + 1)


def chained():
    error = None
    for number in range(5000):
        following = ValueError(number)
        following.__cause__ = error
        error = following
    raise error


def grouped():
    error: BaseException = ValueError("inmost")
    for _ in range(5000):
        error = BaseExceptionGroup("a\0b", [error, KeyboardInterrupt()])
    raise error


def odd_syntax_error():
    error = SyntaxError("odd")
    error.lineno, error.filename, error.text, error.offset = "x", 5, b"\xff", "y"
    raise error


def huge():
    raise ValueError("\ud800\0" * 10**6)


def unspeakable():
    raise Unspeakable


@pytest.mark.parametrize("make", [deep, chained, grouped, odd_syntax_error, huge, unspeakable])
def test_writing_an_error_never_fails(make):
    """FAULTS F27, SPEC RUN 27."""
    error = caught(make)
    entry = error_entry(error)
    traceback.clear_frames(error.__traceback__)
    assert type(error).__name__ in entry["message"]
    assert entry["traceback"]
    assert len(entry["message"]) <= 4095
    assert len(entry["traceback"]) <= 16_000
    assert dump_json(entry)


def test_an_error_is_written_with_its_type_its_text_and_where_it_happened():
    entry = error_entry(caught(lambda: int("x")))
    assert entry["message"].startswith("ValueError: invalid literal")
    assert "test_payload.py" in entry["traceback"]
    assert error_entry(KeyError()) == {"message": "KeyError", "traceback": "KeyError\n"}
    assert error_entry("timed out\0") == {"message": "timed out\ufffd", "traceback": ""}


# --- the short way of plain tasks ----------------------------------------------------------------------------------

ODD = st.one_of(
    st.text(),
    st.sampled_from(
        ["nul \0", "\ud800", "é\u2028", 2**63, -(2**64), 10**5000, 2.0**53, 1e308, float("nan"), float("inf")]
    ),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.none(),
    st.lists(st.integers(), max_size=2),
)


@settings(max_examples=400)
@given(text=st.text() | ODD, whole=st.integers() | ODD, number=st.floats() | ODD, flag=st.booleans() | ODD)
def test_the_short_way_writes_and_refuses_what_the_long_one_does(**values: Any) -> None:
    """SPEC ENQ 8: also what only slipped by the class's own validation."""
    task = Plain.model_construct(**values)
    with pytest.MonkeyPatch.context() as patch:
        short = written(task)
        patch.setattr(payload, "_is_plain", lambda *_: False)
        assert short == written(task)


def written(task: Task) -> str:
    try:
        return dump(task)
    except PayloadInvalid as error:
        return f"refused: {error}"


def test_a_class_with_a_say_in_how_it_is_written_goes_the_long_way() -> None:
    class Shouting(Task):
        text: str = ""

        @field_serializer("text")
        def loud(self, text: str) -> str:
            return text.upper()

    class Trimmed(Task):
        text: Annotated[str, PlainSerializer(str.strip)] = ""

    class Hidden(Task):
        text: str = Field("", exclude=True)

    class Roomy(Task, extra="allow"):
        text: str = ""

    assert payload._plain_fields(Plain)
    for cls in (Shouting, Trimmed, Hidden, Roomy, Typed, Loose):
        assert payload._plain_fields(cls) == ()
