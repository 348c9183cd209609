"""A task's own secrets, covered wherever they turn up in texts: errors, tracebacks, log lines, results, progress."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import quote, quote_plus

from taskrunner.errortext import CUT
from taskrunner.jsonvalue import dump_json
from taskrunner.outcome import Bury, Finish, Retry, Transition
from taskrunner.redaction import MASK

_REST = 4096  # characters of a secret's end that are looked for where a text was cut
SHORTEST = 4
"""Characters that a secret has at least to be looked for: of a shorter one, half of any text would be covered."""

# pydantic shows the values that do not fit, and of long ones the beginning and the end.
_ECHO = re.compile(r"(input_value=).*(?=, input_type=)", re.DOTALL)


class Veil:
    """Covers some secrets in texts, as they are and as JSON, Python and URLs write them."""

    __slots__ = ("_forms", "_secrets")

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = sorted({one for one in secrets if len(one) >= SHORTEST}, key=len, reverse=True)
        self._forms: list[str] | None = None  # made with the first text: most runs write none

    def __bool__(self) -> bool:
        return bool(self._secrets)

    def text(self, text: str) -> str:
        """Return the text without the secrets."""
        if not self._secrets:
            return text
        if "input_value=" in text:
            text = "\n".join(_ECHO.sub(rf"\1{MASK}", line) for line in text.split("\n"))
        if text.startswith(CUT):
            text = CUT + self._without_rest(text[len(CUT) :])
        if self._forms is None:
            forms = {form for secret in self._secrets for form in _forms(secret) if len(form) >= SHORTEST}
            self._forms = sorted(forms, key=len, reverse=True)
        for form in self._forms:  # a regular expression of a long key takes seconds to compile
            text = text.replace(form, MASK)
        return text

    def _without_rest(self, text: str) -> str:
        """Cover the end of a secret whose beginning was cut off together with the text before it."""
        for secret in self._secrets:
            for begin in range(max(1, len(secret) - _REST), len(secret) - SHORTEST + 1):
                if text.startswith(secret[begin:]):
                    return MASK + text[len(secret) - begin :]
        return text

    def value(self, value: Any) -> Any:
        """Return a JSON value without the secrets: neither in its texts nor as its numbers; keys are texts too."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(key): self.value(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        if isinstance(value, int | float) and not isinstance(value, bool) and str(value) in self._secrets:
            return MASK
        return value

    def over(self, transition: Transition) -> Transition:
        """Return what becomes of a task, with errors and result that do not give its secrets away."""
        if not self._secrets:
            return transition
        match transition:
            case Finish(state, result) if result is not None:
                return Finish(state, self.json(result))
            case Retry(delay, error):
                return Retry(delay, self.entry(error))
            case Bury(errors):
                return Bury(tuple(map(self.entry, errors)))
        return transition

    def entry(self, error: Mapping[str, str]) -> dict[str, str]:
        """Return an error without the secrets."""
        return {name: self.text(text) for name, text in error.items()}

    def json(self, text: str) -> str:
        """Return JSON text without the secrets."""
        return dump_json(self.value(json.loads(text))) if self._secrets else text


def _forms(secret: str) -> Iterable[str]:
    yield secret
    yield repr(secret)[1:-1]
    yield json.dumps(secret)[1:-1]
    yield json.dumps(secret, ensure_ascii=False)[1:-1]
    try:
        yield quote(secret, safe="")
        yield quote_plus(secret)
    except UnicodeEncodeError:  # a lone surrogate has no place in a URL
        return


NONE = Veil(())
