"""A read model is rebuilt while facts come in, readers ask 500 times a second and the rebuild is killed again and again.

The processes are the product's own command. Readers ask as HTTP does and in SQL as analysts do; what they have seen, they
see from then on.
"""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
from bisect import bisect_right
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from confluent_kafka import Producer

from events import Money, PersonId
from events.payments import PaymentId, SurplusCaptured
from infra.kafka.admin import Admin
from infra.kafka.record import Place
from infra.postgres.database import open_database
from infra.runtime.asking.questions import Question, Questions
from infra.runtime.messages.codec import Codec
from infra.runtime.messages.envelope import Envelope
from infra.runtime.messages.ids import source_of
from infra.runtime.messages.vault import Vault
from infra.runtime.operating.logins import ensure_login
from tests.installation import Installation, Process

MODEL = "customer_spend"
TENANT = "rebuilt"
PEOPLE = [PersonId(UUID(int=number, version=4)) for number in range(1, 41)]
PER_SECOND = 500
LATE_S = 1.5
"""A fact waits for less than a second, or more on a machine under load, but not as long as a group takes to miss a member."""
MISSED_S = 8.0


class Facts:
    """Appends facts to the log as our relay does: of a kind that no saga listens to."""

    def __init__(self, installation: Installation) -> None:
        self._producer = Producer(
            {"bootstrap.servers": installation.settings.kafka, "linger.ms": 5, "log_level": 0}
        )
        self._contract = installation.catalog.of(SurplusCaptured)
        self.sent = 0
        self._at: list[float] = []
        self._total: list[int] = [0]

    def waiting(self, spent: int) -> float:
        """Give how long (s) the oldest fact has been waiting that is not in `spent`, the sum of those that readers see."""
        folded = bisect_right(self._total, spent) - 1
        return time.monotonic() - self._at[folded] if folded < len(self._at) else 0.0

    def append(self, number: int, *, per_second: float = 1e9, stop: threading.Event | None = None) -> None:
        began = time.monotonic()
        for at in range(number):
            if stop is not None and stop.is_set():
                break
            fact = SurplusCaptured(
                payment_id=PaymentId(uuid4()),
                customer_id=PEOPLE[self.sent % len(PEOPLE)],
                amount=Money(minor=1 + self.sent % 7, currency="EUR"),
                provider="stripe",
                provider_ref="pi_1",
                captured_at=datetime.now(UTC),
            )
            envelope = Envelope(
                id=str(uuid4()),
                type=self._contract.name,
                source=source_of("payments"),
                tenant=TENANT,
                version=1,
                time=datetime.now(UTC),
                correlation="rebuild",
                sequence=1,
            )
            self._producer.produce(
                self._contract.topic,
                fact.model_dump_json(),
                str(fact.payment_id),
                headers=list(envelope.headers()),
            )
            self._producer.poll(0)
            self._at.append(time.monotonic())
            self._total.append(self._total[-1] + fact.amount.minor)
            self.sent += 1
            time.sleep(max(0.0, began + at / per_second - time.monotonic()))
        assert self._producer.flush(60) == 0

    @contextmanager
    def coming(self, per_second: float) -> Generator[None]:
        """Append beside whatever the block does."""
        stop = threading.Event()
        thread = threading.Thread(
            target=self.append, args=(10**9,), kwargs={"per_second": per_second, "stop": stop}
        )
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join(60)


@dataclass
class Readers:
    """What readers saw."""

    asked: int = 0
    errors: list[str] = field(default_factory=list[str])
    dips: list[str] = field(default_factory=list[str])
    seconds: float = 0.0
    slowest: float = 0.0
    waited: float = 0.0
    """The longest time (s) that a fact had to wait until it was seen."""

    @property
    def rate(self) -> float:
        """Questions a second."""
        return self.asked / self.seconds


@contextmanager
def reading(installation: Installation, facts: Facts) -> Generator[Readers]:
    """Ask 500 times a second, over several connections, as long as the block runs."""
    seen, stop = Readers(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(_read(installation, facts, seen, stop)))
    thread.start()
    try:
        yield seen
    finally:
        stop.set()
        thread.join(60)


