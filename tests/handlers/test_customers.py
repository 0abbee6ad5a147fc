"""Customers: a conversation finds its customer by address, then by number; no contact ever has two customers."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from hypothesis import given, settings
from hypothesis import strategies as st

from events import CustomerId, erased
from events.customers import (
    ContactAdded,
    ContactId,
    ConversationId,
    ConversationRecorded,
    ConversationRefused,
    CustomerCreated,
    CustomerLinked,
    DuplicateSuspected,
    LinkMethod,
    RecordConversation,
)
from handlers.customers import Contact
from tests.given import NOON, Context, context, named, nth

ADA, BOB = "ada@example.org", "bob@example.org"
HOME, WORK = "+4930123456", "+4930123457"


def spoke(number: int, **contact: Any) -> RecordConversation:
    id_ = ConversationId(UUID(int=number))
    return RecordConversation.model_validate(
        {"conversation_id": id_, "channel": "web", "occurred_at": NOON, "name": "Ada", **contact}
    )


def links(customers: Context) -> list[tuple[CustomerId, LinkMethod]]:
    return [(fact.customer_id, fact.method) for fact in customers.answer if isinstance(fact, CustomerLinked)]


FIRST = CustomerId(nth(1))


def test_a_stranger_becomes_a_customer() -> None:
    conversation_id = ConversationId(UUID(int=1))
    context("customers").when(spoke(1, email=ADA, phone=HOME, session_id="s-1")).then(
        CustomerCreated(customer_id=FIRST, name="Ada", channel="web", created_at=NOON),
        ContactAdded(contact_id=ContactId(nth(2)), customer_id=FIRST, kind="email", value=ADA),
        ContactAdded(contact_id=ContactId(nth(3)), customer_id=FIRST, kind="phone", value=HOME),
        ConversationRecorded(
            conversation_id=conversation_id,
            customer_id=FIRST,
            channel="web",
            occurred_at=NOON,
            email=ADA,
            phone=HOME,
            name="Ada",
            session_id="s-1",
        ),
        CustomerLinked(conversation_id=conversation_id, customer_id=FIRST, method="created", linked_at=NOON),
    )


def test_a_customer_is_found_by_address_and_by_number() -> None:
    customers = context("customers").given(spoke(1, email=ADA, phone=HOME))
    assert links(customers.when(spoke(2, email=ADA))) == [(FIRST, "exact_email")]
    assert links(customers.when(spoke(3, phone=HOME))) == [(FIRST, "exact_phone")]
    assert links(customers.when(spoke(4, email=ADA, phone=HOME))) == [(FIRST, "exact_email")]
    assert named(customers.answer) == ["ConversationRecorded", "CustomerLinked"]


def test_a_contact_new_to_a_known_customer_is_theirs_from_now_on() -> None:
    customers = context("customers").given(spoke(1, email=ADA), spoke(2, email=ADA, phone=HOME))
    assert links(customers.when(spoke(3, phone=HOME))) == [(FIRST, "exact_phone")]
    assert links(customers.given(spoke(4, phone=HOME, email=BOB)).when(spoke(5, email=BOB))) == [
        (FIRST, "exact_email")
    ]


def test_contacts_of_two_customers_make_a_suspicion_and_no_merge() -> None:
    customers = (
        context("customers")
        .given(spoke(1, email=ADA), spoke(2, phone=HOME))
        .when(spoke(3, email=ADA, phone=HOME))
    )
    second = next(contact.customer_id for contact in customers.all_of(Contact) if contact.value == HOME)
    assert second is not None
    assert links(customers) == [(FIRST, "exact_email")]
    assert customers.answer[-1] == DuplicateSuspected(
        conversation_id=ConversationId(UUID(int=3)),
        customer_id=FIRST,
        other_customer_id=second,
        suspected_at=NOON,
    )


def test_a_conversation_is_recorded_once() -> None:
    customers = context("customers").given(spoke(1, email=ADA)).when(spoke(1, email=ADA))
    customers.refused(ConversationRefused, "conversation_id: is recorded already")
    customers.when(spoke(1, email=BOB)).refused(ConversationRefused, "conversation_id: is recorded already")


def test_an_erased_contact_finds_nobody_and_is_nobodys() -> None:
    customers = context("customers").when(spoke(1, email=erased))
    customers.refused(ConversationRefused, "email, phone: have been erased")
    customers.when(spoke(2, email=erased, phone=HOME))
    assert [fact.kind for fact in customers.answer if isinstance(fact, ContactAdded)] == ["phone"]


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from([None, ADA, BOB]), st.sampled_from([None, HOME, WORK])).filter(any),
        max_size=12,
    )
)
def test_no_contact_ever_has_two_customers(spoken: list[tuple[str | None, str | None]]) -> None:
    """Once a contact is known, every conversation with it goes to the same customer: by address first."""
    customers = context("customers")
    owners: dict[str, CustomerId] = {}
    created = 0
    for number, (email, phone) in enumerate(spoken, 1):
        contacts = [contact for contact in (email, phone) if contact is not None]
        ((linked, method),) = links(customers.when(spoke(number, email=email, phone=phone)))
        created += sum(isinstance(fact, CustomerCreated) for fact in customers.answer)
        assert linked == next((owners[contact] for contact in contacts if contact in owners), linked)
        assert (method == "created") == (not any(contact in owners for contact in contacts))
        for contact in contacts:
            owners.setdefault(contact, linked)
    assert {contact.value: contact.customer_id for contact in customers.all_of(Contact)} == owners
    assert created == len(set(owners.values()))
