"""A worker process as `triplane work` runs it, with the benchmark's outside effect: `python -m tests.benchmarks.calling NAME...`."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import infra.runtime.catalog
import infra.wiring
from infra.cli import main
from infra.settings import Settings
from tests.benchmarks.calls import Outside, catalogue
from tests.benchmarks.outside import SOCKET, Client


def ports(settings: Settings) -> Mapping[type, object]:
    """Implement what the effect asks for."""
    return {Outside: Client(settings.home / SOCKET)}


if __name__ == "__main__":
    infra.runtime.catalog.discover = catalogue
    infra.wiring.ports = ports
    sys.exit(main(["work", *sys.argv[1:]]))
