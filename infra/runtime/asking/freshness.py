"""How far behind every consumer is, and whether anybody works: measured from outside the workers, so that it is true.

Lag is the distance from a consumer's checkpoint to the broker's end offset, in events, and the age of the first event
not yet applied, in seconds. A worker shows a heartbeat on the database's clock; one that is frozen shows none, on an
idle topic too, and its partitions count as unattended at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from pydantic_core import from_json

from infra.kafka.admin import Admin, BrokerUnavailable, Topic
from infra.kafka.peek import Peek
from infra.kafka.record import Place
from infra.postgres.database import TRANSIENT, Database, Row, open_database
from infra.runtime.catalog import Catalog, EffectWiring, SagaWiring, Wiring, discover
from infra.runtime.catalog.schemas import chains
from infra.runtime.consuming.consumer import label
from infra.runtime.folding.generations import LATER, SELECT, UNFIT, Generation, behind, generation_of
from infra.runtime.publishing.outbox import BUCKETS
from infra.settings import Settings
from sagas import Stuck

CACHE_S: Final = 0.8
RENEW_S, RECENT_S = 2.0, 3.0
"""Behind answers, figures are measured anew after so long, and never older than that: each time takes 10 ms of a core or more."""
SLOW_CACHE_S: Final = 15.0
"""How long counts that read whole tables are kept."""
BROKER_TIMEOUT_S: Final = 3.0
SILENT_S: Final = 4.0
"""Without a heartbeat for so long, a process counts as frozen or gone."""
IDLE_S: Final = 10.0
"""A loop that shows heartbeats but has made no turn for so long is stuck."""
BEHIND_S: Final = 60.0
"""With an event waiting for longer, a consumer is too far behind."""
DEEPEST: Final = 100_000
"""Outboxes are counted no further."""


@dataclass(slots=True)
class Process:
    """One process that works for a consumer; ages in seconds."""

    host: str
    pid: int
    beat_age: float
    turn_age: float
    partitions: int

    @property
    def alive(self) -> bool:
        """Whether it shows life."""
        return self.beat_age <= SILENT_S


@dataclass(slots=True)
class Lag:
    """How far behind one generation of a consumer is."""

    events: int | None = None
    """Events not applied yet; `None` when the broker could not be asked."""
    seconds: float | None = None
    """How long the oldest of them has been waiting; 0 without any."""


@dataclass(slots=True)
class Part:
    """A consumer, relay, lane or deadline watch: `red` names everything that is wrong with it, nothing when it is green."""

    name: str
    processes: list[Process] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    red: list[str] = field(default_factory=list)
    generation: int | None = None
    partitions: int | None = None
    """How many partitions (of a relay: buckets) must be attended to."""
    lag_events: int | None = None
    """Events not applied yet; `None` when the broker could not be asked."""
    lag_seconds: float | None = None
    """How long the oldest of them has been waiting; 0 without any."""
    parked: dict[str, int] = field(default_factory=dict)
    """Parked messages by reason."""
    behind: str | None = None
    """That the serving generation of a read model is behind its code, and what to do."""
    building: str | None = None
    """That another generation of it is being built, and by whom."""

    @property
    def state(self) -> str:
        """`green`, or `red`."""
        return "red" if self.red else "green"


@dataclass(slots=True)
class Outbox:
    """What one schema has not published yet; `depth` counts to 100,000, `age` is in seconds."""

    depth: int
    age: float


@dataclass(slots=True)
class Freshness:
    """Everything measured at one moment."""

    measured_at: float
    """Unix seconds, by the database's clock."""
    broker: bool
    """Whether the broker answered."""
    parts: dict[str, Part]
    lags: dict[tuple[str, int], Lag]
    """By consumer and generation: of read models also of those that do not serve."""
    outboxes: dict[str, Outbox]
    effects: dict[tuple[str, str], int]
    """Outside effects that are not done, by consumer and standing."""
    sagas_stuck: dict[str, int]
    early_old: dict[str, int]
    """Events that have waited for their saga for more than a day."""
    webhooks_parked: int


