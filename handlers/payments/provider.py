"""The port to whoever moves the money: what payments ask of a provider, and every answer that it may give."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

from events import Money
from handlers import OutcomeUnknown, Unavailable

__all__ = [
    "Cancelled",
    "CaptureOrder",
    "Captured",
    "Declined",
    "OutcomeUnknown",
    "PaymentProvider",
    "Pending",
    "ProviderMisconfigured",
    "ProviderUnavailable",
    "RefundDeclined",
    "RefundOrder",
    "RefundPendingAtProvider",
    "Refunded",
]


class ProviderUnavailable(Unavailable):
    """The provider cannot be reached or asks to wait; nothing was done, the same call is tried again later."""


class ProviderMisconfigured(Unavailable):
    """The provider refuses us, not the payment (key, permission, misuse); nothing was done until someone repairs it."""


@dataclass(frozen=True, slots=True)
class CaptureOrder:
    """What is to be charged, on what, for whom."""

    tenant: str
    payment_id: UUID
    customer_id: UUID
    product_id: UUID
    amount: Money
    payment_method: str
    """The provider's token for the card; never a card number."""


@dataclass(frozen=True, slots=True)
class Captured:
    """The money is ours. `amount` is what the provider took: compare it with what was ordered."""

    provider_ref: str
    amount: Money
    captured_at: datetime


@dataclass(frozen=True, slots=True)
class Declined:
    """No money moved by this attempt, and none will."""

    code: str
    message: str
    retryable: bool
    """Whether the same method may work later; otherwise another one is needed."""
    provider_ref: str | None = None


@dataclass(frozen=True, slots=True)
class Pending:
    """Neither captured nor declined yet: the provider says later how it ended."""

    provider_ref: str
    reason: str
    """The provider's status, such as `requires_action` (the payer must confirm) or `processing`."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The payment can no longer be captured."""

    provider_ref: str


@dataclass(frozen=True, slots=True)
class RefundOrder:
    """How much of which captured payment goes back."""

    tenant: str
    payment_id: UUID
    refund_id: UUID
    provider_ref: str
    amount: Money


@dataclass(frozen=True, slots=True)
class Refunded:
    """The refund is on its way to the payer. A bank may still return it days later: then it becomes declined."""

    provider_refund_ref: str
    amount: Money
    refunded_at: datetime


@dataclass(frozen=True, slots=True)
class RefundPendingAtProvider:
    """The provider has the refund and says later how it ended."""

    provider_refund_ref: str


@dataclass(frozen=True, slots=True)
class RefundDeclined:
    """Nothing goes back by this refund: it was refused, failed, or the provider does not know the payment."""

    code: str
    message: str
    provider_refund_ref: str | None = None


class PaymentProvider(Protocol):
    """A payment provider.

    Every method may raise `ProviderUnavailable` or `ProviderMisconfigured` (nothing was done). Those that move money may
    raise `OutcomeUnknown`: then the matching `find_*` is asked before anything is tried again. The same idempotency key
    means the same attempt; another attempt at the same payment needs another key.
    """

    @property
    def name(self) -> str:
        """The provider's permanent name in events, such as `stripe`."""
        ...

    async def capture(self, order: CaptureOrder, idempotency_key: str) -> Captured | Declined | Pending:
        """Charge the order."""
        ...

    async def find_capture(self, tenant: str, payment_id: UUID) -> Captured | Declined | Pending | None:
        """Tell how far the payment got over all its attempts; `None` if the provider knows of no attempt.

        Ids are unique within a tenant only, so both are needed to find one's own payment.
        """
        ...

    async def cancel(self, provider_ref: str, idempotency_key: str) -> Cancelled | Captured:
        """Make sure that the payment is never captured, unless it already is. `LookupError` if it is unknown there."""
        ...

    async def refund(
        self, order: RefundOrder, idempotency_key: str
    ) -> Refunded | RefundDeclined | RefundPendingAtProvider:
        """Give money back, out of what that payment captured."""
        ...

    async def find_refund(
        self, tenant: str, refund_id: UUID, provider_ref: str
    ) -> Refunded | RefundDeclined | RefundPendingAtProvider | None:
        """Tell how far the refund got; `None` if the provider knows of no such refund of that payment."""
        ...

    async def retrieve(self, provider_ref: str) -> Captured | Declined | Pending:
        """Tell the payment's present state, whatever a webhook said. Raises `LookupError` if it is unknown there."""
        ...