async def _read(installation: Installation, facts: Facts, seen: Readers, stop: threading.Event) -> None:
    settings, catalog = installation.settings, installation.catalog
    reader, vault = [await open_database(settings, it, size=4) for it in ("read", "vault")]
    questions = Questions(reader, Codec(catalog, Vault(vault, settings.master_key)), settings.master_key)
    wiring = catalog.projections[f"projections.{MODEL}"]
    query, row = wiring.queries["of_customer"]
    question = Question(wiring, "of_customer", query, row)
    uri = await ensure_login(settings, TENANT)
    highest: dict[Any, int] = {}

    def saw(what: Any, value: int) -> None:
        if value < highest.get(what, 0):
            seen.dips.append(f"{what}: {value} after {highest[what]}")
        highest[what] = max(value, highest.get(what, 0))

    # What two ask at once may be answered in either order: each one's own answers are compared.
    async def ask(who: int, number: int) -> None:
        person = PEOPLE[number % len(PEOPLE)]
        page = await questions.ask(
            question,
            query.model_construct(customer_id=person),
            tenant=TENANT,
            limit=10,
            cursor=None,
            personal=False,
        )
        saw((who, person), sum(it["spent_minor"] for it in page.items))

    async def analyst(connection: asyncpg.Connection[asyncpg.Record], _: int) -> None:
        rows = await connection.fetchrow(
            "SELECT count(*) AS rows, sum(spent_minor)::bigint AS spent FROM customer_spend"
        )
        assert rows is not None
        seen.waited = max(seen.waited, facts.waiting(rows["spent"]))
        saw(("rows", connection), rows["rows"])
        saw(("spent", connection), rows["spent"])

    async def loop(work: Any, per_second: float) -> None:
        began, done = time.monotonic(), 0
        while not stop.is_set():
            at = time.monotonic()
            try:
                await work(done)
            except Exception as error:  # noqa: BLE001 - any at all is one too many
                seen.errors.append(repr(error))
            seen.slowest = max(seen.slowest, time.monotonic() - at)
            seen.asked += 1
            done += 1
            await asyncio.sleep(max(0.0, began + done / per_second - time.monotonic()))

    connections = [await asyncpg.connect(uri) for _ in range(2)]
    began = time.monotonic()
    try:
        await asyncio.gather(
            *(loop(partial(ask, who), PER_SECOND * 0.2) for who in range(4)),
            *(loop(partial(analyst, it), PER_SECOND * 0.1) for it in connections),
        )
    finally:
        seen.seconds = time.monotonic() - began
        for connection in connections:
            await connection.close()
        await reader.close()
        await vault.close()


def generations(installation: Installation) -> dict[str, int]:
    rows = installation.query(
        "SELECT standing, max(generation) AS number FROM projections.generations WHERE projection = $1 GROUP BY 1",
        MODEL,
    )
    return {row["standing"]: row["number"] for row in rows}


def checksum(installation: Installation, generation: int) -> str:
    """Digest all rows of a generation, whoever they belong to."""
    found: str = installation.value(
        f"SELECT md5(string_agg(t::text, '|' ORDER BY tenant, customer_id, currency)) FROM projections.{MODEL}_g{generation} t"
    )
    return found


def spent(installation: Installation, generation: int) -> int:
    found: int = installation.value(
        f"SELECT coalesce(sum(spent_minor), 0)::bigint FROM projections.{MODEL}_g{generation} WHERE tenant = $1",
        TENANT,
    )
    return found


def read_to_the_end(installation: Installation) -> None:
    installation.until(
        lambda: f"projections.{MODEL}" not in installation.pending(), 60, "both generations have read all"
    )


def ends(installation: Installation) -> dict[Place, int]:
    async def ask() -> dict[Place, int]:
        admin = Admin(installation.settings.kafka)
        return await admin.offsets((await admin.topics(installation.catalog.topics)).values(), end=True)

    return installation.patiently(ask)


@pytest.fixture(scope="module")
def facts(installation: Installation) -> Facts:
    """What comes in."""
    return Facts(installation)