class Gauge:
    """Measures on demand, at most about once a second however often it is asked."""

    def __init__(self, monitor: Database, catalog: Catalog, bootstrap: str) -> None:
        """Read as the monitor; ask the broker at `bootstrap` in the background."""
        self._monitor = monitor
        self._catalog = catalog
        self._schemas = chains(catalog)
        self._admin = Admin(bootstrap, BROKER_TIMEOUT_S)
        self._peek = Peek(bootstrap, BROKER_TIMEOUT_S)
        self._measuring = asyncio.Lock()
        self._last: tuple[float, Freshness] | None = None
        self._slow: tuple[float, dict[str, int]] | None = None
        self._topics: list[Topic] = []
        self._ends: tuple[float, dict[Place, int]] | None = None
        self._asking: asyncio.Task[None] | None = None
        self._renewing: asyncio.Task[None] | None = None

    async def measure(self) -> Freshness:
        """Give figures that are at most about a second old; database errors are raised."""
        async with self._measuring:
            if self._last is None or time.monotonic() - self._last[0] > CACHE_S:
                self._last = (time.monotonic(), await self._measure())
            return self._last[1]

    async def recent(self) -> Freshness:
        """Give figures that are at most some seconds old, without waiting for new ones: those are on their way."""
        if self._last is None or time.monotonic() - self._last[0] > RECENT_S:
            return await self.measure()
        if time.monotonic() - self._last[0] > RENEW_S and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._renew())
        return self._last[1]

    async def _renew(self) -> None:
        # What went wrong is told to whoever waits for figures.
        with contextlib.suppress(*TRANSIENT):
            await self.measure()

    async def close(self) -> None:
        """Stop measuring."""
        running = [task for task in (self._asking, self._renewing) if task is not None]
        if running:
            await asyncio.wait(running)
        await self._peek.close()

    async def _measure(self) -> Freshness:
        # The checkpoints are read first: an end offset read after them can only show more lag, never less than there is.
        known = await self._generations()
        active = {name: it for name, of in known.items() for it in of if it.standing == "active"}
        checkpoints = await self._checkpoints(known)
        ends = await self._end_offsets()
        parts = await self._parts(active)
        for name, of in known.items():
            parts[name].building = next(
                (_being_built(name, it) for it in of if it.standing == "building"), None
            )
        now = await self._monitor.fetch("SELECT extract(epoch FROM now())::float8 AS now")
        measured_at: float = now[0]["now"]
        lags = await self._lags(checkpoints, ends, measured_at)
        for name in self._catalog.consumers:
            part, generation = parts[name], active[name].number if name in active else 1
            lag = lags.get((name, generation), Lag())
            part.generation, part.partitions = generation, len(checkpoints.get((name, generation), {}))
            part.lag_events, part.lag_seconds = lag.events, lag.seconds
        for part in parts.values():
            part.red = wrong_with(part)
        return Freshness(
            measured_at,
            ends is not None,
            parts,
            lags,
            await self._outboxes(),
            await self._effects(),
            await self._stuck(),
            {row["saga"]: row["old"] for row in await self._monitor.fetch(_EARLY)},
            (
                await self._monitor.fetch(
                    "SELECT count(*) AS parked FROM intake.webhooks WHERE standing = 'parked'"
                )
            )[0]["parked"],
        )

    # -- the broker -------------------------------------------------------------------------------------------------

    async def _end_offsets(self) -> dict[Place, int] | None:
        """Give end offsets, or `None` while the broker does not answer: nobody waits long for it."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        first = self._ends is None
        await asyncio.wait([self._asking], timeout=BROKER_TIMEOUT_S if first else CACHE_S)
        if self._ends is None or time.monotonic() - self._ends[0] > BROKER_TIMEOUT_S:
            return None
        return self._ends[1]

    async def _ask(self) -> None:
        try:
            if not self._topics:
                self._topics = list((await self._admin.topics(self._catalog.topics)).values())
            self._ends = (time.monotonic(), await self._admin.offsets(self._topics, end=True))
        except BrokerUnavailable:
            self._topics = []

    async def _lags(
        self,
        checkpoints: dict[tuple[str, int], dict[Place, int]],
        ends: dict[Place, int] | None,
        now: float,
    ) -> dict[tuple[str, int], Lag]:
        if ends is None:
            return {}
        lags: dict[tuple[str, int], Lag] = {}
        waiting: dict[tuple[str, int], dict[Place, int]] = {}
        for which, positions in checkpoints.items():
            behind = {
                place: following for place, following in positions.items() if ends.get(place, 0) > following
            }
            lags[which] = Lag(sum(ends[place] - following for place, following in behind.items()), 0.0)
            if behind:
                waiting[which] = behind
        wanted: dict[Place, set[int]] = {}
        for positions in waiting.values():
            for place, offset in positions.items():
                wanted.setdefault(place, set()).add(offset)
        # One place at a time can be asked for a partition; with several consumers on it, the furthest behind comes first.
        while wanted:
            asked = {place: min(offsets) for place, offsets in wanted.items()}
            times = await self._peek.append_times(asked)
            for which, positions in waiting.items():
                for place, offset in positions.items():
                    if asked.get(place) == offset and place in times:
                        lag = lags[which]
                        lag.seconds = max(lag.seconds or 0.0, now - times[place])
            wanted = {
                place: rest
                for place, offsets in wanted.items()
                if place in times and (rest := offsets - {asked[place]})
            }
        return lags

    # -- the database -----------------------------------------------------------------------------------------------

    async def _generations(self) -> dict[str, list[Generation]]:
        """Give the generations that serve, are built or are kept, by the consumer's name."""
        found: dict[str, list[Generation]] = {}
        for row in await self._monitor.fetch(f"{SELECT} WHERE standing = 'active' OR views IS NOT NULL"):
            name = f"projections.{row['projection']}"
            if name in self._catalog.projections:
                found.setdefault(name, []).append(generation_of(row))
        return found

    async def _checkpoints(
        self, known: dict[str, list[Generation]]
    ) -> dict[tuple[str, int], dict[Place, int]]:
        rows = await self._everywhere(
            "engine", 'SELECT consumer, generation, topic, partition, next_offset FROM "{schema}".checkpoints'
        )
        found: dict[tuple[str, int], dict[Place, int]] = {
            (name, number): {}
            for name in self._catalog.consumers
            for number in ([it.number for it in known[name]] if name in known else [1])
        }
        for row in rows:
            positions = found.get((row["consumer"], row["generation"]))
            if positions is not None:
                positions[row["topic"], row["partition"]] = row["next_offset"]
        return found

    async def _parts(self, active: dict[str, Generation]) -> dict[str, Part]:
        parts = {name: Part(name) for name in expected(self._catalog)}
        shown_as = {label(name, it.number): name for name, it in active.items()}
        for part in parts.values():
            if part.name.startswith("relay."):
                part.partitions = BUCKETS
            wiring = self._catalog.projections.get(part.name)
            if wiring is not None and part.name in active:
                part.behind = behind(wiring, active[part.name])
        for row in await self._everywhere("heartbeats", _BEATS):
            consumer: str = row["consumer"]
            name = shown_as.get(consumer, consumer)
            part_of = parts.get(name)
            if part_of is None or (name in active and consumer not in shown_as):
                # Nobody's, or of a generation that does not serve.
                continue
            process = Process(row["host"], row["pid"], row["beat_age"], row["turn_age"], row["partitions"])
            part_of.processes.append(process)
            if process.alive:
                _add_counters(part_of, row)
        for row in await self._everywhere(
            "engine",
            'SELECT consumer, generation, reason, count(*) AS parked FROM "{schema}".parked GROUP BY 1, 2, 3',
        ):
            serves = active[row["consumer"]].number if row["consumer"] in active else 1
            if row["consumer"] in parts and row["generation"] == serves:
                parts[row["consumer"]].parked[row["reason"]] = row["parked"]
        return parts

    async def _outboxes(self) -> dict[str, Outbox]:
        rows = await self._everywhere(
            "outbox",
            f"""SELECT '{{schema}}' AS schema,
                  (SELECT count(*) FROM (SELECT FROM "{{schema}}".outbox LIMIT {DEEPEST}) AS counted) AS depth,
                  (SELECT extract(epoch FROM now() - written_at)::float8 FROM "{{schema}}".outbox ORDER BY position LIMIT 1)
                    AS age""",
        )
        return {row["schema"]: Outbox(row["depth"], max(0.0, row["age"] or 0.0)) for row in rows}

    async def _effects(self) -> dict[tuple[str, str], int]:
        rows = await self._everywhere(
            "service",
            """SELECT consumer, standing, count(*) AS effects FROM "{schema}".effects WHERE ended_at IS NULL GROUP BY 1, 2""",
        )
        return {(row["consumer"], row["standing"]): row["effects"] for row in rows}

    async def _stuck(self) -> dict[str, int]:
        if self._slow is None or time.monotonic() - self._slow[0] > SLOW_CACHE_S:
            names = {
                (wiring.saga.name, name)
                for wiring in self._catalog.sagas.values()
                for name, state in wiring.states.items()
                if issubclass(state, Stuck)
            }
            rows = await self._monitor.fetch(
                """SELECT saga, count(*) AS stuck FROM sagas.instances
                   JOIN unnest($1::text[], $2::text[]) AS s (saga, state_name) USING (saga, state_name) GROUP BY saga""",
                [saga for saga, _ in names],
                [state for _, state in names],
            )
            self._slow = (time.monotonic(), {row["saga"]: row["stuck"] for row in rows})
        return self._slow[1]

    async def _everywhere(self, chain: str, query: str) -> list[Row]:
        """Run a query in every schema that has a chain's tables, as one statement."""
        schemas = [schema for schema, labels in self._schemas.items() if chain in labels]
        return await self._monitor.fetch(
            " UNION ALL ".join(f"({query.format(schema=schema)})" for schema in schemas)
        )


