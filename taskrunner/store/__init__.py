"""One function an operation: each returns an `Op`, or a generator of them for one transaction (see `taskrunner.db`).

`enqueue` and `task` are a task's life, `runner` the leases, `steering` what people do, `declaration`, `schedule` and
`timetable` the schedules, `history` partitions and retention.
"""
