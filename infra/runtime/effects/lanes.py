"""What touches the outside: recorded in the batch, done in lanes, its outcome folded back under the aggregate's lock.

`started` is committed before the call. A started effect without an outcome is looked up before anything is tried again;
what cannot be found out is unknown, and an operator's. The same key is strictly serial, other keys are concurrent.

Calls go out one by one; what comes of them is folded together: while one transaction commits, the next one's outcomes
gather. So that no lane waits for a round trip, a few effects are leased ahead: as many as are called during one.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final
from uuid import UUID, uuid4

import structlog
from pydantic_core import from_json

from events import Message
from handlers import OutcomeUnknown, Unavailable
from infra.errors import Unacceptable
from infra.kafka.record import Record
from infra.postgres.database import TRANSIENT, Connection, Database
from infra.postgres.writes import Writes, arrays
from infra.runtime.catalog import EffectWiring
from infra.runtime.catalog.signatures import KEY, META, NEW_ID, NOW, Port, Signature
from infra.runtime.consuming.batch import PASSING
from infra.runtime.effects.recording import effect_id
from infra.runtime.folding.injection import Ids, flattened, metadata_of
from infra.runtime.folding.streams import Attempt, Streams
from infra.runtime.messages.codec import Codec, Incoming
from infra.runtime.messages.envelope import envelope_of
from infra.runtime.messages.ids import inbox_key
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

LANES: Final = 64
HELD: Final = 4 * LANES
"""How many effects are in hand at most: waiting for a lane, in call, or waiting for their outcome's transaction."""
FOLDED: Final = 128
"""How many outcomes one transaction takes."""
GATHERS_S: Final = 0.01
"""So long outcomes gather for one transaction while there are other keys to call for."""
AHEAD_S: Final = 0.02
"""For so long there are effects in stock, going by how long calls take: for more than a lease's round trip."""
WAITS_S: Final = 5.0
"""So long an effect waits for a lane at most; with its call it stays well within its lease."""
LEASE_S: Final = 60.0
CALL_S: Final = 40.0
POLL_S: Final = 1.0
MAX_TRIES: Final = 8
MAX_LOOKUPS: Final = 8
BREAK_AFTER: Final = 5
BREAK_S: Final = 5.0

# In order, each is looked at for an open one of its key before it: what is done costs nothing, and what is far behind is
# not looked at. That it has not ended is said twice, as each index says it.
TAKE: Final = """WITH ready AS (
      SELECT e.id, e.standing AS was FROM effects e
      WHERE e.consumer = $1 AND coalesce(e.ended_at, 'infinity') = 'infinity' AND e.standing IN ('due', 'started')
        AND e.expires_at < now() AND e.not_before <= now()
        AND e.position = (SELECT head.position FROM effects head
                          WHERE (head.consumer, head.tenant, head.key) = (e.consumer, e.tenant, e.key)
                            AND head.ended_at IS NULL ORDER BY head.position LIMIT 1)
      ORDER BY e.position LIMIT $2 FOR UPDATE OF e SKIP LOCKED)
    UPDATE effects e SET standing = 'started', owner = $3, epoch = e.epoch + 1, attempts = e.attempts + 1,
           expires_at = now() + make_interval(secs => $4)
    FROM ready WHERE e.id = ready.id AND e.standing = ready.was AND e.expires_at < now()
    RETURNING e.id, e.epoch, e.attempts, ready.was, e.key, e.type, e.headers, e.value, e.appended_at"""
"""Leases up to $2 effects of the consumer $1 to the process $3 for $4 seconds."""


@dataclass(slots=True)
class Leased:
    """One effect in this process's hands."""

    id: UUID
    epoch: int
    attempts: int
    was_started: bool
    incoming: Incoming
    since: float
    """Before its lease began (monotonic seconds)."""

    @property
    def late(self) -> bool:
        """Whether it has waited too long to be called under this lease."""
        return time.monotonic() - self.since > WAITS_S


@dataclass(slots=True)
class Ended:
    """A call that has come back, and what came of it."""

    effect: Leased
    outcome: list[Message]


