"""Measurements of our own: `python -m benchmarks`. Never part of the tests."""
