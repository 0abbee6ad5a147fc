"""The database's shape: one Alembic chain for each kind of schema, run once a schema; roles and grants beside it."""
