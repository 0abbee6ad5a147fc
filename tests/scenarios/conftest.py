"""An installation with one process that works for everybody."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from tests.installation import Installation


@pytest.fixture(scope="package")
def platform_at_work(installation: Installation) -> Generator[Installation]:
    """Run every worker, and the provider that cards are charged at."""
    with installation.provider() as base, installation.working(TRIPLANE_STRIPE_API_BASE=base):
        yield installation
