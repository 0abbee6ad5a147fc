"""Replays are killed while live traffic goes on: each message is applied once, and a second replay changes nothing.

A copy is killed, too: whoever takes each id once gets everything, each key in its order.
"""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

from tests.faults.test_processes import sending
from tests.faults.upstream import stream
from tests.installation import Installation, Process, Sent
from tests.topics import new_topic

TOPIC = "payments.events"
SPEND, SAGA = "projections.customer_spend", "sagas.activation"


@dataclass
class Facts:
    """Payments as they stand in the log, and what they come to."""

    tenant: str
    messages: list[Sent] = field(default_factory=list)
    spent: Counter[str] = field(default_factory=Counter)
    payments: Counter[str] = field(default_factory=Counter)


def facts(seed: int, tenant: str, number: int) -> Facts:
    """Make facts as the relay of payments publishes them."""
    dice = random.Random(seed)

    def draw() -> str:
        return str(UUID(int=dice.getrandbits(128), version=4))

    made = Facts(tenant)
    people = [draw() for _ in range(40)]
    for _ in range(number):
        person, payment, minor = dice.choice(people), draw(), dice.randrange(1, 500)
        body = {
            "payment_id": payment,
            "customer_id": person,
            "product_id": draw(),
            "amount": {"minor": minor, "currency": "EUR"},
            "provider": "bank",
            "provider_ref": payment,
            "captured_at": "2026-05-04T12:00:00Z",
        }
        headers = {
            "ce_source": "triplane/payments",
            "ce_time": "2026-05-04T12:00:00+00:00",
            "ce_dataschema": "urn:triplane:payments.PaymentCompleted:1",
            "ce_correlationid": payment,
            "ce_sequence": "1",
            "content-type": "application/json",
        }
        made.messages.append(Sent(TOPIC, tenant, payment, "payments.PaymentCompleted", body, draw(), headers))
        made.spent[person] += minor
        made.payments[person] += 1
    return made


def passed_over(installation: Installation, made: Facts, *consumers: str) -> None:
    """Let facts stand in the log where consumers have never seen them: as if each had begun at the end."""
    installation.send(made.messages)
    pending = installation.pending()
    assert set(consumers) <= pending.keys()
    ends = Counter(partition for partition, *_ in installation.log(TOPIC))
    for consumer in consumers:
        schema = consumer.partition(".")[0]
        for partition in ends:
            installation.query(
                f"""UPDATE {schema}.checkpoints SET next_offset = $3
                    WHERE consumer = $1 AND topic = '{TOPIC}' AND partition = $2""",
                consumer,
                partition,
                ends[partition],
            )


def wrong(installation: Installation, made: Facts) -> tuple[int, int]:
    """Count what the read model has too little and too much of."""
    rows = installation.query("SELECT * FROM read.customer_spend WHERE tenant = $1", made.tenant)
    lost = doubled = 0
    for column, due in (("spent_minor", made.spent), ("payments", made.payments)):
        found = Counter({str(row["customer_id"]): row[column] for row in rows})
        lost += (due - found).total()
        doubled += (found - due).total()
    return lost, doubled


def killed_and_resumed(
    installation: Installation,
    to: str,
    *more: str,
    kills: int,
    since: str = "0",
    rate: int = 10_000,
    mutant: str = "",
) -> tuple[UUID, int]:
    """Replay to a consumer, or copy to a topic, with so many kills, then to the end; give the id and how often it was killed."""
    dice = random.Random(kills)
    given = to in installation.catalog.consumers
    option, schema = ("--to", to.partition(".")[0]) if given else ("--to-topic", "operations")
    replays = f"{schema}.replays"
    module, command = ("tests.faults.mutants", [mutant, "replay"]) if mutant else ("infra.cli", ["replay"])
    paced = ("--rate", str(rate))
    known = f"SELECT count(*) FROM {replays}"
    before = installation.value(known)
    process = installation.process(
        *command, option, to, "--topic", TOPIC, "--from", since, "--yes", *more, *paced, module=module
    )
    process.start()
    installation.until(lambda: installation.value(known) > before, 30, "the replay has begun")
    replay_id = installation.value(f"SELECT id FROM {replays} ORDER BY started_at DESC LIMIT 1")
    progress = f"SELECT counts::text || next_offsets::text FROM {replays} WHERE id = $1"
    done = 0
    while done < kills:
        installation.until(partial(moved, installation, progress, replay_id, process), 30, "it moves")
        time.sleep(0 if mutant else dice.uniform(0, 0.3))
        if not process.alive:
            break
        process.kill()
        done += 1
        process = installation.process(*command, "--resume", str(replay_id), *paced, module=module)
        process.start()
    installation.until(partial(ended, process), 60, "the replay ends")
    return replay_id, done


