"""Given a history, when a message comes, then these are the facts: workers and sagas as the engine folds them, in memory.

Aggregates are folded by the evolvers, claims looked up among them, ids counted up: `nth(1)` is the first fresh one.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar, cast
from uuid import UUID

from events import Command, Event, Message, Metadata, NewId, Refusal, context_of, type_of
from handlers import Aggregate, IdempotencyKey, Local
from infra.runtime.catalog import Catalog, DeciderWiring, SagaWiring, discover
from infra.runtime.catalog.signatures import KEY, META, NEW_ID, NOW, HeldBy, Of, Port, Signature, ViewOf
from infra.runtime.folding.injection import flattened
from sagas import State, Step

NOON = datetime(2026, 5, 4, 12, tzinfo=UTC)
"""When every message reaches the broker, unless a test says otherwise."""

META_OF_TESTS = Metadata("demo", "upstream", "message-1", "flow-1", None, NOON)

A = TypeVar("A", bound=Aggregate)


def nth(number: int) -> UUID:
    """Give the id that the `number`th call of `new_id` gives."""
    return UUID(int=(0xF << 120) | number)


def ids_from(first: int = 1) -> NewId:
    """Give fresh ids, counted up."""
    numbers = count(first)
    return lambda: nth(next(numbers))


def minutes(number: float) -> datetime:
    """Give a moment after noon."""
    return NOON + timedelta(minutes=number)


class Context:
    """One context: its aggregates, claims and local views, and what it published last."""

    def __init__(self, catalog: Catalog, name: str) -> None:
        """Begin without a history."""
        self._catalog = catalog
        self._wiring: DeciderWiring = catalog.workers[name]
        self._aggregates: dict[tuple[type[Aggregate], str], Aggregate] = {}
        self._views: dict[tuple[type[Local], str], Local] = {}
        self._new_id = ids_from()
        self._answer: list[Message] = []

    def given(self, *history: Message) -> Context:
        """Fold facts that happened, and let commands and upstream's facts have happened."""
        for message in history:
            if isinstance(message, Command):
                self.when(message)
            elif context_of(type(message)) == self._wiring.name:
                self._evolve(message)
            else:
                self._keep(message)
        return self

    def when(self, message: Message, *, now: datetime = NOON, meta: Metadata = META_OF_TESTS) -> Context:
        """Decide on a command, or on a fact from upstream; what is decided becomes history."""
        name = type_of(type(message))
        signatures = (
            self._wiring.deciders[name] if isinstance(message, Command) else (self._wiring.adopters[name],)
        )
        self._answer = []
        for signature in signatures:
            injected = self._injected(signature, message, now, meta)
            for fact in flattened(signature.function(message, **injected)):
                assert type(fact) in signature.publishes, (
                    f"{signature.name} does not declare {type(fact).__name__}"
                )
                assert_serialises(fact)
                self._answer.append(fact)
                if isinstance(fact, Event):
                    self._evolve(fact)
        return self

    def then(self, *expected: Message) -> Context:
        """Expect exactly these messages, in this order."""
        assert self._answer == list(expected)
        return self

    def refused(self, kind: type[Refusal], because: str) -> Context:
        """Expect exactly one refusal, with these words in its reason."""
        assert [type(fact) for fact in self._answer] == [kind], self._answer
        (refusal,) = self._answer
        assert because in cast("Refusal", refusal).reason
        return self

    @property
    def answer(self) -> list[Message]:
        """What was published last."""
        return self._answer

    def all_of(self, kind: type[A]) -> list[A]:
        """Give every aggregate of a kind."""
        return [cast("A", state) for (of, _), state in self._aggregates.items() if of is kind]

    def state(self, kind: type[A], key: object) -> A:
        """Give one aggregate, from its key alone if it has no history."""
        return cast("A", self._aggregate(kind, str(key)))

    def _evolve(self, fact: Message) -> None:
        contract = self._catalog.of(type(fact))
        evolver = self._wiring.evolvers.get(contract.name)
        if evolver is None:
            assert contract.kind == "refusal"
            return
        (kind,) = evolver.beside
        key = str(getattr(fact, contract.key))
        state = evolver.function(self._aggregate(kind, key), fact)
        assert_serialises(state)
        self._aggregates[kind, key] = state
        self._check_claims(kind)

    def _keep(self, fact: Message) -> None:
        for keeper in self._wiring.keepers.get(type_of(type(fact)), ()):
            (need,) = keeper.needs.values()
            assert isinstance(need, ViewOf)
            kind = need.kind
            key = str(getattr(fact, need.field))
            self._views[kind, key] = keeper.function(self._view(kind, key), fact)

    def _injected(
        self, signature: Signature, message: Message, now: datetime, meta: Metadata
    ) -> dict[str, Any]:
        plain = {NOW: now, NEW_ID: self._new_id, META: meta}
        found: dict[str, Any] = {}
        for name, need in signature.needs.items():
            match need:
                case ViewOf(kind, field):
                    found[name] = self._view(kind, str(getattr(message, field)))
                case Of(kind, field):
                    value = getattr(message, field)
                    found[name] = None if value is None else self._aggregate(kind, str(value))
                case HeldBy(kind, field, claim):
                    found[name] = self._holder(kind, claim, getattr(message, field))
                case _:
                    found[name] = plain[str(need)]
        return found

    def _aggregate(self, kind: type[Aggregate], key: str) -> Aggregate:
        field = next(name for name, state in self._wiring.aggregates.items() if state.model is kind)
        return self._aggregates.get((kind, key)) or kind.model_validate_strings({field: key})

    def _view(self, kind: type[Local], key: str) -> Local:
        return self._views.get((kind, key)) or kind.model_validate_strings(
            {self._wiring.locals[kind].key: key}
        )

    def _holder(self, kind: type[Aggregate], claim: str, value: object) -> Aggregate | None:
        if value is None:
            return None
        return next((it for it in self.all_of(kind) if getattr(it, claim) == value), None)

    def _check_claims(self, kind: type[Aggregate]) -> None:
        model = next(state for state in self._wiring.aggregates.values() if state.model is kind)
        for claim in model.claims:
            held = [value for it in self.all_of(kind) if (value := getattr(it, claim)) is not None]
            assert len(held) == len(set(held)), f"{kind.__name__}.{claim} is held twice"


