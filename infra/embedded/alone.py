"""The embedded broker and database without the rest of the platform, for as long as somebody measures or tests with them."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.embedded import EmbeddedError
from infra.embedded.process import python, surroundings
from infra.settings import read_strings

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Mapping
    from pathlib import Path


@contextmanager
def alone(
    home: Path,
    software: Path,
    say: Callable[[str], None],
    environment: Mapping[str, str] | None = None,
) -> Generator[dict[str, str]]:
    """Run new, empty servers in `home` as long as the block runs; give their addresses. EmbeddedError where one fails.

    Should this process be killed, they end with it.
    """
    command = python("infra.embedded", str(home), str(software), "fresh")
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=surroundings() if environment is None else environment,
    ) as servers:
        try:
            for line in servers.stdout or ():
                say(line.rstrip("\n"))
                if line == "ready\n":
                    break
            else:
                msg = f"the broker and the database in {home} did not start"
                raise EmbeddedError(msg)
            yield read_strings(home / "endpoints.json")
        finally:
            servers.terminate()