def ended(process: Process) -> bool:
    """Whether it has."""
    return not process.alive


def moved(installation: Installation, progress: str, replay_id: UUID, process: Process) -> bool:
    """Whether a replay commits, or ends."""
    was = installation.value(progress, replay_id)
    time.sleep(0.1)
    return not process.alive or installation.value(progress, replay_id) != was


def result(installation: Installation, consumer: str, replay_id: UUID) -> tuple[str, int, int, int]:
    schema = consumer.partition(".")[0]
    (row,) = installation.query(
        f"""SELECT standing, sum((line ->> 2)::int)::int AS applied, sum((line ->> 3)::int)::int AS duplicates,
                   sum((line ->> 4)::int)::int AS parked
            FROM {schema}.replays, json_array_elements(counts) AS line WHERE id = $1 GROUP BY id""",
        replay_id,
    )
    return row["standing"], row["applied"], row["duplicates"], row["parked"]


def everything(installation: Installation) -> dict[str, object]:
    """What would show that anybody did anything: positions, marks, facts, effects, steps, read models."""
    schemas = ("accounts", "payments", "entitlements", "sagas", "projections")
    found: dict[str, object] = {}
    for schema in schemas:
        found[f"{schema} positions"] = installation.query(
            f"SELECT consumer, topic, partition, next_offset FROM {schema}.checkpoints ORDER BY 1, 2, 3"
        )
        found[f"{schema} marks"] = installation.value(f"SELECT count(*) FROM {schema}.inbox")
    for table in (
        "payments.events",
        "payments.effects",
        "entitlements.events",
        "sagas.history",
        "sagas.outbox",
    ):
        found[table] = installation.value(f"SELECT count(*) FROM {table}")
    for view in ("customer_spend", "payment_history", "customer_access", "saga_instances"):
        found[view] = installation.value(
            f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM read.{view} t"
        )
    return found


def test_killed_replays_apply_each_message_once_beside_live_traffic(installation: Installation) -> None:
    made = facts(21, "replayed", 10_000)
    # The topic has what other tests have sent, too.
    since = datetime.now(UTC).isoformat()
    live = stream(22, accounts=0, payments=300, tenants=("live",))
    names = ("payments", "entitlements", "sagas", "projections", "operations")
    passed_over(installation, made, SPEND, SAGA)
    with installation.working(*names), installation.working(*names):
        with sending(installation, live.messages, 12):
            began = time.monotonic()
            spend, kills = killed_and_resumed(installation, SPEND, kills=3, rate=2_500)
            saga, more = killed_and_resumed(
                installation, SAGA, "--limit", "1000", since=since, kills=2, rate=200
            )
            took = time.monotonic() - began
        idle = [
            it
            for it in installation.catalog.consumers
            if it.partition(".")[0] in {"identity", "customers", "accounts"}
        ]
        installation.drained(60, without=idle)
        lost, doubled = wrong(installation, made)
        standing, applied, duplicates, parked = result(installation, SPEND, spend)
        print(
            f"\n{kills} + {more} kills in {took:.0f} s; lost {lost}, doubled {doubled}; applied {applied}, duplicates {duplicates}, "
            f"parked {parked}"
        )
        assert kills + more >= 4
        assert (standing, applied, parked) == ("done", 10_000, 0)
        assert (lost, doubled) == (0, 0)
        assert result(installation, SAGA, saga)[0] == "done"
        stepped = result(installation, SAGA, saga)[1]
        for found, due in {
            "SELECT count(*) FROM sagas.instances WHERE tenant = $1": stepped,
            "SELECT count(*) FROM sagas.history WHERE tenant = $1": 2 * stepped,
            "SELECT count(*) FROM entitlements.events WHERE tenant = $1": stepped,
            "SELECT count(*) FROM read.customer_access WHERE tenant = $1 AND status = 'granted'": stepped,
            "SELECT count(*) FROM sagas.early WHERE tenant = $1": 0,
        }.items():
            assert installation.value(found, made.tenant) == due, found
        assert stepped > 0

        before = everything(installation)
        for consumer, limit in ((SPEND, ()), (SAGA, ("--limit", "1000"))):
            second, _ = killed_and_resumed(installation, consumer, *limit, since=since, kills=0)
            standing, applied, duplicates, parked = result(installation, consumer, second)
            assert (standing, applied, parked) == ("done", 0, 0)
            assert duplicates >= 1_000
        assert everything(installation) == before


