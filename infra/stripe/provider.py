"""Stripe as a `PaymentProvider`: each of its answers becomes one of the port's, and a lost answer is never guessed."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, cast
from uuid import UUID

import httpx
import stripe
import structlog

from handlers import OutcomeUnknown
from handlers.payments.provider import (
    Cancelled,
    Captured,
    CaptureOrder,
    Declined,
    Pending,
    ProviderMisconfigured,
    ProviderUnavailable,
    RefundDeclined,
    Refunded,
    RefundOrder,
    RefundPendingAtProvider,
)
from infra.stripe.currencies import NotRepresentable, from_stripe, to_stripe
from infra.stripe.webhooks import API_VERSION, EVENT_TYPES, StripeEvent, read

if TYPE_CHECKING:
    from stripe.params import PaymentIntentCreateParams, RefundCreateParams

__all__ = ["StripeProvider"]

# The SDK would write an id of this machine under HOME and report the platform with every request.
stripe.enable_telemetry = False

CALL_TIMEOUT_SECONDS: Final = 30.0
CONNECT_TIMEOUT_SECONDS: Final = 5.0
READ_RETRIES: Final = 2

# Stripe's search lags by up to a minute in good times, its lists do not. What is older than this only an outage of
# theirs can hide, and "absent" is then still a safe answer for the day that Stripe remembers the idempotency key.
SEARCH_LAG_SECONDS: Final = 300

_NOTHING_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)

# What a later try with the same card may change; every other decline needs another card or another customer.
_RETRYABLE = frozenset({"try_again_later", "processing_error", "issuer_not_available", "insufficient_funds"})

# A complaint about these is about the order; about any other parameter it is about us.
_OF_THE_ORDER = frozenset({"amount", "currency", "payment_method"})

_log = structlog.get_logger(__name__)

CaptureState = Captured | Declined | Pending
RefundState = Refunded | RefundDeclined | RefundPendingAtProvider


class StripeProvider:
    """Charges and refunds through the official SDK.

    Writes are tried once per call, and the caller owns the retries: only a single try can tell "nothing was sent"
    from "outcome unknown". The idempotency key makes those retries safe. Reads are retried by the SDK.
    """

    def __init__(
        self, api_key: str, api_base: str | None = None, timeout: float = CALL_TIMEOUT_SECONDS
    ) -> None:
        """Talk to Stripe, or to `api_base`, with `timeout` seconds per call."""
        limits = httpx.Timeout(timeout, connect=CONNECT_TIMEOUT_SECONDS)
        self._http = _Direct(limits) if api_base else stripe.HTTPXClient(timeout=limits)
        self._client = stripe.StripeClient(
            api_key,
            stripe_version=API_VERSION,
            base_addresses={"api": api_base} if api_base else {},
            max_network_retries=READ_RETRIES,
            http_client=self._http,
        )
        self._intents = self._client.v1.payment_intents
        self._refunds = self._client.v1.refunds
        self._events = self._client.v1.events

    @property
    def name(self) -> str:
        """The name in events."""
        return "stripe"

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.close_async()  # type: ignore[no-untyped-call]

    async def capture(self, order: CaptureOrder, idempotency_key: str) -> CaptureState:
        """Create and confirm an intent: one step, so that no half-made one can be left behind."""
        try:
            amount, currency = to_stripe(order.amount)
        except NotRepresentable as refused:
            return Declined("amount_not_representable", str(refused), retryable=False)
        params: PaymentIntentCreateParams = {
            "amount": amount,
            "currency": currency,
            "payment_method": order.payment_method,
            "automatic_payment_methods": {"enabled": True, "allow_redirects": "never"},
            "confirm": True,
            "metadata": {
                "tenant": order.tenant,
                "payment_id": str(order.payment_id),
                "customer_id": str(order.customer_id),
                "product_id": str(order.product_id),
            },
            "expand": ["latest_charge"],
        }
        try:
            with _writing():
                return _state(await self._intents.create_async(params, _once(idempotency_key)))
        except stripe.CardError as declined:
            return _declined(declined.error)
        except stripe.InvalidRequestError as refused:
            if _root(refused) not in _OF_THE_ORDER:
                raise _misused(refused) from refused
            return Declined(refused.code or "invalid_request", _message(refused), retryable=False)

    async def find_capture(self, tenant: str, payment_id: UUID) -> CaptureState | None:
        """Look the payment up by its metadata: the furthest of its attempts, `None` if there is none.

        Search alone would not do: it lags behind (see `SEARCH_LAG_SECONDS`), so unless it finds the money the recent
        intents are listed as well, and what was found is retrieved, not taken from the search index.
        """
        refs = await self._search(tenant, payment_id)
        states = [await self.retrieve(ref) for ref in refs]
        if not any(isinstance(state, Captured) for state in states):
            recent = await self._recent(tenant, payment_id)
            states += [await self.retrieve(ref) for ref in recent if ref not in refs]
        captured = [state for state in states if isinstance(state, Captured)]
        if len(captured) > 1:
            _log.error("charged_more_than_once", tenant=tenant, payment_id=str(payment_id), captured=captured)
        return min(states, key=_progress, default=None)

    async def retrieve(self, provider_ref: str) -> CaptureState:
        """Ask for the intent itself, which is never stale. Raises `LookupError` if Stripe does not know it."""
        return _state(await self._intent(provider_ref))

    async def cancel(self, provider_ref: str, idempotency_key: str) -> Cancelled | Captured:
        """Cancel the intent unless it has ended; `ProviderUnavailable` while Stripe cannot cancel it yet."""
        intent = await self._intent(provider_ref)
        if intent.status not in {"succeeded", "canceled"}:
            try:
                with _writing():
                    # Stripe replays a refusal, too: in another state it is another question.
                    once = _once(f"{idempotency_key}:{intent.status}")
                    intent = await self._intents.cancel_async(provider_ref, {}, once)
            except stripe.InvalidRequestError as refused:
                if refused.code != "payment_intent_unexpected_state":
                    raise _misused(refused) from refused
                message = f"{provider_ref} changed while it was being cancelled"
                raise ProviderUnavailable(message) from refused
        state = _state(intent)
        return state if isinstance(state, Captured) else Cancelled(provider_ref)

    async def refund(self, order: RefundOrder, idempotency_key: str) -> RefundState:
        """Refund part or all of an intent, if it is this payment's or one that was made elsewhere and adopted."""
        try:
            intent = await self._intent(order.provider_ref)
        except LookupError as unknown:
            return RefundDeclined("resource_missing", str(unknown))
        made_for = intent.metadata.to_dict()
        if "tenant" in made_for and not _is_for(made_for, order.tenant, payment_id=order.payment_id):
            return RefundDeclined("payment_of_another", f"{order.provider_ref} was made for another payment")
        try:
            amount, _ = to_stripe(order.amount)
        except NotRepresentable as refused:
            return RefundDeclined("amount_not_representable", str(refused))
        params: RefundCreateParams = {
            "payment_intent": order.provider_ref,
            "amount": amount,
            "metadata": {
                "tenant": order.tenant,
                "payment_id": str(order.payment_id),
                "refund_id": str(order.refund_id),
            },
        }
        try:
            with _writing():
                return _refund_state(await self._refunds.create_async(params, _once(idempotency_key)))
        except (stripe.InvalidRequestError, stripe.CardError) as refused:
            return RefundDeclined(refused.code or "invalid_request", _message(refused))

    async def find_refund(self, tenant: str, refund_id: UUID, provider_ref: str) -> RefundState | None:
        """Look among the refunds of that intent, which Stripe lists without delay."""
        try:
            with _reading():
                page = await self._refunds.list_async({"payment_intent": provider_ref, "limit": 100})
                async for refund in page.auto_paging_iter():
                    if refund.metadata and _is_for(refund.metadata.to_dict(), tenant, refund_id=refund_id):
                        return _refund_state(refund)
        except stripe.InvalidRequestError as refused:
            if refused.code != "resource_missing":
                raise _misused(refused) from refused
        return None

    async def missed_events(self, since: datetime) -> AsyncIterator[StripeEvent]:
        """Give the events of our types since then that no webhook has delivered, newest first (30 days at most)."""
        with _reading():
            page = await self._events.list_async(
                {
                    "created": {"gte": int(since.timestamp())},
                    "delivery_success": False,
                    "types": sorted(EVENT_TYPES),
                    "limit": 100,
                }
            )
            async for event in page.auto_paging_iter():
                yield read(event.to_dict())

    async def _intent(self, provider_ref: str) -> stripe.PaymentIntent:
        try:
            with _reading():
                return await self._intents.retrieve_async(provider_ref, {"expand": ["latest_charge"]})
        except stripe.InvalidRequestError as refused:
            if refused.code != "resource_missing":
                raise _misused(refused) from refused
            message = f"Stripe knows no payment intent {provider_ref!r}"
            raise LookupError(message) from refused

    async def _search(self, tenant: str, payment_id: UUID) -> list[str]:
        query = f"metadata['payment_id']:'{payment_id}' AND metadata['tenant']:'{tenant}'"
        with _reading():
            page = await self._intents.search_async({"query": query, "limit": 100})
            return [intent.id async for intent in page.auto_paging_iter()]

    async def _recent(self, tenant: str, payment_id: UUID) -> list[str]:
        # Undecoded: the SDK's objects would make reading a busy account twenty times as dear.
        params: dict[str, Any] = {"created": {"gte": int(time.time()) - SEARCH_LAG_SECONDS}, "limit": 100}
        found: list[str] = []
        more = True
        while more:
            with _reading():
                answer = await self._client.raw_request_async("get", "/v1/payment_intents", **params)
            page = cast("dict[str, Any]", answer.data)
            made_for = {one["id"]: one["metadata"] for one in page["data"]}
            found += [ref for ref, whom in made_for.items() if _is_for(whom, tenant, payment_id=payment_id)]
            more = page["has_more"]
            params["starting_after"] = next(reversed(made_for), None)
        return found


