"""Whether a person is verified, read from what identity says of each contact."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from events import Key, PersonId
from events.identity import (
    EmailId,
    EmailRegistered,
    EmailVerified,
    MobileId,
    MobileRegistered,
    PersonRegistered,
    PhoneVerified,
    UserVerified,
    VerificationRevoked,
)
from projections import Projection, Query, Row, Since, Until

projection = Projection("verification_status")

Standing = Literal["unverified", "verified", "revoked"]


class Verification(Row):
    """How far the verification of one person has come."""

    person_id: Key[PersonId]
    """The person, as identity knows them."""
    status: Standing = "unverified"
    """`unverified`: never yet; `verified`: both contacts are proven; `revoked`: no longer, because a contact changed."""
    email_id: EmailId | None = None
    """The person's present e-mail address."""
    email_verified: bool = False
    """Whether the present e-mail address is proven."""
    mobile_id: MobileId | None = None
    """The person's present mobile number."""
    mobile_verified: bool = False
    """Whether the present mobile number is proven."""
    verification_version: int = 0
    """The latest verification of the person, counted from 1; 0: none yet."""
    verified_at: datetime | None = None
    """When the latest verification was completed."""
    verified_by: str | None = None
    """The external source that vouches for it; empty: the platform saw both proofs itself."""
    revoked_at: datetime | None = None
    """When the latest verification ceased to hold; empty: it holds, or there was none."""


@projection.on
def person(event: PersonRegistered, row: Verification | None) -> Verification:
    """Show the person."""
    return row or Verification(person_id=event.person_id)


@projection.on
def email(event: EmailRegistered, row: Verification | None) -> Verification:
    """A new address is unproven, unless it was vouched for beforehand under this very id."""
    was = row or Verification(person_id=event.person_id)
    proven = was.email_verified and was.email_id == event.email_id
    return was.model_copy(update={"email_id": event.email_id, "email_verified": proven})


@projection.on
def mobile(event: MobileRegistered, row: Verification | None) -> Verification:
    """A new number is unproven, unless it was vouched for beforehand under this very id."""
    was = row or Verification(person_id=event.person_id)
    proven = was.mobile_verified and was.mobile_id == event.mobile_id
    return was.model_copy(update={"mobile_id": event.mobile_id, "mobile_verified": proven})


@projection.on
def email_proven(event: EmailVerified, row: Verification | None) -> Verification:
    """One of the two is done."""
    was = row or Verification(person_id=event.person_id)
    return was.model_copy(update={"email_id": event.email_id, "email_verified": True})


@projection.on
def mobile_proven(event: PhoneVerified, row: Verification | None) -> Verification:
    """One of the two is done."""
    was = row or Verification(person_id=event.person_id)
    return was.model_copy(update={"mobile_id": event.mobile_id, "mobile_verified": True})


@projection.on
def verified(event: UserVerified, row: Verification | None) -> Verification:
    """Both are done."""
    was = row or Verification(person_id=event.person_id)
    return was.model_copy(
        update={
            "status": "verified",
            "email_id": event.email_id,
            "email_verified": True,
            "mobile_id": event.mobile_id,
            "mobile_verified": True,
            "verification_version": event.verification_version,
            "verified_at": event.verified_at,
            "verified_by": event.verified_by,
            "revoked_at": None,
        }
    )


@projection.on
def revoked(event: VerificationRevoked, row: Verification | None) -> Verification:
    """The verification no longer holds."""
    was = row or Verification(person_id=event.person_id)
    return was.model_copy(
        update={
            "status": "revoked",
            "verification_version": event.verification_version,
            "revoked_at": event.revoked_at,
        }
    )


@projection.query
class OfPerson(Query[Verification]):
    """How far the verification of one person has come."""

    person_id: PersonId
    """The person."""


@projection.query
class ByStatus(Query[Verification]):
    """Who is verified, not yet, or no longer; the latest verification first."""

    order = ("-verified_at",)

    status: Standing | None = None
    """Only those of this status."""
    verified_since: Annotated[datetime | None, Since("verified_at")] = None
    """Only those verified at or after this moment."""
    verified_until: Annotated[datetime | None, Until("verified_at")] = None
    """Only those verified before this moment."""
