"""`triplane replay` on a running platform: exit codes, refusals, Ctrl-C, two operators at once."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient

from infra.embedded.process import ROOT
from tests.http.running import NOWHERE, Running, eventually
from tests.http.test_command_line import lines
from tests.http.test_ways_in import event, paid
from tests.topics import new_topic

SPEND = ("--to", "projections.customer_spend", "--topic", "payments.events")
LATER = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
REFUSALS = {
    "nothing": ((), 2, "--topic"),
    "no consumer": (("--topic", "payments.events", "--from", "0"), 2, "--to CONSUMER"),
    "unknown consumer": (
        ("--to", "projections.customer_spent", "--topic", "payments.events", "--from", "0"),
        2,
        "did you mean projections.customer_spend",
    ),
    "unknown topic": (
        ("--to", "payments", "--topic", "payment.events", "--from", "0"),
        2,
        "did you mean payments.events",
    ),
    "a topic of others": (
        ("--to", "projections.customer_spend", "--topic", "identity.events", "--from", "0"),
        2,
        "does not listen to identity.events; it listens to",
    ),
    "unknown type": (
        (*SPEND, "--from", "0", "--type", "payments.PaymentComplete"),
        2,
        "did you mean payments.PaymentCompleted or payments.",
    ),
    "where all types are": (
        (*SPEND, "--from", "0", "--type", "nothing.LikeIt"),
        2,
        "'nothing.LikeIt' is no message type (triplane catalog shows them all)",
    ),
    "a type of others": ((*SPEND, "--from", "0", "--type", "identity.UserVerified"), 2, "does not listen to"),
    "unknown tenant": ((*SPEND, "--from", "0", "--tenant", "demo-aa"), 2, "did you mean demo-a"),
    "no range": (SPEND, 2, "--from and --until"),
    "backwards": ((*SPEND, "--from", "6", "--until", "5"), 2, "--from 6 is after --until 5"),
    "backwards in time": (
        (*SPEND, "--from", "2026-05-04T12:00:00Z", "--until", "2026-05-04T12:00:00+02:00"),
        2,
        "is after",
    ),
    "backwards, an offset and a time": (
        (*SPEND, "--from", "1", "--until", "2020-05-04T12:00:00Z"),
        2,
        "--from 1 is after --until 2020-05-04 12:00:00+00:00",
    ),
    "neither offset nor time": ((*SPEND, "--from", "yesterday"), 2, "neither an offset nor a time"),
    "negative": ((*SPEND, "--from", "-5"), 2, "neither an offset nor a time"),
    "too large": ((*SPEND, "--from", "9" * 30), 2, "no offset is that large"),
    "whose clock": ((*SPEND, "--from", "2026-05-04T12:00:00"), 2, "whose clock?"),
    "a date": ((*SPEND, "--from", "2026-05-04"), 2, "whose clock?"),
    "beyond the end": (
        (*SPEND, "--from", "999999999"),
        3,
        "beyond the end of payments.events, which ends in partition 0 before",
    ),
    "future": ((*SPEND, "--from", LATER), 3, "is in the future"),
    "no partition": ((*SPEND, "--from", "0", "--partition", "12"), 2, "count from 0"),
    "no rate": ((*SPEND, "--from", "0", "--rate", "0"), 2, "--rate"),
    "a read model anew": (
        (*SPEND, "--from", "0", "--again", "--reason", "x", "--yes"),
        3,
        "triplane rebuild",
    ),
    "anew, and why": (
        ("--to", "payments", "--topic", "payments.commands", "--from", "0", "--again", "--yes"),
        2,
        "--reason",
    ),
    "acts outside": (
        (
            "--to",
            "payments.capture",
            "--topic",
            "payments.events",
            "--from",
            "0",
            "--reason",
            "x",
            "--yes",
        ),
        3,
        "--with-effects",
    ),
    "nobody said yes": (
        (*SPEND, "--from", "0"),
        3,
        "records of payments.events to projections.customer_spend: say --yes",
    ),
    "what nobody said yes to": (
        (
            *SPEND,
            "--from",
            "0",
            "--limit",
            "1000",
            "--type",
            "payments.PaymentCompleted",
            "--tenant",
            "demo-a",
        ),
        3,
        "this would replay at most 1,000 messages of type payments.PaymentCompleted, tenant demo-a, of the ",
    ),
    "what of one key": (
        (*SPEND, "--from", "0", "--key", "k"),
        3,
        "this would replay the messages of key k, of the ",
    ),
    "the first": ((*SPEND, "--from", "0", "--limit", "3"), 3, "this would replay at most 3 messages of the "),
    "a reason with a line break": ((*SPEND, "--from", "0", "--reason", "a\nb"), 2, "printable"),
    "no id": (("--resume", "first"), 2, "is no replay"),
    "unknown id": (("--resume", str(uuid4())), 2, "there is no replay"),
    "resume, otherwise": (("--resume", str(uuid4()), "--limit", "5"), 2, "only --rate"),
    "a topic in use": (
        ("--to-topic", "identity.inbound", "--topic", "payments.events", "--from", "0", "--yes"),
        3,
        "everybody who listens",
    ),
    "the broker's own": (
        ("--to-topic", "__consumer_offsets", "--topic", "payments.events", "--from", "0", "--yes"),
        3,
        "the broker's own",
    ),
    "no topic there": (
        ("--to-topic", "nobody.knows", "--topic", "payments.events", "--from", "0", "--yes"),
        2,
        "make it first",
    ),
    "a copy to a consumer": ((*SPEND, "--to-topic", "x", "--from", "0"), 2, "--to-topic copies"),
    "brokers of nothing": ((*SPEND, "--to-bootstrap", "x:1", "--from", "0"), 2, "--to-topic"),
}


@pytest.fixture(scope="module")
def spent(api: Running) -> Running:
    """A platform that has seen some payments."""
    payments = [paid() for _ in range(30)]
    assert api.cli("publish", "-", "--tenant", "demo-a", stdin=lines(*map(event, payments))).returncode == 0

    async def applied() -> bool:
        rows = await ask(
            api, "SELECT count(*) FROM read.payment_history WHERE payment_id = ANY($1)", ids(payments)
        )
        folded = await ask(
            api, "SELECT sum(payments) >= $1 FROM read.customer_spend WHERE tenant = 'demo-a'", len(payments)
        )
        return rows == len(payments) and bool(folded)

    asyncio.run(eventually(applied, 30))
    return api


def ids(payments: list[dict[str, object]]) -> list[object]:
    return [it["payment_id"] for it in payments]


async def ask(api: Running, query: str, *arguments: object) -> object:
    connection = await asyncpg.connect(api.settings.postgres)
    try:
        return await connection.fetchval(query, *arguments)
    finally:
        await connection.close()


def committed(api: Running) -> dict[str, list[tuple[str, int, int]]]:
    """Every committed offset of every group."""
    admin = AdminClient({"bootstrap.servers": api.settings.kafka})
    from confluent_kafka import ConsumerGroupTopicPartitions

    groups = [it.group_id for it in admin.list_consumer_groups().result(10).valid]
    found = {}
    for group in groups:
        (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).values()
        found[group] = sorted(
            (it.topic, it.partition, it.offset) for it in future.result(10).topic_partitions
        )
    return found


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_has_its_code_and_its_remedy(spent: Running, name: str) -> None:
    arguments, code, words = REFUSALS[name]
    done = spent.cli("replay", *arguments)
    said = " ".join((done.stdout + done.stderr).decode().split())
    assert (done.returncode, words in said) == (code, True), said
    assert "Traceback" not in said


def test_a_dry_run_and_a_run_leave_every_group_where_it_was(spent: Running) -> None:
    time.sleep(6)  # the groups have committed what they have read
    before = committed(spent)
    assert any(before.values())
    dry = spent.cli("replay", *SPEND, "--from", "0", "--dry-run")
    assert dry.returncode == 0, dry.stderr
    text = dry.stdout.decode()
    summary = re.search(r"^0 applied, (\d+) duplicates, 0 parked, \d+ skipped$", text, re.MULTILINE)
    assert summary
    assert int(summary[1]) >= 30
    assert "applied before: 100.0 %" in text
    run = spent.cli("replay", *SPEND, "--from", "0", "--yes")
    assert run.returncode == 0, run.stderr
    assert summary[0] in run.stdout.decode()
    assert committed(spent) == before


def test_a_dry_run_of_again_tells_how_much_had_been_applied_before(spent: Running) -> None:
    arguments = ("--to", "payments", "--topic", "payments.inbound", "--from", "0", "--again", "--reason", "x")
    dry = spent.cli("replay", *arguments, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    share = r"^applied before: [1-9][\d.]* % of [\d,]+ messages; (\d+) of them would be applied anew$"
    found = re.search(share, dry.stdout.decode(), re.MULTILINE)
    assert found
    assert int(found[1]) >= 30


def test_what_a_run_parks_is_told_by_the_exit_code_and_what_was_parked_before_by_a_line(
    spent: Running,
) -> None:
    producer = Producer({"bootstrap.servers": spent.settings.kafka})
    producer.produce("customers.inbound", b"{", b"k", partition=4)
    assert producer.flush(10) == 0
    parked = "SELECT count(*) FROM customers.parked"

    async def seen() -> bool:
        return bool(await ask(spent, parked))

    asyncio.run(eventually(seen, 30))
    # It is forgotten, as for a consumer that has never seen it.
    asyncio.run(ask(spent, "DELETE FROM customers.parked"))
    arguments = ("replay", "--to", "customers", "--topic", "customers.inbound", "--from", "0")
    done = spent.cli(*arguments, "--yes")
    assert done.returncode == 4, done.stderr
    assert b"triplane parked list --consumer customers" in done.stderr
    for how in ("--dry-run", "--yes"):
        done = spent.cli(*arguments, how)
        assert done.returncode == 0, done.stderr
        assert b"1 parked before, and left so" in done.stdout
        assert b"triplane parked redrive --consumer customers --why TEXT" in done.stdout
    assert asyncio.run(ask(spent, parked)) == 1


def test_ctrl_c_resume_and_a_second_operator(spent: Running) -> None:
    command = [sys.executable, "-m", "infra.cli", "replay", *SPEND, "--from", "0", "--yes"]
    first = subprocess.Popen(
        [*command, "--rate", "2"],
        cwd=ROOT,
        env=spent.environment(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    replay_id = next(line for line in first.stdout if line.startswith("replay ")).split()[1].rstrip(";")
    second = spent.cli("replay", *SPEND, "--from", "0", "--yes")
    assert second.returncode == 3
    assert f"process {first.pid}, is replaying to it already" in second.stderr.decode()
    assert spent.cli("replay", "--resume", replay_id).returncode == 3
    first.send_signal(signal.SIGINT)
    _, said = first.communicate(timeout=20)
    assert first.returncode == 130, said
    assert f"triplane replay --resume {replay_id}" in said
    resumed = spent.cli("replay", "--resume", replay_id)
    assert resumed.returncode == 0, resumed.stderr
    again = spent.cli("replay", "--resume", replay_id)
    assert (again.returncode, b"nothing to do" in again.stdout) == (0, True)


def test_a_run_goes_on_when_its_reader_has_left(spent: Running) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "infra.cli", "replay", *SPEND, "--from", "0", "--yes", "--rate", "20"],
        cwd=ROOT,
        env=spent.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout
        assert run.stderr
        replay_id = next(line for line in run.stdout if line.startswith("replay ")).split()[1].rstrip(";")
        run.stdout.close()
        assert (run.wait(30), run.stderr.read()) == (0, "")
    standing = "SELECT standing FROM projections.replays WHERE id = $1"
    assert asyncio.run(ask(spent, standing, replay_id)) == "done"


@pytest.mark.parametrize("server", ["TRIPLANE_KAFKA", "TRIPLANE_POSTGRES"])
def test_a_server_that_is_away_is_told(spent: Running, server: str) -> None:
    away = NOWHERE if server == "TRIPLANE_KAFKA" else f"postgresql://nobody:x@{NOWHERE}/triplane"
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "infra.cli", "replay", *SPEND, "--from", "0", "--yes"],
        cwd=ROOT,
        env=spent.environment(**{server: away}),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert b"Traceback" not in done.stderr
    assert time.monotonic() - began < 13, "10 s, and what Python takes to start"


@pytest.fixture
def elsewhere(spent: Running) -> str:
    """A topic to copy to."""
    return new_topic(spent.settings.kafka, 3)


def test_a_copy_tells_what_it_copied_and_is_an_act(spent: Running, elsewhere: str) -> None:
    copy = ("--to-topic", elsewhere, "--topic", "payments.events", "--from", "0")
    chosen = (*copy, "--type", "payments.PaymentCompleted", "--limit", "20")
    dry = spent.cli("replay", *chosen, "--dry-run", "--rate", "1")
    assert dry.returncode == 0, dry.stderr
    text = dry.stdout.decode()
    summary = re.search(r"^20 copied, \d+ skipped", text, re.MULTILINE)
    assert summary
    assert "payments.PaymentCompleted" in text
    assert "a run takes about 20 s; nothing was changed" in text
    asked = spent.cli("replay", *chosen)
    assert asked.returncode == 3
    assert b"this would copy at most 20 messages of type payments.PaymentCompleted, of the " in asked.stderr
    done = spent.cli("replay", *chosen, "--yes", "--reason", "a new environment")
    assert done.returncode == 0, done.stderr
    assert summary[0] in done.stdout.decode()
    acts = "SELECT string_agg(type || why, ' ' ORDER BY at) FROM operations.acts WHERE body ->> 'to' = $1"
    assert asyncio.run(ask(spent, acts, f"topic {elsewhere}")) == (
        "operations.ReplayStarteda new environment operations.ReplayEndeda new environment"
    )


@pytest.mark.parametrize(
    ("sign", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)], ids=["Ctrl-C", "kill -9"]
)
def test_a_copy_is_resumed_by_the_id_that_it_began_with(
    spent: Running, elsewhere: str, sign: signal.Signals, code: int
) -> None:
    copy = ("replay", "--to-topic", elsewhere, "--topic", "payments.events", "--from", "0")
    command = (*copy, "--limit", "30", "--yes")
    first = subprocess.Popen(
        [sys.executable, "-m", "infra.cli", *command, "--rate", "4"],
        cwd=ROOT,
        env=spent.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert first.stdout
    begun = next(line for line in first.stdout if line.startswith("replay "))
    replay_id = begun.split()[1].rstrip(";")
    assert begun == f"replay {replay_id}; go on with: triplane replay --resume {replay_id}\n"
    next(line for line in first.stdout if "copied" in line)
    second = spent.cli(*command)
    assert second.returncode == 3
    assert f"process {first.pid}, is replaying to it already (replay {replay_id})" in second.stderr.decode()
    first.send_signal(sign)
    _, said = first.communicate(timeout=20)
    assert first.returncode == code, said
    resumed = spent.cli("replay", "--resume", replay_id)
    assert resumed.returncode == 0, resumed.stderr
    assert b"30 copied" in resumed.stdout
    again = spent.cli("replay", "--resume", replay_id)
    assert (again.returncode, b"nothing to do" in again.stdout) == (0, True)


def test_a_schema_that_is_not_the_codes_is_refused(spent: Running) -> None:
    asyncio.run(ask(spent, "ALTER TABLE projections.replays RENAME TO later"))
    try:
        done = spent.cli("replay", *SPEND, "--from", "0", "--yes")
    finally:
        asyncio.run(ask(spent, "ALTER TABLE projections.later RENAME TO replays"))
    assert (done.returncode, b"run: triplane migrate" in done.stderr) == (3, True), done.stderr
