"""Message types with all their versions, found by walking `events`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

from pydantic import BaseModel

import events
from events import (
    ClaimMark,
    Command,
    Event,
    Message,
    Past,
    PersonalMark,
    Refusal,
    SubjectMark,
    context_of,
    marked,
    type_of,
)
from infra.errors import WiringError
from infra.runtime.catalog.signatures import Signature, key_field, where

Kind = Literal["event", "refusal", "command"]


@dataclass(frozen=True, slots=True)
class Contract:
    """One message type with all the versions that are still read."""

    name: str
    context: str
    kind: Kind
    model: type[Message]
    versions: dict[int, type[Message]]
    key: str
    public: bool
    personal: tuple[str, ...]
    subject: str | None

    @property
    def topic(self) -> str:
        """Where the platform itself publishes it."""
        return f"{self.context}.{'commands' if self.kind == 'command' else 'events'}"

    @property
    def current(self) -> int:
        """The version that is written."""
        return self.model.version


@dataclass(frozen=True, slots=True)
class StateModel:
    """An aggregate, local view or saga state class as the engine needs it."""

    model: type[BaseModel]
    name: str
    key: str
    personal: tuple[str, ...]
    subject: str | None
    claims: tuple[str, ...]


def modules(package: ModuleType) -> Iterator[ModuleType]:
    """Import every module of a package, in the order of their names."""
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(info.name)


def _message_classes() -> Iterator[type[Message]]:
    for module in modules(events):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__:
                yield value


def contracts() -> dict[str, Contract]:
    """Read every message type under `events`, by its name on the wire."""
    versions: dict[str, dict[int, type[Message]]] = {}
    for model in _message_classes():
        known = versions.setdefault(type_of(model), {})
        if model.version in known:
            raise WiringError(f"{type_of(model)} version {model.version} is declared twice")
        known[model.version] = model
    return {name: _contract(name, known) for name, known in sorted(versions.items())}


def _contract(name: str, versions: dict[int, type[Message]]) -> Contract:
    newest = versions[max(versions)]
    if issubclass(newest, Past):
        raise WiringError(f"{name}: version {newest.version} is a Past, but no newer version exists")
    gaps = set(range(1, newest.version + 1)) - set(versions)
    if gaps:
        raise WiringError(f"{name}: version {min(gaps)} is missing; a Past with its upcaster reads it")
    kind: Kind = (
        "command" if issubclass(newest, Command) else "refusal" if issubclass(newest, Refusal) else "event"
    )
    if not issubclass(newest, Command | Event):
        raise WiringError(f"{name}: is neither an Event nor a Command")
    for model in versions.values():
        _check_personal(model)
    return Contract(
        name=name,
        context=context_of(newest),
        kind=kind,
        model=newest,
        versions=versions,
        key=key_field(newest),
        public=newest.public,
        personal=marked(newest, PersonalMark),
        subject=_subject(newest),
    )


def _subject(model: type[BaseModel]) -> str | None:
    return next(iter(marked(model, SubjectMark)), None)


def _check_personal(model: type[BaseModel]) -> None:
    if marked(model, PersonalMark) and len(marked(model, SubjectMark)) != 1:
        raise WiringError(
            f"{model.__module__}.{model.__name__}: has Personal fields, so exactly one field is marked Subject[...]"
        )


def state_model(model: type[BaseModel]) -> StateModel:
    """Describe a state class; raise `WiringError` when it cannot begin from its key alone."""
    _check_personal(model)
    key = key_field(model)
    for name, it in model.model_fields.items():
        if name != key and it.is_required():
            raise WiringError(
                f"{model.__module__}.{model.__name__}.{name}: needs a default, as a stream begins from its key"
            )
    return StateModel(
        model, model.__name__, key, marked(model, PersonalMark), _subject(model), marked(model, ClaimMark)
    )


def consumed(signature: Signature, known: dict[str, Contract]) -> list[Contract]:
    """Give the contracts of what a function consumes."""
    found = []
    for model in signature.messages:
        if not issubclass(model, Message) or type_of(model) not in known:
            raise WiringError(f"{where(signature.function)}: {model.__name__} is no message under events/")
        found.append(known[type_of(model)])
    return found
