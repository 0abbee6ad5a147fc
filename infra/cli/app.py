"""Finds the commands, runs one, and turns every outcome into an exit code: a user never sees a traceback."""

from __future__ import annotations

import errno
import os
import pkgutil
import sys
import tomllib
import traceback
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

import infra.cli
from infra.cli.errors import Code, CommandError
from infra.embedded import EmbeddedError
from infra.embedded.lock import HomeTaken
from infra.embedded.process import ROOT
from infra.errors import Refused, TriplaneError
from infra.settings import SettingsError, home_path

FULL = {errno.ENOSPC, errno.EDQUOT}
HELPERS = {"__main__", "app", "errors", "progress", "streams", "terminal"}


def main(arguments: list[str] | None = None) -> int:  # noqa: C901, PLR0911 - one for every way to end
    """Run `triplane` with these arguments (default: the process's) and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _run(_with_home(arguments))
    except CommandError as error:
        return _fail(str(error), error.code)
    except SettingsError as error:
        return _fail(str(error), Code.USAGE)
    except HomeTaken as error:
        return _fail(
            f"{error}: it is up already; stop it with `triplane down`, or choose another --home", Code.REFUSED
        )
    except Refused as error:
        return _fail(str(error), Code.REFUSED)
    except (EmbeddedError, TriplaneError) as error:
        return _fail(str(error), Code.FAILED)
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    except ConnectionError as away:
        return _fail(f"{away.strerror or away}: is the platform up? (triplane status)", Code.FAILED)
    except OSError as error:
        if error.errno in FULL:
            return _fail(
                f"the disk is full ({error.filename or home_path()}): free space, then start again",
                Code.FAILED,
            )
        return _fail(f"{error.filename or 'this machine'}: {error.strerror or error}", Code.FAILED)
    except Exception as error:  # noqa: BLE001 - the last line of defence
        return _fail(f"unexpected {type(error).__name__}: {error}{_trace()}", Code.FAILED)


def modules() -> list[str]:
    """The command modules: everything in infra.cli but the helpers. A module is named after its command or group."""
    return sorted(
        module.name for module in pkgutil.iter_modules(infra.cli.__path__) if module.name not in HELPERS
    )


def application(wanted: str | None = None) -> typer.Typer:
    """The commands; only those of the module named `wanted` where there is one, because imports take most of a start."""
    app = typer.Typer(
        name="triplane",
        help="An event-driven business platform on Apache Kafka and PostgreSQL.",
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Every command takes --home DIR (or TRIPLANE_HOME): the directory of all state.",
    )
    # a callback keeps the command's name in the command line even where there is only one
    app.callback()(_before)
    known = modules()
    for name in [wanted] if wanted in known else known:
        app.add_typer(import_module(f"infra.cli.{name}").commands)
    return app


def _version(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
        typer.echo(f"{project['name']} {project['version']}")
        raise typer.Exit


def _before(
    *,
    version: Annotated[  # noqa: ARG001 - its callback answers
        bool, typer.Option("--version", help="Show the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    return


def _run(arguments: list[str]) -> int:
    wanted = next((argument for argument in arguments if not argument.startswith("-")), None)
    try:
        application(wanted)(arguments, prog_name="triplane")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else Code.FAILED if end.code else Code.DONE
    return Code.DONE


def _with_home(arguments: list[str]) -> list[str]:
    """Take `--home` from wherever it stands (not after `--`) and hand it on in the environment, to child processes too."""
    rest: list[str] = []
    while arguments:
        argument = arguments.pop(0)
        if argument == "--":
            return [*rest, argument, *arguments]
        if argument == "--home" or argument.startswith("--home="):
            value = argument.removeprefix("--home").removeprefix("=") or (
                arguments.pop(0) if arguments else ""
            )
            if not value:
                msg = "--home needs a directory"
                raise CommandError(msg, Code.USAGE)
            os.environ["TRIPLANE_HOME"] = str(Path(value).expanduser().resolve())
        else:
            rest.append(argument)
    return rest


def _fail(message: str, code: Code) -> int:
    print(f"triplane: {message}", file=sys.stderr)
    return code


def _trace() -> str:
    path = home_path() / "logs" / "triplane.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as log:
            log.write(traceback.format_exc())
    except OSError:
        return ""
    return f" (details in {path})"
