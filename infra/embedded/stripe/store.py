"""The simulator's state: every change is one transaction, so a kill at any point leaves what Stripe would have left."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, cast

import asyncpg

from infra.embedded.stripe.forms import Object, Refused
from infra.embedded.stripe.rules import Change, identifier
from infra.stripe.webhooks import API_VERSION

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

    Connection = asyncpg.Connection[Record] | PoolConnectionProxy[Record]
    Pool = asyncpg.Pool[Record]

__all__ = ["ROLE", "SCHEMA", "Answer", "KeyTaken", "Page", "Store", "Webhook", "create"]

ROLE: Final = "triplane_stripe_simulator"

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS stripe_simulator.objects (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text PRIMARY KEY,
    kind text NOT NULL,
    created bigint NOT NULL,
    intent text,
    metadata jsonb NOT NULL,
    body json NOT NULL,
    written_at timestamptz NOT NULL DEFAULT now(),
    settles_at timestamptz
);
CREATE INDEX IF NOT EXISTS objects_listed ON stripe_simulator.objects (kind, seq DESC);
CREATE INDEX IF NOT EXISTS objects_of_intent ON stripe_simulator.objects (intent, kind) WHERE intent IS NOT NULL;
CREATE INDEX IF NOT EXISTS objects_searched ON stripe_simulator.objects USING gin (metadata jsonb_path_ops)
    WITH (fastupdate = off) WHERE kind = 'payment_intent';
CREATE INDEX IF NOT EXISTS objects_unsettled ON stripe_simulator.objects (settles_at) WHERE settles_at IS NOT NULL;
CREATE TABLE IF NOT EXISTS stripe_simulator.events (
    seq bigint GENERATED ALWAYS AS IDENTITY,
    id text PRIMARY KEY,
    type text NOT NULL,
    created bigint NOT NULL,
    body json NOT NULL,
    delivered boolean
);
CREATE INDEX IF NOT EXISTS events_listed ON stripe_simulator.events (seq DESC);
CREATE INDEX IF NOT EXISTS events_undelivered ON stripe_simulator.events (seq DESC) WHERE delivered = false;
CREATE TABLE IF NOT EXISTS stripe_simulator.deliveries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event text NOT NULL REFERENCES stripe_simulator.events,
    due timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS deliveries_due ON stripe_simulator.deliveries (due);
CREATE TABLE IF NOT EXISTS stripe_simulator.answers (
    key text PRIMARY KEY,
    request text NOT NULL,
    status integer NOT NULL,
    body json NOT NULL
);
COMMENT ON TABLE stripe_simulator.objects IS 'Payment intents, charges and refunds as the API shows them.';
COMMENT ON COLUMN stripe_simulator.objects.settles_at IS 'When the bank decides on a refund that is not final.';
COMMENT ON COLUMN stripe_simulator.events.delivered IS 'Null for types that no webhook endpoint asks for.';
COMMENT ON TABLE stripe_simulator.deliveries IS 'Webhooks still to be delivered, duplicates included.';
COMMENT ON TABLE stripe_simulator.answers IS 'The first answer to each idempotency key, whatever it was.';
"""

SETTLES_AFTER_SECONDS: Final = 2.0
LEASE: Final = timedelta(seconds=30)

_MANY: Final = "SELECT id, body FROM objects WHERE id = ANY($1)"

_WRITE: Final = """
WITH objects_written AS (
    INSERT INTO objects (id, kind, created, intent, metadata, body, settles_at)
    SELECT id, kind, created, intent, metadata, body, now() + make_interval(secs => settles_after)
    FROM json_to_recordset($1) AS o(id text, kind text, created bigint, intent text, metadata jsonb, body json,
        settles_after float)
    ON CONFLICT (id) DO UPDATE SET body = excluded.body, settles_at = excluded.settles_at
), told AS (
    SELECT * FROM json_to_recordset($2) AS e(id text, type text, created bigint, body json, delays float[])
), events_written AS (
    INSERT INTO events (id, type, created, body, delivered)
    SELECT id, type, created, body, CASE WHEN delays IS NOT NULL THEN false END FROM told
)
INSERT INTO deliveries (event, due)
SELECT id, now() + make_interval(secs => delay) FROM told, unnest(delays) AS delay
"""


