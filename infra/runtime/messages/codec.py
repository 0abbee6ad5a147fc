"""Bytes to messages and back: versions are upcast on read, personal values sealed on write and unsealed on read."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple, TypeVar

import structlog
from pydantic import BaseModel, ValidationError
from pydantic_core import from_json, to_json

from events import Message, Past, PersonalMark, SubjectMark, marked
from infra.errors import Unacceptable
from infra.kafka.record import Record
from infra.runtime.catalog import Catalog, Contract
from infra.runtime.catalog.signatures import classes
from infra.runtime.messages import strict_json
from infra.runtime.messages.envelope import Envelope, open_record
from infra.runtime.messages.ids import content_hash, inbox_key
from infra.runtime.messages.vault import Subject, Vault

log = structlog.get_logger(__name__)

M = TypeVar("M", bound=BaseModel)

_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
READS_AT_ONCE: Final = 50
"""After so many messages the event loop gets a turn: a batch that is being written goes before what is read ahead."""


@dataclass(slots=True)
class Incoming:
    """A message ready to be folded, with the record it came in."""

    record: Record
    envelope: Envelope
    contract: Contract
    message: Message
    key: str
    """The value of the message's `Key` field, as text."""
    inbox: str
    hash: int


@dataclass(slots=True)
class Rejected:
    """A record that cannot be taken in: it is parked byte-exact under its keys, with the reason."""

    record: Record
    reason: str
    detail: str
    envelope: Envelope | None = None
    keys: tuple[str, ...] = ()
    """The states that it needs, where they are known."""


class Form(NamedTuple):
    """How messages of one type and version are read from one topic."""

    contract: Contract
    model: type[Message]
    seal: Seal | None
    past: bool
    """Whether it is an old version, to be upcast."""
    inbound: bool
    """Whether it comes from outside: untrusted."""


@dataclass(slots=True, frozen=True)
class Seal:
    """Which fields of a model are personal, and whose: a sealed model is one JSON object like any other."""

    name: str
    fields: tuple[str, ...]
    subject: str

    def subject_in(self, tenant: str, data: dict[str, Any]) -> Subject:
        """Name the subject that a JSON object is about."""
        return tenant, str(data.get(self.subject))

    def close(self, vault: Vault, tenant: str, data: dict[str, Any]) -> dict[str, Any]:
        """Seal the personal fields of a JSON object."""
        subject = self.subject_in(tenant, data)
        for name in self.fields:
            if data.get(name) is not None and data[name] != {"erased": True}:
                data[name] = vault.seal(subject, f"{self.name}.{name}", data[name])
        return data

    def open(self, vault: Vault, tenant: str, data: dict[str, Any]) -> dict[str, Any]:
        """Unseal the personal fields of a JSON object."""
        subject = self.subject_in(tenant, data)
        for name in self.fields:
            if name in data:
                data[name] = vault.unseal(subject, f"{self.name}.{name}", data[name])
        return data


def seal_of(model: type[BaseModel], name: str) -> Seal | None:
    """Say what is personal in `model`; `None` when nothing is. `name` binds the ciphertext to its kind."""
    fields = marked(model, PersonalMark)
    return Seal(name, fields, marked(model, SubjectMark)[0]) if fields else None


@cache
def shape_of(model: type[BaseModel]) -> int:
    """Give a signed 64-bit hash of a state's fields and their parts; a snapshot of another shape is folded anew from its events."""
    fields = sorted(
        f"{name}:{field.annotation}={field.default!r}" for name, field in model.model_fields.items()
    )
    parts = {
        it
        for field in model.model_fields.values()
        for it in classes(field.annotation)
        if issubclass(it, BaseModel)
    }
    fields += sorted(f"{part.__name__}={shape_of(part)}" for part in parts if part is not model)
    # Validators and marks show where they lie in memory, which every process has otherwise.
    text = _ADDRESS.sub("", "\n".join(fields))
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big", signed=True)


