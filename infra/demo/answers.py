"""What the read models answer, held against what was sent: lost, duplicated, parked, compensated."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from infra.kafka.admin import Admin
from infra.runtime.catalog import Catalog
from infra.runtime.catalog.schemas import chains


@dataclass(frozen=True, slots=True)
class Pending:
    """What is still under way."""

    unread: int
    """Records that some consumer has not folded yet."""
    unpublished: int
    """Outbox rows."""
    effects: int
    """Calls to the outside that are due or running."""
    flows: int
    """Sagas that wait for an answer."""

    @property
    def total(self) -> int:
        """Nothing under way: zero."""
        return self.unread + self.unpublished + self.effects + self.flows


@dataclass(slots=True)
class Report:
    """The outcome of a demo run."""

    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)


async def pending(connection: asyncpg.Connection[asyncpg.Record], admin: Admin, catalog: Catalog) -> Pending:
    """Measure what is under way, from the broker's end offsets and the database; parked keys count as done."""
    topics = await admin.topics(catalog.topics)
    ends = await admin.offsets(topics.values(), end=True)
    serving = {
        f"projections.{row['projection']}": row["generation"]
        for row in await connection.fetch(
            "SELECT projection, generation FROM projections.generations WHERE standing = 'active'"
        )
    }
    unread = unpublished = effects = 0
    for schema, labels in chains(catalog).items():
        if "engine" in labels:
            for row in await connection.fetch(
                f"SELECT consumer, generation, topic, partition, next_offset FROM {schema}.checkpoints"
            ):
                # Another generation than the one that readers see may be nobody's any more.
                if row["generation"] == serving.get(row["consumer"], row["generation"]):
                    unread += max(0, ends.get((row["topic"], row["partition"]), 0) - row["next_offset"])
        if "outbox" in labels:
            unpublished += await connection.fetchval(f"SELECT count(*) FROM {schema}.outbox")
        if "service" in labels:
            effects += await connection.fetchval(
                f"SELECT count(*) FROM {schema}.effects WHERE ended_at IS NULL AND standing IN ('due', 'started')"
            )
    flows = await connection.fetchval("SELECT count(*) FROM sagas.deadlines")
    return Pending(unread, unpublished, effects, flows)


async def report(connection: asyncpg.Connection[asyncpg.Record], expected: dict[str, Any]) -> Report:
    """Compare the read models with the expectations of one run."""
    found = Report()
    await _people(connection, expected, found)
    await _payments(connection, expected, found)
    await _conversations(connection, expected, found)
    return found


async def _people(
    connection: asyncpg.Connection[asyncpg.Record], expected: dict[str, Any], found: Report
) -> None:
    rows = await connection.fetch("SELECT tenant, person_id::text, status FROM read.verification_status")
    status = {(row["tenant"], row["person_id"]): row["status"] for row in rows}
    onboarded = {
        (row["tenant"], row["person_id"])
        for row in await connection.fetch(
            "SELECT tenant, person_id::text FROM read.onboarding_progress WHERE stage = 'onboarded'"
        )
    }
    published = Counter(
        (row["tenant"], row["key"])
        for row in await connection.fetch(
            "SELECT tenant, key FROM identity.events WHERE type = 'identity.UserVerified'"
        )
    )
    for tenant, people in expected["verified"].items():
        for person in people:
            if status.get((tenant, person)) != "verified":
                found.lost.append(f"verification of {person}")
            if (tenant, person) not in onboarded:
                found.lost.append(f"onboarding of {person}")
            if published[tenant, person] > 1:
                found.duplicated.append(f"UserVerified of {person}")
    for tenant, people in expected["unverified"].items():
        found.duplicated += [
            f"verification of {person}" for person in people if status.get((tenant, person)) == "verified"
        ]
    found.figures["verified"] = sum(map(len, expected["verified"].values()))


async def _payments(
    connection: asyncpg.Connection[asyncpg.Record], expected: dict[str, Any], found: Report
) -> None:
    rows = await connection.fetch(
        "SELECT tenant, payment_id::text, status, captured_minor, refunded_minor FROM read.payment_history"
    )
    known = {row["payment_id"]: row for row in rows}
    captured: Counter[tuple[str, str, str]] = Counter()
    for payment, worth in expected["completed"].items():
        row = known.get(payment)
        if row is None or row["captured_minor"] < worth["minor"]:
            found.lost.append(f"payment {payment}")
            continue
        if row["captured_minor"] > worth["minor"]:
            found.duplicated.append(f"capture of {payment}")
        captured[worth["tenant"], worth["person"], worth["currency"]] += worth["minor"]
    spend = {
        (row["tenant"], row["customer_id"], row["currency"]): row["captured_minor"]
        for row in await connection.fetch(
            "SELECT tenant, customer_id::text, currency, captured_minor FROM read.customer_spend"
        )
    }
    for who, minor in captured.items():
        seen = spend.get(who, 0)
        if seen < minor:
            found.lost.append(f"spend of {who[1]}: {seen} of {minor} {who[2]}")
        elif seen > minor:
            found.duplicated.append(f"spend of {who[1]}: {seen} instead of {minor} {who[2]}")
    _declines_and_refunds(expected, known, found)
    await _charges(connection, expected, found)
    found.figures["payments"] = len(expected["completed"])
    found.figures["declined"] = len(expected["failed"])
    found.figures["refunded"] = len(expected["refunded"])


def _declines_and_refunds(expected: dict[str, Any], known: dict[str, asyncpg.Record], found: Report) -> None:
    for payment in expected["failed"]:
        if payment not in known or known[payment]["status"] != "failed":
            found.lost.append(f"decline of {payment}")
    for pair in expected["refunded"]:
        back = [
            payment
            for payment in pair.split("|")
            if payment in known and known[payment]["refunded_minor"] > 0
        ]
        if not back:
            found.lost.append(f"refund of one of {pair}")
        elif len(back) > 1:
            found.duplicated.append(f"refund of {pair}")


async def _charges(
    connection: asyncpg.Connection[asyncpg.Record], expected: dict[str, Any], found: Report
) -> None:
    """Ask the simulated provider itself whether anybody was charged twice."""
    if not await connection.fetchval("SELECT to_regclass('stripe_simulator.objects') IS NOT NULL"):
        return
    charges = await connection.fetch(
        """SELECT metadata->>'payment_id' AS payment, count(*) AS n FROM stripe_simulator.objects
           WHERE kind = 'payment_intent' AND body->>'status' = 'succeeded' GROUP BY 1 HAVING count(*) > 1"""
    )
    found.duplicated += [
        f"charge of {row['payment']}" for row in charges if row["payment"] in expected["completed"]
    ]


async def _conversations(
    connection: asyncpg.Connection[asyncpg.Record], expected: dict[str, Any], found: Report
) -> None:
    rows = await connection.fetch(
        "SELECT tenant, conversation_id::text, customer_id::text FROM read.conversation_links"
    )
    linked = {row["conversation_id"]: row["customer_id"] for row in rows}
    owners: dict[str, set[str]] = {}
    for conversation, contact in expected["conversations"].items():
        customer = linked.get(conversation)
        if customer is None:
            found.lost.append(f"link of conversation {conversation}")
        else:
            owners.setdefault(contact, set()).add(customer)
    found.duplicated += [
        f"customer of {contact}" for contact, customers in owners.items() if len(customers) > 1
    ]
    found.figures["conversations"] = len(linked.keys() & expected["conversations"].keys())
    found.figures["customers"] = len({customer for customers in owners.values() for customer in customers})