class _Direct(stripe.HTTPXClient):
    """Reaches a stand-in itself, whatever proxy the environment names for the world outside."""

    def __init__(self, timeout: httpx.Timeout) -> None:
        super().__init__(timeout=timeout)
        self._client_async = httpx.AsyncClient(trust_env=False)


def _once(idempotency_key: str) -> stripe.RequestOptions:
    return {"idempotency_key": idempotency_key, "max_network_retries": 0}


@contextmanager
def _writing() -> Generator[None]:
    """Turn what an error leaves open into `OutcomeUnknown`; refusals of the order itself pass through."""
    try:
        with _refusing_us():
            yield
    except stripe.APIConnectionError as lost:
        if isinstance(lost.__cause__, _NOTHING_SENT):
            raise ProviderUnavailable(_message(lost)) from lost
        raise OutcomeUnknown(_message(lost)) from lost
    except stripe.APIError as failed:
        raise OutcomeUnknown(_message(failed)) from failed


@contextmanager
def _reading() -> Generator[None]:
    """Turn every failure to answer into `ProviderUnavailable`: a question can always be asked again."""
    try:
        with _refusing_us():
            yield
    except (stripe.APIConnectionError, stripe.APIError) as failed:
        raise ProviderUnavailable(_message(failed)) from failed


