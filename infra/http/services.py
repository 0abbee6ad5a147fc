"""What every route needs: databases under their roles, the codec, the gauge and the authenticator of one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from starlette.requests import Request

from infra.http.authentication import Authenticator, Caller, Role
from infra.http.keys import ensure_keys
from infra.http.metrics import Metrics
from infra.postgres.database import Database, open_database
from infra.runtime.asking.freshness import Gauge
from infra.runtime.asking.questions import Questions
from infra.runtime.catalog import Catalog
from infra.runtime.consuming.tenancy import Tenancy
from infra.runtime.intake.admission import Admission
from infra.runtime.intake.following import Following
from infra.runtime.intake.outcomes import Outcomes
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.vault import Vault
from infra.runtime.publishing.wakeup import Wakeups
from infra.settings import Settings

POOLS = {"intake": 8, "read": 8, "monitor": 6, "tenancy": 2, "vault": 2}
"""Schemas with the most connections that this process opens to each."""


@dataclass(frozen=True, slots=True)
class Services:
    """What the routes work with."""

    settings: Settings
    catalog: Catalog
    databases: dict[str, Database]
    authenticator: Authenticator
    admission: Admission
    outcomes: Outcomes
    following: Following
    questions: Questions
    gauge: Gauge
    wakeups: Wakeups
    metrics: Metrics

    @property
    def intake(self) -> Database:
        """The database that takes in."""
        return self.databases["intake"]

    @property
    def monitor(self) -> Database:
        """The database as the monitor sees it."""
        return self.databases["monitor"]


@asynccontextmanager
async def open_services(settings: Settings, catalog: Catalog, metrics: Metrics) -> AsyncGenerator[Services]:
    """Open everything, connecting only on first use: a server starts while database and broker are away."""
    opened = await asyncio.gather(
        *(open_database(settings, schema, size=size, at_once=0) for schema, size in POOLS.items())
    )
    databases = {database.schema: database for database in opened}
    codec = Codec(catalog, Vault(databases["vault"], settings.master_key))
    tenancy = Tenancy(databases["tenancy"], development=settings.development)
    outcomes = Outcomes(databases["monitor"], catalog)
    gauge = Gauge(databases["monitor"], catalog, settings.kafka)
    try:
        yield Services(
            settings,
            catalog,
            databases,
            Authenticator(
                settings, ensure_keys(settings.home) if settings.development else settings.home / "keys"
            ),
            Admission(codec, tenancy),
            outcomes,
            Following(databases["monitor"], outcomes),
            Questions(databases["read"], codec, settings.master_key),
            gauge,
            Wakeups(),
            metrics,
        )
    finally:
        await gauge.close()
        await asyncio.gather(*(database.close() for database in databases.values()), return_exceptions=True)


def services_of(request: Request) -> Services:
    """Give the services of the application that a request came to."""
    services: Services = request.app.state.services
    return services


def caller_of(request: Request, *roles: Role) -> Caller:
    """Give the caller, who has one of `roles`; raise 401 or 403. The log line of the request names the tenant then."""
    caller = services_of(request).authenticator.caller(request.headers.getlist("authorization"))
    request.scope["triplane.tenant"] = caller.tenant
    caller.may(*roles)
    return caller
