"""Which tasks a bulk action means, in SQL: `taskrunner.reads.matching` puts the select of a table into each."""

from __future__ import annotations

OPEN = " AND t.requeued_as IS NULL"

# What came after the preview is not meant: a live task by its creation, a dead letter by its end.
STORED_BY = " AND t.created_at <= %(before)s"
DEAD_BY = " AND t.finished_at <= %(before)s"

COUNT = "SELECT count(*) FROM (MATCHING LIMIT %(limit)s) AS m"
SAMPLE = "MATCHING ORDER BY t.id DESC LIMIT %(limit)s"

# Upwards by the primary key, so that what was met is not met again, whatever has been done to it.
NEXT = "MATCHING AND t.id > %(above)s ORDER BY t.id LIMIT %(limit)s"
