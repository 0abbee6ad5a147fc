"""CloudEvents on Kafka: both modes are read, every wrong header is named, and what we write we can read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import Unacceptable
from infra.kafka.record import Header, Record
from infra.runtime.messages.envelope import Envelope, open_record

AT = datetime(2026, 5, 4, 12, tzinfo=UTC)
REQUIRED: dict[str, bytes | None] = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_type": b"shop.Put",
    "ce_source": b"crm",
    "ce_tenantid": b"acme",
}


def record(headers: Sequence[Header], value: bytes | None = b"{}", topic: str = "shop.inbound") -> Record:
    return Record(topic, 0, 7, int(AT.timestamp() * 1000), b"k", value, headers)


def binary(**changed: bytes | None) -> list[Header]:
    """Give the required headers with some changed; `None` leaves one out."""
    named = {("content-type" if name == "content_type" else name): value for name, value in changed.items()}
    return [(name, value) for name, value in {**REQUIRED, **named}.items() if value is not None]


def refusal(wrong: Record) -> Unacceptable:
    with pytest.raises(Unacceptable) as refused:
        open_record(wrong)
    return refused.value


def test_the_required_attributes_are_enough() -> None:
    envelope, body = open_record(record(binary()))
    assert envelope == Envelope("1", "shop.Put", "crm", "acme", 1, AT, correlation="1")
    assert body == b"{}"


def test_what_we_write_we_read() -> None:
    ours = Envelope(
        id="1",
        type="shop.Filled",
        source="triplane/shop",
        tenant="acme",
        version=3,
        time=AT + timedelta(microseconds=5),
        correlation="flow",
        causation="0",
        sequence=12,
        subject="basket",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    )
    assert open_record(record(ours.headers(), topic="shop.events"))[0] == ours


@pytest.mark.parametrize("name", REQUIRED)
def test_each_required_attribute_is_named_when_it_is_missing_empty_or_unprintable(name: str) -> None:
    assert (refusal(record(binary(**{name: None}))).reason) == "missing_attribute"
    for wrong in (b"", b"a\nb", b"a\0b", b"\x7f", b"x" * 256):
        refused = refusal(record(binary(**{name: wrong})))
        assert name in refused.detail


@pytest.mark.parametrize(
    ("headers", "reason", "names"),
    [
        (binary(ce_specversion=b"0.3"), "specversion", "1.0"),
        (binary(ce_tenantid=b"Acme"), "tenant_id", "ce_tenantid"),
        (binary(ce_tenantid=b"a" * 64), "tenant_id", "ce_tenantid"),
        (binary(ce_tenantid=b"acme\n"), "invalid_attribute", "ce_tenantid"),
        (binary(ce_tenantid="\u0430cme".encode()), "tenant_id", "ce_tenantid"),
        (binary(ce_time=b"yesterday"), "time", "ce_time"),
        (binary(ce_time=b"2026-05-04T12:00:00"), "time", "zone"),
        (binary(ce_dataschema=b"https://example.org/schema"), "dataschema", "urn:triplane:shop.Put"),
        (binary(ce_dataschema=b"urn:triplane:shop.Other:1"), "dataschema", "urn:triplane:shop.Put"),
        (binary(ce_dataschema=b"urn:triplane:shop.Put:0"), "dataschema", "urn:triplane:shop.Put"),
        (binary(ce_dataschema=b"urn:triplane:shop.Put:99999999999"), "dataschema", "urn:triplane:shop.Put"),
        (binary(ce_sequence=b"1"), "reserved", "ce_sequence"),
        (binary(ce_source=b"triplane/payments"), "reserved", "ce_source"),
        (binary(content_type=b"text/plain"), "content_type", "application/json"),
        (binary(content_type=b"application/avro"), "content_type", "application/json"),
        ([*binary(), ("ce_id", b"2")], "header_twice", "ce_id"),
        ([*binary(), ("ce_id", b"1")], "header_twice", "ce_id"),
        ([*binary(), ("ce_subject", None)], "header_null", "ce_subject"),
        ([*binary(), ("ce_subject", b"\xff")], "header_not_utf8", "ce_subject"),
        ([*binary(), *[(f"x{number}", b"") for number in range(60)]], "too_many_headers", "65"),
        ([*binary(), *[("x", b"")] * 10_000], "too_many_headers", "10005"),
        ([*binary(), ("x", b"y" * 1_000_000)], "header_too_large", "x"),
    ],
)
def test_a_wrong_header_is_named(headers: list[Header], reason: str, names: str) -> None:
    refused = refusal(record(headers))
    assert refused.reason == reason
    assert names in refused.detail


@pytest.mark.parametrize(
    "headers",
    [
        [*binary(), ("other", None), ("other", b"\xff"), ("replay", b"true"), ("target-consumer", b"shop")],
        binary(ce_id="Grüße 1".encode()),
        binary(ce_id=b"x" * 255),
        binary(content_type=b"application/json; charset=utf-8"),
        binary(content_type=b"application/vnd.crm+json"),
        binary(ce_time=b"1970-01-01T00:00:00Z"),
        binary(ce_time=b"9999-12-31T23:59:59.999999-12:00"),
        binary(traceparent=b"garbage"),
    ],
)
def test_what_does_no_harm_is_accepted(headers: list[Header]) -> None:
    envelope, _ = open_record(record(headers))
    assert envelope.tenant == "acme"
    assert envelope.traceparent is None


@pytest.mark.parametrize(("value", "reason"), [(None, "tombstone"), (b"", "empty")])
def test_there_is_a_body(value: bytes | None, reason: str) -> None:
    assert refusal(record(binary(), value)).reason == reason


# -- structured mode ----------------------------------------------------------------------------------------------------


def structured(event: Any, topic: str = "shop.inbound") -> Record:
    value = event if isinstance(event, bytes) else json.dumps(event).encode()
    return record([("content-type", b"application/cloudevents+json; charset=utf-8")], value, topic)


EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "1",
    "type": "shop.Put",
    "source": "crm",
    "tenantid": "acme",
    "datacontenttype": "application/json",
    "data": {"basket_id": "b", "note": "\u00e9"},
}


def test_a_structured_event_is_the_same_message() -> None:
    envelope, body = open_record(structured({**EVENT, "subject": None}))
    assert envelope == open_record(record(binary()))[0]
    assert json.loads(body) == EVENT["data"]


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        ([EVENT], "not_an_object"),
        ({name: it for name, it in EVENT.items() if name != "data"}, "missing_field"),
        ({name: it for name, it in EVENT.items() if name != "id"}, "missing_attribute"),
        ({**EVENT, "id": {"a": 1}}, "invalid_attribute"),
        ({**EVENT, "id": True}, "invalid_attribute"),
        ({**EVENT, "id": 1.5}, "invalid_attribute"),
        ({**EVENT, "datacontenttype": "text/xml"}, "content_type"),
        ({**EVENT, "sequence": 4}, "reserved"),
        ({**EVENT, "source": "triplane/x"}, "reserved"),
        (b'{"id": "1", "id": "2"}', "duplicate_field"),
        (b"{", "not_json"),
    ],
)
def test_a_wrong_structured_event_is_refused(event: Any, reason: str) -> None:
    assert refusal(structured(event)).reason == reason


def test_structured_mode_is_for_the_outside_only() -> None:
    assert refusal(structured(EVENT, "shop.events")).reason == "structured_inside"


# -- usual records, read fast -----------------------------------------------------------------------------------------

OURS: dict[str, bytes] = dict(
    Envelope(
        id="1",
        type="shop.Filled",
        source="triplane/shop",
        tenant="acme",
        version=3,
        time=AT,
        correlation="flow",
        causation="0",
        sequence=12,
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    ).headers()
)
ODD = (
    None,
    b"",
    b"x",
    b"1",
    b"+1",
    b"1_0",
    b" 1",
    b"-1",
    b"1.0",
    b"2026-05-04T12:00:00",
    b"2026-05-04",
    b"\xff",
    b"a\x00b",
    b"y" * 300,
    b"z" * 9_000,
)


@settings(max_examples=400)
@given(
    st.dictionaries(
        st.sampled_from([*OURS, "ce_subject", "other"]),
        st.sampled_from((*ODD, b"crm", b"application/json")),
        max_size=3,
    ),
    st.sets(st.sampled_from([*OURS]), max_size=2),
    st.sampled_from(["shop.events", "shop.inbound"]),
)
def test_the_fast_way_and_the_thorough_way_agree(
    changed: dict[str, bytes | None], missing: set[str], topic: str
) -> None:
    headers: list[Header] = [
        (name, value) for name, value in {**OURS, **changed}.items() if name not in missing or name in changed
    ]
    ours = record(headers, topic=topic)

    def read() -> object:
        try:
            return open_record(ours)
        except Unacceptable as refused:
            return refused.reason

    def thorough(_: Record, *, inbound: bool) -> None:
        del inbound

    fast = read()
    with patch("infra.runtime.messages.envelope._as_usual", thorough):
        assert fast == read()
