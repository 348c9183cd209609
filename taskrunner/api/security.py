"""Who may ask: the tokens, the Host header, and browsers that act for somebody else's page."""

from __future__ import annotations

import base64
import binascii
import secrets
from typing import Annotated, NamedTuple
from urllib.parse import urlsplit

from fastapi import Depends
from fastapi.security.utils import get_authorization_scheme_param
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from taskrunner.api.problems import problem
from taskrunner.settings import Settings
from taskrunner.settings.values import is_loopback

OPEN_PATHS = frozenset({"/monitor/health"})
"""What is answered without a token: probes have none, and it tells nothing but that the database is there."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_OWN_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


class Who(NamedTuple):
    """Who is asking, by the name of the token, and whether that may change anything."""

    name: str
    writes: bool = True


LOCAL = Who("local")
"""Anybody on this machine, where no token is configured."""


def who_of(request: Request) -> Who:
    """Return who is asking, as `Guard` has found out; the name goes into the audit trail."""
    who: Who = getattr(request.state, "who", LOCAL)
    return who


def actor_of(request: Request) -> str:
    """Return who is asking as the audit trail names it."""
    return f"api:{who_of(request).name}"


Actor = Annotated[str, Depends(actor_of)]


class Guard:
    """Middleware that refuses a request before anything else looks at it, and leaves who asks in `request.state`."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._tokens = _tokens(settings)
        self._names = _OWN_NAMES | {settings.api_host.lower()} if is_loopback(settings.api_host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the reason why not."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        return self._wrong_host(request) or self._unknown(request) or _foreign_page(request) or _reader(request)

    def _wrong_host(self, request: Request) -> Response | None:
        """On loopback, a foreign name was made to point here by a page that wants to read us: DNS rebinding."""
        host = request.headers.get("host", "")
        if self._names is None or _hostname(host) in self._names:
            return None
        return problem(request, 421, "the Host header must be localhost, 127.0.0.1, [::1] or the configured host")

    def _unknown(self, request: Request) -> Response | None:
        request.state.who = LOCAL
        if not self._tokens or request.url.path in OPEN_PATHS:
            return None
        given = request.headers.get("authorization", "")
        who = self._who(_token(given))
        if who is None:
            return _challenge(request, given=bool(given))
        request.state.who = who
        return None

    def _who(self, token: bytes | None) -> Who | None:
        """Look at all tokens, whichever it is: the time tells nothing of how much of which was right."""
        if token is None:
            return None
        same = [who for secret, who in self._tokens if secrets.compare_digest(token, secret)]
        return same[0] if same else None


def _tokens(settings: Settings) -> list[tuple[bytes, Who]]:
    tokens = [(token.secret, Who(token.name, token.scope == "write")) for token in settings.api_tokens]
    if settings.api_token is not None:
        tokens.append((settings.api_token, Who("token")))
    return [(secret.get_secret_value().encode(), who) for secret, who in tokens]


def _token(given: str) -> bytes | None:
    """Return the token of an Authorization header: as it is, or as the password that a browser asks a person for."""
    scheme, value = get_authorization_scheme_param(given)
    if scheme.lower() == "bearer":
        return value.encode()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2]
    except (binascii.Error, ValueError):
        return None


def _challenge(request: Request, *, given: bool) -> Response:
    """A browser that opens a page asks its user for the token, as a password; others are told of the header."""
    if "text/html" in request.headers.get("accept", ""):
        scheme, how = 'Basic realm="taskrunner", charset="UTF-8"', "the password is a token; the user name may be any"
    else:
        scheme = 'Bearer realm="taskrunner"' + (', error="invalid_token"' if given else "")
        how = "send the header `Authorization: Bearer TOKEN`"
    detail = "this token is not a configured one" if given else how
    return problem(request, 401, detail, headers={"WWW-Authenticate": scheme})


def _reader(request: Request) -> Response | None:
    if who_of(request).writes or request.method in _SAFE_METHODS:
        return None
    return problem(request, 403, f"the token {who_of(request).name} may only read: this needs one with the scope write")


def _foreign_page(request: Request) -> Response | None:
    """A browser says whose page makes it write; what is no browser sends neither header.

    The rule of Go's http.CrossOriginProtection: Sec-Fetch-Site decides where it is sent, else Origin against Host.
    """
    if request.method in _SAFE_METHODS:
        return None
    site, origin = request.headers.get("sec-fetch-site"), request.headers.get("origin")
    if site is not None:
        ours = site in ("same-origin", "none")
    else:
        ours = origin is None or _place(origin) == request.headers.get("host", "").lower()
    if ours:
        return None
    return problem(request, 403, "a page of another origin may not change anything here")


def _place(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # such as brackets that do not close
        return None
