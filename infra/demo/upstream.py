"""Three upstream systems in one process: plain Kafka clients that know nothing of the platform but its contracts.

Run as `python upstream.py --kafka HOST:PORT --events N --seed S --expect FILE`. The stream is seeded: people prove their
e-mail and phone, buy by card, and talk to a shop, over several tenants; some messages come twice, late or before what
they need, and a few are poisoned. What the platform must make of it is written to the expectations file.

Nothing here imports the platform: the same could be written in any language.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from pathlib import Path
from typing import Any
from uuid import UUID

from confluent_kafka import Producer

ERRORS = 3
"""What the client logs: its warnings while a broker comes back would stand among what the demo shows."""
TENANTS = ("demo-a", "demo-b", "north-star", "oak-and-sons")
PRODUCTS = [UUID(int=0xFEED0000000040008000000000000000 + number) for number in range(6)]
FIRST_NAMES = (
    "Ada",
    "Bola",
    "Chidi",
    "Dana",
    "Emeka",
    "Farah",
    "Grace",
    "Hugo",
    "Ines",
    "Jun",
    "Kofi",
    "Lena",
)
CURRENCIES = ("EUR", "USD", "NGN")


@dataclass
class Send:
    """One record to be produced; `after` orders what belongs together, `late` moves it towards the end."""

    topic: str
    key: str | None
    headers: list[tuple[str, bytes]]
    value: bytes | None
    late: float = 0.0


@dataclass
class Expected:
    """What the platform must make of the stream."""

    verified: dict[str, list[str]] = field(default_factory=dict)
    """Tenant -> people who must be verified, each once."""
    unverified: dict[str, list[str]] = field(default_factory=dict)
    completed: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Payment -> tenant, person, currency, minor units that must be captured exactly once."""
    failed: dict[str, str] = field(default_factory=dict)
    """Payment -> tenant; the card is declined."""
    refunded: list[str] = field(default_factory=list)
    """Payments of a product that the person has already: access is refused, the money goes back."""
    conversations: dict[str, str] = field(default_factory=dict)
    """Conversation -> the contact that it must be linked by, as `tenant/contact`."""
    poisoned: dict[str, int] = field(default_factory=dict)
    """Reason -> how many messages must be parked for it."""
    duplicates: int = 0
    sent: int = 0


