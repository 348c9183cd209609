"""One function an operation: each returns an `Op`, or a generator of them for one transaction (see `taskrunner.db`).

`task` is a task's life, `runner` the leases, `steering` what people do, `schedule` the ticks, `history` partitions and
retention.
"""
