"""Entitlements decides who has access to what: one grant for each person and product, taken back by its cause."""

from __future__ import annotations

from datetime import datetime

from pydantic import BaseModel, ConfigDict

from events import Key, PersonId, ProductId
from events.entitlements import (
    AccessGranted,
    AccessRefused,
    AccessRevoked,
    GrantAccess,
    RevocationRefused,
    RevokeAccess,
)
from events.payments import PaymentId
from handlers import Aggregate, Worker

worker = Worker("entitlements")


class Grant(BaseModel):
    """Access to one product, and its cause."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    product_id: ProductId
    payment_id: PaymentId | None
    onboarding_id: PersonId | None


class Entitlements(Aggregate):
    """All that one person has access to."""

    person_id: Key[PersonId]
    grants: tuple[Grant, ...] = ()
    spent: tuple[PaymentId, ...] = ()
    """Payments whose grant was taken back: they grant nothing again."""

    def held(self, product_id: ProductId) -> Grant | None:
        """Give the grant of a product, if there is one."""
        return next((grant for grant in self.grants if grant.product_id == product_id), None)

    def without(self, product_id: ProductId) -> tuple[Grant, ...]:
        """Give the grants of all other products."""
        return tuple(grant for grant in self.grants if grant.product_id != product_id)


@worker.on
def grant(asked: GrantAccess, entitlements: Entitlements, now: datetime) -> AccessGranted | AccessRefused:
    """Give access, unless there is access already or the payment has had its grant."""
    held = entitlements.held(asked.product_id) is not None
    if held or asked.payment_id in entitlements.spent:
        return AccessRefused(
            person_id=asked.person_id,
            product_id=asked.product_id,
            payment_id=asked.payment_id,
            onboarding_id=asked.onboarding_id,
            already_held=held,
            reason="product_id: the person has access already"
            if held
            else "payment_id: its grant was taken back",
        )
    return AccessGranted(
        person_id=asked.person_id,
        product_id=asked.product_id,
        payment_id=asked.payment_id,
        onboarding_id=asked.onboarding_id,
        granted_at=now,
    )


@worker.on
def revoke(
    asked: RevokeAccess, entitlements: Entitlements, now: datetime
) -> AccessRevoked | RevocationRefused:
    """Take access away, but never a grant that somebody else is the cause of."""
    held = entitlements.held(asked.product_id)
    uncaused = asked.payment_id is None and asked.onboarding_id is None
    if held is None or not (
        uncaused or (asked.payment_id == held.payment_id and asked.onboarding_id == held.onboarding_id)
    ):
        return RevocationRefused(
            person_id=asked.person_id,
            product_id=asked.product_id,
            payment_id=asked.payment_id,
            onboarding_id=asked.onboarding_id,
            reason="product_id: the person has no access"
            if held is None
            else "product_id: is granted for another cause",
        )
    return AccessRevoked(
        person_id=asked.person_id,
        product_id=asked.product_id,
        payment_id=held.payment_id,
        onboarding_id=held.onboarding_id,
        reason=asked.reason,
        revoked_at=now,
    )


@worker.evolves
def access_granted(entitlements: Entitlements, event: AccessGranted) -> Entitlements:
    """Have access."""
    granted = Grant(
        product_id=event.product_id, payment_id=event.payment_id, onboarding_id=event.onboarding_id
    )
    return entitlements.model_copy(update={"grants": (*entitlements.without(event.product_id), granted)})


@worker.evolves
def access_revoked(entitlements: Entitlements, event: AccessRevoked) -> Entitlements:
    """Have access no longer."""
    spent = () if event.payment_id is None else (event.payment_id,)
    return entitlements.model_copy(
        update={"grants": entitlements.without(event.product_id), "spent": (*entitlements.spent, *spent)}
    )