@dataclass(slots=True)
class Breaker:
    """Keeps a failing outside from being hammered: one per port and operation, closed again by one good probe."""

    failures: int = 0
    open_until: float = 0.0

    def failed(self) -> None:
        """Count a failure; enough of them in a row open the circuit for a while."""
        self.failures += 1
        if self.failures >= BREAK_AFTER:
            self.open_until = time.monotonic() + BREAK_S

    def worked(self) -> None:
        """Close the circuit."""
        self.failures = 0

    @property
    def limit(self) -> int:
        """How many calls may go out now: all, none, or one probe."""
        if self.failures < BREAK_AFTER:
            return LANES
        return 0 if time.monotonic() < self.open_until else 1


class Lanes:
    """Does the effects of one `async def` handler."""

    def __init__(
        self,
        wiring: EffectWiring,
        database: Database,
        codec: Codec,
        ports: Mapping[type, object],
        wakeups: Wakeups,
    ) -> None:
        """Act with `ports`; fold outcomes into the schema of `database`."""
        self.name = f"lanes.{wiring.name}"
        self.vitals = Vitals()
        self._wiring = wiring
        self._database = database
        self._codec = codec
        self._ports = ports
        self._wakeups = wakeups
        self._woken = wakeups.listen(database.schema)
        self._me = uuid4()
        self._takes_s = 1.0
        """How long calls take, by the last ones: as if they were slow until it is known."""
        self._stock: deque[Leased] = deque()
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._calling = 0
        self._ended: list[Ended] = []
        self._any_ended = asyncio.Event()
        self._folding = 0
        self._breaker = Breaker()

    async def run(self, stop: asyncio.Event) -> None:
        """Lease and do effects until `stop` is set; then give back what is not begun, and finish what is."""
        folding = asyncio.create_task(self._fold_ended())
        try:
            await self._act(stop)
            await self._give_back()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CALL_S):
                    while self._in_hand:
                        self._woken.clear()
                        await self._woken.wait()
        finally:
            folding.cancel()

    @property
    def _in_hand(self) -> int:
        return len(self._stock) + len(self._busy) + len(self._ended) + self._folding

    async def _act(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self.vitals.turned_at = time.time()
            self.vitals.partitions = self._in_hand
            self._woken.clear()
            if self._stock and self._stock[0].late:
                # Lanes have become slower than the last calls tell.
                self._takes_s = WAITS_S
                await self._give_back()
            try:
                leased = await self._lease(room) if (room := self._room) > 0 else []
            except TRANSIENT as passing:
                log.warning("no effects leased", lanes=self.name, error=repr(passing))
                await asyncio.sleep(0.5)
                continue
            self._stock.extend(leased)
            self._begin()
            if not leased:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_S)

    @property
    def _room(self) -> int:
        """How many effects to lease now, if any: for the lanes that are free, and ahead once few are left."""
        lanes = self._breaker.limit
        # What was leased and not called cannot be told, after a SIGKILL, from what was: it must be possible to look.
        ahead = 0 if self._wiring.finder is None else min(lanes, int(LANES * AHEAD_S / self._takes_s))
        stock = len(self._stock)
        if 2 * stock > ahead:
            return 0
        return min(lanes - self._calling + ahead - stock, HELD - self._in_hand)

    def _begin(self) -> None:
        """Call for what is leased, as far as lanes are free."""
        while self._stock and self._calling < self._breaker.limit and not self._stock[0].late:
            effect = self._stock.popleft()
            self._calling += 1
            task = asyncio.create_task(self._do(effect))
            self._busy[effect.id] = task
            task.add_done_callback(partial(self._done, effect.id))

    def _done(self, effect: UUID, _task: asyncio.Task[None]) -> None:
        self._busy.pop(effect, None)
        self._woken.set()

    async def _give_back(self) -> None:
        """Let go of what was leased ahead."""
        effects = [(it.id, it.epoch, "started" if it.was_started else "due") for it in self._stock]
        self._stock.clear()
        if effects:
            await self._let_go(effects)

    async def _let_go(self, effects: Sequence[tuple[UUID, int, str]]) -> None:
        """Let effects stand as they stood before they were leased, each with its epoch: nothing was called."""
        with contextlib.suppress(*TRANSIENT):
            await self._database.execute(
                """UPDATE effects e SET standing = l.standing, attempts = e.attempts - 1, expires_at = '-infinity'
                   FROM unnest($1::uuid[], $2::bigint[], $3::text[]) AS l (id, epoch, standing)
                   WHERE e.id = l.id AND e.epoch = l.epoch""",
                *arrays(effects),
            )

    async def _lease(self, room: int) -> list[Leased]:
        """Take the first open effect of each free key, and commit that they are started."""
        since = time.monotonic()
        rows = await self._database.fetch(
            TAKE,
            self._wiring.name,
            room,
            self._me,
            LEASE_S,
        )
        leased: list[Leased] = []
        for row in rows:
            try:
                leased.append(await self._open(row, since))
            except TRANSIENT:
                await self._let_go([(it["id"], it["epoch"], it["was"]) for it in rows])
                raise
            except (Unacceptable, KeyError) as unreadable:
                log.error("effect cannot be read", lanes=self.name, id=str(row["id"]), error=repr(unreadable))  # noqa: TRY400
                await self._database.execute(
                    "UPDATE effects SET standing = 'unknown', error = $3, expires_at = '-infinity' WHERE id = $1 AND epoch = $2",
                    row["id"],
                    row["epoch"],
                    f"it cannot be read any more: {unreadable!r}"[:2000],
                )
        return leased

    async def _open(self, row: Any, since: float) -> Leased:
        headers: dict[str, str] = from_json(row["headers"])
        attributes = {name.removeprefix("ce_"): text for name, text in headers.items()}
        envelope = envelope_of(attributes, row["appended_at"], inbound=False)
        contract = self._codec.catalog.contracts[row["type"]]
        subject = self._codec.stored_subject(contract, envelope, row["value"])
        if subject is not None:
            await self._codec.vault.warm({subject}, create=False)
        message = self._codec.decode(contract, envelope, row["value"], trusted=True)
        at = int(row["appended_at"].timestamp() * 1000)
        record = Record(contract.topic, -1, -1, at, row["key"].encode(), row["value"], [])
        inbox = inbox_key(self._wiring.name, 1, envelope.tenant, envelope.source, envelope.id)
        incoming = Incoming(record, envelope, contract, message, row["key"], inbox, 0)
        return Leased(row["id"], row["epoch"], row["attempts"], row["was"] == "started", incoming, since)

    async def _do(self, effect: Leased) -> None:
        try:
            outcome = await self._called(effect)
        except Unavailable as away:
            # What was begun before may have happened, also when it was only the lookup that could not be made.
            await self._again(
                effect, away, standing="started" if effect.was_started else "due", give_up=False
            )
        except OutcomeUnknown as unknown:
            await self._again(effect, unknown, standing="started", give_up=effect.attempts >= MAX_LOOKUPS)
        except Exception as failed:  # noqa: BLE001 - whatever it was, the call may have been made
            log.warning("effect failed", lanes=self.name, id=str(effect.id), error=repr(failed))
            await self._again(effect, failed, standing="started", give_up=effect.attempts >= MAX_TRIES)
        else:
            self._ended.append(Ended(effect, outcome))
            self._any_ended.set()

    async def _called(self, effect: Leased) -> list[Message]:
        began = time.monotonic()
        try:
            # Both the look and the call: together they end well before the lease does.
            async with asyncio.timeout(CALL_S):
                outcome = await self._outcome(effect)
        except TimeoutError:
            raise OutcomeUnknown(f"no answer within {CALL_S:.0f} s") from None
        except OutcomeUnknown:
            raise
        except Exception:
            self._breaker.failed()
            raise
        else:
            self._breaker.worked()
            return outcome
        finally:
            # The lane is free; the key is not, before its outcome is committed.
            self._calling -= 1
            self._takes_s += (time.monotonic() - began - self._takes_s) / LANES
            self._begin()

    async def _outcome(self, effect: Leased) -> list[Message]:
        """Find what has become of a started effect, or do it."""
        if effect.was_started:
            finder = self._wiring.finder
            if finder is None:
                raise OutcomeUnknown(f"{self._wiring.name} was begun before and cannot be looked up")
            found = await self._call(finder, effect)
            if found is not None:
                self.vitals.count(found=1)
                return list(flattened(found))
        return list(flattened(await self._call(self._wiring.action, effect)))

    async def _call(self, signature: Signature, effect: Leased) -> object:
        incoming = effect.incoming
        arguments: dict[str, Any] = {signature.parameter: incoming.message}
        for name, need in signature.needs.items():
            if isinstance(need, Port):
                arguments[name] = self._ports[need.protocol]
            else:
                arguments[name] = {
                    NOW: incoming.record.at,
                    META: metadata_of(incoming.envelope),
                    NEW_ID: Ids(self._scope(effect), incoming.envelope),
                    KEY: str(effect.id),
                }[str(need)]
        function: Callable[..., Awaitable[object]] = signature.function
        return await function(**arguments)

    async def _again(self, effect: Leased, because: BaseException, *, standing: str, give_up: bool) -> None:
        """Try later, or leave it to an operator when it has been tried often enough."""
        delay = min(60.0, 0.2 * 2**effect.attempts) * random.uniform(0.5, 1.5)  # noqa: S311 - jitter
        self.vitals.count(retried=1, unknown=int(give_up))
        with contextlib.suppress(*TRANSIENT):
            await self._database.execute(
                """UPDATE effects SET standing = $3, error = $4, expires_at = '-infinity',
                          not_before = now() + make_interval(secs => $5)
                   WHERE id = $1 AND epoch = $2""",
                effect.id,
                effect.epoch,
                "unknown" if give_up else standing,
                f"{type(because).__name__}: {because}"[:2000],
                delay,
            )

    async def _fold_ended(self) -> None:
        """Fold whatever has come back since the last transaction, in one, until cancelled."""
        while True:
            await self._any_ended.wait()
            if self._stock:
                # Lanes have other keys to call for meanwhile, and an outcome costs less in a larger transaction.
                await asyncio.sleep(GATHERS_S)
            batch, self._ended = self._ended[:FOLDED], self._ended[FOLDED:]
            if not self._ended:
                self._any_ended.clear()
            self._folding = len(batch)
            try:
                await self._fold(batch)
            except Exception:
                # Their leases end by themselves, and whoever takes them then finds the outcomes outside.
                log.exception("outcomes not folded", lanes=self.name)
            self._folding = 0
            # It wakes us, too: the keys are free.
            self._wakeups.poke(self._database)

    async def _fold(self, batch: list[Ended]) -> None:
        """Fold outcomes and end their effects in one transaction, under the aggregates' locks and the leases' epochs."""
        while True:
            try:
                async with self._database.transaction() as tx:
                    done = await self._end(tx, batch)
            except PASSING as passing:
                # The lease runs on; when it ends, whoever takes the effect finds its outcome outside.
                log.warning("outcome not committed yet", lanes=self.name, error=repr(passing))
                await asyncio.sleep(0.3)
            except Exception as refused:
                if len(batch) > 1:
                    # One of them cannot be folded; the others can.
                    for it in batch:
                        await self._fold([it])
                    return
                effect = batch[0].effect
                log.exception("outcome cannot be folded", lanes=self.name, id=str(effect.id))
                await self._again(effect, refused, standing="started", give_up=True)
                return
            else:
                self.vitals.count(done=done)
                return

    async def _end(self, tx: Connection, batch: list[Ended]) -> int:
        # Whoever has taken an effect over meanwhile keeps it: its row is ours only under our epoch, and locked from here on.
        rows = await tx.fetch(
            """UPDATE effects e SET standing = 'done', ended_at = now(), error = NULL
               FROM unnest($1::uuid[], $2::bigint[]) AS l (id, epoch)
               WHERE e.id = l.id AND e.epoch = l.epoch AND e.standing = 'started' RETURNING e.id""",
            [it.effect.id for it in batch],
            [it.effect.epoch for it in batch],
        )
        held = {row["id"] for row in rows}
        if held:
            await self._publish(tx, [it for it in batch if it.effect.id in held])
        return len(held)

    def _scope(self, effect: Leased) -> str:
        """Give what ids of an outcome are derived from: what a replay has caused anew has new ones."""
        name = self._wiring.name
        return name if effect.id == effect_id(name, effect.incoming.envelope) else f"{name}/{effect.id}"

    async def _publish(self, tx: Connection, batch: list[Ended]) -> None:
        decider = self._wiring.decider
        streams = Streams(decider, self._codec)
        keys = set()
        for it in batch:
            for message in it.outcome:
                contract = self._codec.catalog.of(type(message))
                if contract.kind != "command":
                    model = decider.aggregates[contract.key]
                    tenant = it.effect.incoming.envelope.tenant
                    keys.add((model.name, tenant, str(getattr(message, contract.key))))
        if keys:
            await streams.lock(tx, keys)
        now = datetime.now(UTC)
        for it in batch:
            attempt = Attempt()
            for message in it.outcome:
                streams.emit(attempt, self._scope(it.effect), it.effect.incoming, message, now)
            streams.merge(attempt)
        writes = Writes()
        await streams.save(tx, writes)
        await writes.send(tx)
