"""The HTTP API and its neighbours on the command line: a real server, real workers, a real broker and database."""
