"""Nothing that is published changes unnoticed, and nothing that breaks a reader changes at all."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest

from tests.contracts.published import SNAPSHOTS, Snapshot, complaint, published, recorded, write
from tests.contracts.update import REFUSED, update

NAME = "payments.PaymentCompleted.v1"


@pytest.mark.parametrize("name", sorted({*published(), *recorded()}))
def test_what_is_published_is_what_was_promised(name: str) -> None:
    wrong = complaint(name, recorded().get(name), published().get(name))
    if wrong:
        pytest.fail(wrong, pytrace=False)


@pytest.fixture
def now() -> dict[str, Snapshot]:
    """One contract, to be changed."""
    return {NAME: deepcopy(published()[NAME])}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Its snapshot, as it was."""
    write(NAME, published()[NAME], tmp_path)
    return tmp_path


def test_the_snapshots_stand_as_the_command_writes_them(tmp_path: Path) -> None:
    for name, snapshot in recorded().items():
        write(name, snapshot, tmp_path)
        assert (SNAPSHOTS / f"{name}.json").read_text("utf-8") == (tmp_path / f"{name}.json").read_text(
            "utf-8"
        )


def test_an_addition_is_written_by_the_command(now: dict[str, Snapshot], kept: Path) -> None:
    now[NAME]["schema"]["properties"]["receipt"] = {"type": "string", "default": ""}
    wrong = complaint(NAME, recorded(kept)[NAME], now[NAME])
    assert wrong is not None
    assert "receipt: is new" in wrong
    assert "python -m tests.contracts.update" in wrong
    assert update(now, kept) == 0
    assert recorded(kept) == now


def test_a_break_is_refused_by_the_command_and_nothing_is_written(
    now: dict[str, Snapshot], kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    del now[NAME]["schema"]["properties"]["provider_ref"]
    assert update(now, kept) == REFUSED
    assert recorded(kept) == {NAME: published()[NAME]}
    told = capsys.readouterr().err
    assert "provider_ref: is gone" in told
    assert 'class PaymentCompletedV1(Past, of="PaymentCompleted", version=1)' in told
    assert "version=2" in told


def test_a_contract_cannot_go(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert update({}, kept) == REFUSED
    assert "put the class back under its name" in capsys.readouterr().err


def test_an_old_version_is_frozen() -> None:
    name = "customers.RecordConversation.v1"
    after = deepcopy(published()[name])
    after["schema"]["required"].append("session_id")
    assert "Version 1 is frozen" in (complaint(name, published()[name], after) or "")