def test_a_killed_copy_misses_nothing_and_keeps_the_order_of_each_key(installation: Installation) -> None:
    made = facts(23, "copied", 20_000)
    payments = [message.key for message in made.messages[:50]]
    # Each key has several messages, all over the range.
    for number, message in enumerate(made.messages):
        message.key = payments[number % len(payments)]
    since = datetime.now(UTC).isoformat()
    installation.send(made.messages)
    name = new_topic(installation.settings.kafka, 5)

    copy_id, kills = killed_and_resumed(installation, name, since=since, kills=4, rate=4_000)

    due, found = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for message in made.messages:
        due[message.key].append(message.id)
    copied = installation.log(name)
    for _, key, headers, _ in copied:
        found[key].append(headers["ce_id"])
    print(f"\n{kills} kills; {len(copied)} records, of {len(made.messages)}")
    assert kills >= 2
    assert installation.value("SELECT standing FROM operations.replays WHERE id = $1", copy_id) == "done"
    assert {key: list(dict.fromkeys(ids)) for key, ids in found.items()} == due
    assert len(copied) <= 20_000 + kills * 1_000, "at most a step twice for each kill"


def test_a_replay_whose_progress_runs_ahead_loses(installation: Installation) -> None:
    made = facts(31, "ahead", 300)
    since = datetime.now(UTC).isoformat()
    passed_over(installation, made, SPEND)
    range_ = ("--to", SPEND, "--topic", TOPIC, "--from", since)
    mutant = installation.process("ahead", "replay", *range_, "--yes", module="tests.faults.mutants")
    mutant.start()
    installation.until(partial(ended, mutant), 60, "it has killed itself")
    replay_id = installation.value("SELECT id FROM projections.replays ORDER BY started_at DESC LIMIT 1")
    rest = installation.process("replay", "--resume", str(replay_id), module="infra.cli")
    rest.start()
    installation.until(partial(ended, rest), 60, "the replay ends")
    lost, doubled = wrong(installation, made)
    print(f"\nahead: lost {lost}, doubled {doubled}")
    standing = installation.value("SELECT standing FROM projections.replays WHERE id = $1", replay_id)
    assert (standing, lost > 0, doubled) == ("done", True, 0)


def test_a_replay_that_takes_all_for_new_doubles(installation: Installation) -> None:
    made = facts(30, "renewed", 300)
    since = datetime.now(UTC).isoformat()
    passed_over(installation, made, SPEND)
    kills = 0
    for _ in range(2):
        _, more = killed_and_resumed(installation, SPEND, kills=1, since=since, rate=100, mutant="renewed")
        kills += more
    lost, doubled = wrong(installation, made)
    print(f"\nrenewed: {kills} kills; lost {lost}, doubled {doubled}")
    assert doubled > 0
