"""Takes what is published now as what is promised: `./triplane test --accept`.

Writes the snapshots of new contracts and of changes that only add, and the names that are stored for ever. A change that breaks what is published is refused
(exit code 3), and then nothing is written. The map in README.md promises nothing: it is drawn as the code is.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.architecture.test_permanent_names import write_down_new
from tests.contracts.published import SNAPSHOTS, Snapshot, changes, complaint, published, recorded, write
from tests.readme.event_map import renew

REFUSED = 3


def update(now: Mapping[str, Snapshot], directory: Path = SNAPSHOTS) -> int:
    """Bring the snapshots in `directory` up to `now`; give the exit code."""
    before = recorded(directory)
    names = sorted({*before, *now})
    broken = [name for name in names if any(it.breaking for it in changes(before.get(name), now.get(name)))]
    for name in broken:
        print(complaint(name, before.get(name), now.get(name)), file=sys.stderr)
    if broken:
        return REFUSED
    stale = [name for name in names if before.get(name) != now[name]]
    for name in stale:
        write(name, now[name], directory)
        told = "; ".join(map(str, changes(before.get(name), now[name])))
        print(f"{name}: {told or 'brought up to date'}")
    print(f"{len(stale)} of {len(names)} snapshots written")
    return 0


if __name__ == "__main__":
    for line in write_down_new():
        print(f"for ever: {line}")
    if renew():
        print("README.md: the map is drawn anew")
    sys.exit(update(published()))
