"""The commands that README.md shows can be typed: the shell reads them, and every option and path exists."""

from __future__ import annotations

import re
import shlex
import subprocess

import pytest
from typer.main import get_command

from infra.cli.app import application
from infra.embedded.process import ROOT
from infra.http.reads import names_of
from infra.runtime.catalog import discover
from tests.readme.blocks import README, Block, blocks

TEXT = README.read_text("utf-8")
SHELL = blocks("sh")
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
OURS = re.compile(r"(?:\./)?triplane ([a-z][^`|;)]*)")


def invocations() -> list[str]:
    """Every `triplane ...` of the blocks, and of the code spans of the prose."""
    spans = re.findall(r"`((?:\./)?triplane [a-z][^`]*)`", PROSE)
    lines = [line.partition(" # ")[0] for it in SHELL for line in it.text.replace("\\\n", " ").splitlines()]
    return sorted({found[1].strip() for text in (*spans, *lines) for found in OURS.finditer(text)})


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.text.split("\n", 1)[0][:40])
def test_the_shell_can_read_it(block: Block) -> None:
    done = subprocess.run(["/bin/sh", "-n"], input=block.text, text=True, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("invocation", invocations())
def test_every_command_and_option_exists(invocation: str) -> None:
    words = [word for word in shlex.split(invocation.replace("...", "").replace("[NAME]", "")) if word]
    at = get_command(application())
    path: list[str] = []
    while words and "commands" in vars(at):
        several = words.pop(0).split("|")
        known = vars(at)["commands"]
        missing = [name for name in several if name not in known]
        assert missing == [], f"triplane {' '.join(path)} has no {missing}; it has {sorted(known)}"
        path.append(several[0])
        at = known[several[0]]
    options = {name for parameter in at.params for name in parameter.opts}
    known_here = (
        {*options, "--home"} if path != ["test"] else {word for word in words if word.startswith("-")}
    )
    assert {word for word in words if word.startswith("--")} <= known_here


def test_every_query_exists() -> None:
    asked = {f"{model}/{query}" for model, query in re.findall(r"triplane query (\w+) (\w+)", TEXT)}
    asked |= set(re.findall(r"\$API/read/(\w+/\w+)", TEXT))
    assert asked - set(names_of(discover())) == {"product_ratings/of_product"}, (
        "only the newcomer's own model is new"
    )


def test_every_place_exists() -> None:
    named = re.findall(r"`((?:events|handlers|projections|sagas|infra|tests|\.ci)/[\w./]*)`", PROSE)
    named += re.findall(r"\]\(([\w./]+)\)", PROSE)
    new = {block.name for block in blocks() if block.name}
    assert [name for name in named if name not in new and not (ROOT / name).exists()] == []
