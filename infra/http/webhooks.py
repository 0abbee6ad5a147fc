"""`POST /webhooks/stripe`: signed news from the provider, stored before anything is made of it, and made nothing of twice.

A webhook is a hint. In the transaction that stores it payments is told to look at the provider; what is found there
counts, in whatever order webhooks come.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import structlog
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from events import Command
from events.payments import CheckPayment, CheckRefund, PaymentId, RefundId
from infra.errors import Unacceptable
from infra.http.bodies import is_json, media_type, read_body
from infra.http.problems import Problem
from infra.http.services import Services, services_of
from infra.runtime.messages.codec import explain
from infra.runtime.messages.envelope import TENANT, Envelope
from infra.runtime.messages.ids import derived_id, source_of
from infra.runtime.publishing import outbox
from infra.runtime.publishing.outbox import Outgoing
from infra.stripe import webhooks
from infra.stripe.webhooks import Fact, Ignored, Parked, RefundUpdated, StripeEvent, WebhookRefused

log = structlog.get_logger(__name__)

PROVIDER: Final = "stripe"
SOURCE: Final = source_of("intake")
_LIVE_KEYS: Final = ("sk_live", "rk_live")


async def post_stripe(request: Request) -> Response:
    """Take a webhook of Stripe: 2xx only once it is committed."""
    services = services_of(request)
    if not is_json(media_type(request)):
        raise Problem(415, "content_type", "content-type: webhooks are application/json")
    raw = await read_body(request, limit=webhooks.BODY_LIMIT)
    event = _verified(services, raw, request.headers.getlist("stripe-signature"))
    outcome = await store(services, event, raw)
    services.metrics.webhooks.labels(PROVIDER, outcome).inc()
    return Response(f'{{"received":true,"outcome":"{outcome}"}}', 200, media_type="application/json")


def _verified(services: Services, raw: bytes, signatures: list[str]) -> StripeEvent:
    settings = services.settings
    secrets = [secret.strip() for secret in settings.stripe_webhook_secret.split(",")]
    try:
        return webhooks.verify(
            raw,
            ",".join(signatures),
            secrets,
            time.time(),
            livemode=settings.stripe_api_key.startswith(_LIVE_KEYS),
        )
    except WebhookRefused as refused:
        services.metrics.webhooks.labels(PROVIDER, refused.reason).inc()
        (log.error if refused.alarm else log.warning)(
            "webhook refused", provider=PROVIDER, reason=str(refused)
        )
        raise Problem(400, refused.reason, "the request is no webhook of ours; nothing was stored") from None


async def store(services: Services, event: StripeEvent, raw: bytes) -> str:
    """Store the event with what follows from it, in one transaction; a known one changes nothing."""
    now = datetime.now(UTC)
    fact = webhooks.facts(event)
    standing, detail, outgoing = await _consequence(services, event, fact, now)
    async with services.intake.transaction() as tx:
        stored = await tx.fetch(
            """INSERT INTO webhooks (provider, event_id, type, body, standing, detail) VALUES ($1, $2, $3, $4, $5, $6)
               ON CONFLICT DO NOTHING RETURNING 1""",
            PROVIDER,
            event.id[:255],
            event.type[:255],
            raw,
            standing,
            detail,
        )
        if stored and outgoing is not None:
            await outbox.write(tx, [outgoing])
    if not stored:
        return "duplicate"
    if outgoing is not None:
        services.wakeups.poke(services.intake)
    if standing == "parked":
        log.error("webhook parked", provider=PROVIDER, id=event.id, type=event.type, detail=detail)
    return standing


async def _consequence(
    services: Services, event: StripeEvent, fact: Fact, now: datetime
) -> tuple[str, str | None, Outgoing | None]:
    match fact:
        case Ignored():
            return "ignored", None, None
        case Parked(reason):
            return "parked", reason[:2000], None
        case _:
            pass
    if not TENANT.match(fact.tenant):
        return "parked", "metadata.tenant: is no tenant id", None
    try:
        await services.admission.tenancy.admit(fact.tenant)
        command = (
            CheckRefund(
                payment_id=PaymentId(fact.payment_id),
                refund_id=RefundId(fact.refund_id),
                provider_ref=fact.provider_ref,
            )
            if isinstance(fact, RefundUpdated)
            else CheckPayment(payment_id=PaymentId(fact.payment_id), provider_ref=fact.provider_ref)
        )
    except Unacceptable as wrong:
        return "parked", wrong.detail, None
    except ValidationError as wrong:
        return "parked", explain(wrong), None
    return "forwarded", None, _outgoing(services, event, fact.tenant, fact.payment_id, command, now)


def _outgoing(
    services: Services, event: StripeEvent, tenant: str, payment_id: UUID, command: Command, now: datetime
) -> Outgoing:
    contract = services.catalog.of(type(command))
    message_id = derived_id("intake", tenant, PROVIDER, event.id)
    envelope = Envelope(
        id=str(message_id),
        type=contract.name,
        source=SOURCE,
        tenant=tenant,
        version=contract.current,
        time=now,
        correlation=str(payment_id),
        causation=event.id if event.id.isprintable() and len(event.id) <= 255 else None,
    )
    body = services.admission.codec.encode(contract, tenant, command)
    return Outgoing(message_id, contract.topic, str(payment_id), envelope, body)
