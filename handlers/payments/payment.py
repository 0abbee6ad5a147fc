"""A payment remembers every capture and every refund, so that what can go back is always known to the cent."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from events import Key, Money, PersonId, ProductId
from events.payments import (
    PaymentCancelled,
    PaymentCompleted,
    PaymentFailed,
    PaymentId,
    PaymentInitiated,
    PaymentLeftOpen,
    PaymentMismatchDetected,
    PaymentPending,
    RefundCompleted,
    RefundFailed,
    RefundId,
    RefundPending,
    RefundRequested,
    RefundStatus,
    SurplusCaptured,
)
from handlers import Aggregate
from handlers.payments import worker

PaymentStatus = Literal["new", "initiated", "failed", "cancelled", "mismatched", "completed"]


class Part(BaseModel):
    """A value inside a payment's state."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Capture(Part):
    """Money that the provider took."""

    provider: str
    provider_ref: str
    amount: Money


class Refund(Part):
    """Money that goes back, out of one capture."""

    refund_id: RefundId
    provider_ref: str
    amount: Money
    status: RefundStatus


class Payment(Aggregate):
    """One payment. Whatever refunds are asked for, those of a capture never sum up to more than it."""

    payment_id: Key[PaymentId]
    status: PaymentStatus = "new"
    customer_id: PersonId | None = None
    product_id: ProductId | None = None
    ordered: Money | None = None
    open_ref: str | None = None
    """What the provider holds open: neither captured nor declined yet."""
    captured_at: datetime | None = None
    """When the money that was ordered was taken."""
    captures: tuple[Capture, ...] = ()
    """The one that was ordered comes first; any other is surplus."""
    refunds: tuple[Refund, ...] = ()

    def completion(self) -> PaymentCompleted | None:
        """Tell the completion again, as it was published; `None` if the payment is not completed."""
        if (
            self.status != "completed"
            or self.captured_at is None
            or self.customer_id is None
            or self.product_id is None
        ):
            return None
        capture = self.captures[0]
        return PaymentCompleted(
            payment_id=self.payment_id,
            customer_id=self.customer_id,
            product_id=self.product_id,
            amount=capture.amount,
            provider=capture.provider,
            provider_ref=capture.provider_ref,
            captured_at=self.captured_at,
        )

    def captured(self, provider_ref: str) -> bool:
        """Whether this capture is known."""
        return any(capture.provider_ref == provider_ref for capture in self.captures)

    def refund(self, refund_id: RefundId) -> Refund | None:
        """Give a refund by its id."""
        return next((refund for refund in self.refunds if refund.refund_id == refund_id), None)

    def refundable(self, capture: Capture) -> Money:
        """What could still be refunded of a capture: neither gone back nor set aside to."""
        return self._less(capture, {"requested", "completed"})

    def kept(self, capture: Capture) -> Money:
        """What is left of a capture, less what has gone back."""
        return self._less(capture, {"completed"})

    def activation(self, provider_ref: str) -> PaymentId | None:
        """Give the payment's id if access is due for this capture: correlates the saga that sees to it."""
        due = self.status == "completed" and self.captures[0].provider_ref == provider_ref
        return self.payment_id if due else None

    def _less(self, capture: Capture, statuses: set[RefundStatus]) -> Money:
        gone = sum(
            refund.amount.minor
            for refund in self.refunds
            if refund.provider_ref == capture.provider_ref and refund.status in statuses
        )
        return Money(minor=max(0, capture.amount.minor - gone), currency=capture.amount.currency)


@worker.evolves
def initiated(payment: Payment, event: PaymentInitiated) -> Payment:
    """Be ordered."""
    return payment.model_copy(
        update={
            "status": "initiated",
            "customer_id": event.customer_id,
            "product_id": event.product_id,
            "ordered": event.amount,
        }
    )


@worker.evolves
def pending(payment: Payment, event: PaymentPending | PaymentLeftOpen) -> Payment:
    """Know what the provider holds open."""
    return payment.model_copy(update={"open_ref": event.provider_ref})


@worker.evolves
def completed(payment: Payment, event: PaymentCompleted) -> Payment:
    """Have the money that was ordered, whoever charged it."""
    return payment.model_copy(
        update={
            "status": "completed",
            "customer_id": event.customer_id,
            "product_id": event.product_id,
            "ordered": event.amount,
            "open_ref": None,
            "captured_at": event.captured_at,
            "captures": (_capture(event), *payment.captures),
        }
    )


@worker.evolves
def failed(payment: Payment, _event: PaymentFailed) -> Payment:
    """Have no money."""
    return payment.model_copy(update={"status": "failed", "open_ref": None})


@worker.evolves
def cancelled(payment: Payment, _event: PaymentCancelled) -> Payment:
    """Want no money."""
    return payment.model_copy(update={"status": "cancelled"})


@worker.evolves
def surplus(payment: Payment, event: SurplusCaptured) -> Payment:
    """Have money that is not due."""
    return payment.model_copy(update={"captures": (*payment.captures, _capture(event))})


@worker.evolves
def mismatched(payment: Payment, event: PaymentMismatchDetected) -> Payment:
    """Have other money than was ordered: it can go back, but nothing is delivered for it."""
    if event.concerns == "refund":
        return payment
    capture = Capture(provider=event.provider, provider_ref=event.provider_ref, amount=event.observed)
    return payment.model_copy(
        update={
            "status": "mismatched",
            "open_ref": None,
            "captures": (capture, *payment.captures),
        }
    )


@worker.evolves
def refund_requested(payment: Payment, event: RefundRequested) -> Payment:
    """Set money aside."""
    refund = Refund(
        refund_id=event.refund_id, provider_ref=event.provider_ref, amount=event.amount, status="requested"
    )
    return payment.model_copy(update={"refunds": (*payment.refunds, refund)})


@worker.evolves
def refund_pending(payment: Payment, _event: RefundPending) -> Payment:
    """The money stays set aside."""
    return payment


@worker.evolves
def refund_completed(payment: Payment, event: RefundCompleted) -> Payment:
    """Let the money go."""
    return _refund_now(payment, event.refund_id, "completed")


@worker.evolves
def refund_failed(payment: Payment, event: RefundFailed) -> Payment:
    """Have the money free again."""
    return _refund_now(payment, event.refund_id, "failed")


def _capture(event: PaymentCompleted | SurplusCaptured) -> Capture:
    return Capture(provider=event.provider, provider_ref=event.provider_ref, amount=event.amount)


def _refund_now(payment: Payment, refund_id: RefundId, status: RefundStatus) -> Payment:
    refunds = tuple(
        refund.model_copy(update={"status": status}) if refund.refund_id == refund_id else refund
        for refund in payment.refunds
    )
    return payment.model_copy(update={"refunds": refunds})
