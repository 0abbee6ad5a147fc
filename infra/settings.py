"""Where this process finds its servers and keys: one frozen value, read once, from the state home and the environment."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast
from urllib.parse import quote, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

MASTER_KEY_BYTES = 32
DEFAULT_HOME = Path(__file__).resolve().parent.parent / ".triplane"
STRIPE_LIVE = "https://api.stripe.com"


class SettingsError(Exception):
    """A setting is missing or wrong; the message names it and the remedy."""


def home_path(given: Path | None = None) -> Path:
    """The state home: the given one, else TRIPLANE_HOME, else `.triplane` in the repository."""
    return (given or Path(os.environ.get("TRIPLANE_HOME") or DEFAULT_HOME)).expanduser().resolve()


@dataclass(frozen=True)
class Settings:
    """Addresses and keys of one platform. Sources, later wins: endpoints.json, secrets.json, environment."""

    home: Path
    kafka: str
    """Bootstrap servers, `host:port[,host:port]`."""
    postgres: str = field(repr=False)
    """URI of the administrator, used for migrations only; every other login comes from `database`."""
    http_host: str
    http_port: int
    development: bool
    """Development homes register unknown tenants at first sight and may use the Stripe simulator."""
    master_key: bytes = field(repr=False)
    stripe_api_base: str | None
    """None means Stripe itself."""
    stripe_api_key: str = field(repr=False)
    stripe_webhook_secret: str = field(repr=False)
    jwt_issuer: str = "triplane"
    """Who may issue access tokens (`iss`)."""
    jwt_audience: str = "triplane-api"
    """Whom an access token must be meant for (`aud`)."""
    rebuilds_itself: bool = False
    """Whether workers rebuild a read model that is behind its code, or wait for an operator's command."""
    standby_hours: float = 24.0
    """How long a worker keeps the generation that served before ready to go back to; as long as it is kept, anybody may."""

    @classmethod
    def load(cls, home: Path | None = None) -> Settings:
        """Read the settings of `home` (default: `home_path()`); SettingsError says what is missing."""
        home = home_path(home)
        endpoints = read_strings(home / "endpoints.json")
        secrets = read_strings(home / "secrets.json")
        env = os.environ
        http = urlsplit(endpoints.get("http", ""))
        live = env.get("STRIPE_API_KEY")
        return cls(
            home=home,
            kafka=_need(home, "TRIPLANE_KAFKA", env.get("TRIPLANE_KAFKA") or endpoints.get("kafka")),
            postgres=_need(
                home, "TRIPLANE_POSTGRES", env.get("TRIPLANE_POSTGRES") or endpoints.get("postgres")
            ),
            http_host=env.get("TRIPLANE_HTTP_HOST") or http.hostname or "127.0.0.1",
            http_port=port("TRIPLANE_HTTP_PORT", env.get("TRIPLANE_HTTP_PORT")) or http.port or 8080,
            development=_development(env),
            master_key=_master_key(env.get("TRIPLANE_MASTER_KEY") or secrets.get("master_key")),
            stripe_api_base=None if live else env.get("TRIPLANE_STRIPE_API_BASE") or endpoints.get("stripe"),
            stripe_api_key=live or secrets.get("stripe_api_key", ""),
            stripe_webhook_secret=env.get("STRIPE_WEBHOOK_SECRET")
            or secrets.get("stripe_webhook_secret", ""),
            rebuilds_itself=_rebuilds_itself(env),
            standby_hours=_hours("TRIPLANE_STANDBY_HOURS", env.get("TRIPLANE_STANDBY_HOURS") or "24"),
        )

    @property
    def instance(self) -> str:
        """What tells this platform from another on the same machine, without telling its secrets."""
        return instance_of(base64.b64encode(self.master_key).decode())

    def password(self, role: str) -> str:
        """The password of a login role: derived, so that any machine with the master key knows it."""
        digest = hmac.digest(self.master_key, f"role:{role}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode()

    def database(self, role: str) -> str:
        """The URI with which `role` logs in to the platform's database."""
        parts = urlsplit(self.postgres)
        host = parts.netloc.rpartition("@")[2]
        return urlunsplit(parts._replace(netloc=f"{quote(role)}:{quote(self.password(role))}@{host}"))


def instance_of(master_key: str) -> str:
    """What tells the platform of this master key (base64) from any other."""
    return hashlib.sha256(b"instance:" + master_key.encode()).hexdigest()[:16]


def port(name: str, text: str | None) -> int | None:
    """The port number in setting `name`, or None where it is not set; SettingsError when it is not a port."""
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65536:
        msg = f"{name} is {text!r}: give a port number between 1 and 65535"
        raise SettingsError(msg)
    return int(text)


def _need(home: Path, name: str, value: str | None) -> str:
    if value:
        return value
    msg = f"the platform is not up in {home}: start it with `triplane up`, name another home with --home, or set {name}"
    raise SettingsError(msg)


def _development(env: Mapping[str, str]) -> bool:
    kind = env.get("TRIPLANE_ENVIRONMENT") or "development"
    if kind not in {"development", "production"}:
        msg = f"TRIPLANE_ENVIRONMENT is {kind!r}: say development or production"
        raise SettingsError(msg)
    return kind == "development"


def _rebuilds_itself(env: Mapping[str, str]) -> bool:
    way = env.get("TRIPLANE_REBUILD") or ("automatic" if _development(env) else "command")
    if way not in {"automatic", "command"}:
        msg = f"TRIPLANE_REBUILD is {way!r}: say automatic or command"
        raise SettingsError(msg)
    return way == "automatic"


def _hours(name: str, text: str) -> float:
    try:
        hours = float(text)
    except ValueError:
        hours = -1.0
    if not 0 <= hours < 1e6:
        msg = f"{name} is {text!r}: give a number of hours, such as 24 or 0.5"
        raise SettingsError(msg)
    return hours


def _master_key(text: str | None) -> bytes:
    if not text:
        msg = "no master key: start the platform with `triplane up`, or set TRIPLANE_MASTER_KEY (base64 of 32 bytes)"
        raise SettingsError(msg)
    try:
        key = base64.b64decode(text, validate=True)
    except binascii.Error:
        key = b""
    if len(key) != MASTER_KEY_BYTES:
        msg = (
            f"the master key (TRIPLANE_MASTER_KEY or secrets.json) must be base64 of {MASTER_KEY_BYTES} bytes"
        )
        raise SettingsError(msg)
    return key


def read_strings(path: Path) -> dict[str, str]:
    """The text values of a JSON object in a file of the home; empty when there is no file."""
    try:
        found: object = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        msg = f"{path} cannot be read: {error.strerror}"
        raise SettingsError(msg) from error
    except ValueError:
        found = None
    if not isinstance(found, dict):
        msg = f"{path} is not a JSON object: restore it, or remove it and start again with `triplane up`"
        raise SettingsError(msg)
    return {key: value for key, value in cast("dict[str, object]", found).items() if isinstance(value, str)}