class Codec:
    """Reads and writes every message and state of a catalogue."""

    def __init__(self, catalog: Catalog, vault: Vault) -> None:
        """Seal with the keys of `vault`."""
        self.catalog = catalog
        self.vault = vault
        self._message_seals = {
            (name, version): seal_of(model, name)
            for name, contract in catalog.contracts.items()
            for version, model in contract.versions.items()
        }
        self._state_seals: dict[type[BaseModel], Seal | None] = {}
        self._forms: dict[tuple[str, str, int], Form] = {}
        self._strangers: dict[frozenset[str], frozenset[bytes]] = {}

    # -- messages ---------------------------------------------------------------------------------------------------

    async def open_all(
        self, consumer: str, generation: int, listens: frozenset[str], records: Iterable[Record]
    ) -> list[Incoming | Rejected]:
        """Read the records that `listens` concerns; what cannot be read is `Rejected`, with the field named."""
        opened: list[Incoming | Rejected] = []
        sealed: list[tuple[int, Record, Envelope, bytes, Form]] = []
        subjects: set[Subject] = set()
        strangers = self._strange_to(listens)
        for number, record in enumerate(records, 1):
            if number % READS_AT_ONCE == 0:
                await asyncio.sleep(0)
            # Most records of a topic concern somebody else: look no further than their type.
            if record.type in strangers and not record.inbound:
                continue
            envelope = None
            try:
                envelope, body = open_record(record)
                form = self._form(record.topic, envelope)
                if form.contract.name not in listens:
                    continue
                if form.seal is None or form.inbound:
                    opened.append(self._open(consumer, generation, record, envelope, body, form))
                    continue
                subjects.add(form.seal.subject_in(envelope.tenant, _object(body)))
            except Unacceptable as wrong:
                opened.append(Rejected(record, wrong.reason, wrong.detail, envelope))
                continue
            # Its turn comes when the keys of all are at hand.
            sealed.append((len(opened), record, envelope, body, form))
            opened.append(Rejected(record, "sealed", "its keys are not at hand yet"))
        await self.vault.warm(subjects, create=False)
        for number, (place, record, own, body, form) in enumerate(sealed, 1):
            if number % READS_AT_ONCE == 0:
                await asyncio.sleep(0)
            opened[place] = self._open(consumer, generation, record, own, body, form)
        return opened

    def _strange_to(self, listens: frozenset[str]) -> frozenset[bytes]:
        """Name the known types that a consumer does not listen to, as they stand in headers."""
        if listens not in self._strangers:
            self._strangers[listens] = frozenset(
                name.encode() for name in self.catalog.contracts.keys() - listens
            )
        return self._strangers[listens]

    def _form(self, topic: str, envelope: Envelope) -> Form:
        kind = (topic, envelope.type, envelope.version)
        form = self._forms.get(kind)
        if form is None:
            contract = self.contract_of(topic, envelope)
            form = Form(
                contract,
                contract.versions[envelope.version],
                self._message_seals[contract.name, envelope.version],
                envelope.version != contract.current,
                topic.endswith(".inbound"),
            )
            # What is refused is not kept: outsiders choose topic, type and version.
            self._forms[kind] = form
        return form

    def contract_of(self, topic: str, envelope: Envelope) -> Contract:
        """Find the contract of a message on `topic`; raise `Unacceptable` where it does not belong there."""
        inbound = topic.endswith(".inbound")
        contract = self.catalog.contracts.get(envelope.type)
        if contract is None:
            raise Unacceptable(
                "unknown_type",
                f"ce_type: {envelope.type!r} is no message of this platform; see the catalogue",
            )
        home = f"{contract.context}.inbound" if inbound else contract.topic
        if topic != home:
            raise Unacceptable("wrong_topic", f"ce_type: {contract.name} belongs on {home}")
        if envelope.version not in contract.versions:
            known = ", ".join(str(version) for version in sorted(contract.versions))
            raise Unacceptable(
                "unknown_version",
                f"ce_dataschema: version {envelope.version} of {contract.name} is unknown; known: {known}",
            )
        if inbound and not contract.public:
            raise Unacceptable("not_public", f"ce_type: {contract.name} is not taken from outside")
        return contract

    def _open(
        self, consumer: str, generation: int, record: Record, envelope: Envelope, body: bytes, form: Form
    ) -> Incoming | Rejected:
        contract, inbound = form.contract, form.inbound
        try:
            message = self._read(form, envelope, body, trusted=not inbound)
        except Unacceptable as wrong:
            return Rejected(record, wrong.reason, wrong.detail, envelope)
        key = str(getattr(message, contract.key))
        if not inbound and record.key != key.encode():
            return Rejected(
                record, "wrong_key", f"the record's key is not the body's {contract.key}", envelope
            )
        inbox = inbox_key(consumer, generation, envelope.tenant, envelope.source, envelope.id)
        return Incoming(record, envelope, contract, message, key, inbox, content_hash(envelope.type, body))

    def decode(self, contract: Contract, envelope: Envelope, body: bytes, *, trusted: bool) -> Message:
        """Read a body as the current version of its contract; raise `Unacceptable` naming each wrong field.

        A trusted body is our own: its personal fields are sealed (warm the vault first). Another is checked strictly.
        """
        return self._read(self._form(contract.topic, envelope), envelope, body, trusted=trusted)

    def _read(self, form: Form, envelope: Envelope, body: bytes, *, trusted: bool) -> Message:
        contract, seal = form.contract, form.seal
        if not trusted:
            data = strict_json.parse(body)
            if not isinstance(data, dict):
                raise Unacceptable("not_an_object", f"the body of {contract.name} is a JSON object")
        elif seal is not None:
            body = to_json(seal.open(self.vault, envelope.tenant, _object(body)))
        try:
            message: Message = form.model.__pydantic_validator__.validate_json(body)
            if form.past:
                while isinstance(message, Past):
                    message = message.upcast()
        except ValidationError as wrong:
            raise Unacceptable("invalid_field", explain(wrong)) from None
        except Exception as raised:
            # A validator or upcaster that is not total must not hold up the partition.
            log.exception("a contract raised", type=contract.name, version=envelope.version)
            detail = (
                f"{contract.name} cannot be read: its contract raised {type(raised).__name__}; see the log"
            )
            raise Unacceptable("contract_raised", detail) from raised
        return message

    def encode(self, contract: Contract, tenant: str, message: Message) -> bytes:
        """Write a message's body, sealed (warm the vault with `subject_of` first)."""
        seal = self._message_seals[contract.name, contract.current]
        if seal is None:
            return _json(message)
        return to_json(seal.close(self.vault, tenant, message.model_dump(mode="json")))

    def stored_subject(self, contract: Contract, envelope: Envelope, body: bytes) -> Subject | None:
        """Name the person whose key unseals a recorded body; `None` when nothing in it is personal."""
        seal = self._message_seals[contract.name, envelope.version]
        return None if seal is None else seal.subject_in(envelope.tenant, _object(body))

    def key_of(self, message: Message) -> str:
        """Give the value of a message's `Key` field as text."""
        return str(getattr(message, self.catalog.of(type(message)).key))

    def subject_of(self, contract: Contract, tenant: str, message: Message) -> Subject | None:
        """Name the person whose key seals a message; `None` when nothing in it is personal."""
        seal = self._message_seals[contract.name, contract.current]
        return None if seal is None else (tenant, str(getattr(message, seal.subject)))

    # -- states -----------------------------------------------------------------------------------------------------

    def state_seal(self, model: type[BaseModel]) -> Seal | None:
        """Say what is personal in a state class."""
        if model not in self._state_seals:
            self._state_seals[model] = seal_of(model, model.__name__)
        return self._state_seals[model]

    async def load_states(self, model: type[M], rows: Sequence[tuple[str, str]]) -> list[M]:
        """Read snapshots, each `(tenant, JSON)`."""
        seal = self.state_seal(model)
        if seal is None:
            return [model.model_validate_json(text) for _, text in rows]
        parsed = [(tenant, from_json(text)) for tenant, text in rows]
        await self.vault.warm({seal.subject_in(tenant, data) for tenant, data in parsed}, create=False)
        return [
            model.model_validate_json(to_json(seal.open(self.vault, tenant, data))) for tenant, data in parsed
        ]

    def dump_state(self, tenant: str, state: BaseModel) -> str:
        """Write a snapshot, sealed (warm the vault with `state_subject` first)."""
        seal = self.state_seal(type(state))
        if seal is None:
            return _json(state).decode()
        return to_json(seal.close(self.vault, tenant, state.model_dump(mode="json"))).decode()

    def state_subject(self, tenant: str, state: BaseModel) -> Subject | None:
        """Name the person whose key seals a state; `None` when nothing in it is personal."""
        seal = self.state_seal(type(state))
        return None if seal is None else (tenant, str(getattr(state, seal.subject)))


def _json(model: BaseModel) -> bytes:
    """Write a model as `model_dump_json` does, without going through a text."""
    return model.__pydantic_serializer__.to_json(model)


def explain(wrong: ValidationError) -> str:
    """Say which fields are wrong and why, without repeating their values."""
    said: dict[str, str] = {}
    for error in wrong.errors(include_url=False, include_context=False, include_input=False):
        # The branches of a union are the validator's own affair, not steps to a field; the first says it best.
        steps = [str(step) for step in error["loc"] if isinstance(step, int) or step.isidentifier()]
        said.setdefault(".".join(steps) or "body", error["msg"].removeprefix("Value error, "))
    return "; ".join(f"{place}: {message}" for place, message in list(said.items())[:10])


def _object(body: bytes) -> dict[str, Any]:
    try:
        data = from_json(body)
    except ValueError as wrong:
        raise Unacceptable("not_json", f"the body is not JSON: {wrong}") from None
    if not isinstance(data, dict):
        raise Unacceptable("not_an_object", "the body is a JSON object")
    return data
