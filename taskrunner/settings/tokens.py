"""Tokens with a name and a scope, as `TASKRUNNER_API_TOKENS="grafana:read:SECRET,ada:write:SECRET"` has them."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple, cast, get_args

from pydantic import SecretStr

Scope = Literal["read", "write"]

RESERVED = frozenset({"local", "token"})
"""Who asks where no token is configured, and who asks by the one that has no name."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@+-]{0,63}")


class Token(NamedTuple):
    """One token: who has it, what it is good for, and the secret itself."""

    name: str
    scope: Scope
    secret: SecretStr


def sendable(text: str) -> bool:
    """Whether a token fits into a header."""
    return bool(text) and text.isascii() and text.isprintable() and " " not in text


def read_tokens(value: object) -> tuple[Token, ...]:
    """Read tokens from text, or from a list of such texts; ValueError else, which names no secret."""
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple):
        raise ValueError("must be tokens, as in grafana:read:SECRET,ada:write:SECRET")
    tokens = [
        part if isinstance(part, Token) else _token(number, str(part).strip())
        for number, part in enumerate(parts, 1)
        if isinstance(part, Token) or str(part).strip()
    ]
    _differ("name", [token.name for token in tokens])
    if len({token.secret.get_secret_value() for token in tokens}) < len(tokens):
        raise ValueError("two names have the same secret: nobody could tell who asks")
    return tuple(tokens)


def _token(number: int, text: str) -> Token:
    name, _, rest = text.partition(":")
    scope, _, secret = rest.partition(":")
    if not secret or scope not in get_args(Scope):
        raise ValueError(f"token {number} must be NAME:read:SECRET or NAME:write:SECRET")
    if _NAME.fullmatch(name) is None or name in RESERVED:
        taken = ", ".join(sorted(RESERVED))
        raise ValueError(f"the name of token {number} must be letters, digits and _.@+-, and not {taken}")
    if not sendable(secret):
        raise ValueError(f"the secret of {name} must be ASCII without spaces, so that it fits into a header")
    return Token(name, cast("Scope", scope), SecretStr(secret))


def _differ(what: str, names: list[str]) -> None:
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"has the {what} {', '.join(twice)} twice")
