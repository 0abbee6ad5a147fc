"""The shop on a real broker and a real database: facts are published, read models folded, and built anew by changed code."""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID, uuid4

import asyncpg
import httpx
from confluent_kafka import Producer

import tests.shop.events
import tests.shop.handlers
import tests.shop.projections
import tests.shop.sagas
from events import Message
from infra.http.app import create_app
from infra.http.authentication import Role
from infra.http.keys import ensure_keys, mint
from infra.migrations.migrate import migrate
from infra.postgres.database import open_database
from infra.runtime.asking.questions import Question, Questions
from infra.runtime.catalog import Catalog, ProjectionWiring
from infra.runtime.engine import Engine, open_engine
from infra.runtime.folding.generations import Generation, generations
from infra.runtime.operating.diffing import TableDiff
from infra.runtime.operating.rebuild_acts import Asker, Compared, Progress
from infra.runtime.operating.rebuilding import Rebuild, Rebuilt
from infra.runtime.running import workers
from infra.runtime.running.workers import Workers
from infra.settings import Settings
from tests.shop.bench import Bench, administered, wire

SOURCE = Path(tests.shop.projections.__file__)


def changed(folder: Path, *edits: tuple[str, str]) -> Catalog:
    """Wire the shop with its projections edited: each edit is an old text and a new one."""
    text = SOURCE.read_text("utf-8")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    name = f"edited_{uuid4().hex}"
    path = folder / f"{name}.py"
    path.write_text(text, "utf-8")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return catalog_of(module)


def catalog_of(projections: ModuleType) -> Catalog:
    """Wire the shop with these projections."""
    return wire([tests.shop.events], [tests.shop.handlers], [tests.shop.sagas], [projections])


@dataclass
class Heard:
    """What an operator hears of a rebuild, and answers."""

    agrees: bool = True
    steps: list[Progress] = field(default_factory=list[Progress])
    compared: Compared | None = None

    @property
    def diff(self) -> Sequence[TableDiff]:
        """What differs, table by table."""
        return () if self.compared is None else self.compared.tables

    def asker(self, who: str = "alice") -> Asker:
        """Give who asks."""

        async def agree(compared: Compared) -> bool:
            self.compared = compared
            return self.agrees

        return Asker(who, "asked for", self.steps.append, agree)


