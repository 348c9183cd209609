"""`taskrunner top`: queues, tasks, runners and schedules live on one terminal, and keys that steer them.

`desk` reads and acts, `tabs` says what each tab shows and which keys it has, `app` is the screen. Nothing but `app` and
`dialogues` imports textual, which is an extra.
"""

from __future__ import annotations
