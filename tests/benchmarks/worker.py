"""A worker process as `triplane work` runs it, with what the benchmark declares.

`python -m tests.benchmarks.worker [--without-relays] NAME...`: the command always runs the relay of a context beside its
worker; where the one is measured, the other must not take part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import infra.runtime.catalog
from infra.cli import main
from infra.runtime.catalog import Catalog, Wiring
from infra.runtime.running import workers
from tests.benchmarks.catalogue import catalogue

WITHOUT_RELAYS = "--without-relays"


def work(arguments: list[str]) -> int:
    """Run the product's own command on the benchmark's catalogue."""
    infra.runtime.catalog.discover = catalogue
    names = [it for it in arguments if it != WITHOUT_RELAYS]
    if names != arguments:
        select = workers.select

        def consumers(catalog: Catalog, names: Iterable[str]) -> tuple[list[Wiring], list[str]]:
            return select(catalog, names)[0], []

        workers.select = consumers
    return main(["work", *names])


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
