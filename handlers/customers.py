"""Customers decides who a conversation was with: the customer who owns its contact, or a new one; never two for one."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from events import Claim, CustomerId, Erased, Key, Personal, ShortText, Subject
from events.customers import (
    ContactAdded,
    ContactId,
    ContactKind,
    ConversationId,
    ConversationRecorded,
    ConversationRefused,
    CustomerCreated,
    CustomerLinked,
    DuplicateSuspected,
    LinkMethod,
    RecordConversation,
)
from handlers import Aggregate, Holder, NewId, Worker

worker = Worker("customers")


class Customer(Aggregate):
    """Somebody who got in touch."""

    customer_id: Key[Subject[CustomerId]]
    name: Personal[ShortText] | None = None


class Contact(Aggregate):
    """One e-mail address or phone number. The claim on its value is what keeps it from having two customers."""

    contact_id: Key[ContactId]
    customer_id: Subject[CustomerId | None] = None
    value: Claim[Personal[str] | None] = None


class Conversation(Aggregate):
    """One conversation, and whom it was with."""

    conversation_id: Key[ConversationId]
    customer_id: CustomerId | None = None


Recorded = ConversationRecorded | CustomerCreated | ContactAdded | CustomerLinked | DuplicateSuspected


@worker.on
def record(
    asked: RecordConversation,
    conversation: Conversation,
    email: Annotated[Contact | None, Holder("email", "value")],
    phone: Annotated[Contact | None, Holder("phone", "value")],
    new_id: NewId,
    now: datetime,
) -> tuple[Recorded | ConversationRefused, ...]:
    """Link the conversation by e-mail address, else by phone number, else to a new customer.

    A contact that nobody has yet becomes the customer's. One that another customer has stays theirs: the two are
    suspected to be one.
    """
    if conversation.customer_id is not None:
        return (
            _refused(asked, f"conversation_id: is recorded already, of customer {conversation.customer_id}"),
        )
    address, number = _readable(asked.email), _readable(asked.phone)
    if address is None and number is None:
        return (_refused(asked, "email, phone: have been erased"),)

    by_email, by_phone = _owner(email), _owner(phone)
    known = by_email or by_phone
    customer_id = known or CustomerId(new_id())
    method: LinkMethod = "exact_email" if by_email else "exact_phone" if by_phone else "created"

    facts: list[Recorded] = []
    if known is None:
        facts.append(_created(asked, customer_id, now))
    if by_email is None and address is not None:
        facts.append(_added(ContactId(new_id()), customer_id, "email", address))
    if by_phone is None and number is not None:
        facts.append(_added(ContactId(new_id()), customer_id, "phone", number))
    facts.append(_recorded(asked, customer_id))
    facts.append(_linked(asked.conversation_id, customer_id, method, now))
    if by_phone is not None and by_phone != customer_id:
        facts.append(_suspected(asked.conversation_id, customer_id, by_phone, now))
    return tuple(facts)


@worker.evolves
def customer_created(customer: Customer, event: CustomerCreated) -> Customer:
    """Be called what they called themselves first."""
    return customer.model_copy(update={"name": event.name})


@worker.evolves
def contact_added(contact: Contact, event: ContactAdded) -> Contact:
    """Belong to the customer, and hold the value."""
    return contact.model_copy(update={"customer_id": event.customer_id, "value": event.value})


@worker.evolves
def conversation_recorded(conversation: Conversation, event: ConversationRecorded) -> Conversation:
    """Be the customer's."""
    return conversation.model_copy(update={"customer_id": event.customer_id})


@worker.evolves
def customer_linked(conversation: Conversation, event: CustomerLinked) -> Conversation:
    """Be the customer's."""
    return conversation.model_copy(update={"customer_id": event.customer_id})


@worker.evolves
def duplicate_suspected(conversation: Conversation, _event: DuplicateSuspected) -> Conversation:
    """A suspicion changes nothing."""
    return conversation


def _owner(contact: Contact | None) -> CustomerId | None:
    return contact.customer_id if contact is not None else None


def _readable(value: Personal[str] | None) -> str | None:
    return None if isinstance(value, Erased) else value


def _created(asked: RecordConversation, customer_id: CustomerId, now: datetime) -> CustomerCreated:
    return CustomerCreated(customer_id=customer_id, name=asked.name, channel=asked.channel, created_at=now)


def _added(contact_id: ContactId, customer_id: CustomerId, kind: ContactKind, value: str) -> ContactAdded:
    return ContactAdded(contact_id=contact_id, customer_id=customer_id, kind=kind, value=value)


def _recorded(asked: RecordConversation, customer_id: CustomerId) -> ConversationRecorded:
    return ConversationRecorded(
        conversation_id=asked.conversation_id,
        customer_id=customer_id,
        channel=asked.channel,
        occurred_at=asked.occurred_at,
        email=asked.email,
        phone=asked.phone,
        name=asked.name,
        session_id=asked.session_id,
    )


def _linked(
    conversation_id: ConversationId, customer_id: CustomerId, method: LinkMethod, now: datetime
) -> CustomerLinked:
    return CustomerLinked(
        conversation_id=conversation_id, customer_id=customer_id, method=method, linked_at=now
    )


def _suspected(
    conversation_id: ConversationId, customer_id: CustomerId, other_id: CustomerId, now: datetime
) -> DuplicateSuspected:
    return DuplicateSuspected(
        conversation_id=conversation_id, customer_id=customer_id, other_customer_id=other_id, suspected_at=now
    )


def _refused(asked: RecordConversation, reason: str) -> ConversationRefused:
    return ConversationRefused(conversation_id=asked.conversation_id, reason=reason)
