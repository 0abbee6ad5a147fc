"""The embedded default: a real Kafka and a real PostgreSQL that `up` runs by itself, with all state in one home."""

from collections.abc import Callable


class EmbeddedError(Exception):
    """Something on this machine keeps the embedded platform from running; the message names the remedy."""


Report = Callable[[str, str], None]
"""Hears what a part (first argument) is doing (second)."""
