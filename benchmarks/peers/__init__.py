"""Other queues, measured beside ours: `python -m benchmarks.peers`."""
