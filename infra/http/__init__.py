"""The HTTP API: thin. It admits messages into the intake's outbox, and asks read models and the monitor."""
