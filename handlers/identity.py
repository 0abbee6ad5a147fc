"""Identity decides who a person is, and says so exactly once for each version when both contacts are proven."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from events import Claim, EmailText, Erased, Key, Personal, PersonId, PhoneText, ShortText, Subject
from events.identity import (
    ContactKind,
    EmailId,
    EmailRegistered,
    EmailVerified,
    MobileId,
    MobileRegistered,
    PersonRegistered,
    PhoneVerified,
    RegisterEmail,
    RegisterMobile,
    RegisterPerson,
    RegistrationRefused,
    UserVerified,
    VerificationRefused,
    VerificationRevoked,
    VerifyEmail,
    VerifyPhone,
)
from handlers import Aggregate, Holder, Metadata, Worker

worker = Worker("identity")

HIGHEST_ADOPTED = 10**9
"""The highest version that upstream may name: it leaves identity room to count on."""


class Person(Aggregate):
    """A person with at most one e-mail address, which nobody else of the tenant has, and at most one mobile number.

    A number may be shared: families and offices do.
    """

    person_id: Key[Subject[PersonId]]
    registered: bool = False
    name: Personal[ShortText] | None = None
    email_id: EmailId | None = None
    email: Claim[Personal[EmailText] | None] = None
    email_verified: bool = False
    mobile_id: MobileId | None = None
    mobile: Personal[PhoneText] | None = None
    mobile_verified: bool = False
    verification: Literal["none", "standing", "revoked"] = "none"
    verification_version: int = 0
    """The highest version published; 0: none yet."""


@worker.on
def register(asked: RegisterPerson, person: Person) -> PersonRegistered | RegistrationRefused:
    """Make a person known, once."""
    if person.registered:
        return RegistrationRefused(person_id=person.person_id, reason="person_id: is registered already")
    return PersonRegistered(person_id=person.person_id, name=asked.name)


@worker.on
def register_email(
    asked: RegisterEmail,
    person: Person,
    holder: Annotated[Person | None, Holder("email")],
    now: datetime,
) -> tuple[EmailRegistered | VerificationRevoked | RegistrationRefused, ...]:
    """Give the person the address, unless somebody else has it. A changed address ends the verification."""
    if isinstance(asked.email, Erased):
        return (_unregistered(person, "email: has been erased"),)
    if holder is not None and holder.person_id != person.person_id:
        return (_unregistered(person, "email: belongs to another person; use another address"),)
    if person.email is not None and asked.email == person.email:
        return (_unregistered(person, f"email: is the person's already, as email_id {person.email_id}"),)
    registered = EmailRegistered(person_id=person.person_id, email_id=asked.email_id, email=asked.email)
    if asked.email_id != person.email_id:
        return (registered, *_revoked(person, "email", now))
    if person.email is not None:
        return (_unregistered(person, "email_id: names another address; give a new address a new id"),)
    return (registered,)


@worker.on
def register_mobile(
    asked: RegisterMobile, person: Person, now: datetime
) -> tuple[MobileRegistered | VerificationRevoked | RegistrationRefused, ...]:
    """Give the person the number. A changed number ends the verification."""
    if isinstance(asked.mobile, Erased):
        return (_unregistered(person, "mobile: has been erased"),)
    if person.mobile is not None and asked.mobile == person.mobile:
        return (_unregistered(person, f"mobile: is the person's already, as mobile_id {person.mobile_id}"),)
    registered = MobileRegistered(person_id=person.person_id, mobile_id=asked.mobile_id, mobile=asked.mobile)
    if asked.mobile_id != person.mobile_id:
        return (registered, *_revoked(person, "mobile", now))
    if person.mobile is not None:
        return (_unregistered(person, "mobile_id: names another number; give a new number a new id"),)
    return (registered,)


@worker.on
def verify_email(
    asked: VerifyEmail, person: Person
) -> tuple[EmailVerified | UserVerified | VerificationRefused, ...]:
    """Take the person's present address as proven, and the person as verified if the number is proven, too."""
    if asked.email_id != person.email_id:
        return (_unproven(person, "email_id: is not the person's present address; register it first"),)
    if person.email_verified:
        return (_unproven(person, "email_id: is verified already"),)
    verified = EmailVerified(
        person_id=person.person_id, email_id=asked.email_id, verified_at=asked.verified_at
    )
    return (verified, *_completed(email_verified(person, verified), asked.verified_at))


