"""One platform for all tests of the HTTP API; each test brings ids, and where it counts a tenant, of its own."""

from __future__ import annotations

from collections.abc import Generator
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.http.running import Running, answers, free_port, running, until


@pytest.fixture(scope="session")
def api(platform: Settings) -> Generator[Running]:
    """Run a platform (the session's own servers have brought the software)."""
    assert platform.kafka
    with running() as it:
        yield it


@pytest.fixture(scope="session")
def databaseless(api: Running) -> Generator[str]:
    """Give the address of a server that never reaches its database, and stops cleanly all the same."""
    port, away = free_port(), f"postgresql://nobody:x@127.0.0.1:{free_port()}/triplane"
    process = api.start("serve", "--port", str(port), TRIPLANE_POSTGRES=away)
    base = f"http://127.0.0.1:{port}"
    until(lambda: answers(base, "/healthz"), 30, "alive")
    yield base
    assert api.stop(process) == 0


@pytest.fixture
def tenant() -> str:
    """Give a tenant that nobody else uses."""
    return f"t-{uuid4().hex[:12]}"
