"""A webhook counts only if Stripe signed these very bytes just now; what it says is a hint, never the state."""

from __future__ import annotations

import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

__all__ = [
    "API_VERSION",
    "EVENT_TYPES",
    "Cancelled",
    "Fact",
    "Ignored",
    "Parked",
    "PaymentFailed",
    "PaymentSucceeded",
    "Reason",
    "RefundUpdated",
    "StripeEvent",
    "WebhookRefused",
    "facts",
    "read",
    "verify",
]

API_VERSION: Final = "2026-10-28.endive"
"""The version that requests are sent with and that webhook endpoints must be made with."""

TOLERANCE_SECONDS: Final = 300
BODY_LIMIT: Final = 256 * 1024
_HEADER_LIMIT: Final = 4096
_ITEM_LIMIT: Final = 32
_DIGEST = re.compile(r"[0-9a-f]{64}\Z", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}\Z", re.ASCII)


class Reason(StrEnum):
    """Why a webhook was refused: a closed set, so that it can label a counter."""

    NO_SECRET = "no_secret"  # noqa: S105 - a label
    NO_SIGNATURE = "no_signature"
    MALFORMED_HEADER = "malformed_header"
    HEADER_TOO_LARGE = "header_too_large"
    WRONG_SIGNATURE = "wrong_signature"
    TOO_OLD = "too_old"
    IN_THE_FUTURE = "in_the_future"
    BODY_TOO_LARGE = "body_too_large"
    NOT_JSON = "not_json"
    NOT_AN_EVENT = "not_an_event"
    WRONG_MODE = "wrong_mode"
    OTHER_ACCOUNT = "other_account"


# Signed with our secret and still wrong: somebody holds the secret, or an endpoint is set up wrongly.
_ALARMING = frozenset({Reason.NOT_JSON, Reason.NOT_AN_EVENT, Reason.WRONG_MODE, Reason.OTHER_ACCOUNT})


class WebhookRefused(Exception):
    """The request is no webhook of ours: answer 400, store nothing."""

    def __init__(self, reason: Reason, detail: str) -> None:
        """Refuse for `reason`; `detail` is for the log and holds nothing secret."""
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.alarm = reason in _ALARMING


@dataclass(frozen=True, slots=True)
class StripeEvent:
    """An event as Stripe describes it. `created` is in Unix seconds; `object` is what it was about, as it was then."""

    id: str
    type: str
    created: int
    api_version: str | None
    livemode: bool
    object: Mapping[str, Any]


def verify(
    raw: bytes, signature_header: str, secrets: Sequence[str], now: float, *, livemode: bool
) -> StripeEvent:
    """Give the event that was signed with one of `secrets` at most 300 s from `now` (Unix seconds), either way.

    `livemode` says which mode this endpoint serves. Raises `WebhookRefused` for all else, and nothing but that.
    """
    if not (keys := [secret.encode() for secret in secrets if secret]):
        raise WebhookRefused(Reason.NO_SECRET, "set STRIPE_WEBHOOK_SECRET")
    if len(raw) > BODY_LIMIT:
        raise WebhookRefused(Reason.BODY_TOO_LARGE, f"{len(raw)} bytes, at most {BODY_LIMIT}")
    seconds, signatures = _parse_header(signature_header)
    signed = seconds.encode() + b"." + raw
    expected = [hmac.new(key, signed, hashlib.sha256).hexdigest() for key in keys]
    # No early exit: the time taken says nothing about which secret or signature matched.
    if not sum(hmac.compare_digest(ours, theirs) for ours in expected for theirs in signatures):
        raise WebhookRefused(Reason.WRONG_SIGNATURE, "no v1 signature matches the raw body")
    _check_age(int(seconds), now)
    event = _decode(raw)
    if event.livemode is not livemode:
        raise WebhookRefused(Reason.WRONG_MODE, f"{event.id} has livemode={event.livemode}")
    return event


def _parse_header(header: str) -> tuple[str, list[str]]:
    if not header:
        raise WebhookRefused(Reason.NO_SIGNATURE, "no Stripe-Signature header")
    if len(header) > _HEADER_LIMIT or header.count(",") >= _ITEM_LIMIT:
        raise WebhookRefused(
            Reason.HEADER_TOO_LARGE, f"at most {_ITEM_LIMIT} items in {_HEADER_LIMIT} characters"
        )
    items = [item.strip().partition("=") for item in header.split(",")]
    times = [value for scheme, _, value in items if scheme == "t"]
    signatures = [value for scheme, _, value in items if scheme == "v1" and _DIGEST.match(value)]
    if len(times) != 1 or not _SECONDS.match(times[0]):
        raise WebhookRefused(Reason.MALFORMED_HEADER, "expected one t= in Unix seconds")
    if not signatures:
        raise WebhookRefused(Reason.MALFORMED_HEADER, "expected a v1= of 64 hex digits")
    return times[0], signatures


def _check_age(seconds: int, now: float) -> None:
    if seconds < now - TOLERANCE_SECONDS:
        raise WebhookRefused(Reason.TOO_OLD, f"signed {now - seconds:.0f} s ago, at most {TOLERANCE_SECONDS}")
    if seconds > now + TOLERANCE_SECONDS:
        raise WebhookRefused(
            Reason.IN_THE_FUTURE, f"signed {seconds - now:.0f} s ahead, at most {TOLERANCE_SECONDS}"
        )