@pytest.fixture(scope="module")
def worker(installation: Installation, facts: Facts) -> Generator[Process]:
    """A worker that folds the model, and has folded much."""
    with installation.working(f"projections.{MODEL}", TRIPLANE_REBUILD="command") as worker:
        facts.append(12_000)
        read_to_the_end(installation)
        yield worker


def test_killed_again_and_again_it_ends_right_and_readers_notice_nothing(
    installation: Installation, worker: Process, facts: Facts
) -> None:
    dice = random.Random(3)
    before = ends(installation)
    kills = switches = 0
    with reading(installation, facts) as seen, facts.coming(per_second=150):
        rebuild = installation.process("rebuild", MODEL, "--yes")
        while kills < 7:
            rebuild.start()
            code = rebuild.ended(dice.uniform(1.2, 2.4))
            if code is None:
                rebuild.kill()
                kills += 1
            else:
                assert code == 0
                switches += 1
        rebuild.start()
        began = time.monotonic()
        assert rebuild.ended(40) == 0
        seconds = time.monotonic() - began
        switches += 1
        built = generations(installation)["active"]
        back = installation.process("rebuild", MODEL, "--rollback", "--yes")
        for _ in range(2):
            back.start()
            assert back.ended(30) == 0
        rolled_back = generations(installation)
    read_to_the_end(installation)
    assert worker.alive
    assert (rolled_back["active"] < built, rolled_back["standby"]) == (True, built)
    sums = {checksum(installation, it) for it in (rolled_back["active"], built)}
    grown = {topic for (topic, at), end in ends(installation).items() if end > before[topic, at]}
    print(
        f"\nkilled {kills} times in rebuilds of {facts.sent} facts with more coming; {switches} switches and one back; the last "
        f"took {seconds:.1f} s; {len(sums)} checksum; readers asked {seen.asked} times ({seen.rate:.0f}/s): {len(seen.errors)} "
        f"errors, {len(seen.dips)} dips, the slowest waited {seen.slowest:.2f} s, a fact "
        f"{seen.waited:.2f} s; topics written to: {sorted(grown)}"
    )
    assert seen.errors == []
    assert seen.dips == []
    assert len(sums) == 1
    assert spent(installation, built) == sum(1 + it % 7 for it in range(facts.sent))
    assert grown <= {"payments.events", "operations.events"}


def test_a_way_back_that_is_killed_as_it_switches_keeps_nothing_that_is_live_waiting(
    installation: Installation, worker: Process, facts: Facts
) -> None:
    back = installation.process("rebuild", MODEL, "--rollback", "--yes")
    noted = ways_back(installation)
    seen = killed_as_it_switches(installation, facts, back)
    assert ways_back(installation) == noted + 1, "it took effect, so its act is kept"
    print(f"\na way back killed as it switched: facts waited {seen.waited:.2f} s at most")
    assert worker.alive
    assert seen.waited < LATE_S
    assert (seen.errors, seen.dips) == ([], [])


def test_the_mutant_that_folds_beside_workers_keeps_what_is_live_waiting(
    installation: Installation, worker: Process, facts: Facts
) -> None:
    crowding = ("crowding", "rebuild", MODEL, "--rollback", "--yes")
    back = installation.process(*crowding, module="tests.faults.mutants")
    seen = killed_as_it_switches(installation, facts, back)
    print(f"\nkilled beside workers: facts waited {seen.waited:.2f} s")
    assert worker.alive
    assert seen.waited > LATE_S


def killed_as_it_switches(installation: Installation, facts: Facts, back: Process) -> Readers:
    """Kill a way back at its commit, with facts coming in; give what readers saw from then on."""
    rebuild = installation.process("rebuild", MODEL, "--yes")
    rebuild.start()
    assert rebuild.ended(40) == 0
    before = generations(installation)["standby"]
    with facts.coming(per_second=150):
        time.sleep(1)
        with reading(installation, facts) as seen:
            back.start()
            installation.until(lambda: generations(installation)["active"] == before, 20, "it has gone back")
            back.kill()
            time.sleep(MISSED_S)
    return seen


def ways_back(installation: Installation) -> int:
    """Count the ways back that operators' acts tell of."""
    found: int = installation.value(
        "SELECT count(*) FROM operations.acts WHERE type = 'operations.RebuildRolledBack'"
    )
    return found


