"""Every statement, as a constant: text here, parameters and reading in `taskrunner.store` and `taskrunner.reads`.

`enqueue` and `task` hold a task's life in its order (ADD; CYCLE, RETRY, SNOOZE, BURY, RELEASE …), `runner` leases and
rescue, `steering` what people do, `schedule` the ticks, `history` partitions and retention, `reads` what people look
at. Every change RETURNs whom it concerned.
"""
