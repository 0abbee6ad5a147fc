"""One platform for all tests of the HTTP API; each test brings ids, and where it counts a tenant, of its own."""

from __future__ import annotations

from collections.abc import Generator
from uuid import uuid4

import pytest

from infra.settings import Settings
from tests.http.running import Running, running


@pytest.fixture(scope="session")
def api(platform: Settings) -> Generator[Running]:
    """Run a platform (the session's own servers have brought the software)."""
    assert platform
    with running() as it:
        yield it


@pytest.fixture
def tenant() -> str:
    """Give a tenant that nobody else uses."""
    return f"t-{uuid4().hex[:12]}"
