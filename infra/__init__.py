"""The rim: engine, drivers, entry points. It depends on everything; nothing depends on it."""
