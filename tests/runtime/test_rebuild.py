"""A read model is built anew beside the one that serves: compared at one place, switched to at once, gone back from."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from infra.settings import Settings
from tests.shop.site import Heard, Site, changed, filled, opened

COUNTED = '"fills": was.fills + 1=>"fills": was.fills + 2'


@pytest.fixture
async def site(platform: Settings) -> AsyncGenerator[Site]:
    """A shop of its own for each test."""
    async with opened(platform) as site:
        yield site


async def test_changed_code_is_folded_anew_and_readers_see_it_at_once(site: Site, tmp_path: Path) -> None:
    facts = filled(2_000)
    await site.publish(facts)
    async with site.working():
        await site.folded("colours", "fills", 2_000)
    new, heard = changed(tmp_path, fold=COUNTED), Heard()
    await site.migrate(new)
    async with site.working(new):
        assert (await site.generations())[1].standing == "active"
        done = await site.rebuild(heard, new)
        assert done.switched
        assert done.taken_over
        assert sum(row["fills"] for row in await site.rows("colours")) == 4_000
        await site.publish(filled(10))
        await site.folded("colours", "fills", 4_020)
    assert [it.standing for it in (await site.generations()).values()] == ["standby", "active"]
    colours, baskets = heard.diff
    assert (colours.rows, colours.changed, colours.new, colours.gone) == (7, 7, 0, 0)
    assert baskets.same
