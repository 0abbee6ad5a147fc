"""What upstream has sent once is understood for ever, whatever version it was sent in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, cast

import pytest

from events import Message, Past
from infra.errors import Unacceptable
from infra.runtime.catalog import discover
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.envelope import open_record
from tests.contracts.published import published
from tests.contracts.recordings import Recording, recordings

if TYPE_CHECKING:
    from infra.runtime.messages.vault import Vault

RECORDINGS = recordings()
WANTED = sorted({f"{it.contract}.v{it.version}" for it in RECORDINGS})

each = pytest.mark.parametrize("sent", RECORDINGS, ids=lambda it: f"{it.contract}.v{it.version}: {it.about}")
every_contract = pytest.mark.parametrize("name", WANTED)


@pytest.fixture(scope="module")
def codec() -> Codec:
    """Reads what comes from outside: nothing in it is sealed, so no vault is asked."""
    return Codec(discover(), cast("Vault", None))


def read(codec: Codec, sent: Recording) -> Message:
    envelope, body = open_record(sent.record)
    assert (envelope.type, envelope.version) == (sent.contract, sent.version)
    contract = codec.contract_of(sent.record.topic, envelope)
    return codec.decode(contract, envelope, body, trusted=False)


def body_of(sent: Recording) -> dict[str, Any]:
    """The fields as they were sent."""
    return cast("dict[str, Any]", json.loads(open_record(sent.record)[1]))


def of_contract(name: str) -> list[Recording]:
    return [it for it in RECORDINGS if f"{it.contract}.v{it.version}" == name]


@each
def test_is_read_as_it_was(codec: Codec, sent: Recording) -> None:
    message = read(codec, sent)
    assert not isinstance(message, Past)
    assert type(message) is codec.catalog.contracts[sent.contract].model
    found = message.model_dump(mode="json")
    # A field that was added since is read as its default: it was never sent.
    assert {name: found.get(name, "missing") for name in sent.read_as} == sent.read_as, (
        f"{sent.contract} version {sent.version}, {sent.about!r}, is no longer read as it was when it was recorded; "
        "what is recorded cannot be sent again: take the change into a new version"
    )
    assert {*body_of(sent)} <= found.keys(), "a field that was sent is lost"


@each
def test_is_refused_once_a_required_field_is_missing(codec: Codec, sent: Recording) -> None:
    envelope, _ = open_record(sent.record)
    contract = codec.catalog.contracts[sent.contract]
    whole = body_of(sent)
    required = published()[f"{sent.contract}.v{sent.version}"]["schema"]["required"]
    for name in required:
        short = json.dumps({other: value for other, value in whole.items() if other != name}).encode()
        with pytest.raises(Unacceptable, match=name):
            codec.decode(contract, envelope, short, trusted=False)


def test_every_recording_is_of_a_public_contract() -> None:
    public = {name for name, it in published().items() if it["public"]}
    assert set(WANTED) <= public, "what was recorded is read for ever: it stays public, in its version"


def test_every_superseded_contract_is_recorded() -> None:
    old = {name for name, it in published().items() if it["public"] and name != newest(name)}
    assert old <= set(WANTED), (
        "record a message of the old version in tests/contracts/recorded before it is superseded"
    )


def newest(name: str) -> str:
    """Name the newest version of a published contract."""
    contract = name.rpartition(".v")[0]
    versions = [int(it.rpartition(".v")[2]) for it in published() if it.rpartition(".v")[0] == contract]
    return f"{contract}.v{max(versions)}"


@every_contract
def test_every_field_was_sent_at_least_once(name: str) -> None:
    fields = set(published()[name]["schema"]["properties"])
    missing = sorted(fields - {field for it in of_contract(name) for field in body_of(it)})
    assert not missing, (
        f"record a message that says {', '.join(missing)} in tests/contracts/recorded/{name}.messages"
    )


@every_contract
def test_the_least_that_may_be_said_was_sent(name: str) -> None:
    least = min((set(body_of(it)) for it in of_contract(name)), key=len)
    optional = set(published()[name]["schema"]["properties"]) - set(published()[name]["schema"]["required"])
    # Some contracts want one of several optional fields.
    assert len(least & optional) <= 1, f"record a message without {', '.join(sorted(least & optional))}"
