"""Who has access to what, since when, and thanks to what."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from events import Key, PersonId, ProductId
from events.entitlements import AccessGranted, AccessRevoked
from events.payments import PaymentId
from projections import Projection, Query, Row, Since, Until

projection = Projection("customer_access")

AccessStatus = Literal["granted", "revoked"]


class Access(Row):
    """Whether one person has access to one product."""

    person_id: Key[PersonId]
    """The person, as identity knows them."""
    product_id: Key[ProductId]
    """The product."""
    status: AccessStatus
    """`granted`: has access now; `revoked`: had it."""
    payment_id: PaymentId | None
    """The payment that the latest grant was for; empty: it was no payment's."""
    granted_at: datetime | None
    """When the latest grant was made."""
    revoked_at: datetime | None = None
    """When the latest grant was taken back; empty: it was not."""
    revoked_because: str | None = None
    """Why the latest grant was taken back."""


@projection.on
def granted(event: AccessGranted, _row: Access | None) -> Access:
    """Has access; what was before no longer counts."""
    return Access(
        person_id=event.person_id,
        product_id=event.product_id,
        status="granted",
        payment_id=event.payment_id,
        granted_at=event.granted_at,
    )


@projection.on
def revoked(event: AccessRevoked, row: Access | None) -> Access:
    """Has access no longer."""
    return Access(
        person_id=event.person_id,
        product_id=event.product_id,
        status="revoked",
        payment_id=event.payment_id,
        granted_at=row.granted_at if row is not None else None,
        revoked_at=event.revoked_at,
        revoked_because=event.reason,
    )


@projection.query
class OfPerson(Query[Access]):
    """What one person has or had access to, the latest grant first."""

    order = ("-granted_at",)

    person_id: PersonId
    """The person."""
    status: AccessStatus | None = None
    """Only what they have now (`granted`) or had (`revoked`)."""


@projection.query
class OfProduct(Query[Access]):
    """Who has or had access to one product, the latest grant first."""

    order = ("-granted_at",)

    product_id: ProductId
    """The product."""
    status: AccessStatus | None = None
    """Only those who have it now (`granted`) or had it (`revoked`)."""
    granted_since: Annotated[datetime | None, Since("granted_at")] = None
    """Only what was granted at or after this moment."""
    granted_until: Annotated[datetime | None, Until("granted_at")] = None
    """Only what was granted before this moment."""
