"""The HTTP API: `create_app` builds it, `serve` runs it inside an event loop that is already there.

Read in this order: app → routes → models → problems → security → door → server.
"""

from __future__ import annotations

from taskrunner.api.app import create_app
from taskrunner.api.server import serve

__all__ = ["create_app", "serve"]
