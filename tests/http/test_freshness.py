"""Lag and liveness are measured from outside: a frozen worker turns red within seconds, on an idle topic too."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

import httpx

from infra.runtime.asking.freshness import BEHIND_S, Part, Process, engine_report, wrong_with
from tests.http.running import Running
from tests.http.test_ways_in import headers, paid


async def within(seconds: float, probe: Callable[[], Awaitable[bool]]) -> float:
    """Wait until a probe is true, and give how long it took."""
    began = time.monotonic()
    while not await probe():
        assert time.monotonic() - began < seconds, f"not within {seconds} s"
        await asyncio.sleep(0.1)
    return time.monotonic() - began


async def test_a_frozen_worker_turns_red_within_seconds_and_green_again(api: Running) -> None:
    worker = api.processes[0]
    async with httpx.AsyncClient(base_url=api.base, timeout=30, trust_env=False) as client:

        async def red() -> bool:
            answer = await client.get("/readyz")
            return answer.status_code == 503 and not answer.json()["checks"]["workers"]["ok"]

        async def green() -> bool:
            return (await client.get("/readyz")).status_code == 200

        await within(20, green)
        worker.send_signal(signal.SIGSTOP)
        try:
            assert await within(8, red) < 6

            async def named() -> bool:
                return "no sign of life" in ((await _consumers(api))["payments"]["because"] or "")

            await within(8, named)
            async with api.client() as sender:
                answer = await sender.post("/events", json=paid(), headers=headers())
                assert answer.status_code == 202
        finally:
            worker.send_signal(signal.SIGCONT)
        await within(30, green)
        await within(30, lambda: _all_applied(api))


async def _all_applied(api: Running) -> bool:
    report = await engine_report(api.settings)
    return report["state"] == "green" and all(it["lag_events"] in {0, None} for it in report["consumers"])


async def test_lag_is_counted_and_aged_while_a_consumer_is_away(api: Running) -> None:
    """Relays run on, one projection does not: its lag grows in events and in seconds, and nobody else's does."""
    names = [
        name
        for name in (await _names(api))
        if name != "projections.customer_spend" and not name.startswith("relay.")
    ]
    assert api.stop(api.processes[0]) == 0
    part = api.start(
        "work",
        *[name for name in names if not name.startswith(("lanes.", "deadlines."))],
        *await _relays(api),
    )
    try:
        async with api.client(f"t-{uuid4().hex[:8]}") as client:
            for _ in range(3):
                assert (await client.post("/events", json=paid(), headers=headers())).status_code == 202

        async def lagging() -> bool:
            by_name = await _consumers(api)
            spend, history = by_name["projections.customer_spend"], by_name["projections.payment_history"]
            return bool(spend["lag_events"] >= 3 and spend["lag_seconds"] > 1 and history["lag_events"] == 0)

        await within(40, lagging)
        assert (await _consumers(api))["projections.customer_spend"]["because"] == "nobody works for it"
    finally:
        assert api.stop(part) == 0
        api.processes.insert(0, api.processes.pop(api.processes.index(api.start("work"))))
    await within(60, lambda: _all_applied(api))


async def _names(api: Running) -> list[str]:
    return list(await _consumers(api))


async def _relays(api: Running) -> list[str]:
    return [name for name in await _names(api) if name.startswith("relay.")]


async def _consumers(api: Running) -> dict[str, dict[str, Any]]:
    return {it["name"]: it for it in (await engine_report(api.settings))["consumers"]}


async def test_metrics_name_what_is_watched(api: Running) -> None:
    wanted = (
        'triplane_consumer_lag_events{consumer="projections.customer_spend"}',
        'triplane_consumer_lag_seconds{consumer="payments"}',
        'triplane_heartbeat_age_seconds{consumer="relay.intake"}',
        'triplane_outbox_messages{schema="intake"}',
        'triplane_outbox_age_seconds{schema="payments"}',
        'triplane_worker_counter{consumer="payments",what="applied"}',
        'triplane_http_request_seconds_count{method="GET",route="/read/customer_spend/top",status="200"}',
        "triplane_broker_up 1.0",
        'triplane_part_up{consumer="sagas.activation"} 1.0',
    )
    async with api.client() as client:
        await client.get("/read/customer_spend/top?currency=EUR")
        assert (await client.post("/events", json=paid(), headers=headers())).status_code == 202

        async def missing() -> list[str]:
            text = (await client.get("/metrics")).text
            return [line for line in wanted if line not in text]

        async def complete() -> bool:
            return not await missing()

        await within(15, complete)


def test_status_tells_of_the_engine(api: Running) -> None:
    done = api.cli("status", "--json")
    report = json.loads(done.stdout)
    assert {"home", "state", "processes", "endpoints"} <= report.keys()
    assert report["engine"]["state"] in {"green", "red"}


def alive(**changed: Any) -> Process:
    """Give a process that is well."""
    well: dict[str, Any] = {"host": "h", "pid": 1, "beat_age": 0.5, "turn_age": 0.2, "partitions": 12}
    return Process(**{**well, **changed})


def test_what_makes_a_part_red() -> None:
    def judged(*processes: Process, **part: Any) -> list[str]:
        return wrong_with(Part("payments", processes=list(processes), partitions=12, **part))

    assert judged(alive()) == []
    assert judged(alive(partitions=6), alive(partitions=6)) == []
    assert judged() == ["nobody works for it"]
    assert judged(alive(beat_age=5)) == ["no sign of life for 5 s"]
    assert judged(alive(partitions=6), alive(partitions=6, beat_age=5, pid=7)) == [
        "6 of 12 partitions are attended to; process 7 on h is silent"
    ]
    # a killed one whose partitions others have taken over is past
    assert judged(alive(), alive(beat_age=60)) == []
    assert judged(alive(turn_age=30)) == ["process 1 on h has made no turn for 30 s"]
    assert judged(alive(), lag_seconds=BEHIND_S + 1, lag_events=1) == [f"{BEHIND_S + 1:.0f} s behind"]
    assert judged(alive(), red=["stopped: why"]) == ["stopped: why"]
