"""Test your tasks on a real PostgreSQL: a pytest plugin with databases of your own, time travel and assertions.

The fixtures are in `plugin.py`; what they are made of can be used without pytest: `database` for databases whose clock
can be moved, `running.run_due` to run what is due, `enqueued` for the assertions.
"""
