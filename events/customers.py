"""Customers: a tenant's contacts, found again by their e-mail address or phone number.

A customer is not a person of identity: nobody has proven anything. A contact (one address or one number) belongs to at
most one customer of a tenant.
"""

from __future__ import annotations

from typing import Final, Literal, NewType, Self, get_args
from uuid import UUID

from pydantic import model_validator

from events import (
    Command,
    CustomerId,
    EmailText,
    Event,
    Instant,
    Key,
    Past,
    Personal,
    PhoneText,
    Refusal,
    ShortText,
    Subject,
)

ConversationId = NewType("ConversationId", UUID)

ContactId = NewType("ContactId", UUID)
"""An e-mail address or phone number of a customer (random, says nothing of the contact)."""

Channel = Literal["web", "mobile", "api", "vendor", "chat"]

CHANNELS: Final = frozenset(get_args(Channel))
ContactKind = Literal["email", "phone"]

LinkMethod = Literal["exact_email", "exact_phone", "created"]
"""Why a conversation belongs to a customer: the same address, the same number, or the customer was made for it."""

_NO_CONTACT = "email or phone: one of them is needed, or the conversation cannot be linked to a customer"


class RecordConversation(Command, public=True, version=2):
    """Note that somebody got in touch, and link it to the customer who it was."""

    conversation_id: Key[Subject[ConversationId]]
    channel: Channel
    """Where it took place."""
    occurred_at: Instant
    email: Personal[EmailText] | None = None
    phone: Personal[PhoneText] | None = None
    name: Personal[ShortText] | None = None
    """What they called themselves."""
    session_id: ShortText | None = None
    """The sender's own name for the session."""

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.email is None and self.phone is None:
            raise ValueError(_NO_CONTACT)
        return self


class RecordConversationV1(Past, of="RecordConversation", version=1):
    """The same from the time when every conversation was a chat."""

    conversation_id: Key[Subject[ConversationId]]
    occurred_at: Instant
    email: Personal[EmailText] | None = None
    phone: Personal[PhoneText] | None = None
    name: Personal[ShortText] | None = None
    session_id: ShortText | None = None

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.email is None and self.phone is None:
            raise ValueError(_NO_CONTACT)
        return self

    def upcast(self) -> RecordConversation:
        """Say that it was a chat, unless the sender was ahead of its own version and said otherwise."""
        said = dict(self)
        channel = said.get("channel")
        return RecordConversation.model_validate(
            {**said, "channel": channel if isinstance(channel, str) and channel in CHANNELS else "chat"}
        )


class ConversationRecorded(Event):
    """Somebody got in touch. What they left of themselves is sealed with the key of the customer it belongs to."""

    conversation_id: Key[ConversationId]
    customer_id: Subject[CustomerId]
    channel: Channel
    occurred_at: Instant
    email: Personal[EmailText] | None
    phone: Personal[PhoneText] | None
    name: Personal[ShortText] | None
    session_id: ShortText | None


class CustomerCreated(Event):
    """The tenant has a new customer."""

    customer_id: Key[Subject[CustomerId]]
    name: Personal[ShortText] | None
    channel: Channel
    """Where the customer first got in touch."""
    created_at: Instant


class ContactAdded(Event):
    """The customer can be found by this contact, and nobody else can."""

    contact_id: Key[ContactId]
    customer_id: Subject[CustomerId]
    kind: ContactKind
    value: Personal[str]
    """The address or number, normalised."""


class CustomerLinked(Event):
    """The conversation belongs to the customer."""

    conversation_id: Key[ConversationId]
    customer_id: CustomerId
    method: LinkMethod
    linked_at: Instant


class DuplicateSuspected(Event):
    """Address and number of one conversation belong to two customers, who may be one. The address decided the link."""

    conversation_id: Key[ConversationId]
    customer_id: CustomerId
    """Whom the conversation was linked to."""
    other_customer_id: CustomerId
    suspected_at: Instant


class ConversationRefused(Refusal):
    """The conversation was not recorded."""

    conversation_id: Key[ConversationId]
