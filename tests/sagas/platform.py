"""All workers and sagas in memory: every stream in its own order, everything else in the order that a test draws."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from random import Random

from events import Command, Event, Message, context_of, type_of
from infra.runtime.catalog import SagaWiring, discover
from sagas import State
from tests.given import Context, Flow, context
from tests.strategies import stream_of

Queue = tuple[str, tuple[str, str]]
"""Consumer and stream: what one consumer has not yet heard of one key."""

Instance = tuple[str, str]
"""Saga and the value that its events are correlated by."""

Outside = Callable[[Message], list[Message]]
"""What the world outside answers to a fact."""


class Platform:
    """Delivers each message to each of its consumers once, keys in order, consumers and keys in any."""

    def __init__(self, random: Random, outside: Outside = lambda _: []) -> None:
        """Begin without a history; `random` draws the order."""
        catalog = discover()
        self._random = random
        self._outside = outside
        self._workers = {name: context(name) for name in catalog.workers}
        self._sagas = catalog.sagas
        self._flows: dict[Instance, Flow] = {}
        self._early: dict[Instance, list[Event]] = defaultdict(list)
        self._queues: dict[Queue, deque[Message]] = defaultdict(deque)
        self.facts: list[Message] = []

    def context(self, name: str) -> Context:
        """Give a worker's context."""
        return self._workers[name]

    def states(self, saga: str) -> dict[str, State]:
        """Give the state of every instance of a saga, by correlation."""
        return {
            value: flow.state
            for (name, value), flow in self._flows.items()
            if name == saga and flow.state is not None
        }

    def send(self, message: Message) -> None:
        """Hand a message to whoever consumes it."""
        name = type_of(type(message))
        catalog = discover()
        for worker in catalog.workers.values():
            own = isinstance(message, Command) and context_of(type(message)) == worker.name
            if own or name in worker.keepers:
                self._queues[worker.name, stream_of(message)].append(message)
        for saga in self._sagas.values():
            if name in saga.listens:
                self._queues[saga.name, stream_of(message)].append(message)
        if isinstance(message, Event):
            self.facts.append(message)
            for answer in self._outside(message):
                self.send(answer)

    def adopt(self, fact: Event) -> None:
        """Let upstream publish a fact."""
        for adopted in self._workers[context_of(type(fact))].when(fact).answer:
            self.send(adopted)

    def step(self, *, deadlines: bool) -> bool:
        """Deliver one message, or let one deadline fire if that is drawn; `False` when nothing is left to deliver."""
        waiting = [queue for queue, messages in self._queues.items() if messages]
        if deadlines and self._random.random() < 0.2:
            self._fire(waiting)
        if not waiting:
            return False
        queue = self._random.choice(waiting)
        message = self._queues[queue].popleft()
        if queue[0] in self._workers:
            self._decide(self._workers[queue[0]], message)
        else:
            assert isinstance(message, Event)
            self._hear(self._sagas[queue[0]], message)
        return True

    def settle(self) -> None:
        """Deliver everything, without any further deadline."""
        while self.step(deadlines=False):
            pass

    def _decide(self, worker: Context, message: Message) -> None:
        if not isinstance(message, Command):
            worker.given(message)
            return
        for fact in worker.when(message).answer:
            self.send(fact)

    def _hear(self, saga: SagaWiring, event: Event) -> None:
        name = type_of(type(event))
        value = getattr(event, saga.correlation[name])
        if value is None:
            return
        instance = saga.name, str(value)
        if instance not in self._flows and name not in saga.starters:
            self._early[instance].append(event)
            return
        self._flows.setdefault(instance, Flow(saga, first_id=1000 * (len(self._flows) + 1)))
        for heard in (event, *self._early.pop(instance, [])):
            for command in self._flows[instance].when(heard).sent:
                self.send(command)

    def _fire(self, waiting: list[Queue]) -> None:
        # A deadline fires only once the saga's inputs are consumed past it.
        backlog = {queue[0] for queue in waiting}
        due = [
            flow
            for (saga, _), flow in self._flows.items()
            if saga not in backlog and flow.state is not None and flow.state.within is not None
        ]
        if due:
            for command in self._random.choice(due).late().sent:
                self.send(command)