def _decode(raw: bytes) -> StripeEvent:
    try:
        body: object = json.loads(raw.decode())
    except (ValueError, RecursionError) as wrong:
        raise WebhookRefused(Reason.NOT_JSON, type(wrong).__name__) from None
    return read(body)


def read(body: object) -> StripeEvent:
    """Give the event that a decoded body holds; raises `WebhookRefused` (`not_an_event`, `other_account`)."""
    match body:
        case {
            "object": "event",
            "id": str(id_),
            "type": str(type_),
            "created": int(created),
            "livemode": bool(livemode),
            "data": {"object": dict(about)},
            **rest,
        } if id_:
            if rest.get("account"):
                raise WebhookRefused(Reason.OTHER_ACCOUNT, f"{id_} is of a connected account")
            version = rest.get("api_version")
            version = version if isinstance(version, str) else None
            return StripeEvent(id_, type_, created, version, livemode, about)
        case _:
            raise WebhookRefused(
                Reason.NOT_AN_EVENT, "expected a snapshot event: id, type, created, livemode, data"
            )


@dataclass(frozen=True, slots=True)
class PaymentSucceeded:
    """Stripe says the money was taken: retrieve `provider_ref` before believing it."""

    tenant: str
    payment_id: UUID
    provider_ref: str
    rank: int = 30


@dataclass(frozen=True, slots=True)
class PaymentFailed:
    """An attempt failed; another one may still succeed."""

    tenant: str
    payment_id: UUID
    provider_ref: str
    code: str
    message: str
    rank: int = 10


@dataclass(frozen=True, slots=True)
class Cancelled:
    """The payment was cancelled before any money moved."""

    tenant: str
    payment_id: UUID
    provider_ref: str
    rank: int = 20


@dataclass(frozen=True, slots=True)
class RefundUpdated:
    """A refund of ours is now `status`: ask `find_refund(tenant, refund_id, provider_ref)` before believing it."""

    tenant: str
    payment_id: UUID
    refund_id: UUID
    provider_ref: str
    provider_refund_ref: str
    status: str
    rank: int


@dataclass(frozen=True, slots=True)
class Ignored:
    """Nothing that Triplane acts on: stored and acknowledged."""


@dataclass(frozen=True, slots=True)
class Parked:
    """Signed by Stripe, but nothing that we can read or know: stored, acknowledged and shown to an operator."""

    reason: str


Fact = PaymentSucceeded | PaymentFailed | Cancelled | RefundUpdated | Ignored | Parked
"""All that a webhook can mean. Within one payment or one refund a fact of lower `rank` never undoes one of higher
rank, whatever order they arrive in."""

# A refund may fail days after it succeeded, so its end states outrank its success.
_REFUND_RANKS = {"pending": 40, "requires_action": 40, "succeeded": 50, "failed": 60, "canceled": 60}

_PAYMENT_TYPES = frozenset(f"payment_intent.{what}" for what in ("succeeded", "payment_failed", "canceled"))
_REFUND_TYPES = frozenset(f"refund.{what}" for what in ("created", "updated", "failed"))

EVENT_TYPES: Final = _PAYMENT_TYPES | _REFUND_TYPES
"""The types that a webhook endpoint of Triplane subscribes to."""


def facts(event: StripeEvent) -> Fact:
    """Say what the event means for us; total: what is not ours or not readable is `Ignored` or `Parked`."""
    if event.type not in EVENT_TYPES:
        return Ignored()
    if event.api_version != API_VERSION:
        return Parked(f"api_version {event.api_version} is not {API_VERSION}; set it on the webhook endpoint")
    try:
        return _payment(event) if event.type in _PAYMENT_TYPES else _refund(event.object)
    except (KeyError, TypeError, ValueError) as wrong:
        return Parked(f"{event.type} lacks what Triplane puts on its own: {wrong!r}")


def _payment(event: StripeEvent) -> Fact:
    intent = event.object
    metadata, ref = intent["metadata"], _text(intent["id"])
    tenant, payment_id = _text(metadata["tenant"]), UUID(_text(metadata["payment_id"]))
    match event.type:
        case "payment_intent.succeeded":
            return PaymentSucceeded(tenant, payment_id, ref)
        case "payment_intent.canceled":
            return Cancelled(tenant, payment_id, ref)
        case _:
            match intent.get("last_payment_error"):
                case {"code": str(code), **said}:
                    code, message = (
                        _text(said.get("decline_code") or code),
                        _text(said.get("message") or "declined"),
                    )
                    return PaymentFailed(tenant, payment_id, ref, code, message)
                case _:
                    return PaymentFailed(tenant, payment_id, ref, "unknown", "declined")


def _refund(refund: Mapping[str, Any]) -> RefundUpdated:
    metadata = refund["metadata"]
    return RefundUpdated(
        tenant=_text(metadata["tenant"]),
        payment_id=UUID(_text(metadata["payment_id"])),
        refund_id=UUID(_text(metadata["refund_id"])),
        provider_ref=_text(refund["payment_intent"]),
        provider_refund_ref=_text(refund["id"]),
        status=_text(refund["status"]),
        rank=_REFUND_RANKS[refund["status"]],
    )


def _text(value: object) -> str:
    if not isinstance(value, str):
        message = f"expected text, not {value!r}"
        raise TypeError(message)
    return value
