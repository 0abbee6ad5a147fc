"""Which schemas an installation has, and of which parts each is made."""

from __future__ import annotations

from typing import Final

from infra.runtime.catalog import Catalog

SERVICE: Final = ("heartbeats", "engine", "outbox", "service")
"""What every context has: a part is a chain of migrations of that name."""

PLATFORM: Final = {
    "sagas": ("heartbeats", "engine", "outbox", "sagas"),
    "projections": ("heartbeats", "engine", "projections"),
    "read": (),
    "intake": ("heartbeats", "outbox", "intake"),
    "vault": ("vault",),
    "tenancy": ("tenancy",),
    "operations": ("heartbeats", "outbox", "operations"),
    "stripe_simulator": (),
    "monitor": (),
}

ANALYSTS: Final = "triplane_analysts"
"""The role that every tenant's read-only SQL login belongs to."""


def chains(catalog: Catalog) -> dict[str, tuple[str, ...]]:
    """Give every schema with the chains that build it."""
    return {**dict.fromkeys(catalog.contexts, SERVICE), **PLATFORM}
