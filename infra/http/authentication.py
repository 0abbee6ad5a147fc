"""Who calls: a signed, short-lived token for one tenant, or nobody.

A token is refused unless everything that it must say is there and fits: key, algorithm, type, issuer, audience, times,
subject, tenant, roles. Nothing that it merely suggests (`jku`, `x5u`, `jwk`, its own `alg`) is followed.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, cast

import jwt

from infra.http.keys import TYPE, Key, load_keys, max_life
from infra.http.problems import Problem
from infra.runtime.messages.envelope import TENANT
from infra.settings import Settings, SettingsError

LEEWAY_S: Final = 30
MAX_SUBJECT: Final = 200
REFRESH_S: Final = 60.0
"""An unknown `kid` makes the keys be read anew, at most once in so many seconds."""
REMEMBERED: Final = 10_000
"""How many tokens are remembered as checked."""
REVOKED: Final = "revoked"
"""The file beside the keys that lists the `jti` of tokens that no longer count, one a line."""


class Role(StrEnum):
    """What a caller may do, within the token's tenant."""

    PUBLISHER = "publisher"
    """Send events and commands, and ask what came of them."""
    ANALYST = "analyst"
    """Ask read models; personal values are withheld."""
    PERSONAL = "pii"
    """With `analyst`: personal values are shown."""
    OPERATOR = "operator"
    """Ask what came of messages, and read metrics from elsewhere than the machine itself."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever made a request."""

    tenant: str
    subject: str
    roles: frozenset[str]

    def may(self, *roles: Role) -> None:
        """Return when the caller has any of `roles`; raise 403 otherwise."""
        if self.roles.isdisjoint(roles):
            needed = " or ".join(repr(str(role)) for role in roles)
            raise Problem(403, "role", f"roles: this needs the role {needed}; ask for a token that has it")


class Authenticator:
    """Checks tokens against the keys of a home."""

    def __init__(self, settings: Settings, directory: Path) -> None:
        """Trust the public keys in `directory`, and read them now."""
        self._settings = settings
        self._directory = directory
        self._max_life = max_life(settings)
        self._keys = load_keys(directory)
        self._read_at = time.monotonic()
        self._revocations_file = directory / REVOKED
        self._revoked: tuple[float, frozenset[str]] = (0.0, frozenset())
        self._checked: dict[str, tuple[Key, dict[str, Any]]] = {}
        """Claims of tokens whose signature was checked, by their text, with the key that signed them."""

    def caller(self, headers: Sequence[str]) -> Caller:
        """Give the caller of a request by its Authorization headers; raise 401 or 403."""
        if not headers:
            raise _unauthorized(
                "no token; send Authorization: Bearer <token> (triplane token makes one)", error=None
            )
        scheme, _, token = headers[0].partition(" ")
        if len(headers) > 1 or scheme.lower() != "bearer" or not token:
            raise _unauthorized("send one header Authorization: Bearer <token>")
        claims = self._claims(token.strip())
        subject = claims["sub"]
        if not (0 < len(subject) <= MAX_SUBJECT and subject.isprintable()):
            raise _unauthorized(f"sub: 1 to {MAX_SUBJECT} printable characters")
        roles: object = claims.get("roles")
        if not isinstance(roles, list) or not all(isinstance(it, str) for it in cast("list[object]", roles)):
            raise _unauthorized("roles: must be a list of texts")
        tenant: object = claims.get("tenant")
        if not isinstance(tenant, str) or not TENANT.match(tenant):
            raise Problem(403, "tenant", "tenant: the token is for no tenant; ask for one that names it")
        return Caller(tenant, subject, frozenset(cast("list[str]", roles)))

    def _claims(self, token: str) -> dict[str, Any]:
        """Check a token in full once; afterwards what may have changed since: its time, its key, its revocation."""
        known = self._checked.get(token)
        if known is None or self._keys.get(known[0].kid) is not known[0] or not _in_time(known[1]):
            known = self._checked_now(token)
            if len(self._checked) >= REMEMBERED:
                self._checked.clear()
            self._checked[token] = known
        claims = known[1]
        if claims.get("jti") in self._revocations():
            raise _unauthorized("jti: the token was revoked; get a new one")
        return claims

    def _checked_now(self, token: str) -> tuple[Key, dict[str, Any]]:
        try:
            header = jwt.get_unverified_header(token)
            key = self._key(header)
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[key.algorithm],
                audience=self._settings.jwt_audience,
                issuer=self._settings.jwt_issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iat", "iss", "aud", "sub"], "strict_aud": True},
            )
        except jwt.ExpiredSignatureError:
            raise _unauthorized("exp: the token has expired; get a new one") from None
        except jwt.PyJWTError as wrong:
            raise _unauthorized(
                f"{str(wrong).lower()}: not a whole token of ours (triplane token makes one)"
            ) from None
        except (ValueError, TypeError, OverflowError):
            raise _unauthorized("the token cannot be read") from None
        self._check_life(claims)
        return key, claims

    def _key(self, header: dict[str, Any]) -> Key:
        if str(header.get("typ", "")).lower().removeprefix("application/") != TYPE:
            raise _unauthorized(f"typ: an access token says {TYPE!r}")
        if "crit" in header:
            raise _unauthorized("crit: no extension is understood")
        kid: object = header.get("kid")
        if not isinstance(kid, str):
            raise _unauthorized("kid: must name the key")
        if kid not in self._keys and time.monotonic() - self._read_at > REFRESH_S:
            self._read_at = time.monotonic()
            with contextlib.suppress(SettingsError):
                self._keys = load_keys(self._directory)
        key = self._keys.get(kid)
        if key is None:
            raise _unauthorized("kid: no key of that name")
        if header.get("alg") != key.algorithm:
            raise _unauthorized(f"alg: this key signs with {key.algorithm}")
        return key

    def _check_life(self, claims: dict[str, Any]) -> None:
        issued, expires = claims["iat"], claims["exp"]
        if not all(isinstance(it, int | float) and not isinstance(it, bool) for it in (issued, expires)):
            raise _unauthorized("iat and exp: must be numbers")
        if not 0 < expires - issued <= self._max_life:
            raise _unauthorized(f"exp: a token lives at most {self._max_life} s from iat")

    def _revocations(self) -> frozenset[str]:
        try:
            changed = self._revocations_file.stat().st_mtime
        except OSError:
            return frozenset()
        if changed != self._revoked[0]:
            self._revoked = (changed, frozenset(self._revocations_file.read_text("utf-8").split()))
        return self._revoked[1]


def _in_time(claims: dict[str, Any]) -> bool:
    """Whether a token that was good still is. One that is not is checked in full again, to be told why."""
    return bool(time.time() < claims["exp"] + LEEWAY_S)


def _unauthorized(detail: str, error: str | None = "invalid_token") -> Problem:
    challenge = "Bearer" if error is None else f'Bearer error="{error}"'
    return Problem(401, "unauthorized", detail, headers={"WWW-Authenticate": challenge})
