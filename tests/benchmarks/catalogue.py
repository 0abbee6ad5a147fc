"""What the platform declares, and what the benchmark adds: a read model of two tables."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

from infra.runtime.catalog import Catalog, discover
from infra.runtime.catalog.projection_wiring import wire_projection
from tests.benchmarks import spending


@cache
def catalogue() -> Catalog:
    """Wire the platform with the benchmark's own."""
    real = discover()
    projections = [wire_projection(spending.projection, real.contracts)]
    return replace(
        real,
        projections={**real.projections, **{wiring.name: wiring for wiring in projections}},
    )
