"""Four example tasks: mail, a CSV file, a daily report, a health check. `make run` starts a runner that knows them."""
