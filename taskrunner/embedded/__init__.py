"""A private PostgreSQL server: the project's own (`join`) and throwaway ones (`Cluster`).

Read in this order: membership (join) → keeper (the process that owns the server) → server → creation → the rest.
"""

from __future__ import annotations

import sys

from taskrunner.errors import EmbeddedError

if sys.platform == "win32":
    raise EmbeddedError("there is no private server on Windows: set DATABASE_URL to a PostgreSQL server")

from taskrunner.embedded.binaries import find_binaries
from taskrunner.embedded.cluster import Cluster
from taskrunner.embedded.membership import Embedded, is_made, join

__all__ = ["Cluster", "Embedded", "find_binaries", "is_made", "join"]
