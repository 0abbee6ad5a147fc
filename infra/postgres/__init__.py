"""PostgreSQL: the home of its driver."""
