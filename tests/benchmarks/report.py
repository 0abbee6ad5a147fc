"""The figures of a run as tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from tests.benchmarks.harness import RATE


def lines(case: Mapping[str, Any]) -> Iterator[str]:
    """Write one case: a line for each contestant, then the goals."""
    yield ""
    yield f"{case['case']}: {case['events']:,} events"
    if case["asked_events"] < case["usual_events"]:
        yield f"  too few to judge by: beginnings weigh more than among the usual {case['usual_events']:,}, so no goal is judged"
    yield (
        f"  {'':<26}{'events/s: min':>14}{'median':>11}{'max':>11}"
        f"{'CPU s: worker':>15}{'database':>10}{'broker':>8}{'us/event':>10}{'RSS MB':>8}{'WAL MB':>8}{'ratio':>9}"
    )
    yield from _contestant(case["contestant"], case, None)
    for name, baseline in case["baselines"].items():
        yield from _contestant(name, baseline, case["ratios"].get(name))
    yield from _figures(case)
    for goal in case["goals"] if case["asked_events"] >= case["usual_events"] else ():
        sign = "<=" if goal["at_most"] else ">="
        parts = [
            f"{kind} {sign} {goal[kind]:g}: {'met' if goal[met] else 'NOT MET'}"
            for kind, met in (("must", "met"), ("aim", "aim_met"))
            if goal[kind] is not None
        ]
        yield f"  {goal['goal']:<26}{goal['value']:>14.3g}   {', '.join(parts)}"


def _figures(case: Mapping[str, Any]) -> Iterator[str]:
    """Write the medians of whatever else was measured: a line for each figure, a column for each contestant."""
    contestants = {case["contestant"]: case, **case["baselines"]}
    names = [
        name for name, shown in case.items() if name != RATE and isinstance(shown, dict) and "median" in shown
    ]
    if names:
        yield f"  {'':<52}" + "".join(f"{name:>16}" for name in contestants)
    for name in names:
        medians = (shown[name]["median"] if name in shown else None for shown in contestants.values())
        yield f"  {name:<52}" + "".join("" if it is None else f"{it:>16,.2f}" for it in medians)


def _contestant(name: str, shown: Mapping[str, Any], ratio: float | None) -> Iterator[str]:
    cpu = shown["cpu_seconds"]
    spread = shown.get(RATE, {"min": 0.0, "median": 0.0, "max": 0.0})
    yield (
        f"  {name:<26}{spread['min']:>14,.0f}{spread['median']:>11,.0f}{spread['max']:>11,.0f}"
        f"{cpu.get('worker', 0):>15.2f}{cpu.get('database', 0):>10.2f}{cpu.get('broker', 0):>8.2f}"
        f"{shown['cpu_us_per_event']:>10.0f}{shown['peak_rss_mb']:>8.0f}{shown['bytes_written'] / 1e6:>8.1f}"
        f"{'' if ratio is None else format(ratio, '.3g'):>9}"
    )
