"""A read model is built anew beside the one that serves: compared at one place, switched to at once, gone back from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import AsyncMock, Mock
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from infra.cli.rebuild import folded
from infra.demo.answers import pending
from infra.errors import Refused
from infra.kafka.admin import PARTITIONS
from infra.postgres.database import open_database
from infra.runtime.asking import questions
from infra.runtime.asking.freshness import Gauge, report
from infra.runtime.asking.questions import Question
from infra.runtime.catalog import Catalog
from infra.runtime.consuming import consumer
from infra.runtime.engine import Engine
from infra.runtime.folding import generations as generating
from infra.runtime.folding.fingerprints import code, kinds, shape
from infra.runtime.folding.generations import READABLE, Behind, Generation
from infra.runtime.intake.following import Following
from infra.runtime.intake.outcomes import Fact, Outcome, Outcomes
from infra.runtime.intake.tokens import Token
from infra.runtime.operating import rebuilding, rolling_back, switching
from infra.runtime.operating.attendance import attendance
from infra.runtime.operating.parked import discard_audited, parked
from infra.runtime.operating.rebuild_acts import Asker, Compared, Progress
from infra.runtime.operating.rebuilding import Rebuild, cancel
from infra.runtime.operating.rolling_back import RolledBack, roll_back
from infra.settings import Settings
from tests.shop.events import Filled, Joined
from tests.shop.site import Heard, Site, changed, filled, opened

TWICE = ('"fills": was.fills + 1', '"fills": was.fills + 2')
NO_GREY = ('if event.colour == "grey":', 'if event.colour == "gray":')
MORE = ("    fills: int = 0\n", '    fills: int = 0\n    """."""\n    last: int | None = None\n')
BASKETS = (
    "@projection.query\nclass Colours(",
    '@projection.query\nclass Baskets(Query[Basket]):\n    """Every basket."""\n\n\n@projection.query\nclass Colours(',
)
MORE_FOLDED = ('"fills": was.fills + 1}', '"fills": was.fills + 1, "last": event.total}')
GONE = 2**31 - 1
"""No process has this number."""
RETYPED = (
    ("    fills: int = 0", '    fills: str = ""'),
    ('"fills": was.fills + 1', '"fills": was.fills + "x"'),
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing more comes in these tests, so what is near the end stays there: the product watches it for longer."""
    monkeypatch.setattr(rebuilding, "STEADY_S", 0.1)
    monkeypatch.setattr(rebuilding, "LOOK_S", 0.05)


@pytest.fixture
async def site(platform: Settings) -> AsyncGenerator[Site]:
    """A shop of its own for each test."""
    async with opened(platform) as site:
        yield site


async def acts(site: Site) -> list[str]:
    rows = await site.fetch("SELECT type, who FROM operations.acts ORDER BY at")
    return [f"{row['type'].removeprefix('operations.')} by {row['who']}" for row in rows]


async def standings(site: Site) -> list[str]:
    return [it.standing for it in (await site.generations()).values()]


async def fills(site: Site, view: str = "colours") -> int:
    return sum(row["fills"] for row in await site.rows(view))


async def given(site: Site, number: int) -> None:
    """Let so many facts be folded by the shop as it is."""
    await site.publish(filled(number))
    async with site.working():
        await site.folded("colours", "fills", number)


# -- what has changed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "same"),
    [
        (('"""Count; nothing of a colour is no row, and grey cannot be counted."""', '"""Count."""'), True),
        (("    if total == 0:\n", "    # nothing is no row\n\n    if (total == 0):\n"), True),
        (("from uuid import UUID", "from uuid import UUID, uuid4"), True),
        (('order = ("-total",)', 'order = ("total",)'), True),
        (TWICE, False),
        (('raise RuntimeError("grey")', "return row"), False),
        (("    total: int = 0", "    total: int = 1"), False),
    ],
)
def test_code_has_changed_when_it_folds_otherwise(
    tmp_path: Path, edit: tuple[str, str], same: object
) -> None:
    before, after = changed(tmp_path), changed(tmp_path, edit)
    digests = [code(it.projections["projections.colours"]) for it in (before, after)]
    assert (digests[0] == digests[1]) is same


@pytest.mark.parametrize(("opens", "ends"), [("if True:", ""), ("try:", "except ImportError:\n    raise\n")])
def test_code_has_changed_when_a_function_in_a_branch_of_its_module_has(
    tmp_path: Path, opens: str, ends: str
) -> None:
    members = 'members = Projection("members")'
    helped = (members, f"{opens}\n    def step() -> int:\n        return 1\n{ends}\n{members}")
    used = ('"fills": was.fills + 1', '"fills": was.fills + step()')
    edits = [(helped, used), (helped, used, ("return 1\n", "return 2\n"))]
    before, after = (code(changed(tmp_path, *it).projections["projections.colours"]) for it in edits)
    assert before != after


