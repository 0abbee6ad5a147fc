"""What a home remembers: its ports, its secrets, and who is using it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from pathlib import Path

import pytest

from infra.embedded import EmbeddedError
from infra.embedded.lock import HomeTaken, holder, locked
from infra.embedded.ports import LOOPBACK, Ports, free
from infra.embedded.process import python, surroundings
from infra.embedded.secrets import ensure_secrets
from infra.settings import Settings, SettingsError

HOLD = "import sys, pathlib; from infra.embedded.lock import locked\nwith locked(pathlib.Path(sys.argv[1])): print('held', flush=True); input()"


def test_a_port_is_chosen_once_and_remembered(tmp_path: Path) -> None:
    chosen = Ports(tmp_path).claim("kafka")
    assert free(chosen)
    assert Ports(tmp_path).claim("kafka") == chosen
    assert Ports(tmp_path).claim("postgres") != chosen


def test_the_first_choice_gives_way_but_a_remembered_port_does_not(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        busy = taken.getsockname()[1]
        assert Ports(tmp_path).claim("http", first=busy) != busy
        (tmp_path / "ports.json").write_text(json.dumps({"http": busy}))
        with pytest.raises(EmbeddedError, match=rf"port {busy}, which http needs.*TRIPLANE_HTTP_PORT"):
            Ports(tmp_path).claim("http")


@pytest.mark.parametrize("text", ["0", "65536", "http", "-1", "\uff18\uff10"])
def test_what_is_no_port_is_refused_by_the_settings_name(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRIPLANE_KAFKA_PORT", text)
    with pytest.raises(SettingsError, match="TRIPLANE_KAFKA_PORT"):
        Ports(tmp_path).claim("kafka")


def test_secrets_are_made_once_and_only_the_owner_reads_them(tmp_path: Path) -> None:
    first = ensure_secrets(tmp_path)
    assert ensure_secrets(tmp_path) == first
    assert (tmp_path / "secrets.json").stat().st_mode & 0o077 == 0
    assert ensure_secrets(tmp_path / "..") != first


def test_a_missing_secret_is_added_and_the_others_stay(tmp_path: Path) -> None:
    first = ensure_secrets(tmp_path)
    kept = {name: value for name, value in first.items() if name != "stripe_api_key"}
    (tmp_path / "secrets.json").write_text(json.dumps(kept))
    again = ensure_secrets(tmp_path)
    assert {name: again[name] for name in kept} == kept
    assert again["stripe_api_key"] != first["stripe_api_key"]


def test_damaged_secrets_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "secrets.json").write_text('{"master_key": "')
    with pytest.raises(SettingsError, match=r"secrets\.json is not a JSON object"):
        ensure_secrets(tmp_path)
    assert (tmp_path / "secrets.json").read_text() == '{"master_key": "'


def test_a_home_is_held_by_one_process_and_free_again_when_that_is_killed(tmp_path: Path) -> None:
    command = [*python("infra")[:-2], "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings()
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "held\n"
        assert holder(tmp_path) == other.pid
        with pytest.raises(HomeTaken, match=f"in use by process {other.pid}"), locked(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert holder(tmp_path) is None
        with locked(tmp_path):
            pass


def test_settings_are_read_from_the_home_and_the_environment_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TRIPLANE_KAFKA", "TRIPLANE_POSTGRES", "TRIPLANE_MASTER_KEY", "STRIPE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    ensure_secrets(tmp_path)
    with pytest.raises(SettingsError, match="triplane up"):
        Settings.load(tmp_path)
    endpoints = {
        "kafka": "k:1",
        "postgres": "postgresql://a:b@p:2/triplane?sslmode=require",
        "http": "http://h:3",
    }
    (tmp_path / "endpoints.json").write_text(json.dumps(endpoints))
    monkeypatch.setenv("TRIPLANE_KAFKA", "elsewhere:9")
    settings = Settings.load(tmp_path)
    assert (settings.kafka, settings.http_host, settings.http_port) == ("elsewhere:9", "h", 3)
    assert settings.stripe_api_key.startswith("sk_test_")
    login = settings.database("triplane_payments")
    assert login.startswith("postgresql://triplane_payments:")
    assert login.endswith("@p:2/triplane?sslmode=require")
    assert "b@" not in login.removesuffix("@p:2/triplane?sslmode=require")
    for secret in (
        settings.stripe_api_key,
        settings.stripe_webhook_secret,
        "a:b@",
        repr(settings.master_key),
    ):
        assert secret not in repr(settings)
