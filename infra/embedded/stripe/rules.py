"""What Stripe does with an intent, a charge and a refund: from what is, and what is asked, to what is then."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

from infra.embedded.stripe.forms import Object, Params, Refused

__all__ = [
    "Change",
    "NewIntent",
    "NewRefund",
    "authenticate",
    "cancel",
    "confirm",
    "create",
    "refund",
    "settle",
]

MOST = 99_999_999
_CENTS_ONLY_WHOLE = {
    "isk": 100,
    "ugx": 100,
    **dict.fromkeys(("bhd", "iqd", "jod", "kwd", "lyd", "omr", "tnd"), 10),
}
"""Currencies whose amounts must be multiples."""


@dataclass(frozen=True, slots=True)
class Card:
    """How one of Stripe's test payment methods behaves."""

    decline: tuple[str, str | None] | None = None
    """Code and decline code."""
    asks: bool = False
    """Whether the payer has to confirm first."""
    refunds: str = "succeeded"
    """How a refund starts; `succeeded_then_failed` for the bank that sends it back."""


_CARDS = {
    **dict.fromkeys(
        ("pm_card_visa", "pm_card_visa_debit", "pm_card_mastercard", "pm_card_amex", "pm_card_us"), Card()
    ),
    "pm_card_authenticationRequired": Card(asks=True),
    "pm_card_threeDSecure2Required": Card(asks=True),
    "pm_card_chargeCustomerFail": Card(decline=("card_declined", "generic_decline")),
    "pm_card_pendingRefund": Card(refunds="pending"),
    "pm_card_refundFail": Card(refunds="succeeded_then_failed"),
    **{
        f"pm_card{brand}_chargeDeclined{name}": Card(decline=decline)
        for brand in ("", "_visa")
        for name, decline in {
            "": ("card_declined", "generic_decline"),
            "InsufficientFunds": ("card_declined", "insufficient_funds"),
            "LostCard": ("card_declined", "lost_card"),
            "StolenCard": ("card_declined", "stolen_card"),
            "ExpiredCard": ("expired_card", None),
            "IncorrectCvc": ("incorrect_cvc", None),
            "ProcessingError": ("processing_error", None),
        }.items()
    },
}


@dataclass(frozen=True, slots=True)
class Change:
    """What a request leads to: objects to write, events to tell, the answer to give."""

    answer: Object
    status: int = 200
    written: tuple[Object, ...] = ()
    events: tuple[tuple[str, Object], ...] = ()
    settles: frozenset[str] = field(default_factory=frozenset)
    """Ids of written refunds that are not final yet."""


@dataclass(frozen=True, slots=True)
class NewIntent:
    """A checked request for a payment intent."""

    KNOWN = frozenset(
        {
            *(
                "amount",
                "currency",
                "payment_method",
                "payment_method_types",
                "automatic_payment_methods",
                "metadata",
            ),
            *("confirm", "off_session", "customer", "description", "receipt_email", "statement_descriptor"),
            *("statement_descriptor_suffix", "capture_method", "confirmation_method", "return_url", "expand"),
            *("allowed_payment_method_types", "error_on_requires_action", "setup_future_usage"),
        }
    )

    amount: int
    currency: str
    method: str | None
    metadata: dict[str, str]
    confirm: bool
    unattended: bool
    given: dict[str, str | None]

    @classmethod
    def read(cls, params: Params) -> NewIntent:
        """Check the fields in themselves."""
        amount, currency = params.integer("amount", 1, MOST), params.needed("currency").lower()
        if amount is None:
            raise Refused(400, "Missing required param: amount.", "parameter_missing", "amount")
        if len(currency) != 3 or not currency.isascii() or not currency.isalpha():
            raise Refused(400, f"Invalid currency: {currency[:20]}", param="currency")
        if amount % _CENTS_ONLY_WHOLE.get(currency, 1):
            multiple = _CENTS_ONLY_WHOLE[currency]
            raise Refused(400, f"Invalid amount: {currency} takes multiples of {multiple}.", param="amount")
        if params.text("capture_method") == "manual":
            raise Refused(400, "This simulator captures automatically only.", param="capture_method")
        unattended = bool(params.flag("off_session")) or bool(params.flag("error_on_requires_action"))
        given = (
            "customer",
            "description",
            "receipt_email",
            "statement_descriptor",
            "statement_descriptor_suffix",
        )
        return cls(
            amount,
            currency,
            params.text("payment_method"),
            params.metadata(),
            params.flag("confirm") or False,
            unattended,
            {name: params.text(name) for name in given},
        )


