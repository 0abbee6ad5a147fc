"""A webhook is stored before anything is made of it, once, and answered 2xx only then."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from infra.stripe.webhooks import API_VERSION
from tests.http.running import CHEAP, Running, plain

PATH = "/webhooks/stripe"


def event(tenant: str = "demo-a", **changed: Any) -> dict[str, Any]:
    """Give a provider's event about a payment."""
    intent = {
        "id": "pi_1",
        "object": "payment_intent",
        "metadata": {"tenant": tenant, "payment_id": str(uuid4())},
    }
    return {
        "id": f"evt_{uuid4().hex}",
        "object": "event",
        "api_version": API_VERSION,
        "created": int(time.time()),
        "data": {"object": intent},
        "livemode": False,
        "type": "payment_intent.succeeded",
        **changed,
    }


def signed(
    api: Running, raw: bytes, *, secret: str | None = None, at: float | str | None = None, scheme: str = "v1"
) -> str:
    """Sign raw bytes as the provider does."""
    stamp = str(int(time.time())) if at is None else str(at)
    key = (secret or api.settings.stripe_webhook_secret).encode()
    return f"t={stamp},{scheme}={hmac.new(key, stamp.encode() + b'.' + raw, hashlib.sha256).hexdigest()}"


async def post(api: Running, raw: bytes, signature: str | bytes | None, **headers: str) -> httpx.Response:
    """Deliver a webhook, without any token."""
    sent: list[tuple[bytes, bytes]] = [(b"content-type", headers.pop("kind", "application/json").encode())]
    if signature is not None:
        sent.append((b"stripe-signature", signature if isinstance(signature, bytes) else signature.encode()))
    async with httpx.AsyncClient(base_url=api.base, timeout=30, trust_env=False, verify=CHEAP) as client:
        return await client.post(PATH, content=raw, headers=sent)


async def rows(api: Running, event_id: str) -> list[dict[str, Any]]:
    """Read what was stored of an event, and what was told to payments because of it."""
    connection = await asyncpg.connect(api.settings.postgres)
    try:
        found = await connection.fetch(
            "SELECT type, standing, detail, body FROM intake.webhooks WHERE event_id = $1", event_id
        )
        return [dict(row) for row in found]
    finally:
        await connection.close()


Signs = Callable[[Running, bytes], str | bytes | None]

REFUSED: dict[str, Signs] = {
    "1 no signature": lambda _api, _raw: None,
    "2 empty": lambda _api, _raw: "",
    "2 garbage": lambda _api, _raw: "garbage",
    "2 no values": lambda _api, _raw: "t=,v1=",
    "3 wrong secret": lambda api, raw: signed(api, raw, secret="whsec_other"),
    "4 body written anew": lambda api, raw: signed(api, json.dumps(json.loads(raw), indent=1).encode()),
    "5 too old": lambda api, raw: signed(api, raw, at=int(time.time()) - 301),
    "6 ahead": lambda api, raw: signed(api, raw, at=int(time.time()) + 310),
    "7 negative": lambda api, raw: signed(api, raw, at=-1),
    "7 10^30": lambda api, raw: signed(api, raw, at="1" + "0" * 30),
    "7 1e9": lambda api, raw: signed(api, raw, at="1e9"),
    "8 only v0": lambda api, raw: signed(api, raw, scheme="v0"),
    "10 many v1": lambda api, raw: signed(api, raw) + ",v1=00" * 300,
    "11 not ASCII": lambda _api, _raw: "t=1,v1=é".encode(),
}


@pytest.mark.parametrize("name", REFUSED)
async def test_what_is_not_signed_by_the_provider_just_now_is_refused(api: Running, name: str) -> None:
    it = event()
    raw = json.dumps(it).encode()
    answer = await post(api, raw, REFUSED[name](api, raw))
    assert answer.status_code == 400, answer.text
    assert await rows(api, it["id"]) == []


@pytest.mark.parametrize("raw", [b"\xff", b"{", b"[1]", b"null", b"1", b"{}"])
async def test_signed_nonsense_is_refused(api: Running, raw: bytes) -> None:
    assert (await post(api, raw, signed(api, raw))).status_code == 400


