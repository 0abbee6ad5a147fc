"""What the platform declares, and what the benchmark adds: a context with one aggregate, a read model of two tables."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from events import type_of
from infra.runtime.catalog import Catalog, discover, message_types
from infra.runtime.catalog.projection_wiring import wire_projection
from infra.runtime.catalog.worker_wiring import wire_worker
from tests.benchmarks import ledger, spending


@cache
def catalogue() -> Catalog:
    """Wire the platform with the benchmark's own."""
    real = discover()
    messages = (ledger.Deposit, ledger.Deposited, ledger.DepositRefused)
    contracts = {
        **real.contracts,
        **{type_of(it): message_types._contract(type_of(it), {it.version: it}) for it in messages},
    }
    worker = wire_worker(ledger.worker, contracts)
    projection = wire_projection(spending.projection, contracts)
    return replace(
        real,
        contracts=contracts,
        workers={**real.workers, worker.name: worker},
        projections={**real.projections, projection.name: projection},
        contexts=tuple(sorted((*real.contexts, worker.name))),
    )
