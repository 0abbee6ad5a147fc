"""Housekeeping: a gap in a stream is found, what has served its time goes, and what has not stays."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from structlog.testing import capture_logs

from infra.runtime.messages.ids import INBOX_DAYS
from infra.runtime.running.housekeeping import FORGET, Housekeeping
from infra.runtime.vitals import Vitals
from tests.shop.bench import TENANT, Bench


async def recorded(bench: Bench, key: str, versions: Sequence[int], seconds_ago: float = 0) -> None:
    """Append facts to a stream as nobody does: any versions, at any time."""
    await bench.engine.databases["shop"].execute(
        """INSERT INTO events (id, kind, tenant, key, version, type, schema_version, payload, source, correlation, time, recorded_at)
           SELECT gen_random_uuid(), 'Basket', $1, $2, n, 'shop.Filled', 1, '{}', 'triplane/shop', 'flow', now(),
             now() - make_interval(secs => $4) FROM unnest($3::int[]) n""",
        TENANT,
        key,
        list(versions),
        seconds_ago,
    )


async def keep_house(bench: Bench) -> tuple[Vitals, list[str]]:
    """Give what was counted, and the streams that were complained of."""
    keeping = Housekeeping(bench.engine.databases["shop"], standby_hours=24)
    with capture_logs() as logs:
        await keeping.one_round()
    return keeping.vitals, sorted(it["key"] for it in logs if it["event"] == "gap in a stream")


@pytest.mark.parametrize(
    ("versions", "gap"),
    [([1, 2, 3], False), ([1], False), ([1, 3], True), ([2, 3], True), ([1, 2, 4, 5, 7], True)],
)
async def test_a_gap_in_a_stream_is_found(bench: Bench, versions: list[int], gap: bool) -> None:  # noqa: FBT001
    # given
    await recorded(bench, "basket", versions)

    # when
    vitals, complained = await keep_house(bench)

    # then: once a stream, however many gaps it has
    assert (complained, vitals.counters.get("gaps", 0)) == ((["basket"], 1) if gap else ([], 0))


@pytest.mark.parametrize(("next_version", "gap"), [(4, False), (5, True)])
async def test_what_is_new_is_held_against_the_fact_before_it_however_old_that_is(
    bench: Bench,
    next_version: int,
    gap: bool,  # noqa: FBT001
) -> None:
    # given
    await recorded(bench, "basket", [1, 2, 3], seconds_ago=86_400)
    await recorded(bench, "basket", [next_version])

    # when
    _, complained = await keep_house(bench)

    # then
    assert complained == (["basket"] if gap else [])


async def test_marks_go_after_their_days_and_not_before(bench: Bench) -> None:
    # given
    database = bench.engine.databases["shop"]
    await database.execute(
        """INSERT INTO inbox (key, payload, received_on)
           SELECT gen_random_uuid(), days, CURRENT_DATE - days FROM unnest($1::int[]) days""",
        [0, INBOX_DAYS, INBOX_DAYS + 1, 400],
    )

    # when
    vitals, _ = await keep_house(bench)

    # then
    assert sorted(row["payload"] for row in await bench.rows("inbox")) == [0, INBOX_DAYS]
    assert vitals.counters["forgotten_inbox"] == 2


@pytest.mark.parametrize("table", ["inbox", "published", "effects"])
async def test_what_is_old_is_found_without_reading_what_is_young(bench: Bench, table: str) -> None:
    # given: no plan that reads the whole table, where another one is possible
    async with bench.engine.databases["shop"].transaction() as tx:
        await tx.execute("SET LOCAL enable_seqscan = off")

        # when
        plan = await tx.fetch(f"EXPLAIN SELECT ctid FROM {table} WHERE {FORGET[table]}")

    # then
    assert "Seq Scan" not in "\n".join(row[0] for row in plan)
