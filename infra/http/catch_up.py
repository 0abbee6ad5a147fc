"""Webhooks that never arrived are asked for: the provider lists the events that it could not deliver.

They go the way of a webhook, so one that arrives after all changes nothing.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from pydantic_core import to_json

from handlers import OutcomeUnknown, Unavailable
from infra.http.services import Services
from infra.http.webhooks import PROVIDER, store
from infra.postgres.database import TRANSIENT
from infra.stripe.provider import StripeProvider

log = structlog.get_logger(__name__)

EVERY_S: Final = 300.0
BACK: Final = timedelta(days=3)
"""How long the provider itself goes on trying: what it has given up by then is found here before."""
PASSING: tuple[type[BaseException], ...] = (*TRANSIENT, Unavailable, OutcomeUnknown)


async def catch_up(services: Services) -> None:
    """Take in what the provider could not deliver, every five minutes, until cancelled."""
    settings = services.settings
    provider = StripeProvider(settings.stripe_api_key, api_base=settings.stripe_api_base)
    try:
        while True:
            await asyncio.sleep(EVERY_S)
            try:
                found = await take_missed(services, provider)
            except PASSING as away:
                log.warning("missed webhooks not listed", provider=PROVIDER, error=repr(away))
            else:
                if found:
                    log.warning("missed webhooks taken in", provider=PROVIDER, count=found)
    finally:
        await provider.aclose()


async def take_missed(services: Services, provider: StripeProvider) -> int:
    """Take in the undelivered events of the last days; give how many were new."""
    new = 0
    async for event in provider.missed_events(datetime.now(UTC) - BACK):
        body = {
            "id": event.id,
            "type": event.type,
            "created": event.created,
            "api_version": event.api_version,
            "livemode": event.livemode,
            "data": {"object": dict(event.object)},
        }
        outcome = await store(services, event, to_json(body))
        services.metrics.webhooks.labels(PROVIDER, f"missed_{outcome}").inc()
        new += outcome != "duplicate"
    return new
