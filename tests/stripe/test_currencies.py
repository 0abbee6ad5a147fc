"""Amounts survive the way to Stripe and back, or do not set out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events import Money
from infra.stripe.currencies import NotRepresentable, from_stripe, to_stripe

CURRENCIES = ("EUR", "USD", "JPY", "KRW", "XOF", "ISK", "UGX", "MGA", "KWD", "TND", "CLF", "HUF", "TWD")


@given(st.integers(0, 10**12), st.sampled_from(CURRENCIES))
def test_the_round_trip_is_exact_or_refused(minor: int, currency: str) -> None:
    money = Money(minor=minor, currency=currency)
    try:
        sent = to_stripe(money)
    except NotRepresentable:
        assert currency in {"MGA", "KWD", "TND", "CLF"}
        assert minor % 100 != 0
        return
    assert from_stripe(*sent) == money


@pytest.mark.parametrize(
    ("minor", "currency", "amount"),
    [
        (1250, "EUR", 1250),
        (500, "JPY", 500),
        (5, "ISK", 500),  # no decimals any more, two in the API
        (5, "UGX", 500),
        (1200, "MGA", 12),  # ISO counts fifths with two digits, Stripe none
        (5120, "KWD", 5120),
        (1000, "HUF", 1000),  # whole forints bind payouts, not charges
    ],
)
def test_stripe_means(minor: int, currency: str, amount: int) -> None:
    assert to_stripe(Money(minor=minor, currency=currency)) == (amount, currency.lower())


@pytest.mark.parametrize(("minor", "currency"), [(5124, "KWD"), (1250, "MGA")])
def test_nothing_is_rounded(minor: int, currency: str) -> None:
    with pytest.raises(NotRepresentable):
        to_stripe(Money(minor=minor, currency=currency))
