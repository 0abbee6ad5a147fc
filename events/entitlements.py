"""Entitlements: which person has access to which product, and thanks to what.

A grant names its cause: a payment, an onboarding, or neither (a person decided it). Events repeat the cause, so that
each flow sees its own answers only.
"""

from __future__ import annotations

from uuid import UUID

from events import Command, Event, Instant, Key, PersonId, ProductId, Refusal, ShortText
from events.payments import PaymentId

TRIAL_PRODUCT = ProductId(UUID("7a1e0000-0000-4000-8000-000000000001"))
"""What every verified person may try for free."""


class GrantAccess(Command, public=True):
    """Give a person access to a product. Who has it already gets no second grant; a payment grants once."""

    person_id: Key[PersonId]
    product_id: ProductId
    payment_id: PaymentId | None = None
    """The payment that it is granted for."""
    onboarding_id: PersonId | None = None
    """The person whose onboarding grants it."""


class RevokeAccess(Command, public=True):
    """Take access away. With a cause, only the grant of that cause; without, whatever grant there is."""

    person_id: Key[PersonId]
    product_id: ProductId
    reason: ShortText
    payment_id: PaymentId | None = None
    onboarding_id: PersonId | None = None


class AccessGranted(Event):
    """The person has access to the product."""

    person_id: Key[PersonId]
    product_id: ProductId
    payment_id: PaymentId | None
    onboarding_id: PersonId | None
    granted_at: Instant


class AccessRevoked(Event):
    """The person no longer has access to the product. The cause is the one of the grant that ended."""

    person_id: Key[PersonId]
    product_id: ProductId
    payment_id: PaymentId | None
    onboarding_id: PersonId | None
    reason: ShortText
    revoked_at: Instant


class AccessRefused(Refusal):
    """No grant was made."""

    person_id: Key[PersonId]
    product_id: ProductId
    payment_id: PaymentId | None
    onboarding_id: PersonId | None
    already_held: bool
    """Whether the person has access all the same, by an earlier grant."""


class RevocationRefused(Refusal):
    """There was no such grant to take away."""

    person_id: Key[PersonId]
    product_id: ProductId
    payment_id: PaymentId | None
    onboarding_id: PersonId | None
