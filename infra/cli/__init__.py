"""The `triplane` command: thin, one module a command, whose functions send work to where it is done."""

from infra.cli.app import main

__all__ = ["main"]
