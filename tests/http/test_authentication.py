"""Whoever has no fitting token is nobody, whatever the token says of itself."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from infra.http.keys import TYPE, load_keys
from infra.settings import SettingsError
from tests.http.running import Running, plain

URL = "/read/customer_spend/top?currency=EUR"


@dataclass
class Forge:
    """Signs tokens with the home's own key, as they should be or not."""

    kid: str
    private: Any
    public_pem: bytes

    def claims(self, **changed: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": "triplane",
            "aud": "triplane-api",
            "sub": "tester",
            "tenant": "demo-a",
            "roles": ["analyst"],
            "iat": now,
            "exp": now + 600,
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not ...}

    def token(
        self, header: dict[str, Any] | None = None, key: Any = None, alg: str = "EdDSA", **changed: Any
    ) -> str:
        headers = {"kid": self.kid, "typ": TYPE, **(header or {})}
        return jwt.encode(self.claims(**changed), key or self.private, alg, headers)

    def raw(self, header: dict[str, Any], **changed: Any) -> str:
        """Sign whatever header with the right key."""
        parts = [
            base64.urlsafe_b64encode(json.dumps(it).encode()).rstrip(b"=")
            for it in (header, self.claims(**changed))
        ]
        signed = b".".join(parts)
        return (signed + b"." + base64.urlsafe_b64encode(self.private.sign(signed)).rstrip(b"=")).decode()


@pytest.fixture(scope="module")
def forge(api: Running) -> Forge:
    keys = api.home / "keys"
    (private,) = keys.glob("*.private.pem")
    (public,) = keys.glob("*.public.pem")
    key: Any = serialization.load_pem_private_key(private.read_bytes(), None)
    return Forge(private.name.removesuffix(".private.pem"), key, public.read_bytes())


def get(api: Running, *authorizations: str) -> httpx.Response:
    headers = [("Authorization", it) for it in authorizations]
    return plain("GET", api.base + URL, headers=headers)