async def test_100000_signatures_are_a_flood(api: Running) -> None:
    raw = json.dumps(event()).encode()
    assert (await post(api, raw, signed(api, raw) + ",v1=00" * 100_000)).status_code == 431


async def test_the_other_mode_and_other_accounts_are_refused(api: Running) -> None:
    wrong: list[dict[str, Any]] = [{"livemode": True}, {"account": "acct_1"}]
    for changed in wrong:
        raw = json.dumps(event(**changed)).encode()
        assert (await post(api, raw, signed(api, raw))).status_code == 400


async def test_form_and_size(api: Running) -> None:
    raw = json.dumps(event(padding="x" * 300_000)).encode()
    assert (await post(api, raw, signed(api, raw))).status_code == 413
    raw = json.dumps(event()).encode()
    assert (await post(api, raw, signed(api, raw), kind="text/plain")).status_code == 415
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        assert plain(method, api.base + PATH).status_code == 405
    assert plain("POST", f"{api.base}/webhooks/paystack").status_code == 404


async def test_9_one_right_signature_of_two_is_enough(api: Running) -> None:
    raw = json.dumps(event()).encode()
    answer = await post(api, raw, f"{signed(api, raw)},v1={'0' * 64}")
    assert answer.status_code == 200


async def test_eight_at_once_are_one(api: Running) -> None:
    it = event()
    raw = json.dumps(it).encode()
    found = await asyncio.gather(*(post(api, raw, signed(api, raw)) for _ in range(8)))
    assert [answer.status_code for answer in found] == [200] * 8
    assert sorted(answer.json()["outcome"] for answer in found) == ["duplicate"] * 7 + ["forwarded"]
    (stored,) = await rows(api, it["id"])
    assert (stored["standing"], bytes(stored["body"])) == ("forwarded", raw)


STANDINGS: dict[str, tuple[dict[str, Any], str, str]] = {
    "23 unknown type": ({"type": "customer.created"}, "ignored", ""),
    "24 unknown version": ({"api_version": "2020-01-01"}, "parked", "api_version"),
    "26 not ours": ({"data": {"object": {"id": "pi_1", "metadata": {}}}}, "parked", "tenant"),
    "no tenant id": (
        {"data": {"object": {"id": "pi_1", "metadata": {"tenant": "No Tenant", "payment_id": str(uuid4())}}}},
        "parked",
        "metadata.tenant",
    ),
    "a reference too long": (
        {"data": {"object": {"id": "p" * 300, "metadata": {"tenant": "demo-a", "payment_id": str(uuid4())}}}},
        "parked",
        "provider_ref",
    ),
}


@pytest.mark.parametrize("name", STANDINGS)
async def test_what_we_cannot_use_is_stored_and_acknowledged(api: Running, name: str) -> None:
    changed, standing, words = STANDINGS[name]
    it = event(**changed)
    raw = json.dumps(it).encode()
    assert (await post(api, raw, signed(api, raw))).status_code == 200
    (stored,) = await rows(api, it["id"])
    assert stored["standing"] == standing
    assert words in (stored["detail"] or "")


async def test_payments_is_told_to_look_itself(api: Running) -> None:
    """The provider of these tests cannot be reached: that payments tries to look is what shows."""
    it = event()
    raw = json.dumps(it).encode()
    assert (await post(api, raw, signed(api, raw))).status_code == 200
    payment = it["data"]["object"]["metadata"]["payment_id"]
    connection = await asyncpg.connect(api.settings.postgres)
    try:
        deadline = time.monotonic() + 15
        while True:
            found = await connection.fetch(
                "SELECT consumer, type FROM payments.effects WHERE key = $1", payment
            )
            if found:
                break
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
    finally:
        await connection.close()
    assert [tuple(row) for row in found] == [("payments.check_payment", "payments.CheckPayment")]


async def test_35_without_the_database_it_is_503(api: Running, databaseless: str) -> None:
    raw = json.dumps(event()).encode()
    headers = {"content-type": "application/json", "stripe-signature": signed(api, raw)}
    assert plain("POST", databaseless + PATH, content=raw, headers=headers).status_code == 503
