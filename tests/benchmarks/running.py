"""The whole platform on a site: the processes that `up` runs, each at its own work, in a state like new."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from infra.http.authentication import Role
from infra.http.keys import mint
from infra.kafka.admin import Admin
from infra.runtime.catalog import Catalog, discover
from infra.runtime.catalog.schemas import chains
from infra.settings import Settings
from tests.benchmarks.harness import agree
from tests.benchmarks.site import Site

LOOPBACK: Final = "127.0.0.1"
READY_S: Final = 60.0
PROCESSES: Final = (("work", "workers"), ("work", "sagas", "projections"), ("serve",))
"""What `up` runs beside the servers and the simulator."""
EMPTIED: Final = {
    "heartbeats": ("heartbeats",),
    "engine": ("inbox", "parked", "parked_keys"),
    "outbox": ("outbox", "published"),
    "service": ("events", "aggregates", "claims", "locals", "effects"),
    "sagas": ("instances", "history", "deadlines", "early"),
    "intake": ("answers", "webhooks"),
}
"""What a run leaves behind, by the chain that made it."""


@dataclass(frozen=True)
class Platform:
    """The platform at work."""

    settings: Settings
    pids: tuple[int, ...]

    @property
    def base(self) -> str:
        """Where its HTTP server answers."""
        return f"http://{LOOPBACK}:{self.settings.http_port}"

    def token(self, tenant: str) -> str:
        """Mint a token for one tenant."""
        return token(self.settings, tenant)


def token(settings: Settings, tenant: str) -> str:
    """Mint a token that may command and ask."""
    roles = (Role.PUBLISHER, Role.ANALYST)
    return mint(settings, tenant=tenant, subject="bench", roles=roles, ttl_s=3600)


async def renew(site: Site, catalog: Catalog | None = None) -> None:
    """Make a platform that stands still like new: every consumer at the end of its topics, every table empty."""
    catalog = catalog or discover()
    admin = Admin(site.settings.kafka)
    ends = await admin.offsets((await admin.topics(catalog.topics)).values(), end=True)
    places = list(ends)
    async with site.connection() as connection:
        for schema, labels in chains(catalog).items():
            tables = [f"{schema}.{table}" for label in labels for table in EMPTIED.get(label, ())]
            if tables:
                await connection.execute(f"TRUNCATE {', '.join(tables)}")
            if "engine" in labels:
                await connection.execute(
                    f"""UPDATE {schema}.checkpoints c SET next_offset = e.next
                        FROM unnest($1::text[], $2::int[], $3::bigint[]) AS e (topic, partition, next)
                        WHERE c.topic = e.topic AND c.partition = e.partition""",
                    [topic for topic, _ in places],
                    [partition for _, partition in places],
                    [ends[place] for place in places],
                )
        for table in (await read_model_tables(connection, catalog)).values():
            await connection.execute(f"TRUNCATE {table}")
        await connection.execute("CHECKPOINT")


async def read_model_tables(
    connection: asyncpg.Connection[asyncpg.Record], catalog: Catalog
) -> dict[str, str]:
    """Give the table that each published view shows."""
    rows = await connection.fetch(
        "SELECT projection, generation FROM projections.generations WHERE standing = 'active'"
    )
    active = {row["projection"]: row["generation"] for row in rows}
    return {
        view: f"projections.{view}_g{active[wiring.projection.name]}"
        for wiring in catalog.projections.values()
        for view in wiring.rows.values()
    }


async def parked(site: Site, catalog: Catalog | None = None) -> int:
    """Count what is parked or unknown anywhere."""
    counts = []
    for schema, labels in chains(catalog or discover()).items():
        if "engine" in labels:
            counts.append(f"SELECT count(*) AS n FROM {schema}.parked")
        if "service" in labels:
            counts.append(f"SELECT count(*) AS n FROM {schema}.effects WHERE standing = 'unknown'")
    (found,) = await site.row(f"SELECT sum(n)::bigint FROM ({' UNION ALL '.join(counts)}) AS counted")
    return int(found)


async def unread(connection: asyncpg.Connection[asyncpg.Record], admin: Admin, catalog: Catalog) -> int:
    """Count the records that some consumer of the catalogue has not folded yet, and what no relay has published."""
    ends = await admin.offsets((await admin.topics(catalog.topics)).values(), end=True)
    found = 0
    for schema, labels in chains(catalog).items():
        if "outbox" in labels:
            found += await connection.fetchval(f"SELECT count(*) FROM {schema}.outbox")
        if "engine" in labels:
            rows = await connection.fetch(
                f"SELECT consumer, topic, partition, next_offset FROM {schema}.checkpoints"
            )
            found += sum(
                max(0, ends[row["topic"], row["partition"]] - row["next_offset"])
                for row in rows
                if row["consumer"] in catalog.consumers
            )
    return found


@asynccontextmanager
async def platform(site: Site, *, provider: bool = False) -> AsyncGenerator[Platform]:
    """Run what `up` runs (with `provider` its Stripe simulator, too) as long as the block runs; it begins ready."""
    settings = replace(site.settings, http_port=free_port())
    simulator = free_port()
    if provider:
        settings = replace(settings, stripe_api_base=f"http://{LOOPBACK}:{simulator}")
    there = replace(site, settings=settings)
    async with AsyncExitStack() as stack:
        if provider:
            await stack.enter_async_context(there.process("infra.embedded.stripe", "--port", str(simulator)))
        processes = [
            await stack.enter_async_context(there.process("infra.cli", *arguments)) for arguments in PROCESSES
        ]
        found = Platform(settings, tuple(process.pid for process in processes))
        give_up = asyncio.get_running_loop().time() + READY_S
        while not await _answers(settings.http_port, "/readyz"):
            agree(
                "processes of the platform that ended (see logs/cli.log)",
                [it.returncode for it in processes if it.returncode is not None],
                [],
            )
            late = asyncio.get_running_loop().time() > give_up
            agree(f"the platform is ready within {READY_S:.0f} s", late, expected=False)
            await asyncio.sleep(0.1)
        yield found


def free_port() -> int:
    """Give a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


async def _answers(port: int, path: str) -> bool:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(5):
            reader, writer = await asyncio.open_connection(LOOPBACK, port)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read()
            writer.close()
            return answer.split()[1:2] == [b"200"]
    return False