def create(asked: NewIntent, now: int) -> Change:
    """Make an intent, and confirm it at once if asked."""
    if asked.method is not None:
        _card(asked.method)
    id_ = identifier("pi")
    intent: Object = {
        "id": id_,
        "object": "payment_intent",
        "allowed_payment_method_types": None,
        "amount": asked.amount,
        "amount_capturable": 0,
        "amount_details": {"tip": {}},
        "amount_received": 0,
        "application": None,
        "application_fee_amount": None,
        "automatic_payment_methods": {"allow_redirects": "never", "enabled": True},
        "canceled_at": None,
        "cancellation_reason": None,
        "capture_method": "automatic_async",
        "client_secret": f"{id_}_secret_{secrets.token_hex(12)}",
        "confirmation_method": "automatic",
        "created": now,
        "currency": asked.currency,
        "customer_account": None,
        "excluded_payment_method_types": None,
        "last_payment_error": None,
        "latest_charge": None,
        "livemode": False,
        "managed_payments": {"enabled": False},
        "metadata": asked.metadata,
        "next_action": None,
        "on_behalf_of": None,
        "payment_method": asked.method,
        "payment_method_configuration_details": None,
        "payment_method_options": {"card": {"request_three_d_secure": "automatic"}},
        "payment_method_types": ["card"],
        "processing": None,
        "review": None,
        "setup_future_usage": None,
        "shipping": None,
        "source": None,
        "status": "requires_confirmation" if asked.method else "requires_payment_method",
        "transfer_data": None,
        "transfer_group": None,
        **asked.given,
    }
    made = ("payment_intent.created", dict(intent))
    if not asked.confirm:
        return Change(intent, written=(intent,), events=(made,))
    change = confirm(intent, None, now, unattended=asked.unattended)
    return Change(change.answer, change.status, change.written, (made, *change.events))


def confirm(intent: Object, method: str | None, now: int, *, unattended: bool) -> Change:
    """Try to take the money with `method`, or with the one that the intent has."""
    _expect(intent, "confirm", {"requires_payment_method", "requires_confirmation", "requires_action"})
    method = method or intent["payment_method"]
    if method is None:
        raise _unexpected(intent, "The intent has no payment method: give one to confirm it with.")
    card = _card(method)
    intent = {**intent, "payment_method": method}
    if card.asks and unattended:
        return _decline(intent, ("authentication_required", "authentication_required"), now)
    if card.asks:
        asks = {"type": "use_stripe_sdk", "use_stripe_sdk": {"type": "three_d_secure_redirect"}}
        intent |= {"status": "requires_action", "next_action": asks}
        return Change(intent, written=(intent,), events=(("payment_intent.requires_action", intent),))
    return _decline(intent, card.decline, now) if card.decline else _take(intent, now)


def authenticate(intent: Object, now: int, *, accepted: bool) -> Change:
    """Do what the payer's bank does after asking the payer."""
    _expect(intent, "authenticate", {"requires_action"})
    intent = {**intent, "next_action": None}
    if accepted:
        return _take(intent, now)
    change = _decline(intent, ("payment_intent_authentication_failure", None), now)
    return Change(change.written[-1], written=change.written, events=change.events)


