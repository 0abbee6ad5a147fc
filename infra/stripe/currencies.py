"""Amounts between our units and Stripe's: exact, or refused."""

from __future__ import annotations

from events import Money

__all__ = ["NotRepresentable", "from_stripe", "to_stripe"]

# ISO 4217 minor units where they are not two.
_ISO_EXPONENTS = {
    **dict.fromkeys(("BIF", "CLP", "DJF", "GNF", "ISK", "JPY", "KMF", "KRW", "PYG", "RWF", "UGX"), 0),
    **dict.fromkeys(("VND", "VUV", "XAF", "XOF", "XPF"), 0),
    **dict.fromkeys(("BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"), 3),
    "CLF": 4,
}

# Stripe counts some currencies otherwise: ISK and UGX lost their decimals but stay two-decimal in the API, and the
# ariary, whose fifth ISO counts with two digits, has none there.
_STRIPE_EXPONENTS = {**_ISO_EXPONENTS, "ISK": 2, "UGX": 2, "MGA": 0}

_THREE_DECIMALS_END_IN = 10  # the card networks behind Stripe take no thousandths


class NotRepresentable(ValueError):
    """The amount cannot be charged through Stripe without rounding, and money is never rounded."""


def to_stripe(money: Money) -> tuple[int, str]:
    """Give Stripe's amount and lower-case currency; raises `NotRepresentable`."""
    have, want = _exponent(_ISO_EXPONENTS, money), _exponent(_STRIPE_EXPONENTS, money)
    amount = _rescale(money.minor, have, want, money)
    if want > 2 and amount % _THREE_DECIMALS_END_IN:
        message = f"{money.minor} {money.currency}: Stripe takes only multiples of {_THREE_DECIMALS_END_IN}"
        raise NotRepresentable(message)
    return amount, money.currency.lower()


def from_stripe(amount: int, currency: str) -> Money:
    """Give the `Money` that Stripe means by its amount and currency; raises `NotRepresentable`."""
    money = Money(minor=amount, currency=currency.upper())
    have, want = _exponent(_STRIPE_EXPONENTS, money), _exponent(_ISO_EXPONENTS, money)
    minor = _rescale(amount, have, want, money)
    return Money(minor=minor, currency=money.currency)


def _exponent(table: dict[str, int], money: Money) -> int:
    return table.get(money.currency, 2)


def _rescale(amount: int, have: int, want: int, money: Money) -> int:
    factor: int = 10 ** max(want - have, 0)
    divisor: int = 10 ** max(have - want, 0)
    scaled, rest = divmod(amount * factor, divisor)
    if rest:
        message = f"{money.minor} {money.currency} has a fraction that Stripe cannot express"
        raise NotRepresentable(message)
    return scaled
