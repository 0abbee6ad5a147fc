"""Entitlements: one grant for each person and product, which nobody but its cause or an operator takes back."""

from __future__ import annotations

from uuid import UUID

import pytest

from events import PersonId, ProductId
from events.entitlements import (
    AccessGranted,
    AccessRefused,
    AccessRevoked,
    GrantAccess,
    RevocationRefused,
    RevokeAccess,
)
from events.payments import PaymentId
from tests.given import NOON, context

ADA = PersonId(UUID(int=1))
BOOK, FILM = ProductId(UUID(int=11)), ProductId(UUID(int=12))
P1, P2 = PaymentId(UUID(int=21)), PaymentId(UUID(int=22))

PAID = GrantAccess(person_id=ADA, product_id=BOOK, payment_id=P1)
TRIED = GrantAccess(person_id=ADA, product_id=BOOK, onboarding_id=ADA)


def test_a_grant_repeats_its_cause() -> None:
    context("entitlements").when(PAID).then(
        AccessGranted(person_id=ADA, product_id=BOOK, payment_id=P1, onboarding_id=None, granted_at=NOON)
    )


def test_a_second_grant_of_a_product_is_refused_whatever_its_cause() -> None:
    context("entitlements").given(TRIED).when(PAID).then(
        AccessRefused(
            person_id=ADA,
            product_id=BOOK,
            payment_id=P1,
            onboarding_id=None,
            already_held=True,
            reason="product_id: the person has access already",
        )
    )


def test_products_are_granted_apart() -> None:
    entitlements = context("entitlements").given(PAID).when(GrantAccess(person_id=ADA, product_id=FILM))
    assert [type(fact) for fact in entitlements.answer] == [AccessGranted]


def test_a_payment_grants_once() -> None:
    revoked = RevokeAccess(person_id=ADA, product_id=BOOK, reason="refunded", payment_id=P1)
    entitlements = context("entitlements").given(PAID, revoked).when(PAID)
    entitlements.refused(AccessRefused, "payment_id: its grant was taken back")
    entitlements.when(GrantAccess(person_id=ADA, product_id=BOOK, payment_id=P2))
    assert [type(fact) for fact in entitlements.answer] == [AccessGranted]


def test_a_trial_may_be_granted_again() -> None:
    revoked = RevokeAccess(person_id=ADA, product_id=BOOK, reason="undone", onboarding_id=ADA)
    entitlements = context("entitlements").given(TRIED, revoked).when(TRIED)
    assert [type(fact) for fact in entitlements.answer] == [AccessGranted]


@pytest.mark.parametrize(
    "asked",
    [
        RevokeAccess(person_id=ADA, product_id=BOOK, reason="one", payment_id=P1),
        RevokeAccess(person_id=ADA, product_id=BOOK, reason="one"),
    ],
)
def test_a_grant_is_taken_back_by_its_cause_or_by_a_person(asked: RevokeAccess) -> None:
    context("entitlements").given(PAID).when(asked).then(
        AccessRevoked(
            person_id=ADA, product_id=BOOK, payment_id=P1, onboarding_id=None, reason="one", revoked_at=NOON
        )
    )


@pytest.mark.parametrize(
    "asked",
    [
        RevokeAccess(person_id=ADA, product_id=BOOK, reason="one", payment_id=P2),
        RevokeAccess(person_id=ADA, product_id=BOOK, reason="one", onboarding_id=ADA),
        RevokeAccess(person_id=ADA, product_id=BOOK, reason="one", payment_id=P1, onboarding_id=ADA),
    ],
)
def test_a_grant_of_another_cause_stays(asked: RevokeAccess) -> None:
    context("entitlements").given(PAID).when(asked).refused(RevocationRefused, "granted for another cause")


def test_what_is_not_granted_cannot_be_taken_back() -> None:
    asked = RevokeAccess(person_id=ADA, product_id=BOOK, reason="one")
    context("entitlements").when(asked).refused(RevocationRefused, "product_id: the person has no access")
