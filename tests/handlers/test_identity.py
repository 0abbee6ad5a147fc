"""Identity: verified exactly once a version, only when both contacts are proven, and never with somebody else's address."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events import Message, PersonId
from events.identity import (
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
from handlers.identity import HIGHEST_ADOPTED, Person
from tests.given import META_OF_TESTS, NOON, context, minutes, named

ADA, BOB = PersonId(UUID(int=1)), PersonId(UUID(int=2))
E1, E2 = EmailId(UUID(int=11)), EmailId(UUID(int=12))
M1, M2 = MobileId(UUID(int=21)), MobileId(UUID(int=22))

ADDRESS = RegisterEmail(person_id=ADA, email_id=E1, email="ada@example.org")
NEW_ADDRESS = RegisterEmail(person_id=ADA, email_id=E2, email="ada@example.net")
NUMBER = RegisterMobile(person_id=ADA, mobile_id=M1, mobile="+4930123456")
NEW_NUMBER = RegisterMobile(person_id=ADA, mobile_id=M2, mobile="+4930123457")
ADDRESS_PROVEN = VerifyEmail(person_id=ADA, email_id=E1, verified_at=minutes(1))
NUMBER_PROVEN = VerifyPhone(person_id=ADA, mobile_id=M1, verified_at=minutes(2))


def verified(version: int, at: datetime = NOON, **fields: Any) -> UserVerified:
    return UserVerified(person_id=ADA, verification_version=version, verified_at=at, **fields)


def test_a_person_is_registered_once() -> None:
    asked = RegisterPerson(person_id=ADA, name="Ada")
    identity = context("identity").when(asked).then(PersonRegistered(person_id=ADA, name="Ada"))
    identity.when(asked).refused(RegistrationRefused, "person_id")


def test_contacts_are_registered_in_whichever_order() -> None:
    identity = context("identity").when(NUMBER)
    identity.then(MobileRegistered(person_id=ADA, mobile_id=M1, mobile="+4930123456"))
    identity.when(ADDRESS).then(EmailRegistered(person_id=ADA, email_id=E1, email="ada@example.org"))


@pytest.mark.parametrize(
    ("first", "second", "version_at"),
    [(ADDRESS_PROVEN, NUMBER_PROVEN, minutes(2)), (NUMBER_PROVEN, ADDRESS_PROVEN, minutes(1))],
)
def test_a_person_is_verified_with_the_second_proof(
    first: Message, second: Message, version_at: datetime
) -> None:
    identity = context("identity").given(ADDRESS, NUMBER).when(first)
    assert "UserVerified" not in named(identity.answer)
    identity.when(second)
    assert identity.answer[1:] == [verified(1, version_at, email_id=E1, mobile_id=M1)]


def test_a_proof_counts_once() -> None:
    identity = context("identity").given(ADDRESS, NUMBER, ADDRESS_PROVEN, NUMBER_PROVEN)
    identity.when(ADDRESS_PROVEN).refused(VerificationRefused, "email_id: is verified already")
    identity.when(NUMBER_PROVEN).refused(VerificationRefused, "mobile_id: is verified already")


def test_a_proof_of_a_former_contact_counts_nothing() -> None:
    identity = context("identity").given(ADDRESS, NEW_ADDRESS, NUMBER, NEW_NUMBER)
    identity.when(ADDRESS_PROVEN).refused(
        VerificationRefused, "email_id: is not the person's present address"
    )
    identity.when(NUMBER_PROVEN).refused(VerificationRefused, "mobile_id: is not the person's present number")


def test_an_address_belongs_to_one_person_and_a_number_may_be_shared() -> None:
    identity = context("identity").given(ADDRESS, NUMBER)
    identity.when(RegisterEmail(person_id=BOB, email_id=E2, email="ada@example.org"))
    identity.refused(RegistrationRefused, "email: belongs to another person")
    identity.when(RegisterMobile(person_id=BOB, mobile_id=M2, mobile="+4930123456"))
    identity.then(MobileRegistered(person_id=BOB, mobile_id=M2, mobile="+4930123456"))


def test_a_given_up_address_is_free() -> None:
    identity = context("identity").given(ADDRESS, NEW_ADDRESS)
    identity.when(RegisterEmail(person_id=BOB, email_id=E2, email="ada@example.org"))
    identity.then(EmailRegistered(person_id=BOB, email_id=E2, email="ada@example.org"))


def test_registering_the_same_contact_again_is_refused_and_revokes_nothing() -> None:
    identity = context("identity").given(ADDRESS, NUMBER, ADDRESS_PROVEN, NUMBER_PROVEN)
    identity.when(ADDRESS).refused(RegistrationRefused, "email: is the person's already")
    identity.when(NUMBER).refused(RegistrationRefused, "mobile: is the person's already")
    identity.when(RegisterEmail(person_id=ADA, email_id=E1, email="other@example.org"))
    identity.refused(RegistrationRefused, "email_id: names another address")
    identity.when(RegisterMobile(person_id=ADA, mobile_id=M1, mobile="+4930999999"))
    identity.refused(RegistrationRefused, "mobile_id: names another number")


def test_a_changed_contact_revokes_the_verification_and_proving_it_makes_the_next() -> None:
    identity = (
        context("identity")
        .given(ADDRESS, NUMBER, ADDRESS_PROVEN, NUMBER_PROVEN)
        .when(NEW_ADDRESS, now=minutes(5))
    )
    identity.then(
        EmailRegistered(person_id=ADA, email_id=E2, email="ada@example.net"),
        VerificationRevoked(person_id=ADA, verification_version=1, changed="email", revoked_at=minutes(5)),
    )
    identity.when(NEW_NUMBER)
    assert named(identity.answer) == ["MobileRegistered"], "revoked once"
    identity.given(VerifyPhone(person_id=ADA, mobile_id=M2, verified_at=minutes(6)))
    identity.when(VerifyEmail(person_id=ADA, email_id=E2, verified_at=minutes(7))).then(
        EmailVerified(person_id=ADA, email_id=E2, verified_at=minutes(7)),
        verified(2, minutes(7), email_id=E2, mobile_id=M2),
    )


def test_an_external_provider_vouches_for_a_person_not_known_here() -> None:
    meta = replace(META_OF_TESTS, source="https://idp.example")
    identity = (
        context("identity").when(verified(1), meta=meta).then(verified(1, verified_by="https://idp.example"))
    )
    identity.when(verified(1), meta=meta).then()


def test_a_source_cannot_speak_in_the_name_of_another() -> None:
    identity = context("identity").when(verified(1, verified_by="identity"))
    identity.then(verified(1, verified_by=META_OF_TESTS.source))


def test_an_external_verification_of_what_is_verified_here_is_no_news() -> None:
    identity = (
        context("identity").given(ADDRESS, NUMBER, ADDRESS_PROVEN, NUMBER_PROVEN).when(verified(1)).then()
    )
    identity.when(verified(2)).then(verified(2, email_id=E1, mobile_id=M1, verified_by="upstream"))


def test_what_was_revoked_stays_revoked_until_a_higher_version() -> None:
    identity = context("identity").given(verified(3), ADDRESS)
    identity.when(verified(3)).refused(VerificationRefused, "verification_version: 3 is not higher than 3")
    identity.when(verified(2)).refused(VerificationRefused, "verification_version: 2 is not higher than 3")
    identity.when(verified(4)).then(verified(4, email_id=E1, verified_by="upstream"))


def test_a_contact_that_was_vouched_for_by_its_id_is_proven_when_it_is_registered() -> None:
    identity = context("identity").given(verified(1, email_id=E1, mobile_id=M1)).when(ADDRESS)
    identity.then(EmailRegistered(person_id=ADA, email_id=E1, email="ada@example.org"))
    identity.when(NEW_NUMBER, now=NOON).then(
        MobileRegistered(person_id=ADA, mobile_id=M2, mobile="+4930123457"),
        VerificationRevoked(person_id=ADA, verification_version=1, changed="mobile", revoked_at=NOON),
    )


def test_an_external_verification_of_other_contacts_is_refused_by_the_field() -> None:
    identity = context("identity").given(ADDRESS, NUMBER)
    identity.when(verified(1, email_id=E2)).refused(
        VerificationRefused, "email_id: is not the person's present"
    )
    identity.when(verified(1, mobile_id=M2)).refused(
        VerificationRefused, "mobile_id: is not the person's present"
    )


def test_upstream_cannot_use_the_versions_up() -> None:
    context("identity").when(verified(HIGHEST_ADOPTED + 1)).refused(
        VerificationRefused, "verification_version: must be"
    )


DEEDS: list[Message] = [
    *(
        RegisterEmail(person_id=ADA, email_id=id_, email=text)
        for id_ in (E1, E2)
        for text in ("a@example.org", "b@example.org")
    ),
    *(
        RegisterMobile(person_id=ADA, mobile_id=id_, mobile=text)
        for id_ in (M1, M2)
        for text in ("+4930123456", "+4930123457")
    ),
    *(VerifyEmail(person_id=ADA, email_id=id_, verified_at=NOON) for id_ in (E1, E2)),
    *(VerifyPhone(person_id=ADA, mobile_id=id_, verified_at=NOON) for id_ in (M1, M2)),
    *(verified(version) for version in (1, 2, 3)),
    verified(2, email_id=E1, mobile_id=M2),
]


@settings(max_examples=300)
@given(deeds=st.lists(st.sampled_from(DEEDS), max_size=25))
def test_whatever_is_asked_in_whatever_order(deeds: list[Message]) -> None:
    """Versions rise, each is verified once and revoked at most once after; a standing one means two proven contacts."""
    identity = context("identity")
    published: list[int] = []
    revoked: list[int] = []
    for deed in deeds:
        for fact in identity.when(deed).answer:
            if isinstance(fact, UserVerified):
                assert fact.verification_version > max(published, default=0)
                published.append(fact.verification_version)
            if isinstance(fact, VerificationRevoked):
                assert fact.verification_version == published[-1]
                revoked.append(fact.verification_version)
        person = identity.state(Person, ADA)
        assert len(set(revoked)) == len(revoked)
        assert (person.verification == "standing") == bool(published and published[-1] not in revoked)
        assert person.email_verified and person.mobile_verified if person.verification == "standing" else True
        assert not (person.email_verified and person.mobile_verified and person.verification != "standing")


def test_a_phone_proof_is_published() -> None:
    context("identity").given(NUMBER).when(NUMBER_PROVEN).then(
        PhoneVerified(person_id=ADA, mobile_id=M1, verified_at=minutes(2))
    )
