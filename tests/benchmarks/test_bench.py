"""The benchmark measures what it says, and does not believe a fast wrong answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import Any

import pytest

from infra.settings import Settings
from tests.benchmarks import __main__ as command
from tests.benchmarks.cases import CASES
from tests.benchmarks.cases.relay import in_order
from tests.benchmarks.checksum import digest
from tests.benchmarks.harness import WrongAnswer, measure
from tests.benchmarks.site import Site
from tests.embedded.jars import software

EVENTS = 5_000
"""With 2,000 a floor needs less CPU than the clock of the system shows, and the first batch is most of it."""


@pytest.fixture(scope="module")
def site(platform: Settings, tmp_path_factory: pytest.TempPathFactory) -> Generator[Site]:
    """Servers that nobody else uses: the benchmark leaves a great many records on the platform's topics."""
    assert platform.kafka, "started, so its jars are there"
    with command.servers(tmp_path_factory.mktemp("bench"), software()) as settings:
        made = Site(settings)
        asyncio.run(made.open())
        yield made


async def test_all_contestants_agree_and_the_figures_are_complete(
    site: Site, capsys: pytest.CaptureFixture[str]
) -> None:
    found: dict[str, Any] = json.loads(json.dumps(await command.bench(["project"], site, EVENTS, 1)))

    assert found["machine"]["fsync"] == "on"
    (case,) = found["cases"]
    assert (case["case"], case["events"]) == ("project", EVENTS)
    assert list(case["baselines"]) == list(CASES["project"].baselines)
    for shown in (case, *case["baselines"].values()):
        spread = shown["events_per_second"]
        assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        assert shown["cpu_seconds"]["worker"] > 0
        assert shown["peak_rss_mb"] > 10
    assert case["bytes_written"] > EVENTS * 300, "less than was sent"
    assert case["ratios"].keys() == case["baselines"].keys()
    for goal in case["goals"]:
        assert goal["met"] == (goal["value"] >= goal["must"])
    said = capsys.readouterr().out
    assert "copy_merge_floor" in said
    assert "too few to judge by: beginnings weigh more than among the usual 200,000" in said


@pytest.mark.parametrize(("case", "answer"), [("project", "both tables"), ("decide", "the events")])
async def test_a_fast_wrong_answer_fails(site: Site, case: str, answer: str) -> None:
    wrong = Site(site.settings, worker_module="tests.benchmarks.mutants", servers=site.servers)
    with pytest.raises(WrongAnswer, match=f"ours: rows and digest of {answer}"):
        await measure(CASES[case], wrong, EVENTS, 1, print)


def test_facts_may_come_again_but_neither_go_missing_nor_overtake_each_other() -> None:
    in_order("relay", [("a", 1), ("b", 1), ("a", 2), ("a", 1), ("a", 2)], 3)
    for found in (
        [("a", 1), ("a", 3), ("a", 2)],
        [("a", 2), ("a", 1)],
        [("a", 1), ("b", 1)],
    ):
        with pytest.raises(WrongAnswer):
            in_order("relay", found, 3)


@pytest.mark.parametrize(
    "other", [[("a", 1)], [("a", 1), ("b", 3)], [("a", 1), ("b", 2), ("b", 2)], [("a", 2), ("b", 1)]]
)
def test_a_digest_tells_rows_apart(other: list[tuple[object, ...]]) -> None:
    rows: list[tuple[object, ...]] = [("a", 1), ("b", 2)]
    assert digest(rows) == digest(reversed(rows))
    assert digest(rows) != digest(other)


def test_an_unknown_case_is_a_usage_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["bench", "nonsense"])
    assert command.main() == 2
    said = capsys.readouterr().err
    assert all(name in said for name in CASES)
