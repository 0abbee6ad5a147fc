"""`saga`: onboarding from the proofs that upstream sends to an account and access, in the processes that `up` runs.

All is sent at once, so the time to completion is that of a backlog: the rate says how long it lasts. One person in
twenty buys by card meanwhile, through the Stripe simulator. Nothing is compared: there is no baseline that keeps the same
promises; the answer is that every flow was completed, once, and that the money is right.
"""

from __future__ import annotations

import asyncio
import statistics
import time
from typing import Any, Final

import asyncpg

from infra.kafka.admin import Admin
from infra.runtime.catalog import discover
from tests.benchmarks.flows import Person, people, proofs, purchases
from tests.benchmarks.harness import Case, Contestant, Run, agree
from tests.benchmarks.meter import Marks
from tests.benchmarks.running import parked, platform, renew, unread
from tests.benchmarks.site import Site

LOOK_S: Final = 0.25
PATIENCE_S: Final = 120.0
SETTLE_S: Final = 120.0


class Onboarding(Contestant):
    """All flows."""

    name = "ours"

    def __init__(self, site: Site, people: list[Person]) -> None:
        """Let these people come."""
        self._site = site
        self._people = people
        self._buyers = [it for it in people if it.buys]

    async def reset(self) -> None:
        """Begin as if new; the provider, too, has taken no money yet."""
        await renew(self._site)
        async with self._site.connection() as connection:
            rows = await connection.fetch(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'stripe_simulator'"
            )
            if rows:
                tables = ", ".join(f"stripe_simulator.{row['tablename']}" for row in rows)
                await connection.execute(f"TRUNCATE {tables}")

    async def run(self) -> Run:
        """Send everything; it is over when the last person has an account and the last payment is made."""
        async with (
            platform(self._site, provider=True) as running,
            self._site.metered(*running.pids) as meter,
            self._site.connection() as connection,
        ):
            began = time.monotonic()
            await self._site.fill("payments.inbound", purchases(self._people))
            await self._site.fill("identity.inbound", proofs(self._people))
            sent_s = time.monotonic() - began
            await self._completed(connection)
            marks = Marks(began, time.monotonic(), len(self._people))
            figures = await self._figures(connection)
            await self._settled(connection)
        return meter.run(marks, sent_s=sent_s, **figures)

    async def _completed(self, connection: asyncpg.Connection[Any]) -> None:
        before, moved_at = (0, 0), time.monotonic()
        wanted = (len(self._people), len(self._buyers))
        while before != wanted:
            row: Any = await connection.fetchrow(
                """SELECT (SELECT count(*) FROM sagas.instances WHERE saga = 'onboarding' AND state_name = 'Onboarded'),
                          (SELECT count(*) FROM sagas.instances WHERE saga = 'activation' AND state_name = 'Activated')"""
            )
            now = time.monotonic()
            if tuple(row.values()) != before:
                before, moved_at = tuple(row.values()), now
            agree(
                f"stands still at {before} of {wanted} flows for longer than (s)",
                max(0, now - moved_at - PATIENCE_S),
                0,
            )
            await asyncio.sleep(LOOK_S)

    async def _settled(self, connection: asyncpg.Connection[Any]) -> None:
        """Let the read models catch up: they are looked at, too."""
        admin, give_up = Admin(self._site.settings.kafka), time.monotonic() + SETTLE_S
        while left := await unread(connection, admin, discover()):
            late = time.monotonic() > give_up
            agree(f"records under way after {SETTLE_S:.0f} s", left if late else 0, 0)
            await asyncio.sleep(LOOK_S)

    async def _figures(self, connection: asyncpg.Connection[Any]) -> dict[str, float]:
        rows = await connection.fetch(
            """SELECT extract(epoch FROM h.at - v.time)::float8 AS whole, extract(epoch FROM h.at - s.at)::float8 AS flow
               FROM sagas.history h JOIN identity.events v ON v.type = 'identity.UserVerified' AND v.tenant = h.tenant AND v.key = h.key
               JOIN sagas.history s ON (s.saga, s.tenant, s.key, s.version) = (h.saga, h.tenant, h.key, 1)
               WHERE h.saga = 'onboarding' AND h.entered = 'Onboarded'"""
        )
        found = {}
        for name, column in (("sent to completed", "whole"), ("begun to completed", "flow")):
            cuts = statistics.quantiles([row[column] for row in rows], n=100, method="inclusive")
            found[f"{name} p50_s"], found[f"{name} p99_s"] = cuts[49], cuts[98]
        return found

    async def verify(self) -> None:
        """Every flow completed exactly once, the money is right, nothing is parked, stuck or under way."""
        flows, buyers = len(self._people), len(self._buyers)
        paid = sum(it.minor for it in self._buyers)
        for what, query, expected in (
            (
                "people verified, verifications",
                "SELECT count(DISTINCT (tenant, key)), count(*) FROM identity.events WHERE type = 'identity.UserVerified'",
                (flows, flows),
            ),
            (
                "onboardings, ended, entering the end",
                """SELECT count(*), count(*) FILTER (WHERE state_name = 'Onboarded'),
                     (SELECT count(*) FROM sagas.history WHERE saga = 'onboarding' AND entered = 'Onboarded')
                   FROM sagas.instances WHERE saga = 'onboarding'""",
                (flows, flows, flows),
            ),
            (
                "accounts opened, activated, closed; persons with one",
                """SELECT count(*) FILTER (WHERE type = 'accounts.AccountOpened'),
                     count(*) FILTER (WHERE type = 'accounts.AccountActivated'),
                     count(*) FILTER (WHERE type = 'accounts.AccountClosed'),
                     count(DISTINCT (tenant, payload->>'person_id')) FROM accounts.events""",
                (flows, flows, 0, flows),
            ),
            (
                "access granted, revoked",
                """SELECT count(*) FILTER (WHERE type = 'entitlements.AccessGranted'),
                     count(*) FILTER (WHERE type = 'entitlements.AccessRevoked') FROM entitlements.events""",
                (flows + buyers, 0),
            ),
            (
                "people shown as onboarded, as verified",
                """SELECT (SELECT count(*) FROM read.onboarding_progress WHERE stage = 'onboarded'),
                          (SELECT count(*) FROM read.verification_status WHERE status = 'verified')""",
                (flows, flows),
            ),
            (
                "payments, completed, cents, refunded",
                """SELECT count(*), count(*) FILTER (WHERE status = 'completed'), sum(captured_minor)::bigint,
                     sum(refunded_minor + refund_due_minor)::bigint FROM read.payment_history""",
                (buyers, buyers, paid, 0),
            ),
            (
                "customers who spent, cents",
                "SELECT count(*), sum(spent_minor)::bigint FROM read.customer_spend",
                (buyers, paid),
            ),
            (
                "charges at the provider, payments charged, cents",
                """SELECT count(*), count(DISTINCT metadata->>'payment_id'), sum((body->>'amount_received')::bigint)::bigint
                   FROM stripe_simulator.objects WHERE kind = 'payment_intent' AND body->>'status' = 'succeeded'""",
                (buyers, buyers, paid),
            ),
            (
                "deadlines, early events",
                "SELECT (SELECT count(*) FROM sagas.deadlines), (SELECT count(*) FROM sagas.early)",
                (0, 0),
            ),
        ):
            agree(what, await self._site.row(query), expected)
        agree("parked", await parked(self._site), 0)


class Sagas(Case):
    """Flows across services."""

    name = "saga"
    events = 20_000

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Only ours."""
        return [Onboarding(site, people(events))]


case = Sagas()
