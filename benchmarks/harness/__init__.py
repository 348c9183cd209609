"""What all measurements share: server, processes, drains, filling, results, table."""
