"""Where Alembic enters: it is given a connection and the schema whose chain it runs (see `schemas`)."""

from __future__ import annotations

from alembic import context
from sqlalchemy import text

connection = context.config.attributes["connection"]
schema = context.config.attributes["schema"]

connection.execute(text(f'SET search_path TO "{schema}"'))
context.configure(connection=connection, version_table="alembic_version", version_table_schema=schema)
with context.begin_transaction():
    context.run_migrations()