async def create(connection: Connection) -> None:
    """Make what is missing, and let the login role `triplane_stripe_simulator` own it if there is one."""
    async with connection.transaction():
        # Migrations and the simulator itself may come here at the same time.
        await connection.execute("SELECT pg_advisory_xact_lock(hashtext('stripe_simulator'))")
        if not await connection.fetchval("SELECT to_regnamespace('stripe_simulator')"):
            await connection.execute("CREATE SCHEMA stripe_simulator")
        await connection.execute(SCHEMA)
        if await connection.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", ROLE):
            tables = (
                "TABLE stripe_simulator." + name for name in ("objects", "events", "deliveries", "answers")
            )
            for owned in ("SCHEMA stripe_simulator", *tables):
                await connection.execute(f"ALTER {owned} OWNER TO {ROLE}")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request was answered."""

    status: int
    body: Object
    replayed: bool = False


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a list, newest first."""

    data: list[Object]
    more: bool


@dataclass(frozen=True, slots=True)
class Webhook:
    """A delivery that is due."""

    id: int
    event: str
    attempts: int
    body: Object


class KeyTaken(Exception):
    """Another request with the same idempotency key got there first."""


class Store:
    """The tables, by what the API needs of them."""

    def __init__(self, pool: Pool) -> None:
        """Use a pool made by `open_pool`."""
        self._pool = pool

    @asynccontextmanager
    async def transaction(self) -> AsyncGenerator[Transaction]:
        """Change objects: all or nothing."""
        async with self._pool.acquire() as connection, connection.transaction():
            yield Transaction(connection)

    async def get(self, kind: str, id_: str) -> Object:
        """Give one object; refuses an unknown id."""
        table = "events" if kind == "event" else "objects"
        sql = f"SELECT body FROM {table} WHERE id = $1" + ("" if kind == "event" else " AND kind = $2")
        body = await self._pool.fetchval(sql, id_, *([] if kind == "event" else [kind]))
        if body is None:
            raise _missing(kind, id_)
        return cast("Object", body)

    async def many(self, ids: Sequence[str]) -> dict[str, Object]:
        """Give the objects of several ids."""
        return {row["id"]: row["body"] for row in await self._pool.fetch(_MANY, ids)}

    async def page(
        self, table: str, limit: int, conditions: Iterable[tuple[str, object]], before: str | None
    ) -> Page:
        """List newest first, below the object `before`; each condition is SQL with `{}` for its value."""
        given = [(sql, value) for sql, value in conditions if value is not None]
        if before is not None:
            given.append((f"seq < (SELECT seq FROM {table} WHERE id = {{}})", before))
        where = " AND ".join(["true", *(sql.format(f"${n}") for n, (sql, _) in enumerate(given, 1))])
        sql = f"SELECT body FROM {table} WHERE {where} ORDER BY seq DESC LIMIT {limit + 1}"
        rows = await self._pool.fetch(sql, *(value for _, value in given))
        return Page([row["body"] for row in rows[:limit]], len(rows) > limit)

    async def count(self) -> dict[str, int]:
        """Count what a test or a demo wants to be sure of."""
        row = await self._pool.fetchrow("""
            SELECT count(*) AS intents,
                count(*) FILTER (WHERE body->>'status' = 'succeeded') AS charged,
                count(*) FILTER (WHERE body->>'status' = 'succeeded') - count(DISTINCT
                    coalesce((metadata->>'tenant') || '/' || (metadata->>'payment_id'), id)
                ) FILTER (WHERE body->>'status' = 'succeeded') AS charged_again,
                (SELECT count(*) FROM objects WHERE kind = 'refund' AND body->>'status' = 'succeeded') AS refunds,
                (SELECT count(*) FROM events WHERE delivered = false) AS undelivered
            FROM objects WHERE kind = 'payment_intent'
        """)
        return dict(row) if row else {}

    async def resume(self) -> None:
        """Make every delivery due: at a start, whoever had taken some is gone."""
        await self._pool.execute("UPDATE deliveries SET due = now() WHERE due > now()")

    async def due(self, limit: int) -> list[Webhook]:
        """Take deliveries that are due; a taken one comes back after its lease unless it is settled first."""
        rows = await self._pool.fetch(
            """
            UPDATE deliveries d SET due = now() + $2, attempts = attempts + 1
            FROM (SELECT id, due FROM deliveries WHERE due <= now() ORDER BY due LIMIT $1 FOR UPDATE SKIP LOCKED) taken,
                events e
            WHERE d.id = taken.id AND e.id = d.event
            RETURNING d.id, d.event, d.attempts, e.body, taken.due
            """,
            limit,
            LEASE,
        )
        rows.sort(key=lambda row: row["due"])
        return [Webhook(row["id"], row["event"], row["attempts"], row["body"]) for row in rows]

    async def delivered(self, webhooks: Sequence[Webhook]) -> None:
        """Forget deliveries that were acknowledged."""
        async with self._pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE events SET delivered = true WHERE id = ANY($1)", [w.event for w in webhooks]
            )
            await connection.execute("DELETE FROM deliveries WHERE id = ANY($1)", [w.id for w in webhooks])

    async def postpone(self, webhook: Webhook, pause: timedelta) -> None:
        """Try a delivery again after a pause."""
        await self._pool.execute("UPDATE deliveries SET due = now() + $2 WHERE id = $1", webhook.id, pause)

    async def unsettled(self) -> list[tuple[str, str]]:
        """Give refund and intent of every refund whose time has come."""
        sql = "SELECT id, intent FROM objects WHERE settles_at <= now() ORDER BY settles_at LIMIT 100"
        return [(row["id"], row["intent"]) for row in await self._pool.fetch(sql)]