_EARLY: Final = (
    "SELECT saga, count(*) AS old FROM sagas.early WHERE kept_at < now() - interval '1 day' GROUP BY saga"
)
_BEATS: Final = """SELECT consumer, host, pid, partitions, counters::text AS counters,
    extract(epoch FROM now() - beat_at)::float8 AS beat_age, extract(epoch FROM now() - turned_at)::float8 AS turn_age
    FROM "{schema}".heartbeats"""


def expected(catalog: Catalog) -> list[str]:
    """Name everything that must be at work: consumers, with their lanes and deadline watches, and relays."""
    names: list[str] = []
    for name, wiring in catalog.consumers.items():
        names += [name, *_beside(wiring)]
    return [*names, *(f"relay.{schema}" for schema, labels in chains(catalog).items() if "outbox" in labels)]


def _beside(wiring: Wiring) -> list[str]:
    match wiring:
        case EffectWiring():
            return [f"lanes.{wiring.name}"]
        case SagaWiring():
            return [f"deadlines.{wiring.saga.name}"]
        case _:
            return []


def _add_counters(part: Part, row: Row) -> None:
    counters: dict[str, Any] = from_json(row["counters"])
    stopped = counters.pop("stopped_because", None)
    # Of a generation that is behind this code, too, it is not the process that is behind.
    if stopped is not None and not (part.behind and UNFIT in stopped):
        part.red.append(f"stopped: {stopped}")
        if LATER in stopped:
            # What serves is of later code than that process's, which may be this one's, too: it names both remedies.
            part.behind = None
    for name, number in counters.items():
        part.counters[name] = part.counters.get(name, 0) + int(number)


