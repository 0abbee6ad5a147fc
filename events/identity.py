"""Identity: who a person is, and whether both ways to reach them are proven.

A verification has a version. It counts how often the person became verified: the first `UserVerified` is version 1 and
the next, after a contact changed, a higher one. There is one count a person, whoever verifies: identity itself takes the
next number; an external identity provider names its own, which must be higher than every one published before. So a
consumer needs one rule: the highest version counts, unless it is revoked.
"""

from __future__ import annotations

from typing import Annotated, Literal, NewType
from uuid import UUID

from pydantic import Field

from events import (
    Command,
    EmailText,
    Event,
    Instant,
    Key,
    Personal,
    PersonId,
    PhoneText,
    Refusal,
    ShortText,
    Subject,
)

EmailId = NewType("EmailId", UUID)
"""An e-mail address as registered by one person (random, says nothing of the address)."""

MobileId = NewType("MobileId", UUID)
"""A mobile number as registered by one person (random, says nothing of the number)."""

ContactKind = Literal["email", "mobile"]

VerificationVersion = Annotated[int, Field(ge=1, lt=2**31)]
"""Which verification of the person it is, from 1."""


class RegisterPerson(Command, public=True):
    """Make a person known. The contacts may be registered before or after."""

    person_id: Key[Subject[PersonId]]
    name: Personal[ShortText] | None = None
    """What the person is called."""


class RegisterEmail(Command, public=True):
    """Give the person an e-mail address, in place of the one they have."""

    person_id: Key[Subject[PersonId]]
    email_id: EmailId
    email: Personal[EmailText]


class RegisterMobile(Command, public=True):
    """Give the person a mobile number, in place of the one they have."""

    person_id: Key[Subject[PersonId]]
    mobile_id: MobileId
    mobile: Personal[PhoneText]


class VerifyEmail(Command, public=True):
    """Take the e-mail address as proven: upstream ran the challenge and attests that it was met."""

    person_id: Key[PersonId]
    email_id: EmailId
    """The address that was challenged; it must still be the person's."""
    verified_at: Instant


class VerifyPhone(Command, public=True):
    """Take the mobile number as proven: upstream ran the challenge and attests that it was met."""

    person_id: Key[PersonId]
    mobile_id: MobileId
    """The number that was challenged; it must still be the person's."""
    verified_at: Instant


class PersonRegistered(Event):
    """The person is known."""

    person_id: Key[Subject[PersonId]]
    name: Personal[ShortText] | None


class EmailRegistered(Event):
    """The person has this e-mail address, and no other."""

    person_id: Key[Subject[PersonId]]
    email_id: EmailId
    email: Personal[EmailText]


class MobileRegistered(Event):
    """The person has this mobile number, and no other."""

    person_id: Key[Subject[PersonId]]
    mobile_id: MobileId
    mobile: Personal[PhoneText]


class EmailVerified(Event):
    """The person can be reached at their e-mail address."""

    person_id: Key[PersonId]
    email_id: EmailId
    verified_at: Instant


class PhoneVerified(Event):
    """The person can be reached at their mobile number."""

    person_id: Key[PersonId]
    mobile_id: MobileId
    verified_at: Instant


class UserVerified(Event, public=True):
    """Both contacts of the person are proven. Published once for each verification version.

    An external identity provider may publish it, too: it then vouches for both contacts, also of a person not known
    here. With `email_id` and `mobile_id` it says for which; a contact that it did not name is unproven once registered.
    """

    person_id: Key[PersonId]
    verification_version: VerificationVersion
    verified_at: Instant
    """When the second of the two was proven."""
    email_id: EmailId | None = None
    mobile_id: MobileId | None = None
    verified_by: ShortText | None = None
    """The source that vouches for it; none: identity saw both proofs. Set on adoption, whatever upstream sends."""


class VerificationRevoked(Event):
    """The verification no longer holds, because a contact changed. Only a higher version verifies the person again."""

    person_id: Key[PersonId]
    verification_version: VerificationVersion
    """The version that is revoked."""
    changed: ContactKind
    revoked_at: Instant


class RegistrationRefused(Refusal):
    """A person or a contact was not registered."""

    person_id: Key[PersonId]


class VerificationRefused(Refusal):
    """A proof was not accepted, or a verification not adopted."""

    person_id: Key[PersonId]