def hs256(forge: Forge) -> str:
    """Sign by HMAC with the public key as the secret: what a careless library would accept."""
    header = base64.urlsafe_b64encode(
        json.dumps({"alg": "HS256", "kid": forge.kid, "typ": TYPE}).encode()
    ).rstrip(b"=")
    body = base64.urlsafe_b64encode(json.dumps(forge.claims()).encode()).rstrip(b"=")
    import hashlib
    import hmac

    signature = hmac.digest(forge.public_pem, header + b"." + body, hashlib.sha256)
    return (header + b"." + body + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


NOW = time.time
OTHER = generate_private_key(SECP256R1())

WRONG: dict[str, tuple[Callable[[Forge], str], int]] = {
    "2 alg none": (lambda f: jwt.encode(f.claims(), "", "none", {"kid": f.kid, "typ": TYPE}), 401),
    "3 HS256 with the public key": (hs256, 401),
    "4 another algorithm than the key's": (lambda f: f.token(key=OTHER, alg="ES256"), 401),
    "a key of somebody else": (lambda f: f.token(key=Ed25519PrivateKey.generate()), 401),
    "5 unknown kid": (lambda f: f.token({"kid": "key-unknown"}), 401),
    "6 kid is a path": (lambda f: f.token({"kid": "../../etc/passwd"}), 401),
    "6 kid is SQL": (lambda f: f.token({"kid": "' or 1=1--"}), 401),
    "6 kid is a URL": (lambda f: f.token({"kid": "https://example.com/key"}), 401),
    "no kid": (lambda f: f.raw({"alg": "EdDSA", "typ": TYPE}), 401),
    "kid is a number": (lambda f: f.raw({"alg": "EdDSA", "typ": TYPE, "kid": 1}), 401),
    "7 jwk in the header": (
        lambda f: f.token({"jwk": {"kty": "OKP"}, "jku": "https://example.com", "kid": "key-unknown"}),
        401,
    ),
    "8 unknown crit": (
        lambda f: f.raw({"alg": "EdDSA", "kid": f.kid, "typ": TYPE, "crit": ["exp2"], "exp2": 1}),
        401,
    ),
    "9 expired": (lambda f: f.token(iat=NOW() - 900, exp=NOW() - 300), 401),
    "10 not yet valid": (lambda f: f.token(nbf=NOW() + 300), 401),
    "issued in the future": (lambda f: f.token(iat=NOW() + 300, exp=NOW() + 600), 401),
    "11 no exp": (lambda f: f.token(exp=...), 401),
    "no iat": (lambda f: f.token(iat=...), 401),
    "12 lives a hundred years": (lambda f: f.token(exp=NOW() + 3.15e9), 401),
    "12 lives for ever": (lambda f: f.token(exp=1e300), 401),
    "13 wrong audience": (lambda f: f.token(aud="somebody-else"), 401),
    "14 for others, too": (lambda f: f.token(aud=["triplane-api", "somebody-else"]), 401),
    "15 no audience": (lambda f: f.token(aud=...), 401),
    "16 wrong issuer": (lambda f: f.token(iss="somebody"), 401),
    "16 prefix of the issuer": (lambda f: f.token(iss="tripl"), 401),
    "no issuer": (lambda f: f.token(iss=...), 401),
    "17 no tenant": (lambda f: f.token(tenant=...), 403),
    "tenant is a list": (lambda f: f.token(tenant=["demo-a"]), 403),
    "tenant is no id": (lambda f: f.token(tenant="Demo A"), 403),
    "19 roles is a text": (lambda f: f.token(roles="analyst"), 401),
    "roles hold a number": (lambda f: f.token(roles=["analyst", 1]), 401),
    "no roles": (lambda f: f.token(roles=...), 401),
    "20 sub is no text": (lambda f: f.raw({"alg": "EdDSA", "kid": f.kid, "typ": TYPE}, sub=1), 401),
    "sub is empty": (lambda f: f.token(sub=""), 401),
    "sub holds a line break": (lambda f: f.token(sub="a\nb"), 401),
    "22 another kind of token": (lambda f: f.token({"typ": "refresh+jwt"}), 401),
    "22 no kind": (lambda f: f.raw({"alg": "EdDSA", "kid": f.kid}), 401),
    "24 a role for something else": (lambda f: f.token(roles=["webhook"]), 403),
    "not a token": (lambda _: "abc", 401),
    "cut short": (lambda f: f.token()[:-4], 401),
    "body changed": (lambda f: ".".join((f.token().split(".")[0], "e30", f.token().split(".")[2])), 401),
}


@pytest.mark.parametrize("name", WRONG)
def test_refused(api: Running, forge: Forge, name: str) -> None:
    make, status = WRONG[name]
    answer = get(api, f"Bearer {make(forge)}")
    assert (answer.status_code, answer.json()["status"]) == (status, status), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    if status == 401:
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_fitting_tokens_pass(api: Running, forge: Forge) -> None:
    for token in (
        forge.token(),
        forge.token({"typ": "application/AT+JWT"}),
        forge.token(jti="x"),
        forge.token(exp=NOW() + 86_000),
    ):
        assert get(api, f"Bearer {token}").status_code == 200


def test_a_clock_may_be_half_a_minute_off(api: Running, forge: Forge) -> None:
    assert get(api, f"Bearer {forge.token(iat=NOW() + 15, exp=NOW() + 600)}").status_code == 200
    assert get(api, f"Bearer {forge.token(iat=NOW() - 600, exp=NOW() - 15)}").status_code == 200


def test_no_token_other_schemes_and_two_headers(api: Running, forge: Forge) -> None:
    good = f"Bearer {forge.token()}"
    for headers in ((), ("Basic YTpi",), ("Bearer",), (good, good), (forge.token(),)):
        assert get(api, *headers).status_code == 401


def test_a_token_of_100_kb(api: Running) -> None:
    assert get(api, "Bearer " + "a" * 100_000).status_code == 431


def test_23_a_revoked_token(api: Running, forge: Forge) -> None:
    token = forge.token(jti="stolen")
    assert get(api, f"Bearer {token}").status_code == 200
    (api.home / "keys" / "revoked").write_text("other\nstolen\n")
    assert get(api, f"Bearer {token}").status_code == 401
    assert get(api, f"Bearer {forge.token(jti='mine')}").status_code == 200


def test_the_roles_of_each_route(api: Running, forge: Forge) -> None:
    def status(method: str, path: str, *roles: str) -> int:
        headers = {"Authorization": f"Bearer {forge.token(roles=list(roles))}"}
        return plain(method, api.base + path, headers=headers).status_code

    assert status("GET", URL, "publisher", "operator", "pii") == 403
    assert status("POST", "/events", "analyst", "pii", "operator") == 403
    assert status("POST", "/commands/payments/RequestRefund", "analyst") == 403
    assert status("GET", "/commands/x", "analyst") == 403
    assert status("GET", "/commands/x", "operator") == 400


def test_open_routes_need_no_token(api: Running) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/openapi.json", "/asyncapi.json"):
        assert plain("GET", api.base + path).status_code == 200


def test_keys_are_of_two_kinds_and_private_to_their_owner(api: Running, tmp_path: Any) -> None:
    for path in (api.home / "keys").glob("*.pem"):
        assert path.stat().st_mode & 0o077 == 0
    keys: dict[str, Any] = {"a": OTHER.public_key(), "b": Ed25519PrivateKey.generate().public_key()}
    for kid, key in keys.items():
        pem = key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        (tmp_path / f"{kid}.public.pem").write_bytes(pem)
    assert {key.kid: key.algorithm for key in load_keys(tmp_path).values()} == {"a": "ES256", "b": "EdDSA"}
    (tmp_path / "c.public.pem").write_text("not a key")
    with pytest.raises(SettingsError, match=r"c\.public\.pem"):
        load_keys(tmp_path)


@pytest.mark.parametrize("authorizations", [(), ("Bearer abc",), ("Basic abc",)])
def test_who_asks_is_looked_at_before_what(api: Running, authorizations: tuple[str, ...]) -> None:
    headers = [("Authorization", it) for it in authorizations]
    answer = plain("GET", f"{api.base}/read/customer_spend/top?nonsense=1", headers=headers)
    assert answer.status_code == 401
    assert "Authorization: Bearer" in answer.json()["detail"] or "triplane token" in answer.json()["detail"]
