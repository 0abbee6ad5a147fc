"""What no contract lets in, whoever sends it, and the field that each refusal names."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from events.customers import RecordConversation, RecordConversationV1
from events.identity import RegisterEmail, RegisterMobile
from events.payments import PaymentCompleted

PAID: dict[str, Any] = {
    "payment_id": str(UUID(int=1)),
    "customer_id": str(UUID(int=2)),
    "product_id": str(UUID(int=3)),
    "amount": {"minor": 1250, "currency": "EUR"},
    "provider": "stripe",
    "provider_ref": "pi_1",
    "captured_at": "2026-05-04T12:00:00Z",
}
SPOKEN: dict[str, Any] = {
    "conversation_id": str(UUID(int=1)),
    "occurred_at": "2026-05-04T12:00:00Z",
    "email": "ada@example.org",
}


def test_a_payment_as_upstream_sends_it_is_read() -> None:
    paid = PaymentCompleted.model_validate_json(json.dumps(PAID))
    assert paid.amount.minor == 1250
    assert paid.captured_at == datetime(2026, 5, 4, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"amount": {"minor": 12.5, "currency": "EUR"}}, "amount.minor"),
        ({"amount": {"minor": "1250", "currency": "EUR"}}, "amount.minor"),
        ({"amount": {"minor": "1e3", "currency": "EUR"}}, "amount.minor"),
        ({"amount": {"minor": -1, "currency": "EUR"}}, "amount.minor"),
        ({"amount": {"minor": 10**400, "currency": "EUR"}}, "amount.minor"),
        ({"amount": {"minor": True, "currency": "EUR"}}, "amount.minor"),
        ({"amount": {"minor": 0, "currency": "EUR"}}, "amount"),
        ({"amount": {"minor": 1, "currency": "eur"}}, "amount.currency"),
        ({"amount": {"minor": 1, "currency": "ZZZ"}}, "amount.currency"),
        ({"amount": {"minor": 1, "currency": "EUR", "scale": 3}}, "amount.scale"),
        ({"captured_at": "2026-05-04T12:00:00"}, "captured_at"),
        ({"captured_at": "5"}, "captured_at"),
        ({"captured_at": 5}, "captured_at"),
        ({"captured_at": "9999-12-31T23:59:59-12:00"}, "captured_at"),
        ({"payment_id": "1"}, "payment_id"),
        ({"provider": ""}, "provider"),
        ({"provider_ref": "p" * 256}, "provider_ref"),
    ],
)
def test_a_wrong_payment_is_refused_by_the_field(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        PaymentCompleted.model_validate_json(json.dumps({**PAID, **changed}))
    assert [".".join(str(step) for step in error["loc"]) for error in wrong.value.errors()] == [field]


@pytest.mark.parametrize("field", sorted(PAID))
def test_no_field_of_a_payment_may_be_missing(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        PaymentCompleted.model_validate_json(json.dumps({k: v for k, v in PAID.items() if k != field}))


@pytest.mark.parametrize(
    ("sent", "normalised"),
    [
        ("Ada.Lovelace@Example.ORG", "ada.lovelace@example.org"),
        ("ada@BÜCHER.example", "ada@bücher.example"),
        ("jose\u0301@example.org", "josé@example.org"),
    ],
)
def test_an_address_is_normalised(sent: str, normalised: str) -> None:
    body = {"person_id": str(UUID(int=1)), "email_id": str(UUID(int=2)), "email": sent}
    assert RegisterEmail.model_validate_json(json.dumps(body)).email == normalised


@pytest.mark.parametrize("sent", ["+49 30 123456", "+49(0)30 123456", "+49-30-123456"])
def test_a_number_is_normalised(sent: str) -> None:
    body = {"person_id": str(UUID(int=1)), "mobile_id": str(UUID(int=2)), "mobile": sent}
    assert RegisterMobile.model_validate_json(json.dumps(body)).mobile == "+4930123456"


@pytest.mark.parametrize("sent", ["", "ada", "ada@", "@example.org", "ada@example", "a b@example.org"])
def test_what_is_no_address_is_refused(sent: str) -> None:
    with pytest.raises(ValidationError, match="email"):
        RecordConversationV1.model_validate_json(json.dumps({**SPOKEN, "email": sent}))


@pytest.mark.parametrize("sent", ["", "030123456", "+49", "call me"])
def test_what_is_no_international_number_is_refused(sent: str) -> None:
    with pytest.raises(ValidationError, match="phone"):
        RecordConversationV1.model_validate_json(json.dumps({**SPOKEN, "phone": sent}))


def test_a_conversation_without_a_contact_is_refused_with_the_remedy() -> None:
    body = {key: value for key, value in SPOKEN.items() if key != "email"}
    for version, extra in ((RecordConversationV1, {}), (RecordConversation, {"channel": "web"})):
        with pytest.raises(ValidationError, match="email or phone: one of them is needed"):
            version.model_validate_json(json.dumps({**body, **extra}))


def test_a_conversation_of_version_1_was_a_chat() -> None:
    recorded = RecordConversationV1.model_validate_json(
        json.dumps({**SPOKEN, "agent": "Bob", "channel": "phone"})
    )
    assert recorded.upcast().channel == "chat"
    ahead = RecordConversationV1.model_validate_json(json.dumps({**SPOKEN, "channel": "web"}))
    assert ahead.upcast().channel == "web"
    assert recorded.upcast().model_dump()["agent"] == "Bob"
