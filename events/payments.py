"""Payments: money from a person for a product, and back.

A payment is charged at a provider. What the provider says comes in as `Record...` commands, from our own calls and from
looking after a webhook alike, in any order and any number of times; the facts below say what it means.
"""

from __future__ import annotations

from typing import Annotated, Literal, NewType
from uuid import UUID

from pydantic import AfterValidator

from events import Command, Event, Instant, Key, Money, PersonId, ProductId, Refusal, ShortText

PaymentId = NewType("PaymentId", UUID)

RefundId = NewType("RefundId", UUID)
"""A refund of one payment. Asking again with the same id changes nothing."""

RefundStatus = Literal["requested", "completed", "failed"]


def _something(amount: Money) -> Money:
    if amount.minor == 0:
        msg = "minor: must be more than 0"
        raise ValueError(msg)
    return amount


Amount = Annotated[Money, AfterValidator(_something)]
"""Money, and more than nothing."""


class InitiatePayment(Command, public=True):
    """Charge a person for a product."""

    payment_id: Key[PaymentId]
    customer_id: PersonId
    """The person who pays."""
    product_id: ProductId
    amount: Amount
    payment_method: ShortText
    """The provider's token for the card or account to charge; never a card number."""


class CancelPayment(Command, public=True):
    """Give a payment up that is not captured. Should the money come in all the same, it goes back."""

    payment_id: Key[PaymentId]
    reason: ShortText


class RequestRefund(Command, public=True):
    """Give money back: never more than was captured, however often it is asked."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    reason: ShortText
    amount: Amount | None = None
    """How much; none: all that is left."""


class CheckPayment(Command):
    """Look at the provider how a payment stands: a webhook hinted at news."""

    payment_id: Key[PaymentId]
    provider_ref: ShortText


class CheckRefund(Command):
    """Look at the provider how a refund stands: a webhook hinted at news."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    provider_ref: ShortText
    """The provider's reference of the payment."""


class RecordCapture(Command):
    """The provider says: the money was taken."""

    payment_id: Key[PaymentId]
    provider: ShortText
    provider_ref: ShortText
    amount: Money
    """What was taken, which may differ from what was ordered."""
    captured_at: Instant


class RecordPending(Command):
    """The provider says: neither taken nor declined yet."""

    payment_id: Key[PaymentId]
    provider: ShortText
    provider_ref: ShortText
    waits_for: ShortText
    """The provider's status, such as `requires_action`."""


class RecordDecline(Command):
    """The provider says: no money was taken by this attempt."""

    payment_id: Key[PaymentId]
    provider: ShortText
    provider_ref: ShortText | None
    code: ShortText
    message: ShortText
    retryable: bool
    """Whether the same payment method may work later, in a payment of its own."""


class RecordRefund(Command):
    """The provider says: the refund is on its way to the payer."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    provider_refund_ref: ShortText
    amount: Money
    refunded_at: Instant


class RecordPendingRefund(Command):
    """The provider says: the refund is taken in, and may take days."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    provider_refund_ref: ShortText


class RecordRefundDecline(Command):
    """The provider says: nothing goes back by this refund, or it came back."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    provider_refund_ref: ShortText | None
    code: ShortText
    message: ShortText


class PaymentInitiated(Event):
    """The payment is ordered; the provider is about to be asked."""

    payment_id: Key[PaymentId]
    customer_id: PersonId
    product_id: ProductId
    amount: Amount
    payment_method: ShortText
    initiated_at: Instant


class PaymentPending(Event):
    """The provider has the payment and waits, for the payer or for a bank."""

    payment_id: Key[PaymentId]
    provider: ShortText
    provider_ref: ShortText
    waits_for: ShortText


class PaymentCompleted(Event, public=True):
    """The money is captured, and ours unless refunded."""

    payment_id: Key[PaymentId]
    customer_id: PersonId
    """The person who paid."""
    product_id: ProductId
    amount: Amount
    provider: ShortText
    provider_ref: ShortText
    """The provider's reference of the capture: a refund names it."""
    captured_at: Instant


class PaymentFailed(Event):
    """No money was taken. Should the provider take it later all the same, the payment completes."""

    payment_id: Key[PaymentId]
    customer_id: PersonId
    code: ShortText
    message: ShortText
    retryable: bool
    failed_at: Instant


class PaymentCancelled(Event):
    """The payment was given up before any money was known to be taken."""

    payment_id: Key[PaymentId]
    customer_id: PersonId
    provider_ref: ShortText | None
    """What the provider holds open and must drop; none: nothing that we know of."""
    reason: ShortText
    cancelled_at: Instant


class PaymentLeftOpen(Event):
    """The payment is cancelled here, but the provider turned out to hold it open: it must be cancelled there, too."""

    payment_id: Key[PaymentId]
    provider_ref: ShortText


class SurplusCaptured(Event):
    """Money was taken that is not due: after a cancellation, or a second time. It goes back at once."""

    payment_id: Key[PaymentId]
    customer_id: PersonId
    amount: Money
    provider: ShortText
    provider_ref: ShortText
    captured_at: Instant


class PaymentMismatchDetected(Event):
    """The provider moved another amount than was ordered. Nothing is delivered; an operator decides."""

    payment_id: Key[PaymentId]
    customer_id: PersonId
    concerns: Literal["capture", "refund"]
    expected: Money
    observed: Money
    provider: ShortText
    provider_ref: ShortText
    detected_at: Instant


class RefundRequested(Event):
    """Money is set aside to go back; the provider is about to be asked."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    customer_id: PersonId
    amount: Amount
    provider: ShortText
    provider_ref: ShortText
    """The capture that the money comes out of."""
    reason: ShortText
    requested_at: Instant


class RefundPending(Event):
    """The provider has the refund; it may take days."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    provider_refund_ref: ShortText


class RefundCompleted(Event):
    """The money is on its way back to the payer. A bank may still return it: then `RefundFailed` follows."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    customer_id: PersonId
    amount: Amount
    kept: Money
    """What is left of that capture, less every completed refund: 0 means that all of it went back."""
    activation_id: PaymentId | None
    """The payment, if it is one that access was due for."""
    refunded_at: Instant


class RefundFailed(Event):
    """Nothing went back. The money is free to be refunded again, by another refund: a task for an operator."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    customer_id: PersonId
    amount: Amount
    was: Literal["requested", "completed"]
    """`completed`: the bank returned the money after the provider had reported it as refunded."""
    code: ShortText
    message: ShortText
    activation_id: PaymentId | None
    """The payment, if it is one that access was due for."""
    failed_at: Instant


class PaymentRefused(Refusal):
    """The payment was not initiated."""

    payment_id: Key[PaymentId]
    customer_id: PersonId


class CompletionRefused(Refusal):
    """A completed payment from upstream contradicts what is known of it, and was not adopted."""

    payment_id: Key[PaymentId]


class CancellationRefused(Refusal):
    """The payment was not cancelled."""

    payment_id: Key[PaymentId]


class RefundRefused(Refusal):
    """No refund was begun by this request."""

    payment_id: Key[PaymentId]
    refund_id: RefundId
    known: RefundStatus | None
    """Where the refund stands, if the same id was requested before."""
    refundable: Money | None
    """What could still be refunded; none: nothing was ever captured."""
    activation_id: PaymentId | None
    """The payment, if it is one that access was due for."""


class OutcomeRefused(Refusal):
    """The provider reported something on a payment or refund that is not known here."""

    payment_id: Key[PaymentId]
