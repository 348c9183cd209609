"""The real command line and real processes with real signals."""
