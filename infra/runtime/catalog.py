"""Who publishes what, who listens, which state, which read model: derived from the code, checked at start.

Discovery walks the packages `events`, `handlers`, `sagas` and `projections`; there is no list to maintain.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from types import ModuleType
from typing import Any, Literal

from pydantic import BaseModel

import events
import handlers
import projections
import sagas
from events import (
    ClaimMark,
    Command,
    Event,
    KeyMark,
    Message,
    Past,
    PersonalMark,
    Refusal,
    SubjectMark,
    context_of,
    marked,
    type_of,
)
from handlers import Aggregate, Local, Worker
from infra.runtime.errors import WiringError
from infra.runtime.signatures import Function, Of, Signature, classes, key_field, read, where
from projections import Projection, Query, Row
from sagas import Ended, Saga, State

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


@dataclass(frozen=True, slots=True)
class DeciderWiring:
    """All `def` functions of one worker: one consumer."""

    name: str
    schema: str
    topics: tuple[str, ...]
    deciders: dict[str, tuple[Signature, ...]]
    adopters: dict[str, Signature]
    keepers: dict[str, tuple[Signature, ...]]
    evolvers: dict[str, Signature]
    aggregates: dict[str, StateModel]
    """The context's aggregates by their key field."""
    locals: dict[type[Local], StateModel]
    first_start: Literal["beginning", "end"] = "beginning"

    @property
    def listens(self) -> frozenset[str]:
        """The types it folds."""
        return frozenset(self.deciders) | frozenset(self.adopters) | frozenset(self.keepers)


@dataclass(frozen=True, slots=True)
class EffectWiring:
    """One `async def` handler: a consumer of its own."""

    name: str
    schema: str
    topics: tuple[str, ...]
    consumes: tuple[str, ...]
    action: Signature
    finder: Signature | None
    decider: DeciderWiring
    first_start: Literal["beginning", "end"] = "end"

    @property
    def listens(self) -> frozenset[str]:
        """The types it acts on."""
        return frozenset(self.consumes)


@dataclass(frozen=True, slots=True)
class SagaWiring:
    """One saga: a consumer of its own."""

    name: str
    schema: str
    topics: tuple[str, ...]
    saga: Saga
    correlation: dict[str, str]
    """Event type -> the field that names the instance."""
    starters: dict[str, Signature]
    moves: dict[tuple[type[State], str], Signature]
    lates: dict[type[State], Signature]
    states: dict[str, type[State]]
    first_start: Literal["beginning", "end"] = "end"

    @property
    def listens(self) -> frozenset[str]:
        """The events it answers."""
        return frozenset(self.correlation)


@dataclass(frozen=True, slots=True)
class FoldWiring:
    """One projection function: which event, into which row, and where the key columns are found in the event."""

    signature: Signature
    row: type[Row]
    paths: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class ProjectionWiring:
    """One read model: a consumer of its own."""

    name: str
    schema: str
    topics: tuple[str, ...]
    projection: Projection
    folds: dict[str, tuple[FoldWiring, ...]]
    rows: dict[type[Row], str]
    """Row class -> the name of its view in `read`."""
    queries: dict[str, tuple[type[Query[Any]], type[Row]]]
    first_start: Literal["beginning", "end"] = "beginning"

    @property
    def listens(self) -> frozenset[str]:
        """The events it folds."""
        return frozenset(self.folds)


