"""The tests; those that start processes share `tests.processes` and the workload in `tests/project`."""
