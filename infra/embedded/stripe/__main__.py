"""Runs the simulator: `python -m infra.embedded.stripe --port N`."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import uvicorn
import uvloop
from starlette.applications import Starlette

from infra.embedded.stripe.api import Simulator, application
from infra.embedded.stripe.courier import Courier
from infra.embedded.stripe.faults import Faults
from infra.embedded.stripe.store import ROLE, Store, create, open_pool
from infra.logs import configure
from infra.settings import Settings, SettingsError


async def database(settings: Settings) -> str:
    """Give the URI to log in with: the simulator's own role, or the administrator before migrations have made it."""
    role = settings.database(ROLE)
    if await _ready(role) or (await _ready(settings.postgres) and await _ready(role)):
        return role
    return settings.postgres


async def _ready(uri: str) -> bool:
    try:
        connection = await asyncpg.connect(uri)
    except asyncpg.InvalidAuthorizationSpecificationError:
        return False
    try:
        await create(connection)
    except asyncpg.InsufficientPrivilegeError:
        return False
    finally:
        await connection.close()
    return True


async def serve(settings: Settings, host: str, port: int) -> None:
    """Serve until asked to stop."""
    pool = await open_pool(await database(settings))
    store = Store(pool)
    courier = Courier(store, settings.http_host, settings.http_port, settings.stripe_webhook_secret)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncGenerator[None]:
        await store.resume()
        delivering = asyncio.create_task(courier.run())
        yield
        delivering.cancel()
        await asyncio.wait([delivering])
        await pool.close()

    simulator = Simulator(store, courier, settings.stripe_api_key, Faults())
    app = application(simulator, lifespan=lifespan)
    config = uvicorn.Config(
        app,
        host,
        port,
        log_level="warning",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=2,
        server_header=False,
    )
    await uvicorn.Server(config).serve()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m infra.embedded.stripe", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--home", type=Path, help="state home (default: TRIPLANE_HOME, else .triplane)")
    given = parser.parse_args()
    configure("stripe")
    # uvicorn ends what it does and then sends itself the signal again: by then all is done.
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(0))
    try:
        uvloop.run(serve(Settings.load(given.home), given.host, given.port))
    except (SettingsError, OSError, asyncpg.PostgresError) as wrong:
        sys.exit(f"the Stripe simulator cannot start: {wrong}")
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
