"""Every hot statement, as a constant: text here, parameters and reading in `taskrunner.store`.

`task` holds a task's life in its order (ADD, CYCLE, RETRY, BURY, RELEASE, RESCUE …), `runner` the leases,
`schedule` the ticks, `history` partitions and retention. Every change RETURNs whom it concerned.
"""
