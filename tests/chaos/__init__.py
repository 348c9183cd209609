"""Faults injected into real processes on a real server, a history of what happened, and a checker that reads it."""
