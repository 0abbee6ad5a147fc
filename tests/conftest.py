"""Real parts for every test: one broker and one database a session, embedded unless `triplane test` brought them."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest
import structlog
from hypothesis import settings

from infra.embedded.process import python, surroundings
from infra.settings import Settings, home_path
from tests.installation import installation

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["installation", "platform"]

# A loaded machine is slow, not wrong.
# Where nobody looks at a failure at once, the same examples are tried every time; elsewhere new ones are.
settings.register_profile("triplane", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("triplane")
# Drawing a traceback with everybody's values takes seconds for each message that is parked; the product writes it plainly.
*_before, _ = structlog.get_config()["processors"]
structlog.configure(
    processors=[*_before, structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
)


@pytest.fixture(scope="session")
def platform() -> Iterator[Settings]:
    """Settings with a running Kafka and PostgreSQL."""
    if "TRIPLANE_KAFKA" in os.environ and "TRIPLANE_POSTGRES" in os.environ:
        yield Settings.load()
        return
    home, software = home_path() / "test", home_path() / "software"
    command = python("infra.embedded", str(home), str(software), "fresh")
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings()
    ) as servers:
        assert servers.stdout
        try:
            assert "ready\n" in servers.stdout, "the embedded servers did not start; see their output"
            yield Settings.load(home)
        finally:
            servers.terminate()