def cancel(intent: Object, reason: str | None, now: int) -> Change:
    """End an intent that has taken no money."""
    open_ = {
        "requires_payment_method",
        "requires_confirmation",
        "requires_action",
        "requires_capture",
        "processing",
    }
    _expect(intent, "cancel", open_)
    ended = {"status": "canceled", "canceled_at": now, "cancellation_reason": reason, "next_action": None}
    intent = {**intent, **ended}
    return Change(intent, written=(intent,), events=(("payment_intent.canceled", intent),))


@dataclass(frozen=True, slots=True)
class NewRefund:
    """A checked request for a refund."""

    KNOWN = frozenset({"payment_intent", "charge", "amount", "metadata", "reason", "expand"})

    intent: str | None
    charge: str | None
    amount: int | None
    metadata: dict[str, str]
    reason: str | None

    @classmethod
    def read(cls, params: Params) -> NewRefund:
        """Check the fields in themselves."""
        intent, charge, reason = params.text("payment_intent"), params.text("charge"), params.text("reason")
        if (intent is None) is (charge is None):
            raise Refused(
                400, "Give one of payment_intent and charge.", "parameter_missing", "payment_intent"
            )
        if reason not in {None, "duplicate", "fraudulent", "requested_by_customer"}:
            raise Refused(400, f"Invalid reason: {reason}", "parameter_invalid_string", "reason")
        return cls(intent, charge, params.integer("amount", 1, MOST), params.metadata(), reason)


def refund(asked: NewRefund, charge: Object, now: int) -> Change:
    """Give back part of a charge, or what is left of it."""
    left = charge["amount_captured"] - charge["amount_refunded"]
    if left == 0:
        raise Refused(400, f"Charge {charge['id']} has already been refunded.", "charge_already_refunded")
    amount = asked.amount or left
    if amount > left:
        raise Refused(
            400,
            f"Refund amount {amount} is greater than what is left of the charge ({left}).",
            param="amount",
        )
    card = _CARDS[charge["payment_method"]]
    made: Object = {
        "id": identifier("re"),
        "object": "refund",
        "amount": amount,
        "balance_transaction": identifier("txn"),
        "charge": charge["id"],
        "created": now,
        "currency": charge["currency"],
        "customer": charge["customer"],
        "customer_account": None,
        "destination_details": {"card": {"type": "refund"}, "type": "card"},
        "failure_reason": None,
        "metadata": asked.metadata,
        "payment_intent": charge["payment_intent"],
        "payment_method": charge["payment_method"],
        "reason": asked.reason,
        "receipt_number": None,
        "source_transfer_reversal": None,
        "status": "pending" if card.refunds == "pending" else "succeeded",
        "transfer_reversal": None,
    }
    charge = _with_refunded(charge, amount)
    return Change(
        made,
        written=(charge, made),
        events=(("refund.created", made), ("charge.refunded", charge)),
        settles=frozenset() if card.refunds == "succeeded" else frozenset({made["id"]}),
    )


def settle(made: Object, charge: Object) -> Change:
    """Let the payer's bank have the last word on a refund."""
    if made["status"] == "pending":
        made = {**made, "status": "succeeded"}
        return Change(made, written=(made,), events=(("refund.updated", made),))
    made = {**made, "status": "failed", "failure_reason": "expired_or_canceled_card"}
    charge = _with_refunded(charge, -made["amount"])
    return Change(made, written=(charge, made), events=(("refund.failed", made), ("refund.updated", made)))


def identifier(prefix: str) -> str:
    """Give a fresh id of the kind that Stripe gives."""
    return f"{prefix}_{secrets.token_hex(12)}"


def _card(method: str) -> Card:
    if (card := _CARDS.get(method)) is None:
        raise Refused(400, f"No such PaymentMethod: '{method[:100]}'", "resource_missing", "payment_method")
    return card


def _expect(intent: Object, act: str, statuses: set[str]) -> None:
    if intent["status"] not in statuses:
        raise _unexpected(intent, f"You cannot {act} this PaymentIntent: its status is {intent['status']}.")