def test_the_shape_has_changed_when_rows_are_stored_otherwise(tmp_path: Path) -> None:
    edits = (
        (),
        (("email: Personal[EmailText] | None = None", "email: str | None = None"),),
        (("    colour: Key[str]", "    colour: str"), ("    total: int = 0", "    total: Key[int] = 0")),
    )
    wired = [changed(tmp_path, *edit) for edit in edits]
    assert len({shape(it.projections["projections.members"]) for it in wired}) == 2
    assert len({shape(it.projections["projections.colours"]) for it in wired}) == 2


@pytest.mark.parametrize(
    ("edit", "differ"),
    [
        (("    email: Personal[EmailText] | None = None", "    email: Personal[EmailText]"), set()),
        (("email: Personal[EmailText] | None", "email: str | None"), {"email"}),
        (("    amounts: list[int]", "    amounts: list[int] = []"), set()),
        (("    amounts: list[int]", "    amounts: list[str]"), {"amounts"}),
        (("    total: int = 0", "    total: Key[int] = 0"), {"total", "colour"}),
        (("    fills: int = 0", "    fills: int | None = None"), set()),
        (RETYPED[0], {"fills"}),
    ],
)
def test_what_readers_rely_on_is_of_another_kind_when_it_is_stored_otherwise(
    tmp_path: Path, edit: tuple[str, str], differ: set[str]
) -> None:
    before, after = (
        {
            name: kind
            for wiring in catalog.projections.values()
            for row, view in wiring.rows.items()
            for name, kind in kinds(row, view).items()
        }
        for catalog in (changed(tmp_path), changed(tmp_path, edit))
    )
    assert {name for name in before if before[name] != after[name]} == differ


# -- the rebuild --------------------------------------------------------------------------------------------------------


async def test_changed_code_is_folded_anew_and_readers_see_it_at_once(site: Site, tmp_path: Path) -> None:
    await given(site, 500)
    new, heard = changed(tmp_path, TWICE), Heard()
    await site.migrate(new)
    async with site.working(new):
        assert await standings(site) == ["active"]
        done = await site.rebuild(heard, new)
        assert (done.switched, done.taken_over) == (True, True)
        assert await fills(site) == 1_000
        await site.publish(filled(10))
        await site.folded("colours", "fills", 1_020)
        standby = "SELECT sum(fills) FROM projections.colours_g1 WHERE tenant = $1"
        await site.until(lambda: _is(site, standby, 520))
    assert await standings(site) == ["standby", "active"]
    colours, baskets = heard.diff
    assert (colours.rows_before, colours.rows, colours.changed, colours.new, colours.gone) == (7, 7, 7, 0, 0)
    assert set(colours.sample[0].columns) == {"fills"}
    assert baskets.same
    assert await acts(site) == ["RebuildStarted by alice", "RebuildSwitched by alice"]


async def _is(site: Site, query: str, value: int) -> bool:
    (row,) = await site.fetch(query, site.tenant)
    return bool(next(iter(row.values())) == value)


async def test_without_a_worker_it_is_built_switched_and_said_that_nobody_goes_on(site: Site) -> None:
    await given(site, 100)
    await site.publish(filled(50))
    heard = Heard()
    done = await site.rebuild(heard)
    assert (done.switched, done.taken_over) == (True, False)
    assert 100 <= await fills(site) <= 150, "what serves is never behind what has served"
    assert all(it.same for it in heard.diff), "compared where the serving generation stood, not at the end"
    assert (
        heard.diff[0].rows_before == heard.diff[0].rows == len(await site.fetch("SELECT FROM read.colours"))
    )
    async with site.working():
        await site.folded("colours", "fills", 150)


