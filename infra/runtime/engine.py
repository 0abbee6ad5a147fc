"""An installation opened for work: its schemas, keys and tenants, and the batcher of any consumer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from infra.kafka.admin import Admin, BrokerUnavailable
from infra.postgres.database import TRANSIENT, Database, open_database
from infra.runtime.catalog import Catalog, DeciderWiring, EffectWiring, ProjectionWiring, SagaWiring, Wiring
from infra.runtime.consuming.batch import Batcher, Folding
from infra.runtime.consuming.tenancy import Tenancy
from infra.runtime.effects.recording import Recording
from infra.runtime.folding.deciding import Deciding
from infra.runtime.folding.generations import generations, serving
from infra.runtime.folding.projecting import Projecting
from infra.runtime.folding.read_models import read_model
from infra.runtime.folding.stepping import Stepping
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.delivery import Delivery
from infra.runtime.messages.vault import Vault
from infra.settings import Settings

AWAY: tuple[type[BaseException], ...] = (*TRANSIENT, BrokerUnavailable)
"""What passes by itself where both the broker and the database are asked."""


@dataclass(frozen=True, slots=True)
class Engine:
    """What every consumer of an installation needs."""

    settings: Settings
    catalog: Catalog
    databases: dict[str, Database]
    codec: Codec
    tenancy: Tenancy
    admin: Admin

    async def batcher(self, wiring: Wiring, generation: int | None = None) -> Batcher:
        """Give the batcher of a consumer, in the generation that serves unless another is asked for."""
        database = self.databases[wiring.schema]
        if generation is None:
            generation = 1
            if isinstance(wiring, ProjectionWiring):
                generation = serving(wiring, await generations(database, wiring)).number
        return Batcher(
            wiring, generation, database, self.codec, self.tenancy, self.folding(wiring, generation)
        )

    def folding(self, wiring: Wiring, generation: int) -> Callable[[Delivery], Folding]:
        """Give what folds one batch of a consumer."""
        match wiring:
            case DeciderWiring():
                return lambda delivery: Deciding(wiring, self.codec, delivery)
            case EffectWiring():
                return lambda delivery: Recording(wiring, delivery)
            case SagaWiring():
                return lambda delivery: Stepping(wiring, self.codec, delivery)
            case ProjectionWiring():
                models = {row: read_model(row, view, generation) for row, view in wiring.rows.items()}
                return lambda _: Projecting(wiring, models, self.codec)


@asynccontextmanager
async def open_engine(
    settings: Settings, catalog: Catalog, schemas: Iterable[str], *, size: int = 6, rehearsal: bool = False
) -> AsyncGenerator[Engine]:
    """Open `schemas`, each under its own role with at most `size` connections, with the vault and the tenants.

    In a `rehearsal` whatever is folded is rolled back, so keys of new subjects and new tenants are not kept either.
    """
    wanted = sorted({*schemas, "vault", "tenancy"})
    opened = await asyncio.gather(*(open_database(settings, schema, size=size) for schema in wanted))
    databases = {database.schema: database for database in opened}
    try:
        vault = Vault(databases["vault"], settings.master_key, keep=not rehearsal)
        tenancy = Tenancy(databases["tenancy"], development=settings.development, keep=not rehearsal)
        yield Engine(settings, catalog, databases, Codec(catalog, vault), tenancy, Admin(settings.kafka))
    finally:
        await asyncio.gather(*(database.close() for database in databases.values()), return_exceptions=True)
