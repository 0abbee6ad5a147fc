"""One simulator per module, on a fresh database of the platform's server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import asyncpg
import pytest

from infra.settings import Settings
from infra.stripe.provider import StripeProvider
from tests.stripe.running import KEY, Hooks, Simulator


@pytest.fixture(scope="module")
def simulator(platform: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Simulator]:
    """Run a simulator."""
    name = f"stripe_{uuid4().hex}"
    home: Path = tmp_path_factory.mktemp("stripe")
    asyncio.run(_administer(platform.postgres, f"CREATE DATABASE {name}"))
    database = urlunsplit(urlsplit(platform.postgres)._replace(path=f"/{name}"))
    running = Simulator(database, home)
    running.start()
    try:
        yield running
    finally:
        running.stop()
        asyncio.run(_administer(platform.postgres, f"DROP DATABASE {name} WITH (FORCE)"))


@pytest.fixture
async def hooks(simulator: Simulator) -> AsyncGenerator[Hooks]:
    """Take the simulator's webhooks."""
    async with Hooks().listening(simulator.hooks_port) as hooks:
        yield hooks


@pytest.fixture
async def provider(simulator: Simulator) -> AsyncGenerator[StripeProvider]:
    """Talk to the simulator as Triplane does."""
    await simulator.control("DELETE", "/faults")
    provider = StripeProvider(KEY, simulator.base, timeout=5)
    yield provider
    await provider.aclose()


async def _administer(uri: str, statement: str) -> None:
    connection = await asyncpg.connect(uri)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
