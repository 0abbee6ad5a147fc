"""Webhooks as Stripe sends them: signed, at least once, in no order, until somebody answers 2xx."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import asyncpg
import structlog

from infra.embedded.stripe.rules import settle
from infra.embedded.stripe.store import Store, Webhook
from infra.postgres.database import TRANSIENT
from infra.stripe.webhooks import EVENT_TYPES

__all__ = ["Courier", "Manners"]

BATCH: Final = 64
AT_ONCE: Final = 8
ANSWER_SECONDS: Final = 10
POLL_SECONDS: Final = 0.1
LONGEST_PAUSE_SECONDS: Final = 60

LOST: tuple[type[BaseException], ...] = (asyncpg.PostgresError, *TRANSIENT)
"""How a database that is away or refuses is noticed."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Manners:
    """How badly webhooks behave."""

    duplicates: float = 0.05
    """Share of events that are sent twice."""
    delay: float = 0.3
    """Longest delay in seconds; each delivery draws its own, so they overtake each other."""
    seed: int = 0
    paused: bool = False
    """Whether nothing is sent for now, as when Stripe cannot reach us."""


class Courier:
    """Sends what is due, and lets banks decide on refunds that are not final."""

    def __init__(self, store: Store, host: str, port: int, secret: str) -> None:
        """Deliver to Triplane at `host` and `port`, signed with `secret`."""
        self.manners = Manners()
        self._store = store
        self._host = host
        self._port = port
        self._secret = secret.encode()

    def plan(self, types: Iterable[str], about: str) -> dict[str, list[float]]:
        """Say after which delays each event about the object `about` is sent: the same every time for one seed."""
        dice = random.Random(f"{self.manners.seed}:{about}")  # noqa: S311 - repeatable disorder, no secret
        return {
            type_: [
                dice.uniform(0, self.manners.delay)
                for _ in range(1 + (dice.random() < self.manners.duplicates))
            ]
            for type_ in types
            if type_ in EVENT_TYPES
        }

    async def run(self) -> None:
        """Work until cancelled; an outage of database or receiver only delays."""
        while True:
            try:
                await self._settle()
                busy = not self.manners.paused and await self._deliver()
            except LOST as lost:
                _log.warning("database_failed", error=str(lost))
                busy = False
            if not busy:
                await asyncio.sleep(POLL_SECONDS)

    async def _deliver(self) -> bool:
        due = await self._store.due(BATCH)
        at_once = asyncio.Semaphore(AT_ONCE)
        results = await asyncio.gather(*(self._send(webhook, at_once) for webhook in due))
        done = [webhook for webhook, accepted in zip(due, results, strict=True) if accepted]
        await self._store.delivered(done)
        for webhook in (webhook for webhook, accepted in zip(due, results, strict=True) if not accepted):
            pause = min(2.0 ** (webhook.attempts - 1), LONGEST_PAUSE_SECONDS)
            await self._store.postpone(webhook, timedelta(seconds=pause))
        # With nobody listening, what is due would otherwise be tried as fast as it is refused.
        if due and not done:
            _log.warning("webhooks_not_taken", host=self._host, port=self._port, count=len(due))
            await asyncio.sleep(1)
        return bool(done)

    async def _send(self, webhook: Webhook, at_once: asyncio.Semaphore) -> bool:
        body = json.dumps(webhook.body).encode()
        now = int(time.time())
        signature = hmac.new(self._secret, b"%d.%b" % (now, body), hashlib.sha256).hexdigest()
        head = (
            f"POST /webhooks/stripe HTTP/1.1\r\nHost: {self._host}:{self._port}\r\nConnection: close\r\n"
            "Content-Type: application/json; charset=utf-8\r\nUser-Agent: Stripe/1.0 (simulator)\r\n"
            f"Stripe-Signature: t={now},v1={signature}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            async with at_once, asyncio.timeout(ANSWER_SECONDS):
                # A whole HTTP client costs more than the rest of the simulator, and only the status is of interest.
                reader, writer = await asyncio.open_connection(self._host, self._port)
                try:
                    writer.write(head.encode() + body)
                    return (await reader.readline()).split()[1].startswith(b"2")
                finally:
                    writer.close()
        except (OSError, IndexError, ValueError):
            return False

    async def _settle(self) -> None:
        for refund_id, intent_id in await self._store.unsettled():
            async with self._store.transaction() as transaction:
                await transaction.lock("payment_intent", intent_id)
                refund = await transaction.lock("refund", refund_id)
                charge = await transaction.lock("charge", refund["charge"])
                change = settle(refund, charge)
                plan = self.plan((type_ for type_, _ in change.events), refund_id)
                request = {"id": None, "idempotency_key": None}
                await transaction.write(change, request, int(time.time()), plan)