def _unexpected(intent: Object, message: str) -> Refused:
    return Refused(400, message, "payment_intent_unexpected_state", payment_intent=intent)


def _take(intent: Object, now: int) -> Change:
    charge = _charge(intent, now) | {"captured": True, "amount_captured": intent["amount"], "paid": True}
    intent = {
        **intent,
        "status": "succeeded",
        "latest_charge": charge["id"],
        "amount_received": intent["amount"],
        "last_payment_error": None,
        "next_action": None,
    }
    told = (("charge.succeeded", charge), ("payment_intent.succeeded", intent))
    return Change(intent, written=(charge, intent), events=told)


def _decline(intent: Object, decline: tuple[str, str | None], now: int) -> Change:
    code, decline_code = decline
    outcome = {
        "type": "issuer_declined",
        "reason": decline_code or code,
        "network_status": "declined_by_network",
    }
    message = "The payer was not authenticated." if "authentication" in code else "Your card was declined."
    charge = _charge(intent, now)
    charge |= {"status": "failed", "failure_code": code, "failure_message": message}
    charge["outcome"] |= outcome | {"seller_message": "The bank declined the payment."}
    error: Object = {
        "charge": charge["id"],
        "code": code,
        "doc_url": f"https://stripe.com/docs/error-codes/{code.replace('_', '-')}",
        "message": message,
        "payment_method": {
            "id": intent["payment_method"],
            "object": "payment_method",
            "type": "card",
            "livemode": False,
        },
        "type": "card_error",
    }
    if decline_code:
        error["decline_code"] = decline_code
    intent = {
        **intent,
        "status": "requires_payment_method",
        "latest_charge": charge["id"],
        "last_payment_error": error,
        "payment_method": None,
        "next_action": None,
    }
    told = (("charge.failed", charge), ("payment_intent.payment_failed", intent))
    return Change({"error": {**error, "payment_intent": intent}}, 402, (charge, intent), told)


def _charge(intent: Object, now: int) -> dict[str, Any]:
    nothing = (
        *(
            "application",
            "application_fee",
            "application_fee_amount",
            "failure_balance_transaction",
            "failure_code",
        ),
        *(
            "failure_message",
            "on_behalf_of",
            "receipt_number",
            "receipt_url",
            "review",
            "shipping",
            "source_transfer",
        ),
        *("transfer_data", "transfer_group"),
    )
    same = ("amount", "currency", "customer", "description", "metadata", "receipt_email", "payment_method")
    address = dict.fromkeys(("city", "country", "line1", "line2", "postal_code", "state"))
    return {
        "id": identifier("ch"),
        "object": "charge",
        **dict.fromkeys(nothing),
        **{name: intent[name] for name in (*same, "statement_descriptor", "statement_descriptor_suffix")},
        "amount_captured": 0,
        "amount_refunded": 0,
        "balance_transaction": identifier("txn"),
        "billing_details": {"address": address, **dict.fromkeys(("email", "name", "phone", "tax_id"))},
        "calculated_statement_descriptor": None,
        "captured": False,
        "created": now,
        "disputed": False,
        "fraud_details": {},
        "livemode": False,
        "outcome": {
            **dict.fromkeys(("advice_code", "network_advice_code", "network_decline_code", "reason")),
            "network_status": "approved_by_network",
            "seller_message": "Payment complete.",
            "type": "authorized",
        },
        "paid": False,
        "payment_intent": intent["id"],
        "payment_method_details": {"card": {"brand": "visa", "last4": "4242"}, "type": "card"},
        "refunded": False,
        "status": "succeeded",
    }


def _with_refunded(charge: Object, amount: int) -> Object:
    refunded = charge["amount_refunded"] + amount
    return {**charge, "amount_refunded": refunded, "refunded": refunded == charge["amount_captured"]}
