"""Who may ask: the token, the Host header, and browsers that act for somebody else's page."""

from __future__ import annotations

import secrets
from typing import NamedTuple
from urllib.parse import urlsplit

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
    """Who is asking; the name goes into the audit trail."""

    name: str
    writes: bool = True


LOCAL = Who("local")
"""Whoever is on this machine, where no token is set."""


def who_of(request: Request) -> Who:
    """Return who is asking, as `Guard` has found out."""
    who: Who = getattr(request.state, "who", LOCAL)
    return who


class Guard:
    """Middleware that refuses a request before anything else looks at it."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app = app
        self._token = settings.api_token.get_secret_value().encode() if settings.api_token else None
        self._names = _OWN_NAMES | {settings.api_host.lower()} if is_loopback(settings.api_host) else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with the reason why not."""
        refusal = self._refusal(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self.app)(scope, receive, send)

    def _refusal(self, request: Request) -> Response | None:
        return self._wrong_host(request) or self._no_token(request) or _foreign_page(request)

    def _wrong_host(self, request: Request) -> Response | None:
        """On loopback, a foreign name was made to point here by a page that wants to read us: DNS rebinding."""
        host = request.headers.get("host", "")
        if self._names is None or _hostname(host) in self._names:
            return None
        return problem(request, 421, "the Host header must be localhost, 127.0.0.1, [::1] or the configured host")

    def _no_token(self, request: Request) -> Response | None:
        if self._token is None or request.url.path in OPEN_PATHS:
            return None
        given = request.headers.get("authorization", "")
        scheme, token = get_authorization_scheme_param(given)
        if scheme.lower() == "bearer" and secrets.compare_digest(token.encode(), self._token):
            return None
        challenge = 'Bearer realm="taskrunner"' + (', error="invalid_token"' if given else "")
        detail = "this token is not the configured one" if given else "send the header `Authorization: Bearer TOKEN`"
        return problem(request, 401, detail, headers={"WWW-Authenticate": challenge})


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
        ours = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    if ours:
        return None
    return problem(request, 403, "a page of another origin may not change anything here")


def _hostname(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:  # such as brackets that do not close
        return None
