"""`triplane token`: an access token for the HTTP API, signed by the home's own key."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from infra.cli.errors import Code, CommandError
from infra.settings import Settings

commands = typer.Typer()

_TTL = re.compile(r"([0-9]{1,6})([smh]?)\Z")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600}


@commands.command()
def token(
    tenant: Annotated[str, typer.Option(help="The one tenant that the token is for.")],
    role: Annotated[
        list[str] | None,
        typer.Option(help="publisher, analyst, pii, operator; publisher and analyst by default."),
    ] = None,
    ttl: Annotated[
        str | None, typer.Option(help="How long it lives, such as 90s, 15m, 8h; as long as is allowed.")
    ] = None,
    subject: Annotated[str, typer.Option(help="Who it stands for.")] = "developer",
) -> None:
    """Print a token for `Authorization: Bearer ...`."""
    from infra.http.authentication import MAX_SUBJECT, Role
    from infra.http.keys import max_life, mint
    from infra.runtime.messages.envelope import TENANT

    settings = Settings.load()
    roles = role or [Role.PUBLISHER, Role.ANALYST]
    unknown = set(roles) - set(Role)
    if unknown:
        msg = f"--role {min(unknown)}: there are {', '.join(Role)}"
        raise CommandError(msg, Code.USAGE)
    if not TENANT.match(tenant):
        msg = f"--tenant {tenant!r}: a tenant id is 1 to 63 of a-z, 0-9 and '-'"
        raise CommandError(msg, Code.USAGE)
    if not (0 < len(subject) <= MAX_SUBJECT and subject.isprintable()):
        msg = f"--subject: give 1 to {MAX_SUBJECT} printable characters"
        raise CommandError(msg, Code.USAGE)
    seconds = max_life(settings) if ttl is None else _seconds(ttl)
    if not 0 < seconds <= max_life(settings):
        msg = f"--ttl {ttl}: a token lives 1 to {max_life(settings)} s here"
        raise CommandError(msg, Code.USAGE)
    typer.echo(mint(settings, tenant=tenant, subject=subject, roles=roles, ttl_s=seconds))


def _seconds(text: str) -> int:
    found = _TTL.match(text)
    if found is None:
        msg = f"--ttl {text!r}: write it such as 90s, 15m or 8h"
        raise CommandError(msg, Code.USAGE)
    return int(found[1]) * _SECONDS[found[2]]
