"""What touches the outside: recorded in the batch, done in lanes, its outcome folded back under the aggregate's lock.

`started` is committed before the call. A started effect without an outcome is looked up before anything is tried again;
what cannot be found out is unknown, and an operator's. The same key is strictly serial, other keys are concurrent.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Mapping
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
from infra.runtime.catalog import EffectWiring
from infra.runtime.catalog.signatures import KEY, META, NEW_ID, NOW, Port, Signature
from infra.runtime.folding.injection import Ids, flattened, metadata_of
from infra.runtime.folding.streams import Attempt, Streams
from infra.runtime.messages.codec import Codec, Incoming
from infra.runtime.messages.envelope import envelope_of
from infra.runtime.messages.ids import inbox_key
from infra.runtime.publishing.wakeup import Wakeups
from infra.runtime.vitals import Vitals

log = structlog.get_logger(__name__)

LANES: Final = 64
LEASE_S: Final = 60.0
CALL_S: Final = 40.0
POLL_S: Final = 1.0
MAX_TRIES: Final = 8
MAX_LOOKUPS: Final = 8
BREAK_AFTER: Final = 5
BREAK_S: Final = 5.0


@dataclass(slots=True)
class Leased:
    """One effect in this process's hands."""

    id: UUID
    epoch: int
    attempts: int
    was_started: bool
    incoming: Incoming


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
        self._busy: dict[UUID, asyncio.Task[None]] = {}
        self._breaker = Breaker()

    async def run(self, stop: asyncio.Event) -> None:
        """Lease and do effects until `stop` is set; then finish what is in hand."""
        while not stop.is_set():
            self.vitals.turned_at = time.time()
            self.vitals.partitions = len(self._busy)
            self._woken.clear()
            room = min(LANES, self._breaker.limit) - len(self._busy)
            try:
                leased = await self._lease(room) if room > 0 else []
            except TRANSIENT as passing:
                log.warning("no effects leased", lanes=self.name, error=repr(passing))
                await asyncio.sleep(0.5)
                continue
            for it in leased:
                task = asyncio.create_task(self._do(it))
                self._busy[it.id] = task
                task.add_done_callback(partial(self._done, it.id))
            if not leased:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), POLL_S)
        if self._busy:
            await asyncio.wait(self._busy.values(), timeout=CALL_S)

    def _done(self, effect: UUID, _task: asyncio.Task[None]) -> None:
        self._busy.pop(effect, None)
        self._woken.set()

    async def _lease(self, room: int) -> list[Leased]:
        """Take the first open effect of each free key, and commit that they are started."""
        rows = await self._database.fetch(
            """WITH heads AS (
                 SELECT DISTINCT ON (tenant, key) id, position, standing, expires_at, not_before FROM effects
                 WHERE consumer = $1 AND standing <> 'done' ORDER BY tenant, key, position),
               ready AS (
                 SELECT e.id, e.standing AS was FROM effects e JOIN heads USING (id)
                 WHERE heads.standing IN ('due', 'started') AND heads.expires_at < now() AND heads.not_before <= now()
                 ORDER BY heads.position LIMIT $2 FOR UPDATE OF e SKIP LOCKED)
               UPDATE effects e SET standing = 'started', owner = $3, epoch = e.epoch + 1, attempts = e.attempts + 1,
                      expires_at = now() + make_interval(secs => $4)
               FROM ready WHERE e.id = ready.id AND e.standing = ready.was AND e.expires_at < now()
               RETURNING e.id, e.epoch, e.attempts, ready.was, e.key, e.type, e.headers, e.value, e.appended_at""",
            self._wiring.name,
            room,
            self._me,
            LEASE_S,
        )
        leased = []
        for row in rows:
            try:
                leased.append(await self._open(row))
            except (Unacceptable, KeyError) as unreadable:
                log.error("effect cannot be read", lanes=self.name, id=str(row["id"]), error=repr(unreadable))  # noqa: TRY400
                await self._database.execute(
                    "UPDATE effects SET standing = 'unknown', error = $3, expires_at = '-infinity' WHERE id = $1 AND epoch = $2",
                    row["id"],
                    row["epoch"],
                    f"it cannot be read any more: {unreadable!r}"[:2000],
                )
        return leased

    async def _open(self, row: Any) -> Leased:
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
        return Leased(row["id"], row["epoch"], row["attempts"], row["was"] == "started", incoming)

    async def _do(self, effect: Leased) -> None:
        try:
            outcome = await self._outcome(effect)
        except Unavailable as away:
            self._breaker.failed()
            # What was begun before may have happened, also when it was only the lookup that could not be made.
            await self._again(
                effect, away, standing="started" if effect.was_started else "due", give_up=False
            )
        except OutcomeUnknown as unknown:
            await self._again(effect, unknown, standing="started", give_up=effect.attempts >= MAX_LOOKUPS)
        except Exception as failed:  # noqa: BLE001 - whatever it was, the call may have been made
            self._breaker.failed()
            log.warning("effect failed", lanes=self.name, id=str(effect.id), error=repr(failed))
            await self._again(effect, failed, standing="started", give_up=effect.attempts >= MAX_TRIES)
        else:
            self._breaker.worked()
            await self._fold(effect, outcome)

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
                    NEW_ID: Ids(self._wiring.name, incoming.envelope),
                    KEY: str(effect.id),
                }[str(need)]
        function: Callable[..., Awaitable[object]] = signature.function
        try:
            async with asyncio.timeout(CALL_S):
                return await function(**arguments)
        except TimeoutError:
            raise OutcomeUnknown(f"no answer within {CALL_S:.0f} s") from None

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

    async def _fold(self, effect: Leased, outcome: list[Message]) -> None:
        """Fold the outcome and end the effect in one transaction, under the aggregate's lock and the lease's epoch."""
        while True:
            try:
                async with self._database.transaction() as tx:
                    held = await tx.fetchval(
                        "SELECT true FROM effects WHERE id = $1 AND epoch = $2 AND standing = 'started' FOR UPDATE",
                        effect.id,
                        effect.epoch,
                    )
                    if not held:
                        return
                    await self._publish(tx, effect, outcome)
                    await tx.execute(
                        "UPDATE effects SET standing = 'done', ended_at = now(), error = NULL WHERE id = $1",
                        effect.id,
                    )
            except TRANSIENT as passing:
                # The lease runs on; when it ends, whoever takes the effect finds its outcome outside.
                log.warning("outcome not committed yet", lanes=self.name, error=repr(passing))
                await asyncio.sleep(0.3)
            except Exception as refused:
                log.exception("outcome cannot be folded", lanes=self.name, id=str(effect.id))
                await self._again(effect, refused, standing="started", give_up=True)
                return
            else:
                break
        self.vitals.count(done=1)
        self._wakeups.poke(self._database)

    async def _publish(self, tx: Connection, effect: Leased, outcome: list[Message]) -> None:
        decider = self._wiring.decider
        streams = Streams(decider, self._codec)
        keys = set()
        for message in outcome:
            contract = self._codec.catalog.of(type(message))
            if contract.kind != "command":
                model = decider.aggregates[contract.key]
                keys.add((model.name, effect.incoming.envelope.tenant, str(getattr(message, contract.key))))
        if keys:
            await streams.lock(tx, keys)
        attempt = Attempt()
        for message in outcome:
            streams.emit(attempt, self._wiring.name, effect.incoming, message, datetime.now(UTC))
        streams.merge(attempt)
        await streams.save(tx)
