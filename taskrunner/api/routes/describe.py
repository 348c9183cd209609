"""Parts of the OpenAPI description that routes share."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi.security import HTTPBasic, HTTPBearer

from taskrunner.api.models import EXAMPLE_TASK, Problem

# They declare the tokens for the description; `security.Guard` is what asks for one, also where there is no route.
BEARER = HTTPBearer(auto_error=False, description="A token of the settings; asked for where there is one.")
BASIC = HTTPBasic(auto_error=False, description="The same as a password, for browsers; any user name.")


def example(body: dict[str, Any]) -> dict[int | str, dict[str, Any]]:
    """Return the description of an answer by an example."""
    return {200: {"content": {"application/json": {"example": body}}}}


TASK_EXAMPLE = example(EXAMPLE_TASK)
DETAIL_EXAMPLE = example({**EXAMPLE_TASK, "parents": [], "children": [], "parents_count": 0, "children_count": 0})


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the description of these errors."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}
