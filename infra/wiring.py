"""The one place where ports meet their implementations."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.payments.provider import PaymentProvider
from infra.settings import Settings
from infra.stripe.provider import StripeProvider


def ports(settings: Settings) -> Mapping[type, object]:
    """Implement every port that an `async def` handler asks for."""
    return {PaymentProvider: StripeProvider(settings.stripe_api_key, api_base=settings.stripe_api_base)}
