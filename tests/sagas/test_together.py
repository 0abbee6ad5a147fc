"""Workers and sagas together, in any order and at any speed: every flow comes to an end, and the end is true."""

from __future__ import annotations

from collections import Counter
from random import Random
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from events import Message, Money, PersonId, ProductId
from events.accounts import AccountId, OpenAccount, SuspendAccount
from events.entitlements import TRIAL_PRODUCT, GrantAccess
from events.identity import EmailId, RegisterEmail, UserVerified
from events.payments import (
    PaymentCompleted,
    PaymentId,
    RecordPendingRefund,
    RecordRefund,
    RecordRefundDecline,
    RefundCompleted,
    RefundId,
    RefundRequested,
    RequestRefund,
)
from handlers.accounts import Account
from handlers.entitlements import Entitlements
from handlers.identity import Person
from handlers.payments.payment import Payment
from sagas.activation import Activated, Refunded, RefundStuck
from sagas.onboarding import Onboarded, Undone
from tests.given import NOON
from tests.sagas.platform import Platform

PEOPLE = [PersonId(UUID(int=number)) for number in (1, 2)]
PAYMENTS = [PaymentId(UUID(int=number)) for number in (11, 12, 13)]
BOOK = ProductId(UUID(int=21))


def verified(person_id: PersonId, version: int) -> UserVerified:
    return UserVerified(person_id=person_id, verification_version=version, verified_at=NOON)


def new_address(person_id: PersonId, number: int) -> RegisterEmail:
    address = f"{number}@{person_id.int}.example.org"
    return RegisterEmail(person_id=person_id, email_id=EmailId(UUID(int=100 + number)), email=address)


def upstream(random: Random, platform: Platform) -> None:
    """Let something happen outside: people are verified, change their address, open accounts themselves."""
    person_id = random.choice(PEOPLE)
    number = random.randrange(10**6)
    match random.randrange(6):
        case 0 | 1 | 2:
            platform.adopt(
                verified(
                    person_id, platform.context("identity").state(Person, person_id).verification_version + 1
                )
            )
        case 3 | 4:
            platform.send(new_address(person_id, number))
        case _:
            platform.send(OpenAccount(account_id=AccountId(UUID(int=number)), person_id=person_id))


@settings(max_examples=300, deadline=None)
@given(random=st.integers(0, 2**32).map(Random), slow=st.booleans())
def test_onboarding_ends_true_however_slow_everybody_is(random: Random, slow: bool) -> None:  # noqa: FBT001 - drawn
    platform = Platform(random)
    for _ in range(random.randrange(1, 8)):
        upstream(random, platform)
        for _ in range(random.randrange(12)):
            platform.step(deadlines=slow)
    platform.settle()

    accounts = {
        it.person_id: it for it in platform.context("accounts").all_of(Account) if it.person_id is not None
    }
    for person_id in PEOPLE:
        state = platform.states("sagas.onboarding").get(str(person_id))
        held = platform.context("entitlements").state(Entitlements, person_id).held(TRIAL_PRODUCT)
        verification = platform.context("identity").state(Person, person_id).verification
        if verification == "none":
            assert (state, held) == (None, None)
            continue
        assert isinstance(state, Onboarded | Undone), "every command is answered, so no flow waits for ever"
        if isinstance(state, Onboarded):
            assert verification == "standing"
            assert held is not None
            assert accounts[person_id].status == "active"
            assert accounts[person_id].account_id == state.case.account_id
        else:
            assert slow or verification == "revoked"
            assert held is None
            assert (
                person_id not in accounts
                or accounts[person_id].account_id != state.case.account_id
                or not state.case.ours
            )


def test_a_suspended_account_ends_an_onboarding_undone() -> None:
    platform = Platform(Random(1))
    (person_id, _) = PEOPLE
    platform.adopt(verified(person_id, 1))
    while not platform.context("accounts").all_of(Account):
        platform.step(deadlines=False)
    (account,) = platform.context("accounts").all_of(Account)
    platform.send(SuspendAccount(account_id=account.account_id, reason="fraud"))
    platform.settle()
    assert isinstance(platform.states("sagas.onboarding")[str(person_id)], Undone)
    assert platform.context("entitlements").state(Entitlements, person_id).grants == ()
    assert platform.context("accounts").state(Account, account.account_id).status == "closed"


def paid(payment_id: PaymentId, person_id: PersonId) -> PaymentCompleted:
    return PaymentCompleted(
        payment_id=payment_id,
        customer_id=person_id,
        product_id=BOOK,
        amount=Money(minor=1000, currency="EUR"),
        provider="stripe",
        provider_ref=f"pi_{payment_id.int}",
        captured_at=NOON,
    )


def provider(random: Random) -> Platform:
    """Give a platform whose provider refunds most of what it is asked for, and says everything twice."""

    def answers(fact: Message) -> list[Message]:
        if not isinstance(fact, RefundRequested):
            return []
        payment_id, refund_id = fact.payment_id, fact.refund_id
        pending = RecordPendingRefund(payment_id=payment_id, refund_id=refund_id, provider_refund_ref="re")
        done = RecordRefund(
            payment_id=payment_id,
            refund_id=refund_id,
            provider_refund_ref="re",
            amount=fact.amount,
            refunded_at=NOON,
        )
        declined = RecordRefundDecline(
            payment_id=payment_id,
            refund_id=refund_id,
            provider_refund_ref="re",
            code="expired",
            message="No.",
        )
        return random.choice(
            [[done, pending, done], [done, done], [pending, done, done], [declined, declined]]
        )

    return Platform(random, answers)


@settings(max_examples=300, deadline=None)
@given(random=st.integers(0, 2**32).map(Random), slow=st.booleans())
def test_activation_ends_with_access_or_the_money_back(random: Random, slow: bool) -> None:  # noqa: FBT001 - drawn
    platform = provider(random)
    for payment_id in PAYMENTS:
        platform.adopt(paid(payment_id, random.choice(PEOPLE)))
        if random.random() < 0.3:
            platform.send(
                RequestRefund(payment_id=payment_id, refund_id=RefundId(UUID(int=99)), reason="an operator's")
            )
        if random.random() < 0.2:
            platform.send(GrantAccess(person_id=random.choice(PEOPLE), product_id=BOOK))
        for _ in range(random.randrange(8)):
            platform.step(deadlines=slow)
    platform.settle()

    for payment_id in PAYMENTS:
        state = platform.states("sagas.activation")[str(payment_id)]
        payment = platform.context("payments").state(Payment, payment_id)
        assert payment.customer_id is not None
        held = platform.context("entitlements").state(Entitlements, payment.customer_id).held(BOOK)
        has_access = held is not None and held.payment_id == payment_id
        kept = payment.kept(payment.captures[0]).minor
        assert (type(state), has_access, kept > 0) in {
            (Activated, True, True),
            (Refunded, False, False),
            (RefundStuck, False, True),
        }
    refunds = Counter(
        (it.payment_id, it.refund_id) for it in platform.facts if isinstance(it, RefundCompleted)
    )
    assert all(times == 1 for times in refunds.values())