@contextmanager
def _refusing_us() -> Generator[None]:
    try:
        yield
    except stripe.RateLimitError as busy:
        raise ProviderUnavailable(_message(busy)) from busy
    except (stripe.AuthenticationError, stripe.PermissionError, stripe.IdempotencyError) as refused:
        raise _misused(refused) from refused


def _misused(refused: stripe.StripeError) -> ProviderMisconfigured:
    return ProviderMisconfigured(f"Stripe refuses us, check key and API version: {_message(refused)}")


def _message(error: stripe.StripeError) -> str:
    return str(error)


def _root(refused: stripe.InvalidRequestError) -> str | None:
    return refused.param.partition("[")[0] if refused.param else None


def _is_for(metadata: dict[str, Any], tenant: str, **ids: UUID) -> bool:
    return metadata.get("tenant") == tenant and all(
        metadata.get(name) == str(id_) for name, id_ in ids.items()
    )


def _state(intent: stripe.PaymentIntent) -> CaptureState:
    match intent.status:
        case "succeeded":
            charge = intent.latest_charge
            taken = charge.created if isinstance(charge, stripe.Charge) else intent.created
            amount = from_stripe(intent.amount_received, intent.currency)
            return Captured(intent.id, amount, datetime.fromtimestamp(taken, UTC))
        case "requires_payment_method":
            return _declined(intent.last_payment_error, intent.id)
        case "canceled":
            return Declined("canceled", "the payment was cancelled", retryable=False, provider_ref=intent.id)
        case other:
            return Pending(intent.id, other)


def _declined(error: Any, provider_ref: str | None = None) -> Declined:
    said = error.to_dict() if error else {}
    code = said.get("decline_code") or said.get("code") or "not_attempted"
    ref = provider_ref or (said.get("payment_intent") or {}).get("id")
    retryable = code in _RETRYABLE or said.get("advice_code") == "try_again_later"
    return Declined(code, said.get("message") or "no payment method was accepted", retryable, ref)


def _progress(state: CaptureState) -> int:
    """Rank attempts: money taken beats money that may be taken beats none."""
    match state:
        case Captured():
            return 0
        case Pending():
            return 1
        case Declined():
            return 2


def _refund_state(refund: stripe.Refund) -> RefundState:
    match refund.status:
        case "succeeded":
            amount = from_stripe(refund.amount, refund.currency)
            return Refunded(refund.id, amount, datetime.fromtimestamp(refund.created, UTC))
        case "failed" | "canceled" as ended:
            code = refund.failure_reason or ended
            return RefundDeclined(code, f"the refund was {ended} at Stripe", refund.id)
        case _:
            return RefundPendingAtProvider(refund.id)
