"""The cases, found by their modules: each holds one `case`."""

from __future__ import annotations

import importlib
import pkgutil

from tests.benchmarks.harness import Case

CASES: dict[str, Case] = {
    found.name: found
    for info in pkgutil.iter_modules(__path__)
    for found in (importlib.import_module(f"{__name__}.{info.name}").case,)
}
