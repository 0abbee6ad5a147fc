"""What the simulator decides, without a server: given, when, then."""

from __future__ import annotations

from contextlib import suppress
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.embedded.stripe.forms import Object, Params, Refused, nested
from infra.embedded.stripe.rules import (
    NewIntent,
    NewRefund,
    authenticate,
    cancel,
    confirm,
    create,
    refund,
    settle,
)

NOW = 1_800_000_000


def intent(method: str | None = "pm_card_visa", *, confirmed: bool = True, amount: int = 1000) -> Object:
    asked = NewIntent(
        amount, "eur", method, {"tenant": "demo-a"}, confirmed, unattended=False, given={"customer": None}
    )
    return create(NewIntent.read(_params(asked)), NOW).written[-1]


def charge_of(method: str = "pm_card_visa", amount: int = 1000) -> Object:
    fields = {"amount": str(amount), "currency": "eur", "payment_method": method, "confirm": "true"}
    return create(NewIntent.read(Params(fields, NewIntent.KNOWN)), NOW).written[0]


def refunding(amount: int | None = None) -> NewRefund:
    return NewRefund("pi_1", None, amount, {}, None)


def _params(asked: NewIntent) -> Params:
    fields = {
        "amount": str(asked.amount),
        "currency": asked.currency,
        "confirm": str(asked.confirm).lower(),
        "payment_method": asked.method or "",
        "metadata": dict(asked.metadata),
    }
    return Params(fields, NewIntent.KNOWN)


def test_fields_are_nested_as_the_sdk_spells_them() -> None:
    fields = [
        ("a", "1"),
        ("metadata[x]", "y"),
        ("expand[0]", "latest_charge"),
        ("types[]", "t"),
        ("types[]", "u"),
    ]
    tree = nested(fields)
    assert tree["metadata"] == {"x": "y"}
    assert Params(tree, tree).texts("expand") == ["latest_charge"]
    assert Params(tree, tree).texts("types") == ["t", "u"]


@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=5)), max_size=5))
def test_any_form_is_read_or_refused(pairs: list[tuple[str, str]]) -> None:
    with suppress(Refused):
        NewIntent.read(Params(nested(pairs), NewIntent.KNOWN))


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"currency": "eur"}, "parameter_missing", "amount"),
        ({"amount": "1"}, "parameter_missing", "currency"),
        ({"amount": "0", "currency": "eur"}, "parameter_invalid_integer", "amount"),
        ({"amount": "1.5", "currency": "eur"}, "parameter_invalid_integer", "amount"),
        ({"amount": "9" * 400, "currency": "eur"}, "parameter_invalid_integer", "amount"),
        ({"amount": "550", "currency": "isk"}, None, "amount"),
        ({"amount": "5124", "currency": "kwd"}, None, "amount"),
        ({"amount": "1", "currency": "euro"}, None, "currency"),
        ({"amount": "1", "currency": "eur", "confirm": "yes"}, "parameter_invalid_boolean", "confirm"),
        ({"amount": "1", "currency": "eur", "colour": "red"}, "parameter_unknown", "colour"),
    ],
)
def test_wrong_fields_are_named(fields: Object, code: str | None, param: str) -> None:
    with pytest.raises(Refused) as refused:
        NewIntent.read(Params(fields, NewIntent.KNOWN))
    assert refused.value.body["error"].get("code") == code
    assert refused.value.body["error"]["param"] == param


def test_a_good_card_is_charged_at_once() -> None:
    taken = intent()
    assert (taken["status"], taken["amount_received"]) == ("succeeded", 1000)


def test_a_declined_card_leaves_the_intent_open_for_another() -> None:
    declined = intent("pm_card_visa_chargeDeclinedInsufficientFunds")
    assert declined["status"] == "requires_payment_method"
    assert declined["last_payment_error"]["decline_code"] == "insufficient_funds"
    assert confirm(declined, "pm_card_visa", NOW, unattended=False).answer["status"] == "succeeded"


@pytest.mark.parametrize(("accepted", "status"), [(True, "succeeded"), (False, "requires_payment_method")])
def test_the_payer_has_a_say(accepted: bool, status: str) -> None:  # noqa: FBT001 - a case, not a flag
    waiting = intent("pm_card_authenticationRequired")
    assert waiting["status"] == "requires_action"
    assert authenticate(waiting, NOW, accepted=accepted).answer["status"] == status


def test_nobody_waits_for_a_payer_who_is_away() -> None:
    unconfirmed = intent("pm_card_authenticationRequired", confirmed=False)
    change = confirm(unconfirmed, None, NOW, unattended=True)
    assert (change.status, change.answer["error"]["code"]) == (402, "authentication_required")


@pytest.mark.parametrize("method", [None, "pm_card_visa"])
def test_an_open_intent_can_be_cancelled(method: str | None) -> None:
    assert cancel(intent(method, confirmed=False), None, NOW).answer["status"] == "canceled"


def test_an_ended_intent_stays_as_it_is() -> None:
    cancelled = cancel(intent(None, confirmed=False), None, NOW).answer
    for act in (
        partial(cancel, intent(), None, NOW),
        partial(cancel, cancelled, None, NOW),
        partial(confirm, cancelled, "pm_card_visa", NOW, unattended=False),
        partial(confirm, intent(), None, NOW, unattended=False),
    ):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.body["error"]["code"] == "payment_intent_unexpected_state"


@given(st.lists(st.integers(1, 1500), max_size=8))
def test_never_more_goes_back_than_came_in(amounts: list[int]) -> None:
    charge, back = charge_of(), 0
    for amount in amounts:
        try:
            change = refund(refunding(amount), charge, NOW)
        except Refused:
            assert back + amount > 1000
            continue
        charge, back = change.written[0], back + amount
    assert charge["amount_refunded"] == back <= 1000
    assert charge["refunded"] is (back == 1000)


def test_a_bank_may_send_a_refund_back() -> None:
    change = refund(refunding(), charge_of("pm_card_refundFail"), NOW)
    charge, made = change.written
    assert made["status"] == "succeeded"
    assert made["id"] in change.settles
    after = settle(made, charge)
    assert after.answer["status"] == "failed"
    assert after.written[0]["amount_refunded"] == 0