class Transaction:
    """One change in the making."""

    def __init__(self, connection: Connection) -> None:
        """Work within the transaction that `connection` is in."""
        self._connection = connection

    async def lock(self, kind: str, id_: str, param: str | None = None) -> Object:
        """Give an object that nobody else changes until the end of the transaction. Lock the intent first."""
        sql = "SELECT body FROM objects WHERE id = $1 AND kind = $2 FOR UPDATE"
        body = await self._connection.fetchval(sql, id_, kind)
        if body is None:
            raise _missing(kind, id_, param)
        return cast("Object", body)

    async def many(self, ids: Sequence[str]) -> dict[str, Object]:
        """Give the objects of several ids, without a second connection: waiting for one could wait for ever."""
        return {row["id"]: row["body"] for row in await self._connection.fetch(_MANY, ids)}

    async def write(
        self, change: Change, request: Object, now: int, deliveries: dict[str, list[float]]
    ) -> None:
        """Write the objects and events of a change; `deliveries` has the delays of its webhooks, by type."""
        objects = [
            {
                "id": body["id"],
                "kind": body["object"],
                "created": body["created"],
                "intent": body.get("payment_intent"),
                "metadata": body["metadata"],
                "body": body,
                "settles_after": SETTLES_AFTER_SECONDS if body["id"] in change.settles else None,
            }
            for body in change.written
        ]
        events = [
            {
                "id": (id_ := identifier("evt")),
                "type": type_,
                "created": now,
                "body": _event(id_, type_, about, request, now)
                | {"pending_webhooks": int(type_ in deliveries)},
                "delays": deliveries.get(type_),
            }
            for type_, about in change.events
        ]
        await self._connection.execute(_WRITE, objects, events)

    async def answered(self, key: str, request: str) -> Answer | None:
        """Give the stored answer to the key; refuses the key for any other request."""
        row = await self._connection.fetchrow("SELECT request, status, body FROM answers WHERE key = $1", key)
        if row is None:
            return None
        if row["request"] != request:
            message = f"The key {key!r} was first used for another request: use another key for this one."
            raise Refused(400, message, type="idempotency_error")
        return Answer(row["status"], row["body"], replayed=True)

    async def remember(self, key: str, request: str, answer: Answer) -> None:
        """Store the answer together with the change; raises `KeyTaken`, and then nothing may stay written."""
        sql = "INSERT INTO answers (key, request, status, body) VALUES ($1, $2, $3, $4)"
        try:
            await self._connection.execute(sql, key, request, answer.status, answer.body)
        except asyncpg.UniqueViolationError as taken:
            raise KeyTaken from taken


async def open_pool(uri: str) -> Pool:
    """Connect to a database that has the schema."""

    async def prepare(connection: Connection) -> None:
        for name in ("json", "jsonb"):
            await connection.set_type_codec(name, encoder=_dump, decoder=json.loads, schema="pg_catalog")

    settings = {"search_path": "stripe_simulator", "application_name": "stripe-simulator"}
    return await asyncpg.create_pool(
        uri, min_size=2, max_size=12, init=prepare, reset=_nothing_to_reset, server_settings=settings
    )


async def _nothing_to_reset(_: Connection) -> None:
    """Spare a round trip: nothing here outlives its transaction."""


def _event(id_: str, type_: str, about: Object, request: Object, now: int) -> Object:
    return {
        "id": id_,
        "object": "event",
        "api_version": API_VERSION,
        "created": now,
        "data": {"object": about},
        "livemode": False,
        "request": request,
        "type": type_,
    }


def _missing(kind: str, id_: str, param: str | None = None) -> Refused:
    status = 404 if param is None else 400
    return Refused(status, f"No such {kind}: '{id_[:100]}'", "resource_missing", param or "id")


def _dump(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"))