class Flow:
    """One instance of a saga: the state it is in, and what it sent last."""

    def __init__(self, wiring: SagaWiring, first_id: int = 1) -> None:
        """Begin before the first event; fresh ids are counted from `first_id`."""
        self._wiring = wiring
        self._new_id = ids_from(first_id)
        self.state: State | None = None
        self.sent: tuple[Command, ...] = ()

    def given(self, *history: Event) -> Flow:
        """Let these have happened."""
        for event in history:
            self.when(event)
        return self

    def when(self, event: Event) -> Flow:
        """Answer an event."""
        name = type_of(type(event))
        if self.state is None:
            signature = self._wiring.starters[name]
            return self._step(signature, signature.function(event, **self._injected(signature)))
        signature = self._wiring.moves[type(self.state), name]
        return self._step(signature, signature.function(self.state, event, **self._injected(signature)))

    def late(self, times: int = 1) -> Flow:
        """Let the state's deadline fire, and that of the next."""
        for _ in range(times):
            assert self.state is not None
            signature = self._wiring.lates[type(self.state)]
            self._step(signature, signature.function(self.state, **self._injected(signature)))
        return self

    def then(self, state: State, *commands: Command) -> Flow:
        """Expect to be in this state, and to have sent exactly these commands."""
        assert (self.state, self.sent) == (state, commands)
        return self

    def _injected(self, signature: Signature) -> dict[str, Any]:
        plain = {NOW: NOON, NEW_ID: self._new_id, META: META_OF_TESTS}
        return {name: plain[str(need)] for name, need in signature.needs.items()}

    def _step(self, signature: Signature, step: Step[Command]) -> Flow:
        for command in step.commands:
            assert type(command) in signature.publishes, (
                f"{signature.name} does not declare {type(command).__name__}"
            )
            assert_serialises(command)
        if step.enter is not None:
            assert_serialises(step.enter)
            self.state = step.enter
        self.sent = step.commands
        return self


def context(name: str) -> Context:
    """Give a context without a history."""
    return Context(discover(), name)


def flow(name: str) -> Flow:
    """Give a saga that has not begun."""
    return Flow(discover().sagas[f"sagas.{name}"])


async def acting(name: str, message: Message, port: object, *, find: bool = False) -> Message | None:
    """Act outside on a message through `port`, or find out what came of it."""
    wiring = discover().effects[name]
    signature = wiring.finder if find else wiring.action
    assert signature is not None
    plain: dict[str, Any] = {KEY: IdempotencyKey("key-1"), META: META_OF_TESTS}
    needs = {
        parameter: port if isinstance(need, Port) else plain[str(need)]
        for parameter, need in signature.needs.items()
    }
    outcome: Message | None = await signature.function(message, **needs)
    if outcome is not None:
        assert type(outcome) in signature.publishes
        assert_serialises(outcome)
    return outcome


def assert_serialises(model: Any) -> None:
    """Expect the same from reading what was written: what a test folds is what the engine stores."""
    assert type(model).model_validate_json(model.model_dump_json()) == model


def named(messages: Iterable[Message]) -> list[str]:
    """Give the names of messages."""
    return [type(message).__name__ for message in messages]
