"""The keys of access tokens: public ones by `kid` to check with, and in a development home a private one to sign with.

`<home>/keys/<kid>.public.pem` is all that a server needs; an identity provider keeps its private key to itself. The
algorithm belongs to the key (Ed25519: EdDSA, P-256: ES256), never to the token.
"""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from infra.settings import Settings, SettingsError

TYPE: Final = "at+jwt"
"""The `typ` of access tokens (RFC 9068): no other kind of token passes for one."""

DEVELOPMENT_S: Final = 24 * 3600
"""The longest life of a token in a development home, in seconds."""
PRODUCTION_S: Final = 15 * 60

_PUBLIC: Final = ".public.pem"
_PRIVATE: Final = ".private.pem"
_KID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclass(frozen=True, slots=True)
class Key:
    """A public key with the one algorithm that it is good for."""

    kid: str
    algorithm: str
    key: Any


def max_life(settings: Settings) -> int:
    """Give the longest life that a token may have, in seconds."""
    return DEVELOPMENT_S if settings.development else PRODUCTION_S


def ensure_keys(home: Path) -> Path:
    """Make a key pair where the home has no key at all, and give the directory of keys (two at once make two: both are good)."""
    directory = home / "keys"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    if any(directory.glob(f"*{_PUBLIC}")):
        return directory
    private = Ed25519PrivateKey.generate()
    kid = f"key-{secrets.token_hex(4)}"
    draft = directory / f".{kid}"
    draft.mkdir(mode=0o700)
    _write(
        draft / f"{kid}{_PRIVATE}",
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    _write(
        draft / f"{kid}{_PUBLIC}",
        private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ),
    )
    # The private key comes first: whoever sees the public one can count on it.
    for name in (f"{kid}{_PRIVATE}", f"{kid}{_PUBLIC}"):
        (draft / name).replace(directory / name)
    draft.rmdir()
    return directory


def load_keys(directory: Path) -> dict[str, Key]:
    """Read the public keys; SettingsError names a file that holds none that we take."""
    found = {}
    for path in sorted(directory.glob(f"*{_PUBLIC}")):
        kid = path.name.removesuffix(_PUBLIC)
        try:
            key = serialization.load_pem_public_key(path.read_bytes())
        except (ValueError, OSError) as wrong:
            msg = f"{path} is no public key in PEM: {wrong}"
            raise SettingsError(msg) from wrong
        match key:
            case Ed25519PublicKey():
                algorithm = "EdDSA"
            case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
                algorithm = "ES256"
            case _:
                msg = f"{path}: use an Ed25519 or P-256 key; others are not taken"
                raise SettingsError(msg)
        if not _KID.match(kid):
            msg = f"{path}: a key's name is 1 to 64 letters, digits, '-' and '_'"
            raise SettingsError(msg)
        found[kid] = Key(kid, algorithm, key)
    return found


def mint(settings: Settings, *, tenant: str, subject: str, roles: Collection[str], ttl_s: int) -> str:
    """Sign a token with the home's own key; SettingsError where the home has none."""
    directory = ensure_keys(settings.home)
    path = next(iter(sorted(directory.glob(f"*{_PRIVATE}"))), None)
    if path is None:
        msg = f"{directory} has no private key: tokens come from your identity provider, which signs with its own"
        raise SettingsError(msg)
    now = int(time.time())
    claims = {
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "sub": subject,
        "tenant": tenant,
        "roles": sorted(roles),
        "iat": now,
        "exp": now + ttl_s,
        "jti": secrets.token_hex(8),
    }
    key: Any = serialization.load_pem_private_key(path.read_bytes(), None)
    algorithm = "EdDSA" if isinstance(key, Ed25519PrivateKey) else "ES256"
    return jwt.encode(claims, key, algorithm, {"kid": path.name.removesuffix(_PRIVATE), "typ": TYPE})


def _write(path: Path, pem: bytes) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
