"""Shapes: the same code has the same shape in every process, so nothing is folded or built anew without need."""

from __future__ import annotations

import subprocess
import sys

from infra.embedded.process import ROOT

SHAPES = """
from infra.runtime.folding.fingerprints import code, shape
from infra.runtime.catalog import discover
from infra.runtime.messages.codec import shape_of

catalog = discover()
for worker in catalog.workers.values():
    for state in (*worker.aggregates.values(), *worker.locals.values()):
        print(worker.name, state.name, shape_of(state.model))
for saga in catalog.sagas.values():
    for name, state in saga.states.items():
        print(saga.name, name, shape_of(state))
for projection in catalog.projections.values():
    print(projection.name, shape(projection), code(projection))
"""


def test_two_processes_see_the_same_shapes() -> None:
    seen = [
        subprocess.run(
            [sys.executable, "-c", SHAPES], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        for _ in range(3)
    ]
    assert seen[0].count("\n") > 20
    assert seen[1:] == [seen[0]] * 2