class Site:
    """One database of the shop, on the session's broker."""

    def __init__(self, settings: Settings) -> None:
        """Begin with the shop as it is."""
        self.settings = settings
        self.catalog = catalog_of(tests.shop.projections)
        self.tenant = f"t-{uuid4().hex[:8]}"

    def wiring(self, model: str = "colours", catalog: Catalog | None = None) -> ProjectionWiring:
        """Give a read model."""
        return (catalog or self.catalog).projections[f"projections.{model}"]

    @asynccontextmanager
    async def engine(self, catalog: Catalog | None = None) -> AsyncGenerator[Engine]:
        """Open it for work."""
        async with open_engine(
            self.settings, catalog or self.catalog, ("projections", "operations"), size=5
        ) as engine:
            yield engine

    async def migrate(self, catalog: Catalog | None = None) -> None:
        """Bring the database to what the code declares."""
        await migrate(self.settings, catalog or self.catalog)

    async def publish(self, messages: Iterable[Message]) -> None:
        """Append facts to the log, as our relay does."""
        producer = Producer({"bootstrap.servers": self.settings.kafka, "linger.ms": 5, "log_level": 0})
        async with self.engine() as engine:
            bench = Bench(engine)
            for message in messages:
                record = await bench.of(message, tenant=self.tenant, id=str(uuid4()))
                producer.produce(record.topic, record.value, record.key, headers=list(record.headers))
                producer.poll(0)
        await asyncio.to_thread(producer.flush, 60)

    @asynccontextmanager
    async def working(self, catalog: Catalog | None = None, *names: str) -> AsyncGenerator[None]:
        """Run a worker as long as the block runs; its watchdog, which ends processes, stays out."""
        stop, ready = asyncio.Event(), asyncio.Event()
        with patch.object(workers, "_watch"):
            running = Workers(self.settings, catalog or self.catalog, lambda _: {})
            task = asyncio.create_task(running.run(names or ["projections"], stop, ready.set))
            waiting = asyncio.create_task(ready.wait())
            await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            try:
                yield
            finally:
                stop.set()
                await task

    async def rebuild(
        self, heard: Heard | None = None, catalog: Catalog | None = None, model: str = "colours", **more: Any
    ) -> Rebuilt:
        """Rebuild a model to its end."""
        async with self.engine(catalog) as engine:
            asker = (heard or Heard()).asker(**more)
            return await Rebuild(engine, self.wiring(model, catalog), asker).run(asyncio.Event())

    async def fetch(self, query: str, *arguments: object) -> list[dict[str, Any]]:
        """Ask as the administrator."""
        connection = await asyncpg.connect(self.settings.postgres)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def generations(self, model: str = "colours") -> dict[int, Generation]:
        """Give the generations of a model by number."""
        async with self.engine() as engine:
            known = await generations(engine.databases["projections"], self.wiring(model))
        return {it.number: it for it in known}

    @asynccontextmanager
    async def asking(
        self, engine: Engine, catalog: Catalog | None = None, name: str = "colours"
    ) -> AsyncGenerator[Callable[[], Awaitable[list[dict[str, Any]]]]]:
        """Give a way to ask for all colours as HTTP does, as often as wanted: by one server, as long as the block runs."""
        wiring = self.wiring(catalog=catalog)
        query, row = wiring.queries[name]
        reader = await open_database(self.settings, "read", size=1)
        questions = Questions(reader, engine.codec, self.settings.master_key)

        async def ask() -> list[dict[str, Any]]:
            page = await questions.ask(
                Question(wiring, name, query, row),
                query.model_construct(colour=None),
                tenant=self.tenant,
                limit=1_000,
                cursor=None,
                personal=False,
            )
            return page.items

        try:
            yield ask
        finally:
            await reader.close()

    async def ask(
        self, engine: Engine, catalog: Catalog | None = None, name: str = "colours"
    ) -> list[dict[str, Any]]:
        """Ask for all colours once."""
        async with self.asking(engine, catalog, name) as ask:
            return await ask()

    @asynccontextmanager
    async def http(self, catalog: Catalog | None = None) -> AsyncGenerator[httpx.AsyncClient]:
        """Let an HTTP server answer an analyst of this site's tenant as long as the block runs."""
        app = create_app(self.settings, catalog or self.catalog)
        ensure_keys(self.settings.home)
        token = mint(self.settings, tenant=self.tenant, subject="tester", roles=[Role.ANALYST], ttl_s=600)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url="http://server",
                headers={"Authorization": f"Bearer {token}"},
            ) as client,
        ):
            yield client

    async def rows(self, view: str) -> list[dict[str, Any]]:
        """Give what this site's tenant has in a view, sorted."""
        return await self.fetch(f"SELECT * FROM read.{view} WHERE tenant = $1 ORDER BY 2", self.tenant)

    async def until(self, condition: Any, seconds: float = 30) -> None:
        """Wait until an awaited condition gives something true."""
        async with asyncio.timeout(seconds):
            while not await condition():
                await asyncio.sleep(0.05)

    async def folded(self, view: str, column: str, total: int) -> None:
        """Wait until a column of this tenant's rows sums up to `total`."""

        async def done() -> bool:
            found: int = sum(row[column] for row in await self.rows(view))
            return found == total

        await self.until(done)


_templates: dict[str, str] = {}
"""The migrated database that sites are copies of, by the server's address: to migrate takes longer than all else of a short test."""


@asynccontextmanager
async def opened(platform: Settings, **settings: Any) -> AsyncGenerator[Site]:
    """Open a site with a database of its own, migrated."""
    if platform.postgres not in _templates:
        name = f"site_{uuid4().hex}"
        await administered(platform.postgres, f"CREATE DATABASE {name}")
        await _site(platform, name).migrate()
        _templates[platform.postgres] = name
    name = f"site_{uuid4().hex}"
    await administered(platform.postgres, f"CREATE DATABASE {name} TEMPLATE {_templates[platform.postgres]}")
    try:
        yield _site(platform, name, **settings)
    finally:
        await administered(platform.postgres, f"DROP DATABASE {name} WITH (FORCE)")


def _site(platform: Settings, name: str, **settings: Any) -> Site:
    address = urlunsplit(urlsplit(platform.postgres)._replace(path=f"/{name}"))
    return Site(replace(platform, postgres=address, **{"rebuilds_itself": False, **settings}))


def filled(number: int, colours: int = 7) -> list[Message]:
    """Give that many facts, over some baskets and colours."""
    return [
        tests.shop.events.Filled(
            basket_id=UUID(int=it % 50), amount=1 + it % 3, total=it, colour=f"colour-{it % colours}"
        )
        for it in range(number)
    ]
