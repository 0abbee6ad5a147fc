"""A worker process as `triplane work` runs it, with what the benchmark declares: `python -m tests.benchmarks.worker NAME...`."""

from __future__ import annotations

import sys

import infra.runtime.catalog
from infra.cli import main
from tests.benchmarks.catalogue import catalogue


def work(names: list[str]) -> int:
    """Run the product's own command on the benchmark's catalogue."""
    infra.runtime.catalog.discover = catalogue
    return main(["work", *names])


if __name__ == "__main__":
    sys.exit(work(sys.argv[1:]))
