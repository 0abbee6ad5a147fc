"""`decide`: commands from upstream through a worker's decider, with state, events, outbox and checkpoint.

The relay has no part in it, neither in ours nor in the baseline: what is measured ends with the outbox's commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Final
from uuid import uuid4

import asyncpg
from pydantic_core import to_json

from infra.runtime.messages.ids import content_hash, inbox_key
from infra.settings import Settings
from tests.benchmarks.baseline import Baseline, Job, consumer_of
from tests.benchmarks.catalogue import catalogue
from tests.benchmarks.checksum import Digest, digest
from tests.benchmarks.deposits import TOPIC, Asked, deposits, facts, records
from tests.benchmarks.harness import Case, Contestant, Goal, agree
from tests.benchmarks.ledger import Account, Deposit, Deposited, deposit, deposited
from tests.benchmarks.load import Load
from tests.benchmarks.meter import Marks
from tests.benchmarks.product import Product
from tests.benchmarks.site import Site
from tests.benchmarks.worker import WITHOUT_RELAYS

TABLES: Final = """
    CREATE SCHEMA IF NOT EXISTS baseline;
    DROP TABLE IF EXISTS baseline.inbox, baseline.aggregates, baseline.events, baseline.outbox, baseline.checkpoints;
    CREATE TABLE baseline.inbox (LIKE benchmarks.inbox INCLUDING ALL);
    CREATE TABLE baseline.aggregates (LIKE benchmarks.aggregates INCLUDING ALL);
    CREATE TABLE baseline.events (LIKE benchmarks.events INCLUDING ALL);
    CREATE TABLE baseline.outbox (LIKE benchmarks.outbox INCLUDING ALL);
    CREATE TABLE baseline.checkpoints (LIKE benchmarks.checkpoints INCLUDING ALL);
    INSERT INTO baseline.checkpoints SELECT * FROM benchmarks.checkpoints WHERE consumer = 'benchmarks'
