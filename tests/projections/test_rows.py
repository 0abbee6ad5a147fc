"""What each read model says of a history."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from events import CustomerId, Message, Money, PersonId, ProductId
from events.accounts import (
    AccountActivated,
    AccountClosed,
    AccountId,
    AccountOpened,
    AccountReinstated,
    AccountSuspended,
)
from events.customers import ConversationId, ConversationRecorded, CustomerLinked, DuplicateSuspected
from events.entitlements import TRIAL_PRODUCT, AccessGranted, AccessRevoked
from events.identity import (
    EmailId,
    EmailRegistered,
    EmailVerified,
    MobileId,
    MobileRegistered,
    PhoneVerified,
    UserVerified,
    VerificationRevoked,
)
from events.payments import (
    PaymentCancelled,
    PaymentCompleted,
    PaymentFailed,
    PaymentId,
    PaymentInitiated,
    PaymentMismatchDetected,
    PaymentPending,
    RefundCompleted,
    RefundFailed,
    RefundId,
    RefundRequested,
    SurplusCaptured,
)
from events.sagas import SagaAdvanced
from projections.onboarding_progress import Progress
from tests.given import NOON, minutes
from tests.projections.folding import row_of, rows_of
from tests.strategies import interleaved

ADA, BOOK = PersonId(UUID(int=1)), ProductId(UUID(int=2))
PAYMENT, OTHER_PAYMENT, REFUND = PaymentId(UUID(int=11)), PaymentId(UUID(int=12)), RefundId(UUID(int=13))
E1, E2, M1 = EmailId(UUID(int=21)), EmailId(UUID(int=22)), MobileId(UUID(int=23))
A1, A2 = AccountId(UUID(int=31)), AccountId(UUID(int=32))


def euros(minor: int) -> Money:
    return Money(minor=minor, currency="EUR")


def paid(
    minor: int = 1000, payment_id: PaymentId = PAYMENT, at: datetime = NOON, currency: str = "EUR"
) -> PaymentCompleted:
    return PaymentCompleted(
        payment_id=payment_id,
        customer_id=ADA,
        product_id=BOOK,
        amount=Money(minor=minor, currency=currency),
        provider="stripe",
        provider_ref="pi_1",
        captured_at=at,
    )


def refund_due(minor: int) -> RefundRequested:
    return RefundRequested(
        payment_id=PAYMENT,
        refund_id=REFUND,
        customer_id=ADA,
        amount=euros(minor),
        provider="stripe",
        provider_ref="pi_1",
        reason="asked",
        requested_at=minutes(5),
    )


def refunded(minor: int) -> RefundCompleted:
    return RefundCompleted(
        payment_id=PAYMENT,
        refund_id=REFUND,
        customer_id=ADA,
        amount=euros(minor),
        kept=euros(0),
        activation_id=PAYMENT,
        refunded_at=minutes(6),
    )


def refund_failed(minor: int, **changed: Any) -> RefundFailed:
    return RefundFailed.model_validate(
        {
            "payment_id": PAYMENT,
            "refund_id": REFUND,
            "customer_id": ADA,
            "amount": euros(minor),
            "was": "requested",
            "code": "expired",
            "message": "Card expired.",
            "activation_id": PAYMENT,
            "failed_at": minutes(7),
            **changed,
        }
    )


SURPLUS = SurplusCaptured(
    payment_id=PAYMENT,
    customer_id=ADA,
    amount=euros(1000),
    provider="stripe",
    provider_ref="pi_2",
    captured_at=NOON,
)
MISMATCH = PaymentMismatchDetected(
    payment_id=PAYMENT,
    customer_id=ADA,
    concerns="capture",
    expected=euros(1000),
    observed=euros(900),
    provider="stripe",
    provider_ref="pi_1",
    detected_at=NOON,
)


def holds(row: dict[str, Any], **columns: Any) -> None:
    assert {name: row[name] for name in columns} == columns


# -- verification_status --------------------------------------------------------------------------------------------------

ADDRESS = EmailRegistered(person_id=ADA, email_id=E1, email="ada@example.org")
NUMBER = MobileRegistered(person_id=ADA, mobile_id=M1, mobile="+4930123456")
ADDRESS_PROVEN = EmailVerified(person_id=ADA, email_id=E1, verified_at=NOON)
NUMBER_PROVEN = PhoneVerified(person_id=ADA, mobile_id=M1, verified_at=NOON)


def verified(version: int = 1, at: datetime = NOON) -> UserVerified:
    return UserVerified(
        person_id=ADA, verification_version=version, verified_at=at, email_id=E1, mobile_id=M1
    )


def revoked(version: int = 1, at: datetime = NOON) -> VerificationRevoked:
    return VerificationRevoked(person_id=ADA, verification_version=version, changed="email", revoked_at=at)


def test_verification_grows_contact_by_contact() -> None:
    one = row_of("verification_status", ADDRESS, NUMBER, ADDRESS_PROVEN)
    holds(one, status="unverified", email_verified=True, mobile_verified=False, verification_version=0)
    both = row_of("verification_status", ADDRESS, NUMBER, ADDRESS_PROVEN, NUMBER_PROVEN, verified())
    holds(
        both,
        status="verified",
        mobile_verified=True,
        verification_version=1,
        verified_at=NOON,
        revoked_at=None,
    )


def test_a_changed_address_is_unproven_and_the_verification_over() -> None:
    new = EmailRegistered(person_id=ADA, email_id=E2, email="ada@example.net")
    row = row_of("verification_status", verified(), new, revoked(at=minutes(1)))
    holds(
        row, status="revoked", email_id=E2, email_verified=False, mobile_verified=True, revoked_at=minutes(1)
    )
    holds(
        row_of("verification_status", verified(), new, revoked(), verified(2)),
        status="verified",
        revoked_at=None,
    )


# -- customer_access ------------------------------------------------------------------------------------------------------


def granted(product_id: ProductId = BOOK, at: datetime = NOON) -> AccessGranted:
    return AccessGranted(
        person_id=ADA, product_id=product_id, payment_id=PAYMENT, onboarding_id=None, granted_at=at
    )


def taken(product_id: ProductId = BOOK, at: datetime = NOON) -> AccessRevoked:
    return AccessRevoked(
        person_id=ADA,
        product_id=product_id,
        payment_id=PAYMENT,
        onboarding_id=None,
        reason="refunded",
        revoked_at=at,
    )


def test_access_is_a_row_for_each_product_and_knows_how_it_ended() -> None:
    assert len(rows_of("customer_access", granted(), granted(TRIAL_PRODUCT))) == 2
    row = row_of("customer_access", granted(), taken(at=minutes(2)))
    holds(row, status="revoked", granted_at=NOON, revoked_at=minutes(2), revoked_because="refunded")
    again = row_of("customer_access", granted(), taken(), granted(at=minutes(3)))
    holds(again, status="granted", granted_at=minutes(3), revoked_at=None, revoked_because=None)


# -- payment_history ------------------------------------------------------------------------------------------------------

INITIATED = PaymentInitiated(
    payment_id=PAYMENT,
    customer_id=ADA,
    product_id=BOOK,
    amount=euros(1000),
    payment_method="pm",
    initiated_at=NOON,
)


def test_a_payment_shows_how_far_it_came() -> None:
    pending = PaymentPending(
        payment_id=PAYMENT, provider="stripe", provider_ref="pi_1", waits_for="requires_action"
    )
    failed = PaymentFailed(
        payment_id=PAYMENT, customer_id=ADA, code="declined", message="No.", retryable=False, failed_at=NOON
    )
    cancelled = PaymentCancelled(
        payment_id=PAYMENT, customer_id=ADA, provider_ref=None, reason="asked", cancelled_at=NOON
    )
    holds(
        row_of("payment_history", INITIATED),
        status="initiated",
        amount_minor=1000,
        currency="EUR",
        captured_minor=0,
    )
    holds(row_of("payment_history", INITIATED, pending), status="pending", provider_ref="pi_1")
    holds(row_of("payment_history", INITIATED, failed), status="failed", failure="declined")
    holds(
        row_of("payment_history", INITIATED, failed, paid()),
        status="completed",
        failure=None,
        captured_minor=1000,
    )
    holds(row_of("payment_history", INITIATED, cancelled), status="cancelled")
    holds(row_of("payment_history", INITIATED, cancelled, SURPLUS), status="cancelled", captured_minor=1000)
    holds(
        row_of("payment_history", INITIATED, MISMATCH),
        status="mismatched",
        amount_minor=1000,
        captured_minor=900,
    )
    holds(row_of("payment_history", paid()), status="completed", initiated_at=None)


def test_a_payment_shows_what_goes_back() -> None:
    due = row_of("payment_history", paid(), refund_due(400))
    holds(due, refund_due_minor=400, refunded_minor=0)
    holds(
        row_of("payment_history", paid(), refund_due(400), refunded(400)),
        refund_due_minor=0,
        refunded_minor=400,
    )
    failed = row_of("payment_history", paid(), refund_due(400), refund_failed(400))
    holds(failed, refund_due_minor=0, refunded_minor=0, failure="expired")
    returned = row_of(
        "payment_history", paid(), refund_due(400), refunded(400), refund_failed(400, was="completed")
    )
    holds(returned, refund_due_minor=0, refunded_minor=0)


# -- customer_spend -------------------------------------------------------------------------------------------------------


def test_spend_is_summed_for_each_currency() -> None:
    rows = rows_of(
        "customer_spend", paid(1000), paid(500, OTHER_PAYMENT, minutes(9)), paid(70, PAYMENT, currency="JPY")
    )
    assert len(rows) == 2
    holds(
        dict(rows[0]),
        spent_minor=1500,
        payments=2,
        first_paid_at=NOON,
        last_paid_at=minutes(9),
        currency="EUR",
    )
    holds(dict(rows[1]), spent_minor=70, payments=1, currency="JPY")


def test_what_goes_back_is_not_spent() -> None:
    holds(
        row_of("customer_spend", paid(), refunded(400)),
        spent_minor=600,
        captured_minor=1000,
        refunded_minor=400,
    )
    holds(row_of("customer_spend", paid(), refund_failed(400)), spent_minor=1000)
    holds(
        row_of("customer_spend", paid(), refunded(400), refund_failed(400, was="completed")), spent_minor=1000
    )
    holds(row_of("customer_spend", SURPLUS, refunded(1000)), spent_minor=0, captured_minor=1000, payments=0)
    holds(row_of("customer_spend", MISMATCH, refunded(900)), spent_minor=0, captured_minor=900, payments=0)


# -- conversation_links ---------------------------------------------------------------------------------------------------


def test_a_conversation_shows_whom_it_was_with_and_why() -> None:
    conversation, ours, theirs = (
        ConversationId(UUID(int=41)),
        CustomerId(UUID(int=42)),
        CustomerId(UUID(int=43)),
    )
    recorded = ConversationRecorded(
        conversation_id=conversation,
        customer_id=ours,
        channel="chat",
        occurred_at=NOON,
        email="ada@example.org",
        phone=None,
        name="Ada",
        session_id=None,
    )
    linked = CustomerLinked(
        conversation_id=conversation, customer_id=ours, method="exact_email", linked_at=minutes(1)
    )
    suspected = DuplicateSuspected(
        conversation_id=conversation, customer_id=ours, other_customer_id=theirs, suspected_at=minutes(1)
    )
    row = row_of("conversation_links", recorded, linked, suspected)
    holds(
        row, customer_id=ours, method="exact_email", name="Ada", email="ada@example.org", linked_at=minutes(1)
    )
    holds(row, suspected_duplicate_id=theirs)


# -- onboarding_progress --------------------------------------------------------------------------------------------------


def opened(account_id: AccountId, at: datetime) -> AccountOpened:
    return AccountOpened(account_id=account_id, person_id=ADA, onboarding_id=ADA, opened_at=at)


def activated(account_id: AccountId, at: datetime) -> AccountActivated:
    return AccountActivated(account_id=account_id, person_id=ADA, onboarding_id=ADA, activated_at=at)


def closed(account_id: AccountId, at: datetime) -> AccountClosed:
    return AccountClosed(
        account_id=account_id, person_id=ADA, reason="undone", onboarding_id=ADA, closed_at=at
    )


def stage(*events: Message) -> str:
    return str(row_of("onboarding_progress", *events)["stage"])


def test_onboarding_is_shown_step_by_step() -> None:
    steps = [verified(), opened(A1, minutes(1)), granted(TRIAL_PRODUCT), activated(A1, minutes(3))]
    stages = [stage(*steps[:number]) for number in range(1, 5)]
    assert stages == ["verified", "account_opened", "trial_granted", "onboarded"]
    assert stage(*steps, revoked()) == "undone"
    assert stage(*steps, closed(A1, minutes(9))) == "undone"


def test_a_suspended_account_is_not_onboarded_until_it_is_lifted() -> None:
    steps = [verified(), opened(A1, NOON), granted(TRIAL_PRODUCT), activated(A1, NOON)]
    suspended = AccountSuspended(account_id=A1, person_id=ADA, reason="fraud", suspended_at=NOON)
    lifted = AccountReinstated(account_id=A1, person_id=ADA, reason="cleared", reinstated_at=NOON)
    assert stage(*steps, suspended) == "trial_granted"
    assert stage(*steps, suspended, lifted) == "onboarded"


def test_another_product_is_no_trial() -> None:
    assert rows_of("onboarding_progress", granted(BOOK), taken(BOOK)) == []


TWICE: list[Message] = [
    verified(1),
    opened(A1, minutes(1)),
    granted(TRIAL_PRODUCT, minutes(2)),
    activated(A1, minutes(3)),
    revoked(1, minutes(4)),
    taken(TRIAL_PRODUCT, minutes(5)),
    closed(A1, minutes(6)),
    verified(2, minutes(7)),
    opened(A2, minutes(8)),
    granted(TRIAL_PRODUCT, minutes(9)),
    activated(A2, minutes(10)),
]


@given(interleaved(TWICE))
def test_a_second_onboarding_shows_the_same_however_the_streams_interleave(heard: list[Message]) -> None:
    (row,) = rows_of("onboarding_progress", *heard)
    assert row == Progress(
        person_id=ADA,
        stage="onboarded",
        verification_version=2,
        verified_at=minutes(7),
        account_id=A2,
        account_opened_at=minutes(8),
        account_activated_at=minutes(10),
        trial_granted_at=minutes(9),
    )


# -- saga_instances -------------------------------------------------------------------------------------------------------


def advanced(step: int, entered: str, **changed: Any) -> SagaAdvanced:
    return SagaAdvanced.model_validate(
        {
            "instance_id": UUID(int=51),
            "saga": "activation",
            "correlation": str(PAYMENT),
            "step": step,
            "entered": entered,
            "was": None,
            "because": "payments.PaymentCompleted",
            "commands": ["entitlements.GrantAccess"],
            "ended": False,
            "compensated": False,
            "stuck": False,
            "due_at": minutes(15),
            "at": minutes(step),
            **changed,
        }
    )


@given(st.integers(min_value=2, max_value=9))
def test_an_instance_shows_where_it_stands(step: int) -> None:
    ended: dict[str, Any] = {"ended": True, "due_at": None, "commands": []}
    begun = row_of("saga_instances", advanced(1, "Granting"))
    holds(begun, outcome="under_way", state="Granting", due_at=minutes(15), began_at=minutes(1))
    done = row_of("saga_instances", advanced(1, "Granting"), advanced(step, "Activated", **ended))
    holds(done, outcome="done", steps=step, began_at=minutes(1), stepped_at=minutes(step), due_at=None)
    undone = row_of("saga_instances", advanced(step, "Refunded", **ended, compensated=True))
    holds(undone, outcome="compensated")
    holds(row_of("saga_instances", advanced(step, "RefundStuck", stuck=True)), outcome="stuck")
