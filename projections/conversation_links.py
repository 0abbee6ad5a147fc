"""Which customer a conversation was with, and how we know."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from events import CustomerId, EmailText, Key, Personal, PhoneText, ShortText, Subject
from events.customers import (
    Channel,
    ConversationId,
    ConversationRecorded,
    CustomerLinked,
    DuplicateSuspected,
    LinkMethod,
)
from projections import Projection, Query, Row, Since, Until

projection = Projection("conversation_links")


class Link(Row):
    """One conversation, and the customer it was with."""

    conversation_id: Key[ConversationId]
    """The conversation."""
    customer_id: Subject[CustomerId]
    """The tenant's customer; personal columns are sealed with their key."""
    method: LinkMethod | None = None
    """`exact_email`, `exact_phone`: found by that contact; `created`: a new customer; empty: not linked yet."""
    linked_at: datetime | None = None
    """When it was linked."""
    channel: Channel | None = None
    """Where it took place."""
    occurred_at: datetime | None = None
    """When it took place, as the sender gave it."""
    session_id: str | None = None
    """The sender's own name for the session."""
    name: Personal[ShortText] | None = None
    """What they called themselves."""
    email: Personal[EmailText] | None = None
    """The e-mail address they left, normalised."""
    phone: Personal[PhoneText] | None = None
    """The phone number they left, in E.164."""
    suspected_duplicate_id: CustomerId | None = None
    """Another customer, who has the phone number: they may be one."""


@projection.on
def recorded(event: ConversationRecorded, row: Link | None) -> Link:
    """Took place."""
    was = row or Link(conversation_id=event.conversation_id, customer_id=event.customer_id)
    return was.model_copy(
        update={
            "customer_id": event.customer_id,
            "channel": event.channel,
            "occurred_at": event.occurred_at,
            "session_id": event.session_id,
            "name": event.name,
            "email": event.email,
            "phone": event.phone,
        }
    )


@projection.on
def linked(event: CustomerLinked, row: Link | None) -> Link:
    """Belongs to the customer."""
    was = row or Link(conversation_id=event.conversation_id, customer_id=event.customer_id)
    return was.model_copy(
        update={"customer_id": event.customer_id, "method": event.method, "linked_at": event.linked_at}
    )


@projection.on
def suspected(event: DuplicateSuspected, row: Link | None) -> Link:
    """Belongs to somebody who may be two customers."""
    was = row or Link(conversation_id=event.conversation_id, customer_id=event.customer_id)
    return was.model_copy(update={"suspected_duplicate_id": event.other_customer_id})


@projection.query
class ById(Query[Link]):
    """Whom one conversation was with."""

    conversation_id: ConversationId
    """The conversation."""


@projection.query
class OfCustomer(Query[Link]):
    """The conversations with one customer, the latest first."""

    order = ("-occurred_at",)

    customer_id: CustomerId
    """The customer."""
    channel: Channel | None = None
    """Only those of this channel."""


@projection.query
class ByMethod(Query[Link]):
    """How conversations were linked, the latest first."""

    order = ("-linked_at",)

    method: LinkMethod | None = None
    """Only those linked this way."""
    linked_since: Annotated[datetime | None, Since("linked_at")] = None
    """Only those linked at or after this moment."""
    linked_until: Annotated[datetime | None, Until("linked_at")] = None
    """Only those linked before this moment."""
