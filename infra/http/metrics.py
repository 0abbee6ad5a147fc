"""Figures for Prometheus: what this server does, and what the gauge measured of everything else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client import Gauge as Level

from infra.runtime.asking.freshness import Freshness

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
Labels = TypeVar("Labels", bound=tuple[str, ...])


class Metrics:
    """A registry of its own: nothing of a library's slips in."""

    def __init__(self) -> None:
        """Begin with nothing counted."""
        self.registry = CollectorRegistry()
        self.requests = Histogram(
            "triplane_http_request_seconds",
            "How long requests took.",
            ("method", "route", "status"),
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self.admitted = Counter(
            "triplane_http_messages",
            "Messages that came in by HTTP.",
            ("way", "outcome"),
            registry=self.registry,
        )
        self.webhooks = Counter(
            "triplane_webhooks",
            "Webhooks by what became of them.",
            ("provider", "outcome"),
            registry=self.registry,
        )
        self._levels: dict[str, Level] = {}

    def text(self, measured: Freshness) -> bytes:
        """Give all figures in Prometheus' text format."""
        self._set("broker_up", "Whether the broker answers.", {(): float(measured.broker)})
        parts = measured.parts
        by_name = ("consumer",)
        self._set(
            "part_up",
            "Whether somebody works for a consumer, relay or lane as they should (1) or not (0).",
            {(name,): float(not part.red) for name, part in parts.items()},
            by_name,
        )
        self._set(
            "consumer_lag_events",
            "Events on the broker that a consumer has not applied.",
            {(name,): part.lag_events for name, part in parts.items() if part.lag_events is not None},
            by_name,
        )
        self._set(
            "consumer_lag_seconds",
            "How long the oldest event that a consumer has not applied has been waiting.",
            {(name,): part.lag_seconds for name, part in parts.items() if part.lag_seconds is not None},
            by_name,
        )
        self._set(
            "heartbeat_age_seconds",
            "Since when the liveliest process of a consumer has shown no life.",
            {
                (name,): min(it.beat_age for it in part.processes)
                for name, part in parts.items()
                if part.processes
            },
            by_name,
        )
        self._set(
            "heartbeat_oldest_seconds",
            "The same of the process that has shown no life for longest: a frozen one shows here first.",
            {
                (name,): max(it.beat_age for it in part.processes)
                for name, part in parts.items()
                if part.processes
            },
            by_name,
        )
        self._set(
            "parked_messages",
            "Messages that wait for an operator.",
            {(name, reason): count for name, part in parts.items() for reason, count in part.parked.items()},
            ("consumer", "reason"),
        )
        self._set(
            "worker_counter",
            "What the living processes of a consumer have counted since they started: applied, duplicates, ...",
            {(name, what): count for name, part in parts.items() for what, count in part.counters.items()},
            ("consumer", "what"),
        )
        outboxes = measured.outboxes
        self._set(
            "outbox_messages",
            "Messages committed and not published.",
            {(name,): outbox.depth for name, outbox in outboxes.items()},
            ("schema",),
        )
        self._set(
            "outbox_age_seconds",
            "How long the oldest of them has been waiting.",
            {(name,): outbox.age for name, outbox in outboxes.items()},
            ("schema",),
        )
        self._set(
            "effects_open", "Outside effects that are not done.", measured.effects, ("consumer", "standing")
        )
        self._set(
            "sagas_stuck",
            "Sagas that need an operator.",
            {(k,): v for k, v in measured.sagas_stuck.items()},
            ("saga",),
        )
        self._set(
            "early_events_old",
            "Events that have waited for their saga for more than a day.",
            {(k,): v for k, v in measured.early_old.items()},
            ("saga",),
        )
        self._set(
            "webhooks_parked", "Signed webhooks that wait for an operator.", {(): measured.webhooks_parked}
        )
        return generate_latest(self.registry)

    def _set(
        self, name: str, meaning: str, values: Mapping[Labels, float], labels: tuple[str, ...] = ()
    ) -> None:
        level = self._levels.get(name)
        if level is None:
            level = self._levels[name] = Level(f"triplane_{name}", meaning, labels, registry=self.registry)
        if labels:
            # What is gone must not go on being shown.
            level.clear()
            for at, value in values.items():
                level.labels(*at).set(value)
        else:
            level.set(sum(values.values()))