class Stream:
    """A seeded stream of about `events` records, with its expectations."""

    def __init__(self, events: int, seed: int) -> None:
        """Prepare the stream; the same arguments give the same stream."""
        self.random = random.Random(seed)  # noqa: S311 - seeded on purpose
        self.expected = Expected()
        # A fixed day, so that the same seed gives the same bytes: sent again, all of it is dropped as known.
        self.began = datetime(2026, 1, 1, tzinfo=UTC)
        self._groups: list[list[Send]] = []
        self._poison(max(8, events // 500))
        while sum(map(len, self._groups)) < events * 0.93:
            self._person(self.random.choice(TENANTS))
        self._duplicate(events - sum(map(len, self._groups)))
        self.expected.sent = sum(map(len, self._groups))

    def __iter__(self) -> Iterator[Send]:
        """Interleave what belongs to different people at random; what belongs together keeps its order."""
        placed: list[tuple[float, Send]] = []
        for group in self._groups:
            at = self.random.random()
            for send in group:
                at += self.random.random() * 0.02 + send.late
                placed.append((at, send))
        placed.sort(key=itemgetter(0))
        return (send for _, send in placed)

    # -- who does what ----------------------------------------------------------------------------------------------

    def _id(self) -> str:
        return str(UUID(int=self.random.getrandbits(128), version=4))

    def _at(self) -> str:
        return (self.began - timedelta(seconds=self.random.random() * 86_400)).isoformat()

    def _message(
        self, source: str, tenant: str, kind: str, body: dict[str, Any], key: str, version: int = 1
    ) -> Send:
        headers = {
            "ce_specversion": "1.0",
            "ce_id": self._id(),
            "ce_type": kind,
            "ce_source": source,
            "ce_tenantid": tenant,
            "ce_time": self._at(),
            "ce_dataschema": f"urn:triplane:{kind}:{version}",
            "content-type": "application/json",
        }
        topic = f"{kind.split('.', maxsplit=1)[0]}.inbound"
        return Send(
            topic, key, [(name, text.encode()) for name, text in headers.items()], json.dumps(body).encode()
        )

    def _person(self, tenant: str) -> None:
        person = self._id()
        verified = self._verification(tenant, person)
        (self.expected.verified if verified else self.expected.unverified).setdefault(tenant, []).append(
            person
        )
        for product in self.random.sample(PRODUCTS, self.random.choice((0, 1, 1, 2))):
            self._payments(tenant, person, str(product))
        self._conversations(tenant)

    def _verification(self, tenant: str, person: str) -> bool:
        def say(kind: str, **body: Any) -> Send:
            return self._message(
                "accounts.example/signup", tenant, f"identity.{kind}", {"person_id": person, **body}, person
            )

        email_id, mobile_id, number = self._id(), self._id(), self.random.randrange(10**8, 10**9)
        if self.random.random() < 0.04:
            body = {"person_id": person, "verification_version": 1, "verified_at": self._at()}
            self._groups.append([self._message("idp.example", tenant, "identity.UserVerified", body, person)])
            return True
        name = self.random.choice(FIRST_NAMES)
        register_email = say("RegisterEmail", email_id=email_id, email=f"{name}.{person[:8]}@Example.COM")
        verify_email = say("VerifyEmail", email_id=email_id, verified_at=self._at())
        steps = [
            say("RegisterPerson", name=name),
            register_email,
            say("RegisterMobile", mobile_id=mobile_id, mobile=f"+49 151 {number}"[:16]),
            verify_email,
        ]
        if self.random.random() < 0.05:
            # Out of order: the proof comes before the address. It is refused, and sent again after a look at the answer.
            steps = [steps[0], say("VerifyEmail", email_id=email_id, verified_at=self._at()), *steps[1:]]
        proven = self.random.random() < 0.9
        if proven:
            steps.append(say("VerifyPhone", mobile_id=mobile_id, verified_at=self._at()))
            steps[-1].late = 0.4 if self.random.random() < 0.1 else 0.0
        self._groups.append(steps)
        return proven

    def _payments(self, tenant: str, person: str, product: str) -> None:
        payment, minor, currency = (
            self._id(),
            self.random.randrange(100, 20_000),
            self.random.choice(CURRENCIES),
        )
        amount = {"minor": minor, "currency": currency}
        worth = {"tenant": tenant, "person": person, "product": product, "currency": currency, "minor": minor}
        chance = self.random.random()
        if chance < 0.2:
            body = {
                "payment_id": payment,
                "customer_id": person,
                "product_id": product,
                "amount": amount,
                "provider": "terminal",
                "provider_ref": f"till-{payment[:13]}",
                "captured_at": self._at(),
            }
            self._groups.append(
                [self._message("tills.example", tenant, "payments.PaymentCompleted", body, payment)]
            )
            self.expected.completed[payment] = worth
            return
        declined = chance > 0.93
        method = "pm_card_chargeDeclined" if declined else "pm_card_visa"
        self._groups.append([self._charge(tenant, person, product, payment, amount, method)])
        if declined:
            self.expected.failed[payment] = tenant
            return
        self.expected.completed[payment] = worth
        if self.random.random() < 0.04:
            again = self._id()
            second = self._charge(tenant, person, product, again, amount, method)
            second.late = 0.8
            self._groups[-1].append(second)
            self.expected.completed[again] = worth
            # Whichever of the two is granted first, the other is refunded.
            self.expected.refunded.append(f"{payment}|{again}")

    def _charge(
        self, tenant: str, person: str, product: str, payment: str, amount: dict[str, Any], method: str
    ) -> Send:
        body = {
            "payment_id": payment,
            "customer_id": person,
            "product_id": product,
            "amount": amount,
            "payment_method": method,
        }
        return self._message("shop.example/checkout", tenant, "payments.InitiatePayment", body, payment)

    def _conversations(self, tenant: str) -> None:
        if self.random.random() < 0.4:
            return
        number = self.random.randrange(400)
        by_phone = number % 2 == 0
        contact = f"+2348{number:09d}" if by_phone else f"guest{number}@example.org"
        written = (
            contact if self.random.random() < 0.5 else f"+234 8{number:09d}" if by_phone else contact.upper()
        )
        for _ in range(self.random.choice((1, 1, 2))):
            conversation = self._id()
            body: dict[str, Any] = {
                "conversation_id": conversation,
                "occurred_at": self._at(),
                "name": "Guest",
            }
            body["phone" if by_phone else "email"] = written
            version = self.random.choice((1, 2))
            if version == 2:
                body["channel"] = self.random.choice(("web", "mobile", "chat"))
            send = self._message(
                "desk.example", tenant, "customers.RecordConversation", body, conversation, version
            )
            send.late = 0.3 if self.random.random() < 0.05 else 0.0
            self._groups.append([send])
            self.expected.conversations[conversation] = f"{tenant}/{contact}"

    # -- what is wrong with it --------------------------------------------------------------------------------------

    def _duplicate(self, count: int) -> None:
        """Send some records again, byte by byte: at once, or much later."""
        whole = [
            (group, send)
            for group in self._groups
            for send in group
            if ("ce_source", b"broken.example") not in send.headers
        ]
        for group, send in self.random.sample(whole, min(count, len(whole))):
            group.append(
                Send(send.topic, send.key, send.headers, send.value, late=self.random.choice((0.0, 0.5)))
            )
        self.expected.duplicates = min(count, len(whole))

    def _poison(self, count: int) -> None:
        for number in range(count):
            tenant, payment = self.random.choice(TENANTS), self._id()
            body = {
                "payment_id": payment,
                "customer_id": self._id(),
                "product_id": str(PRODUCTS[0]),
                "amount": {"minor": 100, "currency": "EUR"},
                "provider": "terminal",
                "provider_ref": "till-x",
                "captured_at": self._at(),
            }
            kind = number % 8
            wrong = {
                4: {"amount": {"minor": -5, "currency": "EUR"}},
                5: {"amount": {"minor": 12.5, "currency": "EUR"}},
            }
            version = 9 if kind == 3 else 1
            send = self._message(
                "broken.example",
                tenant,
                "payments.PaymentCompleted",
                {**body, **wrong.get(kind, {})},
                payment,
                version,
            )
            reason = "invalid_field"
            if kind == 0:
                send.value, reason = b'{"payment_id": "', "not_json"
            elif kind == 1:
                send.value, reason = None, "tombstone"
            elif kind == 2:
                send.headers, reason = [it for it in send.headers if it[0] != "ce_id"], "missing_attribute"
            elif kind == 3:
                reason = "unknown_version"
            elif kind == 6:
                send.headers = [
                    (n, b"payments.PaymentExploded" if n == "ce_type" else v)
                    for n, v in send.headers
                    if n != "ce_dataschema"
                ]
                reason = "unknown_type"
            elif kind == 7:
                send.headers = [(n, b"Nobody!" if n == "ce_tenantid" else v) for n, v in send.headers]
                reason = "tenant_id"
            self._groups.append([send])
            self.expected.poisoned[reason] = self.expected.poisoned.get(reason, 0) + 1


def main() -> None:
    """Produce the stream, saying how far it has come, a JSON line at a time."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--kafka", required=True)
    parser.add_argument("--events", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--expect", type=Path, required=True)
    wanted = parser.parse_args()
    stream = Stream(wanted.events, wanted.seed)
    producer = Producer(
        {
            "bootstrap.servers": wanted.kafka,
            "linger.ms": 5,
            "enable.idempotence": True,
            "acks": "all",
            "log_level": ERRORS,
        }
    )
    failures: list[str] = []

    def delivered(error: Any, _: Any) -> None:
        if error is not None:
            failures.append(str(error))

    sent, told = 0, time.monotonic()
    for send in stream:
        while True:
            try:
                producer.produce(
                    send.topic, send.value, key=send.key, headers=[*send.headers], on_delivery=delivered
                )
                break
            except BufferError:
                producer.poll(0.1)
        producer.poll(0)
        sent += 1
        if time.monotonic() - told > 0.2:
            told = time.monotonic()
            print(json.dumps({"sent": sent, "of": stream.expected.sent}), flush=True)
    producer.flush(60)
    wanted.expect.write_text(json.dumps(vars(stream.expected)), "utf-8")
    print(json.dumps({"sent": sent, "of": stream.expected.sent, "failures": failures[:5]}), flush=True)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