Wiring = DeciderWiring | EffectWiring | SagaWiring | ProjectionWiring


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that the code declares."""

    contracts: dict[str, Contract]
    workers: dict[str, DeciderWiring]
    effects: dict[str, EffectWiring]
    sagas: dict[str, SagaWiring]
    projections: dict[str, ProjectionWiring]
    contexts: tuple[str, ...] = field(default=())

    @property
    def consumers(self) -> dict[str, Wiring]:
        """Every consumer by its permanent name."""
        return {**self.workers, **self.effects, **self.sagas, **self.projections}

    @property
    def topics(self) -> tuple[str, ...]:
        """Every topic that the contracts need."""
        names = {contract.topic for contract in self.contracts.values()}
        names |= {f"{context}.inbound" for context in self.contexts}
        return tuple(sorted(names | {topic for wiring in self.consumers.values() for topic in wiring.topics}))

    def of(self, model: type[Message]) -> Contract:
        """Find the contract of a message class."""
        return self.contracts[type_of(model)]


@cache
def discover() -> Catalog:
    """Walk the packages and wire everything; raise `WiringError` naming the first culprit."""
    contracts = _contracts()
    workers = [worker for module in _modules(handlers) for worker in _instances(module, Worker)]
    deciders = {worker.context: _decider(worker, contracts) for worker in _unique(workers)}
    effects = {
        wiring.name: wiring for worker in _unique(workers) for wiring in _effects(worker, deciders[worker.context], contracts)
    }
    flows = {
        wiring.name: wiring
        for wiring in (_saga(saga, contracts) for module in _modules(sagas) for saga in _instances(module, Saga))
    }
    models = {
        wiring.name: wiring
        for wiring in (_projection(it, contracts) for module in _modules(projections) for it in _instances(module, Projection))
    }
    catalog = Catalog(contracts, deciders, effects, flows, models, tuple(sorted(deciders)))
    _check_answerers(catalog)
    return catalog


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        yield importlib.import_module(info.name)


def _instances(module: ModuleType, kind: type[Any]) -> list[Any]:
    return [value for value in vars(module).values() if isinstance(value, kind)]


def _unique(workers: Iterable[Worker]) -> list[Worker]:
    found: dict[str, Worker] = {}
    for worker in workers:
        if found.setdefault(worker.context, worker) is not worker:
            raise WiringError(f"the context {worker.context!r} has two workers; a context has one")
    return list(found.values())


def _message_classes() -> Iterator[type[Message]]:
    for module in _modules(events):
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Message) and value.__module__ == module.__name__:
                yield value


def _contracts() -> dict[str, Contract]:
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
    kind: Kind = "command" if issubclass(newest, Command) else "refusal" if issubclass(newest, Refusal) else "event"
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
            raise WiringError(f"{model.__module__}.{model.__name__}.{name}: needs a default, as a stream begins from its key")
    return StateModel(model, model.__name__, key, marked(model, PersonalMark), _subject(model), marked(model, ClaimMark))


def _types(signature: Signature, contracts: dict[str, Contract]) -> list[Contract]:
    found = []
    for model in signature.messages:
        if not issubclass(model, Message) or type_of(model) not in contracts:
            raise WiringError(f"{where(signature.function)}: {model.__name__} is no message under events/")
        found.append(contracts[type_of(model)])
    return found


def _decider(worker: Worker, contracts: dict[str, Contract]) -> DeciderWiring:
    context = worker.context
    evolvers: dict[str, Signature] = {}
    aggregates: dict[str, StateModel] = {}

    def aggregate(kind: type[Aggregate]) -> None:
        state = state_model(kind)
        if aggregates.setdefault(state.key, state).model is not kind:
            raise WiringError(f"{context}: two aggregates have the key field {state.key!r}")

    for function in worker.evolvers:
        signature = read(function, message=1, beside=0)
        if len(signature.beside) != 1 or not issubclass(signature.beside[0], Aggregate):
            raise WiringError(f"{where(function)}: its first parameter is the aggregate, its second the event")
        kind = signature.beside[0]
        aggregate(kind)
        for contract in _types(signature, contracts):
            if contract.context != context:
                raise WiringError(f"{where(function)}: {contract.name} is not a fact of {context}; only its owner evolves it")
            if contract.key != key_field(kind):
                raise WiringError(f"{where(function)}: {contract.name} is keyed by {contract.key!r}, {kind.__name__} is not")
            if contract.name in evolvers:
                raise WiringError(f"{where(function)}: {contract.name} is evolved twice")
            evolvers[contract.name] = signature

    deciders: dict[str, tuple[Signature, ...]] = {}
    adopters: dict[str, Signature] = {}
    keepers: dict[str, tuple[Signature, ...]] = {}
    views: dict[type[Local], StateModel] = {}
    topics: set[str] = set()
    for function in worker.handlers:
        signature = read(function)
        _collect(signature, aggregate, views)
        if signature.acts:
            continue
        for contract in _types(signature, contracts):
            if contract.kind == "command" and contract.context != context:
                raise WiringError(f"{where(function)}: {contract.name} is answered by its own context's worker only")
            deciders[contract.name] = (*deciders.get(contract.name, ()), signature)
            topics.add(contract.topic)
            if contract.public and contract.kind == "command":
                topics.add(f"{context}.inbound")
    for function in worker.adopters:
        signature = read(function)
        _collect(signature, aggregate, views)
        for contract in _types(signature, contracts):
            if not contract.public or contract.kind == "command" or contract.context != context:
                raise WiringError(f"{where(function)}: {contract.name} is no public fact of {context}")
            if contract.name in adopters:
                raise WiringError(f"{where(function)}: {contract.name} is adopted twice")
            adopters[contract.name] = signature
            topics.add(f"{context}.inbound")
    for keeper in worker.keepers:
        signature = read(keeper, message=1)
        need = next(iter(signature.needs.values()), None)
        if not isinstance(need, Of) or not issubclass(need.kind, Local):
            raise WiringError(f"{where(keeper)}: its first parameter is the Local view, its second the event")
        views.setdefault(need.kind, state_model(need.kind))
        for contract in _types(signature, contracts):
            keepers[contract.name] = (*keepers.get(contract.name, ()), signature)
            topics.add(contract.topic)
    wiring = DeciderWiring(context, context, tuple(sorted(topics)), deciders, adopters, keepers, evolvers, aggregates, views)
    _check_worker(wiring, contracts)
    return wiring


def _collect(signature: Signature, aggregate: Callable[[type[Aggregate]], None], views: dict[type[Local], StateModel]) -> None:
    for need in signature.needs.values():
        kind = getattr(need, "kind", None)
        if kind is None:
            continue
        if issubclass(kind, Local):
            views.setdefault(kind, state_model(kind))
        else:
            aggregate(kind)


def _check_worker(wiring: DeciderWiring, contracts: dict[str, Contract]) -> None:
    for contract in contracts.values():
        if contract.context != wiring.name:
            continue
        if contract.kind == "event" and contract.name not in wiring.evolvers:
            raise WiringError(f"{contract.name}: no @worker.evolves folds it into an aggregate")
        if contract.kind == "refusal" and contract.key not in wiring.aggregates:
            raise WiringError(f"{contract.name}: no aggregate of {wiring.name} has the key field {contract.key!r}")
        if contract.public and contract.kind != "command" and contract.name not in wiring.adopters:
            raise WiringError(f"{contract.name}: is public, but no @worker.adopts takes it in")
    for signature in {id(s): s for group in wiring.deciders.values() for s in group}.values():
        for model in signature.publishes:
            published = contracts.get(type_of(model))
            if published is None:
                raise WiringError(f"{where(signature.function)}: publishes {model.__name__}, which is no message under events/")
            if published.kind != "command" and published.context != wiring.name:
                raise WiringError(f"{where(signature.function)}: {published.name} belongs to {published.context}")


def _check_answerers(catalog: Catalog) -> None:
    answered = {name for worker in catalog.workers.values() for name in worker.deciders}
    answered |= {name for effect in catalog.effects.values() for name in effect.consumes}
    for contract in catalog.contracts.values():
        if contract.kind != "command":
            continue
        answerers = [
            where(s.function)
            for worker in catalog.workers.values()
            for s in worker.deciders.get(contract.name, ())
        ] + [where(e.action.function) for e in catalog.effects.values() if contract.name in e.consumes]
        if len(answerers) > 1:
            raise WiringError(f"{contract.name} is answered twice, by {answerers[0]} and {answerers[1]}; a command has one answerer")
        if not answerers:
            raise WiringError(f"{contract.name} is answered by nobody; a command has one answerer")


def _effects(worker: Worker, decider: DeciderWiring, contracts: dict[str, Contract]) -> Iterator[EffectWiring]:
    for function in worker.handlers:
        signature = read(function)
        if not signature.acts:
            continue
        consumed = _types(signature, contracts)
        finder = worker.finders.get(function)
        for model in signature.publishes:
            outcome = contracts[type_of(model)]
            if outcome.kind != "command" and outcome.context != worker.context:
                raise WiringError(f"{where(function)}: {outcome.name} belongs to {outcome.context}")
        yield EffectWiring(
            name=f"{worker.context}.{function.__name__}",
            schema=worker.context,
            topics=tuple(sorted({contract.topic for contract in consumed})),
            consumes=tuple(contract.name for contract in consumed),
            action=signature,
            finder=read(finder) if finder is not None else None,
            decider=decider,
        )


def _saga(saga: Saga, contracts: dict[str, Contract]) -> SagaWiring:
    starters: dict[str, Signature] = {}
    moves: dict[tuple[type[State], str], Signature] = {}
    lates: dict[type[State], Signature] = {}
    states: dict[str, type[State]] = {}
    correlation: dict[str, str] = {}

    def listen(signature: Signature) -> list[str]:
        names = []
        for model in signature.messages:
            if not issubclass(model, Event) or type_of(model) not in contracts:
                raise WiringError(f"{where(signature.function)}: {model.__name__} is no fact under events/")
            by = saga.correlations.get(model, saga.by)
            if by not in model.model_fields:
                raise WiringError(f"saga {saga.name}: {model.__name__} has no field {by!r}; name one with saga.correlates")
            correlation[type_of(model)] = by
            names.append(type_of(model))
        return names

    for function in saga.starters:
        signature = read(function)
        for name in listen(signature):
            if name in starters:
                raise WiringError(f"{where(function)}: {name} starts {saga.name} twice")
            starters[name] = signature
        _check_commands(saga, signature, contracts)
    for function in saga.moves:
        signature = read(function, message=1, beside=0)
        for name in listen(signature):
            for state in _states(function, signature.beside):
                if (state, name) in moves:
                    raise WiringError(f"{where(function)}: {state.__name__} answers {name} twice")
                moves[state, name] = signature
                states[state.__name__] = state
        _check_commands(saga, signature, contracts)
    for function in saga.deadlines:
        signature = read(function)
        for state in _states(function, signature.messages):
            if state.within is None:
                raise WiringError(f"{where(function)}: {state.__name__} has no `within`, so it is never late")
            lates[state] = signature
            states[state.__name__] = state
        _check_commands(saga, signature, contracts)
    for state in states.values():
        for name in correlation:
            if (state, name) not in moves:
                raise WiringError(f"saga {saga.name}: the state {state.__name__} has no move for {name}")
        if state.within is not None and state not in lates:
            raise WiringError(f"saga {saga.name}: {state.__name__} has a deadline, but no @saga.late answers it")
    topics = tuple(sorted({contracts[name].topic for name in correlation}))
    return SagaWiring(f"sagas.{saga.name}", "sagas", topics, saga, correlation, starters, moves, lates, states)


def _states(function: Function, kinds: tuple[type[Any], ...]) -> tuple[type[State], ...]:
    for kind in kinds:
        if not issubclass(kind, State):
            raise WiringError(f"{where(function)}: its first parameter is the state")
    return kinds


def _check_commands(saga: Saga, signature: Signature, contracts: dict[str, Contract]) -> None:
    for model in signature.publishes:
        if contracts[type_of(model)].kind != "command":
            raise WiringError(f"saga {saga.name}: {where(signature.function)} sends {model.__name__}, which is no command")


def _projection(projection: Projection, contracts: dict[str, Contract]) -> ProjectionWiring:
    folds: dict[str, tuple[FoldWiring, ...]] = {}
    rows: dict[type[Row], str] = {}
    for function, keys in projection.folds:
        signature = read(function, beside=1)
        if len(signature.beside) != 1 or not issubclass(signature.beside[0], Row):
            raise WiringError(f"{where(function)}: its second parameter is the row, `Row | None`")
        row = signature.beside[0]
        view = projection.name if not rows or next(iter(rows)) is row else f"{projection.name}_{snake(row.__name__)}"
        rows.setdefault(row, view)
        for contract in _types(signature, contracts):
            if contract.kind == "command":
                raise WiringError(f"{where(function)}: {contract.name} is a command; a projection folds facts")
            paths = tuple(tuple(keys.get(name, name).split(".")) for name in marked(row, KeyMark))
            if not paths:
                raise WiringError(f"{where(function)}: {row.__name__} has no Key[...] field")
            for path in paths:
                _check_path(function, contract.model, path)
            folds[contract.name] = (*folds.get(contract.name, ()), FoldWiring(signature, row, paths))
    queries: dict[str, tuple[type[Query[Any]], type[Row]]] = {}
    for query in projection.queries:
        row = _row_of(query)
        if row not in rows:
            raise WiringError(f"{query.__module__}.{query.__name__}: asks for {row.__name__}, which no function here folds")
        queries[snake(query.__name__)] = (query, row)
    topics = tuple(sorted({contracts[name].topic for name in folds}))
    return ProjectionWiring(f"projections.{projection.name}", "projections", topics, projection, folds, rows, queries)


def _check_path(function: Function, model: type[BaseModel], path: tuple[str, ...]) -> None:
    here: Any = model
    for name in path:
        fields = getattr(here, "model_fields", {})
        if name not in fields:
            raise WiringError(
                f"{where(function)}: unknown key field {'.'.join(path)!r} in {model.__name__}; "
                "say where it is found: @projection.on(column='path.in.event')"
            )
        here = next(iter(classes(fields[name].annotation)), None)


def _row_of(query: type[Query[Any]]) -> type[Row]:
    for base in query.__mro__:
        arguments = getattr(base, "__pydantic_generic_metadata__", {}).get("args", ())
        if arguments:
            return arguments[0]  # type: ignore[no-any-return]
    raise WiringError(f"{query.__module__}.{query.__name__}: say which row it asks for: Query[Row]")


def snake(name: str) -> str:
    """Write a class name as a part of a URL or view: `OfCustomer` -> `of_customer`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()


def is_final(state: type[State]) -> bool:
    """Whether a saga has ended in `state`."""
    return issubclass(state, Ended)

