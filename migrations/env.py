"""Alembic's environment: one transaction, one advisory lock, our own schema and version table."""

from alembic import context
from sqlalchemy import text

from taskrunner.models import SCHEMA, metadata

# Two processes that migrate at once: the second waits here and then finds nothing to do.
MIGRATION_LOCK = 7_463_265_001

options = {
    "target_metadata": metadata,
    "version_table": "schema_version",
    "version_table_schema": SCHEMA,
    "include_schemas": True,
}

if context.is_offline_mode():
    context.configure(dialect_name="postgresql", literal_binds=True, **options)
    with context.begin_transaction():
        context.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
        context.run_migrations()
else:
    connection = context.config.attributes["connection"]
    with connection.begin():
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": MIGRATION_LOCK})
        connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}"))
        context.configure(connection=connection, **options)
        with context.begin_transaction():
            context.run_migrations()
