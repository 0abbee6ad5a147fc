"""What comes in by HTTP is checked like `.inbound`, durable when answered, and refused by field and remedy."""

from __future__ import annotations

import asyncio
import gzip
import json
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

from infra.http.events import BATCH, STRUCTURED
from infra.runtime.publishing.relay import LEASE_S
from tests.http.running import NOWHERE, Running, answers, eventually, free_port, until

DEEP = "[" * 10_000 + "]" * 10_000


def paid(**changed: Any) -> dict[str, Any]:
    """Give the data of a payment that upstream completed."""
    return {
        "payment_id": str(uuid4()),
        "customer_id": str(uuid4()),
        "product_id": str(uuid4()),
        "amount": {"minor": 1250, "currency": "EUR"},
        "provider": "shop",
        "provider_ref": uuid4().hex,
        "captured_at": "2026-05-04T12:30:00Z",
        **changed,
    }


def event(data: object, **changed: Any) -> dict[str, Any]:
    """Give a structured CloudEvent."""
    it = {
        "specversion": "1.0",
        "id": uuid4().hex,
        "type": "payments.PaymentCompleted",
        "source": "shop",
        "data": data,
        **changed,
    }
    return {name: value for name, value in it.items() if value is not ...}


def headers(**changed: str) -> dict[str, str]:
    """Give the headers of binary mode."""
    return {
        "content-type": "application/json",
        "ce-specversion": "1.0",
        "ce-id": uuid4().hex,
        "ce-type": "payments.PaymentCompleted",
        "ce-source": "shop",
        **{f"ce-{name}": value for name, value in changed.items()},
    }


async def spent(client: httpx.AsyncClient, data: dict[str, Any], token: str) -> list[dict[str, Any]]:
    """Ask what the customer spent, behind a token."""
    asked = {"customer_id": data["customer_id"], "token": token, "wait": 20}
    answer = await client.get("/read/customer_spend/of_customer", params=asked)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


# -- events ---------------------------------------------------------------------------------------------------------


