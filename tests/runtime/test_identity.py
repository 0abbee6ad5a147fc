"""Identity: the same cause makes the same id, and nothing else does."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from infra.runtime.messages.ids import content_hash, derived_id, inbox_key, payload_hash

PARTS = ("payments", "acme", "crm", "message-1", "0")


def test_ids_are_permanent() -> None:
    assert str(derived_id(*PARTS)) == "1d35cc54-83c4-8078-af0d-29ed9bc94d49"
    assert derived_id(*PARTS).version == 8
    assert derived_id(*PARTS).variant == "specified in RFC 4122"


def test_what_the_inbox_holds_is_permanent() -> None:
    for _ in range(2):
        assert inbox_key("payments", 1, "acme", "crm", "message-1") == "34158339ca82b0cf66756ae1bc9c9c4f"
        assert content_hash("payments.PaymentCompleted", b"{}") == -8256309439136362741


def test_each_part_counts() -> None:
    made = {derived_id(*PARTS)} | {
        derived_id(*(part + "x" if number == changed else part for number, part in enumerate(PARTS)))
        for changed in range(len(PARTS))
    }
    assert len(made) == len(PARTS) + 1


plain = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), max_size=8)


@given(st.lists(plain, min_size=1, max_size=5), st.lists(plain, min_size=1, max_size=5))
def test_parts_do_not_run_into_each_other(one: list[str], other: list[str]) -> None:
    assert (derived_id(*one) == derived_id(*other)) == (one == other)


def test_the_inbox_knows_consumer_generation_tenant_source_and_id() -> None:
    scopes = [
        ("payments", 1, "acme", "crm", "1"),
        ("payment", 1, "acme", "crm", "1"),
        ("payments", 2, "acme", "crm", "1"),
        ("payments", 1, "acme", "crm", "2"),
        ("payments", 1, "acme", "erp", "1"),
        ("payments", 1, "other", "crm", "1"),
    ]
    assert len({inbox_key(*scope) for scope in scopes}) == len(scopes)


@given(st.binary(max_size=64))
def test_a_payload_hash_fits_a_bigint(value: bytes) -> None:
    assert -(2**63) <= payload_hash(value) < 2**63
