"""Test your tasks on a real PostgreSQL: a pytest plugin with databases of your own, time travel and assertions."""