def _being_built(name: str, building: Generation) -> str:
    if building.lease is not None and not building.lease.left:
        return f"generation {building.number} is being built by {building.lease.holder}"
    return f"generation {building.number} is half-built; go on: triplane rebuild {name.removeprefix('projections.')}"


def wrong_with(part: Part) -> list[str]:
    """Say everything that is wrong with a part."""
    alive = [process for process in part.processes if process.alive]
    wrong = list(part.red)
    if part.behind is not None:
        wrong.append(part.behind)
    if not alive:
        last = min((process.beat_age for process in part.processes), default=None)
        return [*wrong, "nobody works for it" if last is None else f"no sign of life for {last:.0f} s"]
    if wrong:
        return wrong
    stuck = [process for process in alive if process.turn_age > IDLE_S]
    wrong += [
        f"process {process.pid} on {process.host} has made no turn for {process.turn_age:.0f} s"
        for process in stuck
    ]
    shared_out = unattended(part)
    if shared_out is not None:
        wrong.append(shared_out)
    if part.lag_seconds is not None and part.lag_seconds > BEHIND_S:
        wrong.append(f"{part.lag_seconds:.0f} s behind")
    return wrong


def unattended(part: Part) -> str | None:
    """Say how many partitions nobody attends to, `None` when there are none."""
    attended = sum(process.partitions for process in part.processes if process.alive)
    if part.partitions is None or attended >= part.partitions:
        return None
    silent = [process for process in part.processes if not process.alive]
    because = f"; process {silent[0].pid} on {silent[0].host} is silent" if silent else ""
    return f"{attended} of {part.partitions} partitions are attended to{because}"


@asynccontextmanager
async def open_gauge(settings: Settings) -> AsyncGenerator[Gauge]:
    """Measure the installation of `settings`."""
    monitor = await open_database(settings, "monitor", size=2)
    gauge = Gauge(monitor, discover(), settings.kafka)
    try:
        yield gauge
    finally:
        await gauge.close()
        await monitor.close()


async def engine_report(settings: Settings) -> dict[str, Any]:
    """Measure once, for `triplane status`: everything as JSON values."""
    async with open_gauge(settings) as gauge:
        return report(await gauge.measure())


def report(measured: Freshness) -> dict[str, Any]:
    """Write figures as JSON values."""
    return {
        "state": "red" if any(part.red for part in measured.parts.values()) else "green",
        "broker": "reachable" if measured.broker else "away",
        "consumers": [
            {
                "name": part.name,
                "state": part.state,
                "because": "; ".join(part.red) or None,
                "lag_events": part.lag_events,
                "lag_seconds": None if part.lag_seconds is None else round(part.lag_seconds, 1),
                "heartbeat_seconds": round(min((it.beat_age for it in part.processes), default=-1), 1)
                if part.processes
                else None,
                "processes": sum(it.alive for it in part.processes),
                "parked": sum(part.parked.values()),
                "parked_by_reason": part.parked,
                "generation": part.generation,
                "behind_its_code": part.behind,
                "building": part.building,
            }
            for part in measured.parts.values()
        ],
        "outboxes": {name: asdict(outbox) for name, outbox in measured.outboxes.items()},
        "effects": {
            f"{consumer}:{standing}": count for (consumer, standing), count in measured.effects.items()
        },
        "sagas_stuck": measured.sagas_stuck,
        "early_older_than_a_day": measured.early_old,
        "webhooks_parked": measured.webhooks_parked,
    }
