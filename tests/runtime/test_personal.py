"""Personal values: sealed for one tenant, subject and field; erased with the key; nowhere readable without it."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any
from uuid import UUID, uuid4

import pytest

from events import Erased, erased
from infra.errors import Unacceptable
from infra.kafka.record import Record
from infra.runtime.messages.codec import Incoming, shape_of
from infra.runtime.messages.vault import CACHE_SECONDS, Vault
from tests.shop.bench import TENANT, Bench
from tests.shop.events import Join, Joined
from tests.shop.handlers import Member

EVENTS = "shop.events"


async def join(bench: Bench, member: UUID, tenant: str = TENANT) -> Record:
    """Let somebody join; give the fact as it is published."""
    asked = Join(member_id=member, email="ada@example.org")
    await bench.deliver("shop", await bench.of(asked, topic="shop.inbound", tenant=tenant))
    (joined,) = await bench.published()
    return joined


async def opened(bench: Bench, record: Record) -> Any:
    (it,) = await bench.engine.codec.open_all("c", 1, frozenset({"shop.Joined"}), [record])
    return it


async def fresh_vault(bench: Bench) -> Vault:
    return Vault(bench.engine.databases["vault"], bench.engine.settings.master_key)


async def test_a_sealed_message_is_read_as_it_was(bench: Bench) -> None:
    member = uuid4()
    record = await join(bench, member)
    assert b"ada@example.org" not in (record.value or b"")
    it = await opened(bench, record)
    assert it.message == Joined(member_id=member, email="ada@example.org")


@pytest.mark.parametrize("known", [True, False], ids=["who is known there", "who is not"])
async def test_a_sealed_value_copied_to_another_tenant_is_parked(bench: Bench, known: bool) -> None:  # noqa: FBT001
    member = uuid4()
    record = await join(bench, member)
    if known:
        await bench.engine.codec.vault.warm([("other", str(member))], create=True)
    stolen = replace(record, headers=[(n, b"other" if n == "ce_tenantid" else v) for n, v in record.headers])
    counts = await bench.deliver("projections.members", stolen)
    assert (counts.parked, await bench.reasons("projections")) == (1, ["wrong_seal"])


async def test_a_sealed_value_copied_to_another_person_is_parked(bench: Bench) -> None:
    record = await join(bench, uuid4())
    thief = uuid4()
    await bench.engine.codec.vault.warm([(TENANT, str(thief))], create=True)
    body = {**json.loads(record.value or b""), "member_id": str(thief)}
    await bench.deliver(
        "projections.members", replace(record, value=json.dumps(body).encode(), key=str(thief).encode())
    )
    assert await bench.reasons("projections") == ["wrong_seal"]


@pytest.mark.parametrize("sealed", ["", "AAAA", "####", "\u00e9", "A" * 40, None, 5])
async def test_a_broken_seal_is_parked(bench: Bench, sealed: object) -> None:
    record = await join(bench, uuid4())
    body = {**json.loads(record.value or b""), "email": {"sealed": sealed}}
    await bench.deliver("projections.members", replace(record, value=json.dumps(body).encode()))
    assert await bench.reasons("projections") == ["wrong_seal"]


async def test_a_seal_cannot_be_sent_from_outside(bench: Bench) -> None:
    record = await join(bench, uuid4())
    body = json.loads(record.value or b"")
    asked = await bench.of(
        Join(member_id=UUID(body["member_id"]), email="x@example.org"), topic="shop.inbound"
    )
    await bench.deliver("shop", replace(asked, value=json.dumps(body).encode()))
    assert await bench.reasons() == ["invalid_field"]


async def test_once_the_key_is_destroyed_everybody_sees_erased(bench: Bench) -> None:
    member = uuid4()
    record = await join(bench, member)
    vault = bench.engine.codec.vault
    assert await vault.erase((TENANT, str(member)))
    assert not await vault.erase((TENANT, str(member)))
    it = await opened(bench, record)
    assert isinstance(it, Incoming)
    assert isinstance(it.message, Joined)
    assert isinstance(it.message.email, Erased)
    # The state is read and written without the value, and its stream goes on.
    counts = await bench.deliver("projections.members", record)
    assert (counts.applied, counts.parked) == (1, 0)
    (row,) = await bench.rows("members_g1", "projections")
    assert json.loads(row["email"]) == {"erased": True}
    (state,) = await bench.engine.codec.load_states(
        Member, [(TENANT, (await bench.rows("aggregates"))[0]["state"])]
    )
    assert state.email == erased
    # Nothing is sealed for them again, by any process.
    other = await fresh_vault(bench)
    await other.warm([(TENANT, str(member))], create=True)
    assert other.seal((TENANT, str(member)), "f", "ada") == {"erased": True}


async def test_another_process_forgets_a_destroyed_key_within_a_minute(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    subject = (TENANT, str(uuid4()))
    mine, other = await fresh_vault(bench), await fresh_vault(bench)
    await mine.warm([subject], create=True)
    sealed = mine.seal(subject, "f", "ada")
    await other.warm([subject], create=False)
    await mine.erase(subject)
    await other.warm([subject], create=False)
    assert other.unseal(subject, "f", sealed) == "ada"
    later = time.monotonic() + CACHE_SECONDS + 1
    monkeypatch.setattr("infra.runtime.messages.vault.time.monotonic", lambda: later)
    await other.warm([subject], create=False)
    assert other.unseal(subject, "f", sealed) == {"erased": True}
    assert CACHE_SECONDS <= 60


async def test_keys_are_read_on_a_machine_that_has_just_started(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.runtime.messages.vault.time.monotonic", lambda: 1.0)
    vault = await fresh_vault(bench)
    await vault.warm([(TENANT, "p")], create=True)
    assert vault.unseal((TENANT, "p"), "f", vault.seal((TENANT, "p"), "f", 5)) == 5


async def test_keys_in_the_database_are_of_no_use_without_the_master_key(bench: Bench) -> None:
    vault = await fresh_vault(bench)
    await vault.warm([(TENANT, "p")], create=True)
    from cryptography.exceptions import InvalidTag

    stranger = Vault(bench.engine.databases["vault"], bytes(32))
    with pytest.raises(InvalidTag):
        await stranger.warm([(TENANT, "p")], create=False)


async def test_the_same_value_is_sealed_differently_each_time_and_per_field(bench: Bench) -> None:
    vault, subject = await fresh_vault(bench), (TENANT, "p")
    await vault.warm([subject], create=True)
    one, two = vault.seal(subject, "a", "x"), vault.seal(subject, "a", "x")
    assert one != two
    with pytest.raises(Unacceptable, match="cannot be copied"):
        vault.unseal(subject, "b", one)


def test_a_claims_digest_depends_on_everything_it_stands_for() -> None:
    vault = Vault(None, bytes(32))  # type: ignore[arg-type]
    made = {
        vault.claim_digest(tenant, kind, claim, value)
        for tenant, kind, claim, value in [
            ("a", "K", "c", "v"),
            ("b", "K", "c", "v"),
            ("a", "L", "c", "v"),
            ("a", "K", "d", "v"),
            ("a", "K", "c", "w"),
        ]
    }
    assert len(made) == 5


def test_a_changed_part_changes_the_shape_of_the_whole() -> None:
    from pydantic import BaseModel, create_model

    def whole(**part: Any) -> type[BaseModel]:
        inner = create_model("Part", **part)
        return create_model("Whole", parts=(tuple[inner, ...], ()))  # type: ignore[valid-type]

    assert shape_of(whole(a=(int, 0))) == shape_of(whole(a=(int, 0)))
    assert shape_of(whole(a=(int, 0))) != shape_of(whole(a=(int, 0), b=(int, 0)))
