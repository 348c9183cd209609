"""The words that tasks are searched by: read, refused with a reason, and written back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskrunner import search
from taskrunner.api.ui.tasks import with_word
from taskrunner.errors import InvalidArgument
from taskrunner.listing import searched
from taskrunner.states import State

NOW = datetime(2026, 3, 1, 8, tzinfo=UTC)
ID = UUID("0198c5a2-7d3e-7c41-9a5b-3f1c2d4e5f60")


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("type:SendEmail state:dead", {"type": "SendEmail", "state": State.DEAD}),
        ("queue:mail tenant:acme key:x", {"queue": "mail", "tenant": "acme", "key": "x"}),
        ("since:2h until:30m", {"since": NOW - timedelta(hours=2), "until": NOW - timedelta(minutes=30)}),
        ("since:2026-02-01T00:00:00Z", {"since": datetime(2026, 2, 1, tzinfo=UTC)}),
        ('error:"timed out"', {"error": "timed out"}),
        ("error:'a \"b\"'", {"error": 'a "b"'}),
        ("key:a:b", {"key": "a:b"}),
        ("payload.user.id:42 meta.tag:x", {"where": ("payload.user.id:42", "meta.tag:x")}),
        ('payload.name:"Ada Lovelace"', {"where": ("payload.name:Ada Lovelace",)}),
        (f"{ID} id:{ID}", {"ids": (ID, ID)}),
        (f"runner:{ID}", {"runner_id": ID}),
    ],
)
def test_a_search_is_read_into_the_fields_of_a_filter(text: str, fields: dict[str, Any]) -> None:
    """SPEC OPS 49."""
    assert search.parse(text, NOW) == fields


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("stat:dead", "did you mean 'state'"),
        ("state:ded", "did you mean 'dead'"),
        ("SendEmail", "type:SendEmail"),
        ('error:"timed', "quote"),
        ("error:don't", "double quotes"),
        ("type:", "no value"),
        ("type:a type:b", "twice"),
        ("since:yesterday", "2h"),
        ("since:2026-02-01T00:00:00", "time zone"),
        ("runner:7", "UUID"),
        ("payload:42", "payload.user.id:42"),
        ("payload..a:1", "empty"),
        ("payload" + ".a" * 21 + ":1", "20"),
        ("type:a\0b", "NUL"),
        ("type:\ud800", "surrogate"),
        ("payload.access_token:x", "secret"),
        ("payload.a.password:x", "secret"),
        ("meta.$secrets.0.0:token", "secret"),
        ("type:" + "x" * 5000, "4,000"),
        ("since:99999999999999d", "7d"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_is_meant(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        search.parse(text, NOW)
    assert told in str(refused.value)
    str(refused.value).encode()  # it can be printed


ANY = st.fixed_dictionaries(
    {},
    optional={
        "state": st.sampled_from(State),
        "type": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
        "error": st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=20),
        "since": st.datetimes(timezones=st.just(UTC)),
        "runner_id": st.uuids(),
        "where": st.lists(
            st.builds(
                "payload.{}:{}".format,
                st.text("abc é\"'\\", min_size=1),
                st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20),
            ),
            min_size=1,
            max_size=3,
        ).map(tuple),
        "ids": st.lists(st.uuids(), min_size=1, max_size=3).map(tuple),
    },
)


@given(ANY)
def test_what_is_written_reads_back_as_it_was(fields: dict[str, Any]) -> None:
    assert search.parse(search.spell(fields), NOW) == fields


@given(ANY, st.sampled_from(["A b", "", 'q"', "back\\slash"]))
def test_a_word_put_into_a_search_leaves_the_others_as_they_were(fields: dict[str, Any], queue: str) -> None:
    expected = {**fields, **({"queue": queue} if queue else {})}
    assert search.parse(with_word(with_word(search.spell(fields), "queue", "old"), "queue", queue), NOW) == expected


@pytest.mark.parametrize(
    "text", ['payload."a b":1', "payload.a' 'b:1 meta.x:\"y z\"", 'payload."a\\"b":"c:d"', f'{ID} error:"\'"']
)
def test_a_page_of_one_state_keeps_what_else_is_searched_for(text: str) -> None:
    assert search.parse(with_word(text, "state", "dead"), NOW) == {**search.parse(text, NOW), "state": State.DEAD}


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        search.parse(text, NOW)
    except InvalidArgument as refused:
        str(refused).encode()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["error:timed out"], "timed out"),
        (['error:"timed out"'], "timed out"),
        (["error:don't"], "don't"),
        (["error:timed out: 3 s"], "timed out: 3 s"),
        (["type:X error:x"], "x"),
    ],
)
def test_the_quotes_that_a_shell_takes_away_are_not_missed(arguments: list[str], error: str) -> None:
    assert search.parse(" ".join(map(search.from_shell, arguments)), NOW)["error"] == error


def test_numbers_and_names_are_looked_for_as_such_and_as_text() -> None:
    for value, values in {
        "42": ["42", '"42"'],
        "-1.5e3": ["-1.5e3", '"-1.5e3"'],
        "true": ["true", '"true"'],
        "null": ["null", '"null"'],
        "007": ['"007"'],
        "NaN": ['"NaN"'],
        "1e9999": ['"1e9999"'],
        '"x"': ['"\\"x\\""'],
        "": ['""'],
    }.items():
        assert search.read_where(f"payload.a:{value}").values == values


def test_a_search_and_what_is_beside_it_make_one_filter_or_a_clear_error() -> None:
    wanted = searched("type:X payload.a:1", NOW, queue="mail", where=("payload.b:2",), limit=7, key=None)
    assert (wanted.type, wanted.queue, wanted.where, wanted.limit) == ("X", "mail", ("payload.b:2", "payload.a:1"), 7)
    with pytest.raises(InvalidArgument, match="type is given twice"):
        searched("type:X", NOW, type="Y")
    with pytest.raises(InvalidArgument, match="ids"):
        searched(f"{ID} " * 100, NOW, ids=tuple(UUID(int=i) for i in range(1000)))