async def test_binary_structured_and_batch_reach_the_read_model(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        one, two, three = paid(), paid(), paid()
        binary = await client.post("/events", json=one, headers=headers())
        structured = await client.post(
            "/events", content=json.dumps(event(two)), headers={"content-type": STRUCTURED}
        )
        batch = await client.post(
            "/events", content=json.dumps([event(three)]), headers={"content-type": BATCH}
        )
        for data, answer in ((one, binary), (two, structured), (three, batch)):
            assert answer.status_code == 202, answer.text
            (accepted,) = answer.json()["events"]
            (row,) = await spent(client, data, accepted["token"])
            assert (row["spent_minor"], row["currency"]) == (1250, "EUR")


async def test_the_same_event_again_counts_once(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        data = paid()
        sent = headers(id="same")
        answer = await client.post("/events", json=data, headers=sent)
        for _ in range(2):
            again = await client.post("/events", json=data, headers=sent)
            assert (again.status_code, again.content) == (202, answer.content)
        later = await client.post("/events", json=paid(customer_id=data["customer_id"]), headers=headers())
        await spent(client, data, later.json()["events"][0]["token"])
        (row,) = await spent(client, data, answer.json()["events"][0]["token"])
        assert row["payments"] == 2


async def test_the_same_id_with_another_body_is_told(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        sent, data = headers(id="reused"), paid()
        first = await client.post("/events", json=data, headers=sent)
        second = await client.post("/events", json={**data, "provider_ref": "another"}, headers=sent)
        tokens = [answer.json()["events"][0]["token"] for answer in (first, second)]

        async def states() -> list[tuple[str, str | None]] | None:
            found = [(await client.get(f"/commands/{token}")).json() for token in tokens]
            seen = [(it["state"], it["reason"]) for it in found]
            return seen if all(state not in {"accepted", "queued"} for state, _ in seen) else None

        assert await eventually(states) == [("applied", None), ("parked", "id_reuse")]


BAD_EVENTS: dict[str, tuple[str, str, int, str, str]] = {
    # name: (content type, body, status, code, words)
    "not JSON": (STRUCTURED, "{", 400, "not_json", "line 1"),
    "not UTF-8": (STRUCTURED, "\udcff", 400, "not_utf8", "UTF-8"),
    "empty": (STRUCTURED, "", 400, "not_json", "not JSON"),
    "too deep": (STRUCTURED, DEEP, 400, "too_deep", "flatter"),
    "no object": (STRUCTURED, "[]", 400, "not_an_object", "data"),
    "no data": (STRUCTURED, json.dumps(event(...)), 422, "missing_field", "data"),
    "no id": (STRUCTURED, json.dumps(event(paid(), id=...)), 422, "missing_attribute", "ce_id"),
    "no source": (STRUCTURED, json.dumps(event(paid(), source=...)), 422, "missing_attribute", "ce_source"),
    "a source of ours": (
        STRUCTURED,
        json.dumps(event(paid(), source="triplane/payments")),
        422,
        "reserved",
        "ce_source",
    ),
    "a sequence": (STRUCTURED, json.dumps(event(paid(), sequence="1")), 422, "reserved", "ce_sequence"),
    "unknown type": (
        STRUCTURED,
        json.dumps(event({}, type="payments.Nothing")),
        422,
        "unknown_type",
        "ce_type",
    ),
    "not public": (
        STRUCTURED,
        json.dumps(event({}, type="payments.PaymentFailed")),
        422,
        "not_public",
        "ce_type",
    ),
    "unknown version": (
        STRUCTURED,
        json.dumps(event(paid(), dataschema="urn:triplane:payments.PaymentCompleted:9")),
        422,
        "unknown_version",
        "known: 1",
    ),
    "a field is missing": (STRUCTURED, json.dumps(event(paid(amount=None))), 422, "invalid_field", "amount"),
    "a float": (
        STRUCTURED,
        json.dumps(event(paid(amount={"minor": 1.5, "currency": "EUR"}))),
        422,
        "invalid_field",
        "amount.minor",
    ),
    "money as text": (
        STRUCTURED,
        json.dumps(event(paid(amount={"minor": "1e3", "currency": "EUR"}))),
        422,
        "invalid_field",
        "minor",
    ),
    "negative": (
        STRUCTURED,
        json.dumps(event(paid(amount={"minor": -1, "currency": "EUR"}))),
        422,
        "invalid_field",
        "minor",
    ),
    "currency": (
        STRUCTURED,
        json.dumps(event(paid(amount={"minor": 1, "currency": "eur"}))),
        422,
        "invalid_field",
        "currency",
    ),
    "2^63": (
        STRUCTURED,
        json.dumps(event(paid(amount={"minor": 2**63, "currency": "EUR"}))),
        422,
        "invalid_field",
        "minor",
    ),
    "10^400": (STRUCTURED, '{"data":{"amount":1' + "0" * 400 + "}}", 422, "number_too_long", "digits"),
    "NaN": (STRUCTURED, '{"data":{"amount":NaN}}', 422, "not_a_number", "NaN"),
    "NUL": (STRUCTURED, json.dumps(event(paid(provider="a\0b"))), 422, "nul_character", "U+0000"),
    "lone surrogate": (STRUCTURED, '{"data":{"provider":"\\ud800"}}', 422, "lone_surrogate", "surrogate"),
    "field twice": (STRUCTURED, '{"id":"1","id":"2","data":{}}', 400, "duplicate_field", "'id'"),
    "another tenant": (
        STRUCTURED,
        json.dumps(event(paid(), tenantid="demo-b")),
        403,
        "tenant_mismatch",
        "ce_tenantid",
    ),
    "no zone": (STRUCTURED, json.dumps(event(paid(), time="2026-05-04T12:00:00")), 422, "time", "zone"),
    "batch is no list": (BATCH, "{}", 400, "not_an_object", "list"),
    "batch too long": (BATCH, json.dumps([1] * 1001), 413, "too_large", "1001"),
    "text": ("text/plain", "x", 415, "content_type", "application/json"),
    "latin-1": (f"{STRUCTURED}; charset=latin-1", "{}", 415, "content_type", "UTF-8"),
    "2 MB": (STRUCTURED, json.dumps("x" * 2_000_000), 413, "too_large", "1048576"),
    "10^6 items": (BATCH, json.dumps([1] * 1_000_000), 413, "too_large", "bytes"),
    "1,048,577 bytes": (STRUCTURED, json.dumps("x" * 1_048_575), 413, "too_large", "bytes"),
    "larger than a topic takes": (
        STRUCTURED,
        json.dumps(event(paid(note="x" * 1_010_000))),
        413,
        "too_large",
        "bytes",
    ),
}


@pytest.mark.parametrize("name", BAD_EVENTS)
async def test_a_bad_event_is_refused_by_name(api: Running, name: str) -> None:
    kind, body, status, code, words = BAD_EVENTS[name]
    async with api.client() as client:
        answer = await client.post(
            "/events", content=body.encode("utf-8", "surrogateescape"), headers={"content-type": kind}
        )
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (status, f"urn:triplane:problem:{code}"), answer.text
    assert words in problem["detail"]
    assert answer.headers["content-type"] == "application/problem+json"


async def test_binary_mode_names_what_is_missing_or_twice(api: Running) -> None:
    async with api.client() as client:
        bare = await client.post("/events", json=paid())
        assert (bare.status_code, bare.json()["errors"][0]["field"]) == (422, "ce_specversion")
        assert "application/cloudevents+json" in bare.json()["detail"]
        twice = await client.post("/events", content=b"{}", headers=[*headers().items(), ("ce-id", "other")])
        assert (twice.status_code, twice.json()["errors"][0]["code"]) == (422, "header_twice")
        packed = await client.post(
            "/events",
            content=gzip.compress(json.dumps(paid()).encode()),
            headers={**headers(), "content-encoding": "gzip"},
        )
        assert packed.status_code == 415


async def test_a_batch_is_taken_whole_or_not_at_all(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        good, bad = event(paid()), event(paid(amount=None))
        answer = await client.post(
            "/events", content=json.dumps([good, bad, 1]), headers={"content-type": BATCH}
        )
        assert answer.status_code == 422
        assert [(it["index"], it["code"]) for it in answer.json()["errors"]] == [
            (1, "invalid_field"),
            (2, "not_an_object"),
        ]
        again = await client.post("/events", content=json.dumps([good]), headers={"content-type": BATCH})
        (row,) = await spent(client, good["data"], again.json()["events"][0]["token"])
        assert row["payments"] == 1


# -- commands -------------------------------------------------------------------------------------------------------


def opening() -> dict[str, str]:
    """Give the body of OpenAccount."""
    return {"account_id": str(uuid4()), "person_id": str(uuid4())}


OPEN = "/commands/accounts/OpenAccount"


async def test_the_same_key_is_answered_the_same_and_done_once(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        body = json.dumps(opening()).encode()
        sent = {"Idempotency-Key": uuid4().hex, "content-type": "application/json"}
        first = await client.post(OPEN, content=body, headers=sent)
        second = await client.post(OPEN, content=body, headers=sent)
        assert (
            (first.status_code, first.content)
            == (second.status_code, second.content)
            == (202, second.content)
        )
        assert (first.headers["idempotency-replayed"], second.headers["idempotency-replayed"]) == (
            "false",
            "true",
        )
        assert first.headers["location"] == f"/commands/{first.json()['id']}" == first.json()["location"]
        other = await client.post(OPEN, json=opening(), headers=sent)
        assert (other.status_code, other.json()["type"]) == (
            422,
            "urn:triplane:problem:idempotency_key_reused",
        )
    async with api.client(f"{tenant}-2") as client:
        elsewhere = await client.post(OPEN, content=body, headers=sent)
        assert elsewhere.status_code == 202
        assert elsewhere.json()["id"] != first.json()["id"]


async def test_many_at_once_with_one_key_do_it_once(api: Running, tenant: str) -> None:
    body = json.dumps(opening()).encode()
    sent = {"Idempotency-Key": uuid4().hex, "content-type": "application/json"}
    async with api.client(tenant) as client:
        found = await asyncio.gather(*(client.post(OPEN, content=body, headers=sent) for _ in range(12)))
        assert {it.status_code for it in found} <= {202, 409}
        assert len({it.content for it in found if it.status_code == 202}) == 1
        for it in found:
            if it.status_code == 409:
                assert it.headers["retry-after"] == "1"


async def test_while_the_first_is_at_work_the_second_is_told_to_come_again(api: Running, tenant: str) -> None:
    key = uuid4().hex
    connection = await asyncpg.connect(api.settings.postgres)
    try:
        async with connection.transaction():
            scope = f"{tenant}\naccounts.OpenAccount\n{key}"
            await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", scope)
            async with api.client(tenant) as client:
                answer = await client.post(OPEN, json=opening(), headers={"Idempotency-Key": key})
                assert (answer.status_code, answer.headers["retry-after"]) == (409, "1")
    finally:
        await connection.close()
    async with api.client(tenant) as client:
        assert (await client.post(OPEN, json=opening(), headers={"Idempotency-Key": key})).status_code == 202


BAD_COMMANDS: dict[str, tuple[str, dict[str, str], int, str, str]] = {
    "25 no key": ("{}", {}, 400, "idempotency_key", "Idempotency-Key"),
    "30 key of 300": ("{}", {"Idempotency-Key": "k" * 300}, 400, "idempotency_key", "255"),
    "30 key with a tab": ("{}", {"Idempotency-Key": "a\tb"}, 400, "idempotency_key", "printable"),
    "31 not JSON": ("<a/>", {}, 400, "not_json", "JSON"),
    "32 depth": (DEEP, {}, 400, "too_deep", "flatter"),
    "33 NaN": ('{"account_id": NaN}', {}, 422, "not_a_number", "NaN"),
    "34 NUL": ('{"account_id": "\\u0000"}', {}, 422, "nul_character", "U+0000"),
    "no object": ("[]", {}, 400, "not_an_object", "object"),
    "37 unknown field": (
        json.dumps({**opening(), "personid": "x"}),
        {},
        422,
        "unknown_field",
        "did you mean 'person_id'",
    ),
    "wrong field": (json.dumps({**opening(), "person_id": "x"}), {}, 422, "invalid_field", "person_id"),
    "39 too large": (json.dumps({"account_id": "x" * 1_100_000}), {}, 413, "too_large", "bytes"),
    "41 content type": ("{}", {"content-type": "text/plain"}, 415, "content_type", "application/json"),
    "40 gzip": ("{}", {"content-encoding": "gzip"}, 415, "content_encoding", "compressed"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
async def test_a_bad_command_is_refused_by_name(api: Running, name: str) -> None:
    body, more, status, code, words = BAD_COMMANDS[name]
    sent = {
        "content-type": "application/json",
        **({} if name.startswith("25") else {"Idempotency-Key": uuid4().hex}),
        **more,
    }
    async with api.client() as client:
        answer = await client.post(OPEN, content=body, headers=sent)
    assert (answer.status_code, answer.json()["type"]) == (status, f"urn:triplane:problem:{code}"), (
        answer.text
    )
    assert words in answer.json()["detail"]


async def test_money_is_whole_and_bounded(api: Running) -> None:
    body = {
        **{name: str(uuid4()) for name in ("payment_id", "customer_id", "product_id")},
        "payment_method": "pm_card_visa",
    }
    async with api.client() as client:
        for minor in (1.5, 2**63, "10", -1, 0):
            answer = await client.post(
                "/commands/payments/InitiatePayment",
                json={**body, "amount": {"minor": minor, "currency": "EUR"}},
                headers={"Idempotency-Key": uuid4().hex},
            )
            assert (answer.status_code, answer.json()["errors"][0]["field"].split(".")[0]) == (422, "amount")


async def test_only_public_commands_have_a_route_and_near_names_are_told(api: Running) -> None:
    async with api.client() as client:
        for path in ("/commands/payments/CheckPayment", "/commands/payments/RecordCapture", "/commands/x/Y"):
            answer = await client.post(path, json={}, headers={"Idempotency-Key": "k"})
            assert answer.status_code == 404
        answer = await client.post("/commands/accounts/OpenAcount", json={}, headers={"Idempotency-Key": "k"})
        assert "accounts.OpenAccount" in answer.json()["near"]
        assert (await client.get(OPEN)).status_code in {404, 405}
        assert (await client.put(OPEN)).status_code == 405


async def test_a_suspended_tenant_is_refused(api: Running, tenant: str) -> None:
    connection = await asyncpg.connect(api.settings.database("triplane_tenancy"))
    try:
        await connection.execute("INSERT INTO tenancy.tenants VALUES ($1, 'suspended', 'a test')", tenant)
    finally:
        await connection.close()
    async with api.client(tenant) as client:
        answer = await client.post(OPEN, json=opening(), headers={"Idempotency-Key": uuid4().hex})
        assert (answer.status_code, answer.json()["type"]) == (403, "urn:triplane:problem:suspended_tenant")


async def test_202s_go_on_while_brokers_are_away(api: Running, tenant: str) -> None:
    port = free_port()
    process = api.start("serve", "--port", str(port), TRIPLANE_KAFKA=NOWHERE)
    base = f"http://127.0.0.1:{port}"
    try:
        until(lambda: answers(base, "/healthz"), 20, "alive")
        async with api.client(tenant, base=base) as client:
            answer = await client.post(OPEN, json=opening(), headers={"Idempotency-Key": uuid4().hex})
            assert answer.status_code == 202
            ready = await client.get("/readyz")
            assert ready.json()["checks"]["broker"] == {
                "ok": False,
                "required": False,
                "detail": "does not answer",
            }
            read = await client.get("/read/customer_spend/top", params={"currency": "EUR"})
            assert read.status_code == 200
            assert read.json()["as_of"]["lag_events"] is None
            # Its relay cannot publish. Once the others know of it, they go on to do so for it, too.
            await asyncio.sleep(LEASE_S / 2)
            ids = [await _opened(client) for _ in range(8)]

            async def all_applied() -> bool:
                states = [(await client.get(f"/commands/{it}")).json()["state"] for it in ids]
                return set(states) == {"applied"}

            await eventually(all_applied)
    finally:
        code = api.stop(process)
    assert code == 0


async def _opened(client: httpx.AsyncClient) -> str:
    answer = await client.post(OPEN, json=opening(), headers={"Idempotency-Key": uuid4().hex})
    return str(answer.json()["id"])


async def test_without_a_database_it_says_so(api: Running, databaseless: str) -> None:
    async with api.client(base=databaseless) as client:
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["checks"]["database"]["ok"]) == (503, False)
        answer = await client.post(OPEN, json=opening(), headers={"Idempotency-Key": uuid4().hex})
        assert (answer.status_code, answer.json()["type"]) == (503, "urn:triplane:problem:database_away")
        assert (await client.get("/metrics")).status_code == 503


def test_a_busy_port_is_named(api: Running) -> None:
    done = api.cli("serve")
    assert done.returncode == 1
    assert f":{api.port}".encode() in done.stderr
    assert b"TRIPLANE_HTTP_PORT" in done.stderr


async def test_nothing_of_a_body_or_token_is_logged(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        await client.post("/events", json=paid(provider="secret-in-the-body"), headers=headers())
        await client.get("/read/customer_spend/top?currency=secret-in-the-query")
    log = (api.home / "logs" / "serve.log").read_text("utf-8")
    assert "secret-in" not in log
    assert "eyJ" not in log
    assert f'"tenant": "{tenant}"' in log