@worker.on
def verify_phone(
    asked: VerifyPhone, person: Person
) -> tuple[PhoneVerified | UserVerified | VerificationRefused, ...]:
    """Take the person's present number as proven, and the person as verified if the address is proven, too."""
    if asked.mobile_id != person.mobile_id:
        return (_unproven(person, "mobile_id: is not the person's present number; register it first"),)
    if person.mobile_verified:
        return (_unproven(person, "mobile_id: is verified already"),)
    verified = PhoneVerified(
        person_id=person.person_id, mobile_id=asked.mobile_id, verified_at=asked.verified_at
    )
    return (verified, *_completed(phone_verified(person, verified), asked.verified_at))


@worker.adopts
def adopt(event: UserVerified, person: Person, meta: Metadata) -> UserVerified | VerificationRefused | None:
    """Take the word of an external identity provider for both contacts, once for each version.

    What was revoked stays revoked until a higher version comes, whoever it is from: else a late copy of an old
    verification would vouch for a contact that it never saw.
    """
    if event.verification_version == person.verification_version and person.verification == "standing":
        return None
    if event.verification_version <= person.verification_version:
        return _unproven(
            person,
            f"verification_version: {event.verification_version} is not higher than {person.verification_version}, "
            "the last one published; take the next from identity.events",
        )
    if event.verification_version > HIGHEST_ADOPTED:
        return _unproven(person, f"verification_version: must be at most {HIGHEST_ADOPTED}; count up from 1")
    if event.email_id is not None and person.email_id not in {None, event.email_id}:
        return _unproven(person, "email_id: is not the person's present address; register it first")
    if event.mobile_id is not None and person.mobile_id not in {None, event.mobile_id}:
        return _unproven(person, "mobile_id: is not the person's present number; register it first")
    return event.model_copy(
        update={
            "email_id": event.email_id or person.email_id,
            "mobile_id": event.mobile_id or person.mobile_id,
            "verified_by": meta.source,
        }
    )


@worker.evolves
def person_registered(person: Person, event: PersonRegistered) -> Person:
    """Know the person."""
    return person.model_copy(update={"registered": True, "name": event.name})


@worker.evolves
def email_registered(person: Person, event: EmailRegistered) -> Person:
    """Have the address; it is proven only if it was vouched for under the same id."""
    proven = person.email_verified and person.email_id == event.email_id
    return person.model_copy(
        update={"email_id": event.email_id, "email": event.email, "email_verified": proven}
    )


@worker.evolves
def mobile_registered(person: Person, event: MobileRegistered) -> Person:
    """Have the number; it is proven only if it was vouched for under the same id."""
    proven = person.mobile_verified and person.mobile_id == event.mobile_id
    return person.model_copy(
        update={"mobile_id": event.mobile_id, "mobile": event.mobile, "mobile_verified": proven}
    )


@worker.evolves
def email_verified(person: Person, event: EmailVerified) -> Person:
    """Trust the address, if it is still the person's."""
    return person.model_copy(
        update={"email_verified": person.email_verified or event.email_id == person.email_id}
    )


@worker.evolves
def phone_verified(person: Person, event: PhoneVerified) -> Person:
    """Trust the number, if it is still the person's."""
    return person.model_copy(
        update={"mobile_verified": person.mobile_verified or event.mobile_id == person.mobile_id}
    )


@worker.evolves
def user_verified(person: Person, event: UserVerified) -> Person:
    """Trust both contacts, in this version."""
    return person.model_copy(
        update={
            "email_id": event.email_id,
            "email_verified": True,
            "mobile_id": event.mobile_id,
            "mobile_verified": True,
            "verification": "standing",
            "verification_version": max(person.verification_version, event.verification_version),
        }
    )


@worker.evolves
def verification_revoked(person: Person, _event: VerificationRevoked) -> Person:
    """Verified no longer; the contact that did not change remains proven."""
    return person.model_copy(update={"verification": "revoked"})


def _completed(person: Person, at: datetime) -> tuple[UserVerified, ...]:
    if person.verification == "standing" or not (person.email_verified and person.mobile_verified):
        return ()
    return (
        UserVerified(
            person_id=person.person_id,
            verification_version=person.verification_version + 1,
            verified_at=at,
            email_id=person.email_id,
            mobile_id=person.mobile_id,
        ),
    )


def _revoked(person: Person, changed: ContactKind, at: datetime) -> tuple[VerificationRevoked, ...]:
    if person.verification != "standing":
        return ()
    version = person.verification_version
    return (
        VerificationRevoked(
            person_id=person.person_id, verification_version=version, changed=changed, revoked_at=at
        ),
    )


def _unregistered(person: Person, reason: str) -> RegistrationRefused:
    return RegistrationRefused(person_id=person.person_id, reason=reason)


def _unproven(person: Person, reason: str) -> VerificationRefused:
    return VerificationRefused(person_id=person.person_id, reason=reason)
