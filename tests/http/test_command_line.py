"""`triplane publish`, `query`, `catalog`, `token`, `tenants` and `sql`: exit codes, line numbers, harmless output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from infra.cli.terminal import harmless, table
from tests.http.running import Running, eventually
from tests.http.test_ways_in import event, paid


def lines(*events: dict[str, Any] | str) -> bytes:
    """Write events one a line."""
    return "\n".join(it if isinstance(it, str) else json.dumps(it) for it in events).encode()


async def test_lines_are_checked_counted_and_sent(api: Running, tenant: str) -> None:
    good, other = paid(), paid()
    text = b"\xef\xbb\xbf" + lines(
        event(good), "", event(paid(amount=None)), "{", event(other, tenantid="demo-b"), event(other)
    )
    done = api.cli("publish", "-", "--tenant", tenant, stdin=text.replace(b"\n", b"\r\n"))
    assert (done.returncode, done.stdout.split()) == (4, [b"2", b"accepted,", b"3", b"rejected"])
    assert [line.split(b":")[0] for line in done.stderr.splitlines()] == [b"line 3", b"line 4", b"line 5"]
    assert b"invalid_field: amount" in done.stderr
    assert b"tenant_mismatch" in done.stderr

    async def both() -> bool:
        async with api.client(tenant) as client:
            asked = [
                ("/read/customer_spend/of_customer", {"customer_id": it["customer_id"]})
                for it in (good, other)
            ]
            return all([(await client.get(path, params=it)).json()["items"] for path, it in asked])

    await eventually(both)


def test_how_publish_ends(api: Running, tenant: str, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_bytes(lines(event(paid(), tenantid=tenant)))
    done = api.cli("publish", str(file), "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, {"accepted": 1, "rejected": 0, "errors": []})
    assert api.cli("publish", "-", stdin=lines("{")).returncode == 1
    assert api.cli("publish", str(tmp_path / "missing")).returncode == 2
    long = api.cli("publish", "-", "--tenant", tenant, stdin=b"x" * 5_000_000 + b"\n" + lines(event(paid())))
    assert (long.returncode, long.stdout) == (4, b"1 accepted, 1 rejected\n")


def test_how_query_ends(api: Running, tenant: str) -> None:
    for arguments, code, words in (
        (("customer_spend", "top", "currency=EUR", "--tenant", tenant), 0, b"(no rows)"),
        (("customer_spnd", "top", "--tenant", tenant), 2, b"did you mean customer_spend or"),
        (("customer_spend", "tops", "--tenant", tenant), 2, b"did you mean top?"),
        (("customer_spend", "top", "--tenant", tenant), 2, b"currency"),
        (("customer_spend", "top", "currency=EUR"), 2, b"--tenant"),
        (("customer_spend", "top", "currency", "--tenant", tenant), 2, b"name=value"),
    ):
        done = api.cli("query", *arguments)
        assert done.returncode == code, done.stderr
        assert words in done.stdout + done.stderr


def test_catalog_needs_nothing_running(api: Running) -> None:
    document = json.loads(api.cli("catalog", "--json").stdout)
    assert {"messages", "consumers", "sagas", "read_models"} == document.keys()
    assert api.cli("catalog", "--map").stdout.startswith(b"flowchart LR\n")
    assert b"payments.PaymentCompleted v1 (event public), keyed by payment_id" in api.cli("catalog").stdout


def test_token_refuses_what_no_server_would_take(api: Running) -> None:
    assert api.cli("token", "--tenant", "demo-a", "--ttl", "15m").stdout.count(b".") == 2
    for wrong in (
        ("--tenant", "Demo"),
        ("--tenant", "a", "--role", "king"),
        ("--tenant", "a", "--ttl", "25h"),
        (),
    ):
        assert api.cli("token", *wrong).returncode == 2


async def test_a_tenants_changes_are_acts_with_a_reason(api: Running, tenant: str) -> None:
    assert api.cli("tenants", "add", tenant).returncode == 2
    assert api.cli("tenants", "add", tenant, "--why", "they signed").returncode == 0
    assert b"nothing to do" in api.cli("tenants", "add", tenant, "--why", "again").stdout
    uri = api.cli("sql", tenant).stdout.decode().strip()
    assert api.cli("tenants", "suspend", tenant, "--why", "they did not pay").returncode == 0
    assert api.cli("sql", tenant).returncode == 3
    with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
        await asyncpg.connect(uri)
    rows = json.loads(api.cli("tenants", "list", "--json").stdout)
    assert [it["standing"] for it in rows if it["tenant"] == tenant] == ["suspended"]
    connection = await asyncpg.connect(api.settings.postgres)
    try:
        acts = await connection.fetch(
            "SELECT type, why FROM operations.acts WHERE body ->> 'tenant' = $1 ORDER BY at", tenant
        )
    finally:
        await connection.close()
    assert [tuple(it) for it in acts] == [
        ("operations.TenantAdded", "they signed"),
        ("operations.TenantSuspended", "they did not pay"),
    ]


def test_escape_sequences_are_shown_and_not_obeyed() -> None:
    assert harmless("a\x1b[31mb\r\n\u202e") == "a\\x1b[31mb\\r\\n\\u202e"
    assert "\x1b" not in table([{"name": "\x1b]0;title\x07", "n": None}])
    assert table([{"a": 1, "b": "x" * 80}]).splitlines()[2].endswith("…")
