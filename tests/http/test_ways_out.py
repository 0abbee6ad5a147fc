"""What came of a message, and answers behind it: a token's message is shown, or it is said what is in the way."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from confluent_kafka import Producer

from infra.errors import Unacceptable
from infra.http.authentication import Role
from infra.runtime.asking.questions import MAX_LIMIT
from infra.runtime.intake.tokens import Token, parse_token
from tests.http.running import Running, eventually
from tests.http.test_ways_in import OPEN, headers, opening, paid


async def send(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> dict[str, str]:
    """Send a command, and give its answer."""
    answer = await client.post(path, json=body, headers={"Idempotency-Key": uuid4().hex})
    assert answer.status_code == 202, answer.text
    accepted: dict[str, str] = answer.json()
    return accepted


async def settled(client: httpx.AsyncClient, token: str) -> dict[str, Any]:
    """Wait for the outcome of a message."""

    async def look() -> dict[str, Any] | None:
        answer = await client.get(f"/commands/{token}")
        found: dict[str, Any] = answer.json()
        return None if answer.status_code == 404 or found["state"] in {"accepted", "queued"} else found

    found: dict[str, Any] = await eventually(look)
    return found


# -- outcomes -------------------------------------------------------------------------------------------------------


async def test_a_command_is_followed_to_its_facts(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        body = opening()
        accepted = await send(client, OPEN, body)
        by_token, by_id = await settled(client, accepted["token"]), await settled(client, accepted["id"])
        assert by_token == by_id
        (fact,) = by_token["events"]
        assert (by_token["state"], fact["type"], fact["key"]) == (
            "applied",
            "accounts.AccountOpened",
            body["account_id"],
        )


async def test_a_refusal_says_why(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        body = opening()
        await settled(client, (await send(client, OPEN, body))["token"])
        refused = await send(client, OPEN, {**body, "account_id": str(uuid4())})
        outcome = await settled(client, refused["token"])
        assert (outcome["state"], outcome["events"][0]["type"]) == ("refused", "accounts.OpeningRefused")
        assert outcome["reason"]
        # and a query that brings its token says so instead of waiting in vain
        asked: dict[str, Any] = {"person_id": body["person_id"], "token": refused["token"], "wait": 20}
        answer = await client.get("/read/onboarding_progress/of_person", params=asked)
        problem = answer.json()
        assert (answer.status_code, problem["state"], problem["reason"]) == (
            409,
            "refused",
            outcome["reason"],
        )


async def test_another_tenants_message_is_nobodys(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        accepted = await send(client, OPEN, opening())
        mine = await settled(client, accepted["id"])
        assert mine["state"] == "applied"
    async with api.client(f"{tenant}-b") as client:
        for given in (accepted["id"], accepted["token"]):
            assert (await client.get(f"/commands/{given}")).status_code == 404
            asked = {"currency": "EUR", "token": given}
            assert (await client.get("/read/customer_spend/top", params=asked)).status_code == 404
        assert (await client.get(f"/commands/{uuid4()}")).status_code == 404
        for nonsense in ("x", "e30", "%00", "a" * 3000, "../../etc/passwd", "%2e%2e%2f"):
            assert (await client.get(f"/commands/{nonsense}")).status_code in {400, 404}


async def test_what_is_parked_is_said(api: Running, tenant: str) -> None:
    """A parked message: one that the engine cannot take, put on the topic by a plain client past all checks of HTTP."""
    message = uuid4().hex
    _produce(api, "payments.inbound", {"payment_id": "x"}, tenant, message)
    token = str(Token(tenant, "payments", "shop", message))
    async with api.client(tenant) as client:
        outcome = await settled(client, token)
        assert (outcome["state"], outcome["reason"]) == ("parked", "invalid_field")
        assert "payment_id" in outcome["detail"]
        answer = await client.get(
            "/read/customer_spend/top", params={"currency": "EUR", "token": token, "wait": 5}
        )
        assert (answer.status_code, answer.json()["state"]) == (409, "parked")


async def test_a_token_of_upstreams_own_id_follows_what_was_adopted(api: Running, tenant: str) -> None:
    data, message = paid(), uuid4().hex
    _produce(api, "payments.inbound", data, tenant, message)
    token = str(Token(tenant, "payments", "shop", message))
    async with api.client(tenant) as client:
        asked: dict[str, Any] = {"customer_id": data["customer_id"], "token": token, "wait": 20}
        answer = await client.get("/read/customer_spend/of_customer", params=asked)
        assert answer.status_code == 200, answer.text
        assert [row["spent_minor"] for row in answer.json()["items"]] == [1250]


def _produce(api: Running, topic: str, data: dict[str, Any], tenant: str, message: str) -> None:
    producer = Producer({"bootstrap.servers": api.settings.kafka, "acks": "all"})
    headers: list[tuple[str, str | bytes | None]] = [
        ("ce_specversion", "1.0"),
        ("ce_id", message),
        ("ce_type", "payments.PaymentCompleted"),
        ("ce_source", "shop"),
        ("ce_tenantid", tenant),
    ]
    producer.produce(topic, json.dumps(data), headers=headers)
    assert producer.flush(10) == 0


@pytest.mark.parametrize(
    ("own_id", "status"), [("talk-1", 400), ("0c0ffee0-0000-4000-8000-0000000000aa", 404)]
)
async def test_an_event_is_followed_by_the_token_of_its_answer_and_whoever_gives_its_id_is_told_so(
    api: Running, tenant: str, own_id: str, status: int
) -> None:
    async with api.client(tenant) as client:
        data = paid()
        answer = await client.post("/events", json=data, headers=headers(id=own_id))
        (accepted,) = answer.json()["events"]
        assert accepted["id"] == own_id
        asked: dict[str, Any] = {"customer_id": data["customer_id"], "wait": 20}
        by_id, by_token = [
            await client.get("/read/customer_spend/of_customer", params={**asked, "token": accepted[name]})
            for name in ("id", "token")
        ]
        assert (by_id.status_code, by_token.status_code) == (status, 200)
        assert len(by_token.json()["items"]) == 1
        detail = by_id.json()["detail"]
        assert detail.startswith("token: ")
        assert "send the 'token' from the answer to the command or event" in detail


def test_tokens_survive_their_way_and_others_are_none() -> None:
    for token in (
        Token("a", "payments", "api/x", "1", -(2**63)),
        Token("t-1", "identity", "shop ü", "i" * 255),
    ):
        assert parse_token(str(token)) == token
    for text in (
        "",
        "AAAA",
        "W10",
        "WzFd",
        "é",
        "=" * 9,
        str(Token("a\n", "b", "c", "d")),
        str(Token("", "b", "c", "d")),
    ):
        with pytest.raises(Unacceptable, match="token"):
            parse_token(text)


# -- reading one's own writes ---------------------------------------------------------------------------------------


async def test_every_write_is_read_back_at_once(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:

        async def one() -> None:
            person = str(uuid4())
            body = {"person_id": person, "email_id": str(uuid4()), "email": f"{person}@example.com"}
            accepted = await send(client, "/commands/identity/RegisterEmail", body)
            asked: dict[str, Any] = {"person_id": person, "token": accepted["token"], "wait": 20}
            answer = await client.get("/read/verification_status/of_person", params=asked)
            assert answer.status_code == 200, answer.text
            assert [row["email_id"] for row in answer.json()["items"]] == [body["email_id"]]

        for _ in range(5):
            await asyncio.gather(*(one() for _ in range(8)))


async def test_not_yet_is_said_without_waiting(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        token = str(Token(tenant, "payments", "shop", "never-sent"))
        answer = await client.get("/read/customer_spend/top", params={"currency": "EUR", "token": token})
        assert (answer.status_code, answer.json()["state"], answer.headers["retry-after"]) == (
            425,
            "unknown",
            "1",
        )


async def test_a_place_in_a_topic_is_waited_for(api: Running) -> None:
    async with api.client() as client:

        async def ask(at: str, wait: float = 0) -> httpx.Response:
            return await client.get(
                "/read/customer_spend/top", params={"currency": "EUR", "at": at, "wait": wait}
            )

        assert (await ask("payments.events/3/999999999", 0.2)).status_code == 425
        for wrong in (
            "payments.events/3",
            "payments.events/x/1",
            "identity.events/0/0",
            "payments.events/99/0",
            "a/b/c/d",
        ):
            answer = await ask(wrong)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "at"), wrong
        async with api.client("demo-a") as sender:
            data = paid()
            headers = {"content-type": "application/json", "ce-specversion": "1.0", "ce-id": uuid4().hex}
            headers |= {"ce-type": "payments.PaymentCompleted", "ce-source": "shop"}
            accepted = (await sender.post("/events", json=data, headers=headers)).json()["events"][0]
            fact = (await settled(sender, accepted["token"]))["events"][0]

        async def place() -> str | None:
            connection = await asyncpg.connect(api.settings.postgres)
            try:
                row = await connection.fetchrow(
                    'SELECT topic, partition, "offset" FROM payments.published WHERE id = $1',
                    UUID(fact["id"]),
                )
            finally:
                await connection.close()
            return None if row is None else f"{row['topic']}/{row['partition']}/{row['offset']}"

        assert (await ask(await eventually(place), 20)).status_code == 200


# -- pages ----------------------------------------------------------------------------------------------------------


async def test_pages_give_every_row_once_in_order(api: Running, tenant: str) -> None:
    """Rows with and without a moment, some of the same one: empty ones come first where the order descends."""
    product, other = uuid4(), f"{tenant}-b"
    random = Random(7)
    begin = datetime(2026, 5, 4, tzinfo=UTC)
    moments = [
        None if random.random() < 0.3 else begin + timedelta(minutes=random.randrange(5)) for _ in range(40)
    ]
    connection = await asyncpg.connect(api.settings.database("triplane_projections"))
    try:
        generation = await connection.fetchval(
            "SELECT generation FROM projections.generations WHERE projection = 'customer_access' AND standing = 'active'"
        )
        await connection.executemany(
            f"""INSERT INTO projections.customer_access_g{generation} (tenant, person_id, product_id, status, granted_at)
                VALUES ($1, $2, $3, 'granted', $4)""",
            [(owner, uuid4(), product, moment) for owner in (tenant, other) for moment in moments],
        )
    finally:
        await connection.close()
    async with api.client(tenant) as client:

        async def pages(limit: int) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = []
            cursor: str | None = None
            while True:
                asked: dict[str, Any] = {"product_id": str(product), "limit": limit} | (
                    {"cursor": cursor} if cursor else {}
                )
                answer = (await client.get("/read/customer_access/of_product", params=asked)).json()
                rows += answer["items"]
                cursor = answer["next"]
                assert len(answer["items"]) == limit or cursor is None
                if cursor is None:
                    return rows

        whole = await pages(1000)
        assert len(whole) == 40
        for limit in (1, 3, 7, 40, 41):
            assert await pages(limit) == whole
        given = [row["granted_at"] for row in whole]
        empty = given.count(None)
        assert given[:empty] == [None] * empty
        assert given[empty:] == sorted(given[empty:], reverse=True)


async def test_a_cursor_fits_one_question_of_one_tenant(api: Running, tenant: str) -> None:
    async with api.client(tenant) as client:
        for _ in range(2):
            await settled(
                client,
                (await send(client, "/commands/identity/RegisterPerson", {"person_id": str(uuid4())}))[
                    "token"
                ],
            )
        path = "/read/verification_status/by_status"

        async def first() -> str | None:
            cursor: str | None = (await client.get(path, params={"limit": 1})).json()["next"]
            return cursor

        cursor: str = await eventually(first)
        assert (await client.get(path, params={"limit": 1, "cursor": cursor})).status_code == 200
        forged = cursor[:-2] + ("AA" if cursor[-2:] != "AA" else "BB")
        for asked in (
            {"cursor": forged},
            {"cursor": "x"},
            {"cursor": "AAAA"},
            {"cursor": cursor, "status": "verified"},
        ):
            answer = await client.get(path, params=asked)
            assert (answer.status_code, answer.json()["errors"][0]["field"]) == (400, "cursor"), asked
    async with api.client(f"{tenant}-b") as client:
        assert (await client.get(path, params={"limit": 1, "cursor": cursor})).status_code == 400


BAD_QUESTIONS = {
    "limit=-1&currency=EUR": "limit",
    "limit=0&currency=EUR": "limit",
    f"limit={MAX_LIMIT + 1}&currency=EUR": "limit",
    "limit=x&currency=EUR": "limit",
    "limit=1000000000&currency=EUR": "limit",
    "currency=EUR&sort=id;drop": "sort",
    "currency=EUR&currency=USD": "currency",
    "": "currency",
    "currency=%00": "currency",
    "currency=EUR&spent_minor_from=1.5": "spent_minor_from",
    "currency=EUR&spent_minor_from=9223372036854775808": "spent_minor_from",
    "currency=EUR&last_paid_since=2026-05-04T12:00:00": "last_paid_since",
    "currency=EUR&last_paid_since=yesterday": "last_paid_since",
    "currency=EUR&wait=31": "wait",
    "currency=EUR&wait=nan": "wait",
}


@pytest.mark.parametrize("asked", BAD_QUESTIONS)
async def test_a_bad_parameter_is_named(api: Running, asked: str) -> None:
    async with api.client() as client:
        answer = await client.get(f"/read/customer_spend/top?{asked}")
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"] == BAD_QUESTIONS[asked]
    assert BAD_QUESTIONS[asked] in answer.json()["detail"]


async def test_unknown_models_and_queries_tell_near_ones(api: Running) -> None:
    async with api.client() as client:
        answer = await client.get("/read/customer_spend/of_custmer")
        assert (answer.status_code, answer.json()["near"][0]) == (404, "customer_spend/of_customer")
        for path in (
            "/read/nothing/at_all",
            "/read/%2e%2e/x",
            "/read/..%2f..%2fetc/passwd",
            "/nothing",
            "/read/customer_spend",
        ):
            assert (await client.get(path)).status_code == 404
        strange = {"Host": "evil.example", "X-Forwarded-For": "127.0.0.1"}
        assert (await client.get("/read/customer_spend/top?currency=EUR", headers=strange)).status_code == 200


async def test_sql_in_a_parameter_is_text(api: Running) -> None:
    async with api.client() as client:
        answer = await client.get(
            "/read/customer_spend/top", params={"currency": "' OR tenant IS NOT NULL --"}
        )
        assert (answer.status_code, answer.json()["items"]) == (200, [])


# -- tenants and personal values ------------------------------------------------------------------------------------


async def test_a_tenant_sees_its_own_rows_only(api: Running, tenant: str) -> None:
    person = str(uuid4())
    async with api.client(tenant) as client:
        accepted = await send(client, "/commands/identity/RegisterPerson", {"person_id": person})
        asked: dict[str, Any] = {"person_id": person, "token": accepted["token"], "wait": 20}
        assert (
            len((await client.get("/read/verification_status/of_person", params=asked)).json()["items"]) == 1
        )
    async with api.client(f"{tenant}-b") as client:
        answer = await client.get("/read/verification_status/of_person", params={"person_id": person})
        assert answer.json()["items"] == []


async def test_personal_values_are_for_their_role(api: Running, tenant: str) -> None:
    conversation = str(uuid4())
    body = {
        "conversation_id": conversation,
        "channel": "chat",
        "occurred_at": "2026-05-04T12:00:00Z",
        "email": "Ann@Example.com",
        "name": "<b>Ann</b>",
    }
    path = "/read/conversation_links/by_id"
    async with api.client(tenant) as client:
        accepted = await send(client, "/commands/customers/RecordConversation", body)
        asked: dict[str, Any] = {"conversation_id": conversation, "token": accepted["token"], "wait": 20}
        (row,) = (await client.get(path, params=asked)).json()["items"]
        assert (row["email"], row["name"], row["phone"]) == ({"sealed": True}, {"sealed": True}, None)
    async with api.client(tenant, (Role.ANALYST, Role.PERSONAL)) as client:
        (row,) = (await client.get(path, params={"conversation_id": conversation})).json()["items"]
        assert (row["email"], row["name"], row["phone"]) == ("ann@example.com", "<b>Ann</b>", None)
    shown = api.cli(
        "query", "conversation_links", "by_id", f"conversation_id={conversation}", "--tenant", tenant
    )
    assert b"(sealed)" in shown.stdout
    assert b"ann@" not in shown.stdout