def killed_between(installation: Installation, kind: str) -> int:
    """Kill a way back between its act and the commit of its switch; give how many acts are kept of what did not happen."""
    rebuild = installation.process("rebuild", MODEL, "--yes")
    rebuild.start()
    assert rebuild.ended(40) == 0
    before, noted = generations(installation), ways_back(installation)
    back = installation.process(kind, "rebuild", MODEL, "--rollback", "--yes", module="tests.faults.mutants")
    back.start()
    assert back.ended(30) == -signal.SIGKILL
    assert generations(installation) == before
    return ways_back(installation) - noted


def test_a_way_back_that_is_killed_before_its_commit_leaves_no_act(
    installation: Installation, worker: Process
) -> None:
    assert killed_between(installation, "cut_short") == 0
    assert worker.alive
    noted = ways_back(installation)
    back = installation.process("rebuild", MODEL, "--rollback", "--yes")
    back.start()
    assert back.ended(30) == 0
    assert ways_back(installation) == noted + 1


def test_the_mutant_that_notes_its_act_apart_tells_of_what_did_not_happen(
    installation: Installation, worker: Process
) -> None:
    assert killed_between(installation, "apart") == 1
    assert worker.alive


def test_told_to_stop_it_stops_at_the_edge_of_a_batch_and_can_be_given_up(
    installation: Installation, worker: Process
) -> None:
    assert worker.alive
    rebuild, give_up, unasked = (
        installation.process("rebuild", MODEL, *more)
        for more in (["--yes"], ["--yes", "--cancel"], ["--cancel"])
    )
    unasked.start()
    assert unasked.ended(20) == 0, "nobody need be asked about nothing"
    rebuild.start()
    installation.until(lambda: "building" in generations(installation), 20, "it is being built")
    assert rebuild.terminate() == 130
    unasked.start()
    assert (unasked.ended(20), "building" in generations(installation)) == (3, True)
    give_up.start()
    assert give_up.ended(20) == 0
    assert "building" not in generations(installation)
    unattended = installation.process("rebuild", MODEL)
    unattended.start()
    assert unattended.ended(20) == 3


def test_the_mutant_that_switches_by_lag_shows_readers_the_past(
    installation: Installation, worker: Process, facts: Facts
) -> None:
    assert worker.alive
    mutant = installation.process(
        "by_lag", "rebuild", MODEL, "--yes", "--parallel", "1", module="tests.faults.mutants"
    )
    with reading(installation, facts) as seen:
        time.sleep(0.5)
        mutant.start()
        assert mutant.ended(40) == 0
    read_to_the_end(installation)
    print(f"\nswitched by lag: {len(seen.dips)} dips, such as {seen.dips[:1]}")
    assert seen.dips


def test_the_mutant_whose_checkpoint_goes_ahead_is_seen_to_lose(
    installation: Installation, worker: Process
) -> None:
    assert worker.alive
    mutant = installation.process(
        "hasty", "rebuild", MODEL, "--yes", "--parallel", "1", module="tests.faults.mutants"
    )
    serving, kills = generations(installation)["active"], 0
    while kills < 2:
        mutant.start()
        installation.until(partial(moved, installation, positions(installation)), 20, "a checkpoint moves")
        mutant.kill()
        kills += 1
    mutant.start()
    assert mutant.ended(60) == 0
    read_to_the_end(installation)
    lost = spent(installation, serving) - spent(installation, generations(installation)["active"])
    back = installation.process("rebuild", MODEL, "--rollback", "--yes")
    back.start()
    assert back.ended(30) == 0
    print(f"\nwith the checkpoint ahead: {lost} minor units lost in {kills} kills")
    assert lost > 0


def moved(installation: Installation, before: int) -> bool:
    """Whether the generation that is being built has read on."""
    return positions(installation) > before


def positions(installation: Installation) -> int:
    found: int = installation.value(
        """SELECT coalesce(sum(next_offset), 0)::bigint FROM projections.checkpoints c JOIN projections.generations g
           ON c.consumer = 'projections.' || g.projection AND c.generation = g.generation
           WHERE g.projection = $1 AND g.standing = 'building'""",
        MODEL,
    )
    return found
