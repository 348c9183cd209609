"""A private PostgreSQL server: the project's own (`join`) and throwaway ones (`Cluster`)."""

from __future__ import annotations

from taskrunner.embedded.binaries import find_binaries
from taskrunner.embedded.cluster import Cluster

__all__ = ["Cluster", "find_binaries"]
