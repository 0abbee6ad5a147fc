"""A paid customer gets access within fifteen minutes, or the money back."""

from __future__ import annotations

from datetime import timedelta
from typing import Never

from events import NewId, PersonId, ProductId
from events.entitlements import AccessGranted, AccessRefused, GrantAccess, RevokeAccess
from events.payments import (
    PaymentCompleted,
    PaymentId,
    RefundCompleted,
    RefundFailed,
    RefundId,
    RefundRefused,
    RequestRefund,
)
from sagas import Compensated, Done, Saga, State, Step, Stuck, go, stay

saga = Saga("activation", by="payment_id")
saga.correlates(RefundCompleted, by="activation_id")
saga.correlates(RefundFailed, by="activation_id")
saga.correlates(RefundRefused, by="activation_id")


class Granting(State):
    """Access is asked for."""

    within = timedelta(minutes=15)

    payment_id: PaymentId


class Refunding(State):
    """Access did not come; the money is asked back. A bank may take days."""

    within = timedelta(days=10)

    payment_id: PaymentId
    refund_ids: tuple[RefundId, ...]
    """The refunds that this flow asked for, each for all that was left then."""


class Activated(Done):
    """The customer has access."""

    person_id: PersonId
    product_id: ProductId


class Refunded(Compensated):
    """The customer has the money."""


class RefundStuck(Stuck):
    """The customer has neither access nor, as far as we know, the money."""


Anywhere = Granting | Refunding | Activated | Refunded | RefundStuck


@saga.starts
def paid(event: PaymentCompleted) -> Step[GrantAccess]:
    """Ask for access."""
    return go(
        Granting(payment_id=event.payment_id),
        GrantAccess(person_id=event.customer_id, product_id=event.product_id, payment_id=event.payment_id),
    )


@saga.on
def paid_once(_: Anywhere, __: PaymentCompleted) -> Step[Never]:
    """A payment completes once; nothing follows from hearing it again."""
    return stay()


@saga.on
def granted(_: Granting, event: AccessGranted) -> Step[Never]:
    """The promise is kept."""
    return go(Activated(person_id=event.person_id, product_id=event.product_id))


@saga.on
def granted_already(_: Activated, __: AccessGranted) -> Step[Never]:
    """A payment grants once; nothing follows from hearing it again."""
    return stay()


@saga.on
def granted_too_late(_: Refunding | Refunded | RefundStuck, event: AccessGranted) -> Step[RevokeAccess]:
    """Take the late grant back: the money was promised instead."""
    return stay(
        _revoke(event.person_id, event.product_id, event.payment_id, "granted after its refund was begun")
    )


@saga.on
def refused(was: Granting, event: AccessRefused, new_id: NewId) -> Step[RequestRefund]:
    """No access, so the money back."""
    return _refund(was.payment_id, new_id, f"no access: {event.reason}")


@saga.on
def refused_once(_: Refunding | Activated | Refunded | RefundStuck, __: AccessRefused) -> Step[Never]:
    """The answer has come already."""
    return stay()


@saga.late
def overdue(was: Granting, new_id: NewId) -> Step[RequestRefund]:
    """No access in time, so the money back."""
    return _refund(was.payment_id, new_id, "no access within fifteen minutes")


@saga.on
def refunded_before_access(_: Granting | Refunding | RefundStuck, event: RefundCompleted) -> Step[Never]:
    """All of the money is back, whoever asked for it."""
    return go(Refunded()) if event.kept.minor == 0 else stay()


@saga.on
def refunded_after_access(was: Activated, event: RefundCompleted) -> Step[RevokeAccess]:
    """All of the money is back, so the access goes. A partial refund changes nothing."""
    if event.kept.minor > 0 or event.activation_id is None:
        return stay()
    return go(
        Refunded(), _revoke(was.person_id, was.product_id, event.activation_id, "the payment was refunded")
    )


@saga.on
def refunded_already(_: Refunded, __: RefundCompleted) -> Step[Never]:
    """All of the money is back already."""
    return stay()


@saga.on
def refund_failed(was: Refunding, event: RefundFailed, new_id: NewId) -> Step[RequestRefund]:
    """Our refund did not get through: an operator is needed. If it was somebody else's, its money is ours to refund."""
    if event.refund_id in was.refund_ids:
        return go(RefundStuck(why=f"the refund failed: {event.message}"))
    return _refund(was.payment_id, new_id, "the rest: another refund failed", was.refund_ids)


@saga.on
def refund_returned(_: Refunded, event: RefundFailed) -> Step[Never]:
    """The bank returned money that counted as refunded: the customer has nothing again."""
    return (
        go(RefundStuck(why=f"the refund came back: {event.message}")) if event.was == "completed" else stay()
    )


@saga.on
def refund_failed_elsewhere(_: Granting | Activated | RefundStuck, __: RefundFailed) -> Step[Never]:
    """Not a refund of this flow: whoever asked for it sees to it."""
    return stay()


@saga.on
def refund_refused(was: Refunding, event: RefundRefused) -> Step[Never]:
    """If all of the money is on its way already, wait for it; else an operator is needed."""
    on_its_way = event.refundable is not None and event.refundable.minor == 0
    if event.refund_id not in was.refund_ids or event.known is not None or on_its_way:
        return stay()
    return go(RefundStuck(why=f"the refund was refused: {event.reason}"))


@saga.on
def refund_refused_elsewhere(
    _: Granting | Activated | Refunded | RefundStuck, __: RefundRefused
) -> Step[Never]:
    """Not a request of this flow."""
    return stay()


@saga.late
def refund_overdue(_: Refunding) -> Step[Never]:
    """Nobody knows where the money is."""
    return go(RefundStuck(why="the refund did not settle within ten days"))


def _refund(
    payment_id: PaymentId, new_id: NewId, reason: str, before: tuple[RefundId, ...] = ()
) -> Step[RequestRefund]:
    refund_id = RefundId(new_id())
    return go(
        Refunding(payment_id=payment_id, refund_ids=(*before, refund_id)),
        RequestRefund(payment_id=payment_id, refund_id=refund_id, reason=reason[:255]),
    )


def _revoke(
    person_id: PersonId, product_id: ProductId, payment_id: PaymentId | None, reason: str
) -> RevokeAccess:
    return RevokeAccess(person_id=person_id, product_id=product_id, payment_id=payment_id, reason=reason)
