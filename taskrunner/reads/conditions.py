"""What a filter asks of the rows of each table: conditions with their parameters, for lists and for bulk actions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from taskrunner.reads.views import TaskFilter
from taskrunner.search import Where, read_where
from taskrunner.statements import reads as sql


class Conditions(NamedTuple):
    """Texts that follow a WHERE, and their parameters; `dear` where the JSON of each row has to be looked into."""

    texts: tuple[str, ...]
    params: Mapping[str, Any]
    dear: bool


def conditions(wanted: TaskFilter) -> Conditions:
    """Return what is asked, but for the state, which says which tables are meant."""
    params: dict[str, Any] = {"type": wanted.type}
    texts = [text for name, text in sql.FILTERS.items() if getattr(wanted, name) not in (None, ())]
    if wanted.type is not None and wanted.type.endswith("*"):
        texts[0] = sql.TYPE_PREFIX
        params["type"] = wanted.type.removesuffix("*")
    if wanted.key is not None:
        params["key"] = f"key:{wanted.key}"
    params["ids"] = list(wanted.ids)
    for number, where in enumerate(map(read_where, wanted.where)):
        texts.append(_of_field(where, number, params))
    return Conditions(tuple(texts), params, bool(wanted.where) or wanted.error is not None)


def _of_field(where: Where, number: int, params: dict[str, Any]) -> str:
    names = {"path": f"path_{number}", "values": f"values_{number}", "step": f"step_{number}"}
    params |= {names["path"]: where.path, names["values"]: where.values, names["step"]: where.path[0]}
    text = sql.PAYLOAD_FIELD if where.column == "payload" else sql.META_FIELD
    for name, numbered in names.items():
        text = text.replace(f"%({name})s", f"%({numbered})s")
    return text