async def test_an_interrupted_rebuild_goes_on_and_one_of_other_code_begins_anew(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given(site, 800)
    # Small batches, so that there is a middle to be interrupted in.
    monkeypatch.setattr(consumer, "MIN_BATCH", 50)
    monkeypatch.setattr(consumer, "MAX_BATCH", 50)
    async with site.engine() as engine:
        stop = asyncio.Event()

        def tell(it: Progress) -> None:
            if it.done:
                stop.set()

        heard = Heard().asker()
        done = await Rebuild(engine, site.wiring(), Asker(heard.who, heard.why, tell, heard.agree)).run(stop)
    assert not done.switched
    assert await standings(site) == ["active", "building"]
    (read,) = await site.fetch(
        "SELECT sum(next_offset)::int AS far, sum((SELECT b.next_offset FROM projections.checkpoints b WHERE b.generation = 1"
        " AND (b.consumer, b.topic, b.partition) = (c.consumer, c.topic, c.partition)))::int AS whole"
        " FROM projections.checkpoints c WHERE generation = 2"
    )
    go_on = "generation 2 is half-built; go on: triplane rebuild colours"
    assert (await said(site, site.catalog))["building"] == go_on
    again = await site.rebuild()
    assert (again.generation, again.switched) == (2, True)
    assert 0 < again.events == read["whole"] - read["far"] < read["whole"]
    assert folded(again).startswith(f"{read['far']} events were folded before, {again.events} events in ")
    assert await fills(site) == 800

    assert not (await site.rebuild(Heard(agrees=False))).switched
    anew = await site.rebuild(catalog=changed(tmp_path, TWICE))
    assert anew.generation == 4
    assert await fills(site) == 1_600
    assert await standings(site) == ["retired", "standby", "retired", "active"]


async def test_what_was_built_before_a_no_is_used_after_a_yes_and_told(site: Site) -> None:
    await given(site, 100)
    no = await site.rebuild(Heard(agrees=False))
    yes = await site.rebuild()
    assert (no.switched, yes.switched, yes.generation) == (False, True, no.generation)
    assert folded(no).startswith(f"{no.events} events in ")
    assert folded(yes) == f"all its {no.events} events were folded before"


async def test_one_rebuild_at_a_time_and_the_second_operator_hears_of_the_first(site: Site) -> None:
    await given(site, 100)
    waits, goes_on = asyncio.Event(), asyncio.Event()

    async def agree(_: Compared) -> bool:
        waits.set()
        await goes_on.wait()
        return True

    async with site.engine() as engine:
        first = Rebuild(engine, site.wiring(), Asker("alice", "asked for", lambda _: None, agree))
        running = asyncio.create_task(first.run(asyncio.Event()))
        await waits.wait()
        assert "generation 2 is being built by alice on" in (await said(site, site.catalog))["building"]
        with pytest.raises(Refused, match=r"alice on .* is rebuilding colours since"):
            await site.rebuild(who="bob")
        with pytest.raises(Refused, match="alice"):
            await cancel(engine, site.wiring(), Heard().asker("bob"))
        goes_on.set()
        assert (await running).switched


async def test_a_rebuild_whose_process_is_gone_is_told_as_half_built_at_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await given(site, 10)
    # Long before its lease expires.
    monkeypatch.setattr("os.getpid", lambda: GONE)
    told = ""

    async def agree(_: Compared) -> bool:
        nonlocal told
        told = (await said(site, site.catalog))["building"]
        return False

    async with site.engine() as engine:
        asker = Asker("alice", "asked for", lambda _: None, agree)
        await Rebuild(engine, site.wiring(), asker).run(asyncio.Event())
    assert told == "generation 2 is half-built; go on: triplane rebuild colours"


async def test_given_up_it_leaves_nothing(site: Site) -> None:
    await given(site, 100)
    assert not (await site.rebuild(Heard(agrees=False))).switched
    async with site.engine() as engine:
        assert await cancel(engine, site.wiring(), Heard().asker()) == 2
        assert await cancel(engine, site.wiring(), Heard().asker()) is None
    left = await site.fetch(
        """SELECT tablename FROM pg_tables WHERE tablename ~ '^colours.*_g2$'
           UNION ALL SELECT topic FROM projections.checkpoints WHERE generation = 2"""
    )
    assert left == []
    assert await fills(site) == 100
    assert await acts(site) == ["RebuildStarted by alice", "RebuildCancelled by alice"]


async def test_what_operators_discarded_stays_out_and_what_was_parked_is_folded_by_better_code(
    site: Site, tmp_path: Path
) -> None:
    def grey(number: int) -> Filled:
        return Filled(basket_id=UUID(int=number), amount=1, total=1, colour="grey")

    await site.publish([*filled(10), grey(901), grey(902)])
    async with site.working():
        await site.folded("colours", "fills", 10)
        await site.until(lambda: _is(site, "SELECT count(*) FROM projections.parked WHERE tenant = $1", 2))
    async with site.engine() as engine:
        first = next(it for it in await parked(engine.databases["projections"]) if it.tenant == site.tenant)
        assert await discard_audited(engine, first, who="alice", why="asked for")
    heard = Heard()
    await site.rebuild(heard, changed(tmp_path, NO_GREY))
    assert [row["fills"] for row in await site.rows("colours") if row["colour"] == "grey"] == [1]
    assert (heard.diff[0].new, heard.diff[1].new) == (1, 1)


async def test_personal_values_are_sealed_again_and_compared_for_presence_only(site: Site) -> None:
    member = uuid4()
    await site.publish([Joined(member_id=member, email="ada@example.org")])
    async with site.working():
        await site.until(lambda: _is(site, "SELECT count(*) FROM read.members WHERE tenant = $1", 1))
    heard = Heard()
    await site.rebuild(heard, model="members")
    assert heard.diff[0].same
    assert list(heard.diff[0].personal) == ["email"]
    (row,) = await site.rows("members")
    assert "ada" not in row["email"]


async def test_what_rebuilds_has_no_right_to_do_anything_else(site: Site) -> None:
    async with site.engine() as engine:
        for table in ("shop.outbox", "shop.effects", "sagas.outbox", "operations.acts", "intake.outbox"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await engine.databases["projections"].execute(f"DELETE FROM {table}")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            # Who records acts must take the other role on to do anything to a read model.
            await engine.databases["operations"].execute("DELETE FROM projections.generations")


# -- other rows ---------------------------------------------------------------------------------------------------------


async def said(site: Site, catalog: Catalog) -> dict[str, Any]:
    """Give what status says of the model."""
    monitor = await open_database(site.settings, "monitor", size=2)
    gauge = Gauge(monitor, catalog, site.settings.kafka)
    try:
        consumers: list[dict[str, Any]] = report(await gauge.measure())["consumers"]
    finally:
        await gauge.close()
        await monitor.close()
    return next(it for it in consumers if it["name"] == "projections.colours")


async def test_a_new_column_waits_for_the_rebuild_while_readers_go_on(site: Site, tmp_path: Path) -> None:
    await given(site, 200)
    new = changed(tmp_path, MORE, MORE_FOLDED, BASKETS)
    await site.migrate(new)
    await site.publish(filled(10))
    async with site.working(new), site.engine(new) as engine:
        await site.until(
            lambda: _red(site, new, "of the code that built it fold it; run: triplane rebuild colours")
        )
        assert await fills(site) == 200
        assert sum(it["fills"] for it in await site.ask(engine)) == 200, "processes of the old code go on"
        with pytest.raises(Behind, match="lack last"):
            await site.ask(engine, new)
        assert len(await site.ask(engine, new, "baskets")) == 50, "rows that are as the code has them"
        assert (await site.rebuild(catalog=new)).switched
        assert {it["last"] is None for it in await site.ask(engine, new)} == {False}
        await site.folded("colours", "fills", 210)
        assert sum(it["fills"] for it in await site.ask(engine)) == 210
        await site.until(lambda: _green(site, new))
    assert [*(await site.rows("colours"))[0]] == ["tenant", "colour", "total", "fills", "last"]


async def test_a_server_that_has_asked_before_sees_every_switch_at_once(site: Site, tmp_path: Path) -> None:
    new, other = changed(tmp_path, TWICE), changed(tmp_path, *RETYPED)
    async with site.engine() as engine, site.asking(engine) as ask:
        assert [await ask(), await ask()] == [[], []]
        await given(site, 70)
        assert sum(it["fills"] for it in await ask()) == 70
        await site.rebuild(catalog=new)
        assert sum(it["fills"] for it in await ask()) == 140
        await site.rebuild(catalog=other)
        assert await fills(site) == 140, "the old view is there still"
        assert [sum(it["fills"] for it in await ask()) for _ in range(2)] == [140, 140]
        database = engine.databases["projections"]
        await switching.retire(database, 0)
        await database.execute("UPDATE generations SET switched_at = now() - interval '1 minute'")
        await switching.retire(database, 0)
        assert await site.fetch("SELECT FROM pg_views WHERE viewname = 'colours'") == []
        with pytest.raises(Behind, match="lack fills"):
            await ask()


async def _red(site: Site, catalog: Catalog, text: str) -> bool:
    return text in str((await said(site, catalog))["because"])


async def _green(site: Site, catalog: Catalog) -> bool:
    return bool((await said(site, catalog))["state"] == "green")


async def test_after_a_switch_to_another_shape_it_is_the_old_process_that_is_behind(
    site: Site, tmp_path: Path
) -> None:
    await given(site, 30)
    new = changed(tmp_path, *RETYPED)
    async with site.working():
        done = await site.rebuild(catalog=new)
        assert (done.switched, done.taken_over, done.returns) == (True, False, False)
        await site.until(lambda: _red(site, new, "start it again with the release that built them"))
        assert (await said(site, new))["behind_its_code"] is None


async def test_workers_fold_a_generation_before_it_is_switched_to(site: Site, tmp_path: Path) -> None:
    await given(site, 30)
    new, seen = changed(tmp_path, TWICE), list[tuple[int, int]]()

    async def switched(*asked: Any) -> Generation:
        async with site.engine(new) as engine:
            there = await attendance(engine, site.wiring(catalog=new), 2)
        seen.append((there.folding, there.partitions))
        return await switching.switch(*asked)

    async with site.working(new):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(rebuilding, "switch", switched)
            done = await site.rebuild(catalog=new)
        partitions = len(
            await site.fetch(
                "SELECT FROM projections.checkpoints WHERE consumer = 'projections.colours' AND generation = 2"
            )
        )
    assert (done.switched, done.taken_over) == (True, True)
    assert seen == [(1, partitions)]


async def test_code_that_is_behind_is_shown_and_folds_on(site: Site, tmp_path: Path) -> None:
    await given(site, 20)
    new = changed(tmp_path, TWICE)
    async with site.working(new):
        await site.publish(filled(5))
        await site.folded("colours", "fills", 30)
        seen = await said(site, new)
    assert seen["behind_its_code"] == "generation 1 is behind its code; run: triplane rebuild colours"
    assert seen["state"] == "red"


async def test_workers_of_older_functions_leave_what_newer_ones_have_built_alone(
    site: Site, tmp_path: Path
) -> None:
    await given(site, 20)
    new = changed(tmp_path, TWICE)
    async with site.working():
        done = await site.rebuild(catalog=new)
        assert (done.switched, done.taken_over) == (True, False)
        await site.publish(filled(5))
        await site.until(
            lambda: _is(site, "SELECT sum(fills) FROM projections.colours_g1 WHERE tenant = $1", 25)
        )
        await site.until(lambda: _red(site, new, "generation 2 is built by other functions"))
        assert await fills(site) == 40
    async with site.working():
        # It crashed, and was started again.
        await site.until(lambda: _red(site, new, "generation 2 is built by other functions"))
        assert (await said(site, site.catalog))["because"].count("triplane rebuild colours") == 1
        assert await fills(site) == 40
        assert (await site.generations())[2].current(site.wiring(catalog=new))
    async with site.working(new):
        await site.folded("colours", "fills", 50)
        assert (await said(site, new))["behind_its_code"] is None


async def test_what_more_than_one_code_has_folded_is_behind_every_code(site: Site, tmp_path: Path) -> None:
    await given(site, 20)
    new = changed(tmp_path, TWICE)
    await site.rebuild(catalog=new)
    # It is deployed after the switch, so its code is the one to go on with.
    await site.migrate()
    async with site.working():
        await site.publish(filled(5))
        await site.folded("colours", "fills", 45)
    behind = "generation 2 is behind its code; run: triplane rebuild colours"
    for catalog in (site.catalog, new):
        assert (await said(site, catalog))["behind_its_code"] == behind


async def test_every_version_of_a_view_that_fits_goes_on(site: Site, tmp_path: Path) -> None:
    await given(site, 20)
    more = changed(tmp_path, MORE, MORE_FOLDED)
    for catalog in (more, site.catalog, more):
        await site.rebuild(catalog=catalog)
    async with site.working(more):
        await site.publish(filled(5))
        await site.folded("colours_v2", "fills", 25)
    assert await fills(site) == 25
    async with site.working(), site.engine() as engine:
        await site.until(
            lambda: _is(site, "SELECT sum(fills) FROM projections.colours_g3 WHERE tenant = $1", 25)
        )
        await roll_back(engine, site.wiring(), Heard().asker(), asyncio.Event())
        await site.publish(filled(5))
        await site.folded("colours_v2", "fills", 30)


async def test_a_column_of_another_type_makes_a_new_version_of_the_view(site: Site, tmp_path: Path) -> None:
    await given(site, 70)
    new, heard = changed(tmp_path, *RETYPED), Heard()
    async with site.engine(new) as engine:
        with pytest.raises(Behind, match="lack fills"):
            await site.ask(engine, new)
        await site.rebuild(heard, new)
        assert {it["fills"] for it in await site.ask(engine, new)} == {10 * "x"}
        assert {it["fills"] for it in await site.ask(engine)} == {10}, "servers of the old code do not break"
    assert await fills(site) == 70, "analysts' SQL does not break"
    assert {row["fills"] for row in await site.rows("colours_v2")} == {10 * "x"}
    assert list(heard.diff[0].columns_retyped) == ["fills"]
    assert [it.moves_to for it in heard.diff] == ["colours_v2", None]
    assert (await site.generations())[2].views == {
        "colours": "colours_v2",
        "colours_basket": "colours_basket",
    }
    # Nobody folds the old rows with the new code, so what has come since is missing in them.
    await site.publish(filled(7))
    async with site.working(new), site.engine(new) as engine:
        await site.until(
            lambda: _is(site, "SELECT sum(length(fills)) FROM read.colours_v2 WHERE tenant = $1", 77)
        )
        with pytest.raises(Refused, match="start workers of the release that built it first"):
            await roll_back(engine, site.wiring(catalog=new), Heard().asker(), _at_once())
        async with site.engine() as before:
            with pytest.raises(Refused, match="generation 1 is folded by no worker"):
                await roll_back(before, site.wiring(), Heard().asker(), _at_once())
    async with site.working(), site.engine() as engine:
        await site.until(lambda: _is(site, "SELECT sum(fills) FROM read.colours WHERE tenant = $1", 77))
        assert await roll_back(engine, site.wiring(), Heard().asker(), asyncio.Event()) == RolledBack(2, 1)
        assert sum(it["fills"] for it in await site.ask(engine)) == 77
    await site.rebuild(catalog=new)
    assert (await site.generations())[3].views["colours"] == "colours_v2"
    await site.rebuild(heard)
    assert heard.diff[0].moves_to == "colours", "code that comes back has the view that it had"
    assert await fills(site) == 77


def _at_once() -> asyncio.Event:
    """Give a stop that lets one attempt pass."""
    stop = asyncio.Event()
    stop.set()
    return stop


# -- servers of two codes -------------------------------------------------------------------------------------------------


@dataclass
class Seen:
    """What somebody saw who asked on and on."""

    asked: int = 0
    errors: list[str] = field(default_factory=list[str])
    dips: list[str] = field(default_factory=list[str])
    fills: set[object] = field(default_factory=set[object])


@asynccontextmanager
async def asking_on(ask: Callable[[], Awaitable[list[dict[str, Any]]]]) -> AsyncGenerator[Seen]:
    """Ask some 300 times a second as long as the block runs."""
    seen, ended = Seen(), asyncio.Event()

    async def loop() -> None:
        most = 0
        while not ended.is_set():
            try:
                rows = await ask()
            except Exception as error:  # noqa: BLE001 - any at all is one too many
                seen.errors.append(repr(error))
            else:
                total = sum(it["total"] for it in rows)
                if total < most:
                    seen.dips.append(f"{total} after {most}")
                most = max(most, total)
                seen.fills |= {type(it["fills"]) for it in rows}
            seen.asked += 1
            await asyncio.sleep(0.002)

    task = asyncio.create_task(loop())
    try:
        yield seen
    finally:
        ended.set()
        await task


async def more_asked(*everybody: Seen) -> None:
    """Wait until each has been answered many times more."""
    enough = [seen.asked + 20 for seen in everybody]
    async with asyncio.timeout(30):
        while any(seen.asked < due for seen, due in zip(everybody, enough, strict=True)):
            await asyncio.sleep(0.05)


async def retyped_and_back(site: Site, folder: Path) -> tuple[Seen, Seen]:
    """Build rows with a column of another type, switch to them and go back, while servers of both codes answer."""
    await given(site, 70)
    new = changed(folder, *RETYPED)
    async with (
        site.working(),
        site.engine() as engine,
        site.engine(new) as newer,
        site.asking(engine) as ask,
        site.asking(newer, new) as ask_newer,
        asking_on(ask) as earlier,
    ):
        await site.rebuild(catalog=new)
        async with asking_on(ask_newer) as later:
            await more_asked(earlier, later)
            assert await roll_back(engine, site.wiring(), Heard().asker(), asyncio.Event()) == RolledBack(
                2, 1
            )
            await more_asked(earlier, later)
    return earlier, later


async def test_servers_of_either_code_answer_through_a_retyping_switch_and_back(
    site: Site, tmp_path: Path
) -> None:
    earlier, later = await retyped_and_back(site, tmp_path)
    assert (earlier.errors, earlier.dips, earlier.fills) == ([], [], {int})
    assert (later.errors, later.dips, later.fills) == ([], [], {str})
    assert min(earlier.asked, later.asked) > 20


async def test_the_mutant_that_reads_only_what_serves_is_noticed(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = READABLE.replace("standing <> 'building'", "standing = 'active'")
    assert mutant != READABLE
    for module in (generating, questions):
        monkeypatch.setattr(module, "READABLE", mutant)
    for seen in await retyped_and_back(site, tmp_path):
        assert "lack fills" in seen.errors[-1]


async def test_answers_of_earlier_code_say_how_old_they_are(site: Site, tmp_path: Path) -> None:
    await given(site, 70)
    new = changed(tmp_path, *RETYPED)
    async with site.http() as earlier, site.http(new) as later, site.engine() as engine:

        async def ask(server: httpx.AsyncClient, **parameters: Any) -> tuple[int, dict[str, Any]]:
            answer = await server.get("/read/colours/colours", params=parameters)
            return answer.status_code, answer.json()

        async def place() -> str:
            ends = await engine.admin.offsets(
                list((await engine.admin.topics(["shop.events"])).values()), end=True
            )
            (topic, partition), end = max(ends.items(), key=lambda it: it[1])
            return f"{topic}/{partition}/{end - 1}"

        for parameters in ({}, {"at": await place(), "wait": 20}):
            status, problem = await ask(later, **parameters)
            assert (status, problem["type"]) == (503, "urn:triplane:problem:behind_its_code")
            assert "they lack fills" in problem["detail"]
        await site.rebuild(catalog=new)
        await site.publish(filled(200))
        behind = await place()

        async def old_rows_say_so() -> bool:
            status, answer = await ask(earlier)
            assert (status, {it["fills"] for it in answer["items"]}) == (200, {10})
            return (answer["as_of"]["lag_events"] or 0) >= 200 and answer["as_of"]["lag_seconds"] > 0

        async with site.working(new):
            status, answer = await ask(later, at=behind, wait=20)
            assert (status, {type(it["fills"]) for it in answer["items"]}) == (200, {str})
            await site.until(old_rows_say_so)
            status, problem = await ask(earlier, at=behind, wait=0.1)
            assert (status, problem["state"]) == (425, "queued")
        async with site.working():
            # Whoever folds them still keeps them up to date.
            status, answer = await ask(earlier, at=behind, wait=20)
            assert (status, {type(it["fills"]) for it in answer["items"]}) == (200, {int})


@pytest.mark.parametrize(("hours_since_switch", "state"), [(24, "reached"), (26, "applied")])
async def test_a_token_whose_place_is_forgotten_is_good_for_earlier_rows_only_from_before_the_switch(
    site: Site, tmp_path: Path, hours_since_switch: int, state: str
) -> None:
    new, fact = changed(tmp_path, *RETYPED), Fact(uuid4(), "shop.Filled", "b", 1, datetime.now(UTC))
    await site.rebuild(catalog=new)
    await site.fetch(
        """INSERT INTO shop.events (id, kind, tenant, key, version, type, schema_version, payload, source, correlation, time,
             recorded_at) VALUES ($1, 'Basket', $2, 'b', 1, 'shop.Filled', 1, '{}', 'shop', 'c', now(), now() - interval '25 hours')""",
        fact.id,
        site.tenant,
    )
    await site.fetch(
        "UPDATE projections.generations SET switched_at = now() - make_interval(hours => $1)",
        hours_since_switch,
    )
    # Every message has led to this one fact, and nobody knows any more where that was published.
    outcomes = Mock(Outcomes, of=AsyncMock(return_value=Outcome("applied", (fact,))))
    monitor = await open_database(site.settings, "monitor", size=1)
    try:
        states: list[str] = []
        for catalog in (site.catalog, new):
            wiring = site.wiring(catalog=catalog)
            query, row = wiring.queries["colours"]
            rows = Question(wiring, "colours", query, row).read_model
            token = Token(site.tenant, "shop", "shop", "m")
            reached = await Following(monitor, outcomes).token(wiring, rows, token, 0)
            states.append(reached.state)
    finally:
        await monitor.close()
    assert states == [state, "reached"]


# -- back ---------------------------------------------------------------------------------------------------------------


async def test_back_to_the_generation_before_and_no_further(site: Site, tmp_path: Path) -> None:
    await given(site, 100)
    new = changed(tmp_path, TWICE)
    async with site.engine(new) as engine:
        wiring = site.wiring(catalog=new)
        with pytest.raises(Refused, match="no earlier generation that is kept"):
            await roll_back(engine, wiring, Heard().asker(), asyncio.Event())
        await site.rebuild(catalog=new)
        await site.publish(filled(10))
        back = await roll_back(engine, wiring, Heard().asker(), asyncio.Event())
        assert back == RolledBack(2, 1, attended=False)
        assert await roll_back(engine, wiring, Heard().asker(), asyncio.Event()) is None
    assert await standings(site) == ["active", "standby"]
    assert await acts(site) == [f"Rebuild{it} by alice" for it in ("Started", "Switched", "RolledBack")]


async def test_what_somebody_went_back_from_and_nobody_folds_is_not_under_way(site: Site) -> None:
    async def unread(engine: Engine) -> int:
        connection = await asyncpg.connect(site.settings.postgres)
        try:
            return (await pending(connection, engine.admin, site.catalog)).unread
        finally:
            await connection.close()

    await given(site, 20)
    await site.rebuild()
    async with site.engine() as engine:
        await roll_back(engine, site.wiring(), Heard().asker(), asyncio.Event())
        before = await unread(engine)
        behind = "UPDATE projections.checkpoints SET next_offset = 0 WHERE consumer = 'projections.colours'"
        await site.fetch(f"{behind} AND generation = 2")
        assert await unread(engine) == before
        (read,) = await site.fetch(
            "SELECT sum(next_offset)::int AS far FROM projections.checkpoints WHERE consumer = 'projections.colours' AND generation = 1"
        )
        await site.fetch(f"{behind} AND generation = 1")
        assert await unread(engine) == before + read["far"] >= before + 20


async def test_nobody_goes_back_while_the_next_one_is_built(site: Site) -> None:
    await given(site, 100)
    await site.rebuild()
    refused = ""

    async def agree(_: Compared) -> bool:
        nonlocal refused
        async with site.engine() as other:
            with pytest.raises(Refused) as raised:
                await roll_back(other, site.wiring(), Heard().asker("bob"), asyncio.Event())
        refused = str(raised.value)
        return True

    async with site.engine() as engine:
        asker = Asker("alice", "asked for", lambda _: None, agree)
        assert (await Rebuild(engine, site.wiring(), asker).run(asyncio.Event())).switched
    assert refused.startswith("alice on")
    assert await standings(site) == ["retired", "standby", "active"]


async def test_before_a_switch_operators_hear_what_it_gives_up(site: Site, tmp_path: Path) -> None:
    await given(site, 100)
    new, heard = changed(tmp_path, TWICE), Heard()
    await site.rebuild(heard, new)
    assert heard.compared is not None
    assert (heard.compared.superfluous, heard.compared.gives_up) == (False, None)
    await site.rebuild(heard, new)
    assert (heard.compared.superfluous, heard.compared.gives_up, heard.compared.serving) == (True, 1, 2)


async def test_how_long_the_earlier_generation_is_kept_is_for_workers_to_say_not_for_who_goes_back(
    platform: Settings,
) -> None:
    async with opened(platform, standby_hours=0.0) as site:
        await given(site, 10)
        await site.rebuild()
        async with site.engine() as engine:
            back = await roll_back(engine, site.wiring(), Heard().asker(), asyncio.Event())
            assert back == RolledBack(2, 1, attended=False)
            assert engine.settings.standby_hours == 0


async def test_after_its_time_the_earlier_generation_goes_with_its_tables(site: Site) -> None:
    await given(site, 100)
    await site.rebuild()
    async with site.engine() as engine:
        database = engine.databases["projections"]
        assert await switching.retire(database, 24) == []
        assert await standings(site) == ["standby", "active"]
        assert await switching.retire(database, 0) == []
        assert await standings(site) == ["retired", "active"]
        with pytest.raises(
            Refused, match="workers keep one for 24 hours, or what TRIPLANE_STANDBY_HOURS is where"
        ):
            await roll_back(engine, site.wiring(), Heard().asker(), asyncio.Event())
        await database.execute("UPDATE generations SET switched_at = now() - interval '1 minute'")
        assert await switching.retire(database, 24) == ["colours generation 1"]
        assert await switching.retire(database, 24) == []
    assert await site.fetch("SELECT FROM pg_tables WHERE tablename ~ '^colours.*_g1$'") == []
    assert await fills(site) == 100


# -- by itself ----------------------------------------------------------------------------------------------------------


async def test_where_the_settings_say_so_a_worker_rebuilds_by_itself_unless_somebody_went_back(
    platform: Settings, tmp_path: Path
) -> None:
    async with opened(platform, rebuilds_itself=True) as site:
        await given(site, 100)
        new = changed(tmp_path, TWICE)
        async with site.working(new), site.engine(new) as engine:
            await site.folded("colours", "fills", 200)
            await site.until(lambda: _green(site, new))
            assert await roll_back(
                engine, site.wiring(catalog=new), Heard().asker(), asyncio.Event()
            ) == RolledBack(2, 1)
            await asyncio.sleep(2.5)
            assert await standings(site) == ["active", "standby"]
        assert await acts(site) == [
            "RebuildStarted by triplane",
            "RebuildSwitched by triplane",
            "RebuildRolledBack by alice",
        ]


async def test_a_worker_of_older_code_does_not_undo_what_an_operator_has_rebuilt(
    platform: Settings, tmp_path: Path
) -> None:
    async with opened(platform, rebuilds_itself=True) as site:
        await given(site, 100)
        async with site.working():
            done = await site.rebuild(catalog=changed(tmp_path, TWICE))
            assert (done.switched, done.generation) == (True, 2)
            await asyncio.sleep(2.5)
            assert await standings(site) == ["standby", "active"]
            assert await fills(site) == 200


@pytest.fixture
def answer_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the switch commit, and its answer never come."""
    switch, answers = switching.switch, iter([False])

    async def lossy(*given: Any) -> Any:
        done = await switch(*given)
        if not next(answers, True):
            raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")
        return done

    for module in (rebuilding, rolling_back):
        monkeypatch.setattr(module, "switch", lossy)


@pytest.mark.usefixtures("answer_lost")
async def test_a_switch_whose_answer_is_lost_is_found_to_be_done(site: Site) -> None:
    await given(site, 100)
    done = await site.rebuild()
    assert (done.switched, done.generation) == (True, 2)
    assert await standings(site) == ["standby", "active"]


async def test_a_rollback_whose_answer_is_lost_is_found_to_be_done(
    site: Site, request: pytest.FixtureRequest
) -> None:
    await given(site, 100)
    await site.rebuild()
    request.getfixturevalue("answer_lost")
    async with site.engine() as engine:
        stopped = asyncio.Event()
        stopped.set()
        back = await roll_back(engine, site.wiring(), Heard().asker(), stopped)
    assert back == RolledBack(2, 1, attended=False)
    assert await standings(site) == ["active", "standby"]


async def test_a_generation_from_before_code_was_kept_counts_as_today_s_where_its_columns_fit(
    site: Site, tmp_path: Path
) -> None:
    forget = "UPDATE projections.generations SET code = NULL, shape = 0, views = NULL, columns = NULL"
    await site.fetch(forget)
    await site.migrate()
    async with site.engine() as engine:
        assert (await site.generations())[1].current(site.wiring())
        assert await site.ask(engine) == []
    await site.fetch(forget)
    await site.migrate(changed(tmp_path, MORE))
    assert not (await site.generations())[1].current(site.wiring())


# -- last, as it takes from the log what the others read ------------------------------------------------------------------


async def test_a_log_without_its_beginning_is_refused(site: Site) -> None:
    await site.publish(filled(10))
    admin = AdminClient({"bootstrap.servers": site.settings.kafka, "log_level": 0})
    everywhere = [TopicPartition("shop.events", it, -1) for it in range(PARTITIONS)]
    for done in admin.delete_records(everywhere).values():
        await asyncio.to_thread(done.result, 30)
    with pytest.raises(Refused, match=r"shop.events/\d+ begins at offset \d+, not at 0"):
        await site.rebuild()
    assert await standings(site) == ["active"]
