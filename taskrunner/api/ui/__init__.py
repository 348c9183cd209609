"""The dashboard, under `/ui`: pages made on the server, kept up to date by events, readable without JavaScript.

Read in this order: frame (how a page is made) → words → assets → the pages, one module each.
"""

from __future__ import annotations

from taskrunner.api.ui.app import install

__all__ = ["install"]
