"""A webhook is believed only with a fresh signature over its very bytes; whatever else comes is refused by name."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
from typing import Any
from uuid import UUID

import pytest
import stripe
from hypothesis import given
from hypothesis import strategies as st

from infra.stripe.webhooks import (
    API_VERSION,
    EVENT_TYPES,
    Cancelled,
    Fact,
    Ignored,
    Parked,
    PaymentFailed,
    PaymentSucceeded,
    Reason,
    RefundUpdated,
    StripeEvent,
    WebhookRefused,
    facts,
    read,
    verify,
)

SECRET = "whsec_now"
OLD_SECRET = "whsec_before"
NOW = 1_800_000_000
PAYMENT = UUID("0190a000-0000-7000-8000-000000000001")
REFUND = UUID("0190a000-0000-7000-8000-000000000002")


def event(
    type_: str = "payment_intent.succeeded", about: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    return {
        "id": "evt_1",
        "object": "event",
        "api_version": API_VERSION,
        "created": NOW - 5,
        "data": {"object": about if about is not None else intent()},
        "livemode": False,
        "type": type_,
        **more,
    }


def intent(**more: Any) -> dict[str, Any]:
    metadata = {"tenant": "demo-a", "payment_id": str(PAYMENT)}
    return {"id": "pi_1", "object": "payment_intent", "metadata": metadata, **more}


def refund(status: str = "succeeded", **more: Any) -> dict[str, Any]:
    metadata = {"tenant": "demo-a", "payment_id": str(PAYMENT), "refund_id": str(REFUND)}
    return {"id": "re_1", "payment_intent": "pi_1", "status": status, "metadata": metadata, **more}


def signed(body: bytes, secret: str = SECRET, at: float | str = NOW, scheme: str = "v1") -> str:
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},{scheme}={digest}"


RAW = json.dumps(event(), indent=1).encode()


def check(raw: bytes = RAW, header: str | None = None, *secrets: str, livemode: bool = False) -> StripeEvent:
    header = signed(raw) if header is None else header
    return verify(raw, header, secrets or (SECRET,), NOW, livemode=livemode)


def test_what_the_sdk_signs_is_believed() -> None:
    header = stripe.WebhookSignature.generate_signature_header(RAW.decode(), SECRET, NOW)
    told = check(RAW, header)
    assert (told.id, told.type, told.created) == ("evt_1", "payment_intent.succeeded", NOW - 5)
    assert told.object["id"] == "pi_1"


@pytest.mark.parametrize("age", [-300, 0, 300])
def test_five_minutes_either_way_are_fresh(age: int) -> None:
    assert check(RAW, signed(RAW, at=NOW - age)).id == "evt_1"


@pytest.mark.parametrize(
    "header",
    [
        signed(RAW) + ",v1=" + "0" * 64,
        "v1=" + "0" * 64 + "," + signed(RAW),
        signed(RAW) + ",v0=" + "0" * 64,
        signed(RAW, OLD_SECRET),
        signed(RAW, OLD_SECRET).replace(",", ", "),
    ],
)
def test_one_right_signature_of_several_is_enough(header: str) -> None:
    assert check(RAW, header, SECRET, OLD_SECRET).id == "evt_1"


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("", Reason.NO_SIGNATURE),
        ("garbage", Reason.MALFORMED_HEADER),
        ("t=,v1=", Reason.MALFORMED_HEADER),
        (",,,", Reason.MALFORMED_HEADER),
        (signed(RAW, "whsec_other"), Reason.WRONG_SIGNATURE),
        (signed(json.dumps(event()).encode()), Reason.WRONG_SIGNATURE),
        (signed(RAW, at=NOW - 301), Reason.TOO_OLD),
        (signed(RAW, at=NOW + 301), Reason.IN_THE_FUTURE),
        (signed(RAW, at=NOW + 86_400), Reason.IN_THE_FUTURE),
        (signed(RAW, at="-1800000000"), Reason.MALFORMED_HEADER),
        (signed(RAW, at="1" + "0" * 30), Reason.MALFORMED_HEADER),
        (signed(RAW, at="1e9"), Reason.MALFORMED_HEADER),
        (signed(RAW, at=" 1800000000"), Reason.MALFORMED_HEADER),
        (signed(RAW, at="١٨٠٠٠٠٠٠٠٠"), Reason.MALFORMED_HEADER),
        (signed(RAW) + f",t={NOW}", Reason.MALFORMED_HEADER),
        (signed(RAW, scheme="v0"), Reason.MALFORMED_HEADER),
        (f"t={NOW}," + "v1=0," * 100_000, Reason.HEADER_TOO_LARGE),
        (signed(RAW) + ",v1=" * 40, Reason.HEADER_TOO_LARGE),
        (f"t={NOW},v1=" + "ä" * 64, Reason.MALFORMED_HEADER),
        (signed(RAW).upper(), Reason.MALFORMED_HEADER),
        (signed(RAW) + "0", Reason.MALFORMED_HEADER),
    ],
)
def test_bad_headers_are_refused(header: str, reason: Reason) -> None:
    with pytest.raises(WebhookRefused) as refused:
        check(RAW, header)
    assert refused.value.reason is reason
    assert not refused.value.alarm
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\xff\xfe", Reason.NOT_JSON),
        (b"{", Reason.NOT_JSON),
        (b"", Reason.NOT_JSON),
        (b"[" * 100_000, Reason.NOT_JSON),
        (b"1" * 10_000, Reason.NOT_JSON),
        (b"[1]", Reason.NOT_AN_EVENT),
        (b"null", Reason.NOT_AN_EVENT),
        (b"1", Reason.NOT_AN_EVENT),
        (json.dumps(event() | {"object": "v2.core.event"}).encode(), Reason.NOT_AN_EVENT),
        (json.dumps(event() | {"id": ""}).encode(), Reason.NOT_AN_EVENT),
        (json.dumps(event() | {"data": {"object": [1]}}).encode(), Reason.NOT_AN_EVENT),
        (json.dumps(event() | {"livemode": True}).encode(), Reason.WRONG_MODE),
        (json.dumps(event() | {"account": "acct_other"}).encode(), Reason.OTHER_ACCOUNT),
    ],
)
def test_signed_nonsense_is_refused_with_an_alarm(raw: bytes, reason: Reason) -> None:
    with pytest.raises(WebhookRefused) as refused:
        check(raw)
    assert refused.value.reason is reason
    assert refused.value.alarm


def test_a_test_event_does_not_pass_a_live_endpoint() -> None:
    with pytest.raises(WebhookRefused, match="wrong_mode"):
        check(livemode=True)


def test_a_large_body_is_refused_unread() -> None:
    with pytest.raises(WebhookRefused, match="body_too_large"):
        check(b" " * (256 * 1024 + 1))


@pytest.mark.parametrize("secrets", [(), ("",)])
def test_without_a_secret_nothing_is_believed(secrets: tuple[str, ...]) -> None:
    with pytest.raises(WebhookRefused, match="no_secret"):
        verify(RAW, signed(RAW, ""), secrets, NOW, livemode=False)


@given(st.binary(max_size=200), st.text(max_size=200))
def test_only_refusals_are_raised(raw: bytes, header: str) -> None:
    for candidate in (header, f"t={NOW},v1={header}", signed(raw)):
        with pytest.raises(WebhookRefused):
            check(raw, candidate)


@given(st.integers(0, len(RAW) - 1), st.integers(1, 255))
def test_every_changed_byte_breaks_the_signature(place: int, change: int) -> None:
    forged = bytearray(RAW)
    forged[place] ^= change
    with pytest.raises(WebhookRefused, match="wrong_signature"):
        check(bytes(forged), signed(RAW))


@pytest.mark.parametrize(
    ("type_", "about", "fact"),
    [
        ("payment_intent.succeeded", intent(), PaymentSucceeded("demo-a", PAYMENT, "pi_1")),
        ("payment_intent.canceled", intent(), Cancelled("demo-a", PAYMENT, "pi_1")),
        (
            "payment_intent.payment_failed",
            intent(
                last_payment_error={"code": "card_declined", "decline_code": "lost_card", "message": "No."}
            ),
            PaymentFailed("demo-a", PAYMENT, "pi_1", "lost_card", "No."),
        ),
        (
            "payment_intent.payment_failed",
            intent(),
            PaymentFailed("demo-a", PAYMENT, "pi_1", "unknown", "declined"),
        ),
        (
            "refund.failed",
            refund("failed"),
            RefundUpdated("demo-a", PAYMENT, REFUND, "pi_1", "re_1", "failed", 60),
        ),
        ("customer.created", {}, Ignored()),
        ("payment_intent.created", intent(), Ignored()),
    ],
)
def test_events_mean(type_: str, about: dict[str, Any], fact: Fact) -> None:
    assert facts(read(event(type_, about))) == fact


@pytest.mark.parametrize("type_", sorted(EVENT_TYPES))
@pytest.mark.parametrize(
    "about",
    [
        {},
        {"id": "pi_1", "metadata": None},
        intent(metadata={"tenant": "demo-a"}),
        intent(metadata={"tenant": "demo-a", "payment_id": "not a uuid"}),
        intent(metadata={"tenant": "demo-a", "payment_id": 7}),
        intent(metadata=[]),
        intent(id=None),
        refund("unheard of", id=None),
    ],
)
def test_what_is_not_readable_is_parked(type_: str, about: dict[str, Any]) -> None:
    assert isinstance(facts(read(event(type_, about))), Parked)


def test_another_api_version_is_parked() -> None:
    told = facts(read(event(api_version="2019-01-01")))
    assert isinstance(told, Parked)
    assert "2019-01-01" in told.reason


def test_ranks_make_the_order_of_arrival_irrelevant() -> None:
    def rank(type_: str, about: dict[str, Any]) -> int:
        fact = facts(read(event(type_, about)))
        assert not isinstance(fact, Ignored | Parked)
        return fact.rank

    in_order = [
        rank("payment_intent.payment_failed", intent()),
        rank("payment_intent.canceled", intent()),
        rank("payment_intent.succeeded", intent()),
        rank("refund.created", refund("pending")),
        rank("refund.updated", refund("succeeded")),
        rank("refund.failed", refund("failed")),
    ]
    assert all(earlier < later for earlier, later in itertools.pairwise(in_order))