"""

DIGEST: Final = """SELECT count(*), coalesce(sum(('x' || left(md5(
    tenant || '|' || key || '|' || version || '|' || amount || '|' || balance || '|' || reference), 10))::bit(40)::bigint), 0)::bigint"""

EVENTS: Final = """(SELECT tenant, key, version, payload->>'amount_minor' AS amount, payload->>'balance_minor' AS balance,
    payload->>'reference' AS reference FROM {schema}.events) AS e WHERE tenant LIKE 'bench-%'"""

OUTBOX: Final = """(SELECT (SELECT h->>1 FROM json_array_elements(headers) h WHERE h->>0 = 'ce_tenantid') AS tenant, key,
    (SELECT h->>1 FROM json_array_elements(headers) h WHERE h->>0 = 'ce_sequence') AS version, body->>'amount_minor' AS amount,
    body->>'balance_minor' AS balance, body->>'reference' AS reference
    FROM (SELECT headers, key, convert_from(value, 'UTF8')::json AS body FROM {schema}.outbox) o) AS e
    WHERE tenant LIKE 'bench-%'"""

STATES: Final = """SELECT count(*), coalesce(sum(('x' || left(md5(
    tenant || '|' || key || '|' || version || '|' || (state->>'balance_minor')), 10))::bit(40)::bigint), 0)::bigint
    FROM {schema}.aggregates WHERE tenant LIKE 'bench-%'"""


class Answers:
    """What events, outbox and aggregates must hold."""

    def __init__(self, site: Site, load: Load, asked: Sequence[Asked]) -> None:
        """Judge what comes of `asked`, which lie on a topic as `load` says."""
        self._site = site
        self._load = load
        self._asked = asked
        self._whole = self._expected(asked)

    @staticmethod
    def _expected(asked: Iterable[Asked]) -> tuple[Digest, Digest]:
        made = list(facts(asked))
        # The last one of an account says how it stands.
        states = {it[:2]: (it[2], it[4]) for it in made}
        return digest(made), digest((*key, *state) for key, state in states.items())

    async def check(self, who: str, schema: str, ends: Mapping[int, int] | None = None) -> None:
        """Compare the tables of a schema to the plain fold of all commands, or of those below the offsets `ends`."""
        made, states = (
            self._whole
            if ends is None
            else self._expected(self._asked[number] for number in sorted(self._load.until(ends)))
        )
        for what, query, expected in (
            ("events", f"{DIGEST} FROM {EVENTS}", made),
            ("outbox", f"{DIGEST} FROM {OUTBOX}", made),
            ("states", STATES, states),
        ):
            agree(
                f"{who}: rows and digest of the {what}",
                await self._site.row(query.format(schema=schema)),
                expected,
            )


async def laid_out(site: Site, events: int) -> tuple[Load, Answers]:
    """Put commands on their topic."""
    asked = list(deposits(events))
    load = await site.fill(TOPIC, records(asked))
    return load, Answers(site, load, asked)


class Decided(Product):
    """Our decider."""

    def __init__(self, site: Site, load: Load, answers: Answers, **how: Any) -> None:
        """Decide on `load`; `answers` judges what comes of it."""
        super().__init__(site, catalogue().workers["benchmarks"], load, options=(WITHOUT_RELAYS,), **how)
        self._answers = answers

    async def empty(self, connection: asyncpg.Connection[Any]) -> None:
        """Forget every account."""
        await connection.execute("TRUNCATE benchmarks.aggregates, benchmarks.events, benchmarks.outbox")

    async def fill(self, connection: asyncpg.Connection[Any], already: int) -> None:
        """Put in deposits into other accounts, 10 each."""
        await connection.execute(
            f"""INSERT INTO benchmarks.events (id, kind, tenant, key, version, type, schema_version, payload, source, correlation, time, recorded_at)
                SELECT md5('e' || n)::uuid, 'Account', 'old-' || n / 10 % 20, md5('a' || n / 10)::uuid::text, n % 10 + 1,
                'benchmarks.Deposited', 1, json_build_object('account_id', md5('a' || n / 10)::uuid, 'amount_minor', 1,
                'balance_minor', n % 10 + 1, 'reference', 'invoice ' || n, 'deposited_at', '2026-05-04T12:00:00Z'),
                'triplane/benchmarks', md5('f' || n)::uuid::text, now() - interval '1 day', now() - interval '1 day' FROM generate_series(1, {already}) n"""
        )
        await connection.execute(
            """INSERT INTO benchmarks.aggregates (kind, tenant, key, version, state)
               SELECT kind, tenant, key, max(version), json_build_object('account_id', key, 'balance_minor', max(version),
               'deposits', max(version)) FROM benchmarks.events GROUP BY kind, tenant, key"""
        )
        await connection.execute("VACUUM ANALYZE benchmarks.events, benchmarks.aggregates")

    async def check(self) -> None:
        """Compare events, outbox and aggregates."""
        await self._answers.check(self.name, "benchmarks")


async def transaction_per_message(job: Job) -> Marks:
    """A plain client and a plain driver: the same tables' worth of work in a transaction for each message, all prepared."""
    connection = await asyncpg.connect(Settings.load().postgres, server_settings={"search_path": "baseline"})
    note = await connection.prepare(
        "INSERT INTO inbox (key, payload) VALUES ($1, $2) ON CONFLICT DO NOTHING RETURNING key"
    )
    load = await connection.prepare(
        "SELECT version, state FROM aggregates WHERE kind = 'Account' AND tenant = $1 AND key = $2 FOR UPDATE"
    )
    open_ = await connection.prepare(
        "INSERT INTO aggregates (kind, tenant, key, version, state) VALUES ('Account', $1, $2, $3, $4)"
    )
    save = await connection.prepare(
        "UPDATE aggregates SET version = $3, state = $4 WHERE kind = 'Account' AND tenant = $1 AND key = $2"
    )
    record_fact = await connection.prepare(
        """INSERT INTO events (id, kind, tenant, key, version, type, schema_version, payload, source, correlation, causation, time)
           VALUES ($1, 'Account', $2, $3, $4, 'benchmarks.Deposited', 1, $5, 'baseline', $6, $6, $7)"""
    )
    publish = await connection.prepare(
        """INSERT INTO outbox (bucket, id, topic, key, headers, value)
           VALUES (0, $1, 'benchmarks.events', $2, $3, $4)"""
    )
    advance = await connection.prepare(
        "UPDATE checkpoints SET next_offset = $3, updated_at = now() WHERE topic = $1 AND partition = $2"
    )
    consumer = await consumer_of(job)
    job.begin()
    done = 0
    while done < job.events:
        fetched = await consumer.getmany(timeout_ms=500, max_records=500)
        for record in islice((it for found in fetched.values() for it in found), job.events - done):
            headers = {name: text.decode() for name, text in record.headers}
            tenant, cause = headers["ce_tenantid"], headers["ce_id"]
            asked = Deposit.model_validate_json(record.value)
            key = str(asked.account_id)
            async with connection.transaction():
                inbox = inbox_key("baseline", 1, tenant, headers["ce_source"], cause)
                if await note.fetchval(inbox, content_hash(headers["ce_type"], record.value)) is not None:
                    row = await load.fetchrow(tenant, key)
                    account = (
                        Account(account_id=asked.account_id)
                        if row is None
                        else Account.model_validate_json(row["state"])
                    )
                    now = datetime.fromtimestamp(record.timestamp / 1000, UTC)
                    event = deposit(asked, account, now)
                    assert isinstance(event, Deposited)
                    version = 1 if row is None else row["version"] + 1
                    state = deposited(account, event).model_dump_json()
                    await (open_ if row is None else save).fetch(tenant, key, version, state)
                    body, fact = event.model_dump_json(), uuid4()
                    await record_fact.fetch(fact, tenant, key, version, body, cause, now)
                    told = {
                        "ce_specversion": "1.0",
                        "ce_id": str(fact),
                        "ce_type": "benchmarks.Deposited",
                        "ce_source": "baseline",
                        "ce_time": now.isoformat(),
                        "ce_tenantid": tenant,
                        "ce_correlationid": cause,
                        "ce_causationid": cause,
                        "ce_sequence": str(version),
                        "content-type": "application/json",
                    }
                    await publish.fetch(fact, key, to_json(list(told.items())).decode(), body.encode())
                await advance.fetch(record.topic, record.partition, record.offset + 1)
            job.next[record.partition] = record.offset + 1
            done += 1
    marks = job.end(done)
    await consumer.stop()
    await connection.close()
    return marks


class Decide(Case):
    """One context's worker, one command after the other."""

    name = "decide"
    events = 100_000
    goals = (Goal("transaction_per_message", must=15, aim=35),)
    baselines = {"transaction_per_message": transaction_per_message}  # noqa: RUF012

    async def contestants(self, site: Site, events: int) -> list[Contestant]:
        """Put the commands on their topic."""
        load, answers = await laid_out(site, events)

        async def tables() -> None:
            await site.sql(TABLES)

        async def check(ends: Mapping[int, int]) -> None:
            await answers.check("transaction_per_message", "baseline", ends)

        return [
            Decided(site, load, answers),
            Baseline(
                site, self.name, "transaction_per_message", load, events=5_000, reset=tables, check=check
            ),
        ]


case = Decide()
