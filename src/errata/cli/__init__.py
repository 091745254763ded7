"""The command line: one file a group of commands, heavy imports inside the commands."""

import sys
import warnings
from importlib.metadata import version
from typing import Annotated, TextIO

import typer

from errata.cli import (
    ask,
    catalogue,
    doctor,
    edit,
    evaluate,
    export,
    lab,
    ledger,
    models,
    parity,
    phases,
    report,
    reproduce,
    run,
    screen,
    serve,
    sweep,
    trace,
    train,
    tune,
)
from errata.cli.plain import remark
from errata.errors import ErrataError
from errata.files import REFUSALS
from errata.plugins import PluginWarning

__all__ = ["app", "main"]

app = typer.Typer(
    help="Correct facts in a language model, thousands of them, and know what every correction cost.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.command("run")(run.run)
app.command("resume")(run.resume)
app.command("sweep")(sweep.sweep)
app.command("evaluate")(evaluate.evaluate)
app.command("edit")(edit.edit)
app.command("log")(ledger.log)
app.command("undo")(ledger.undo)
app.command("diff")(ledger.diff)
app.command("reapply")(ledger.reapply)
app.command("report")(report.report)
app.command("compare")(report.compare)
app.command("frames")(report.frames)
app.command("methods")(catalogue.methods)
app.command("models")(models.models)
app.command("datasets")(catalogue.datasets)
app.command("tasks")(catalogue.tasks)
app.command("doctor")(doctor.doctor)
app.command("export")(export.export)
app.command("app")(serve.serve)
app.command("screen")(screen.screen)
app.command("trace")(trace.trace)
app.command("train")(train.train)
app.command("tune")(tune.tune)
app.command("phases")(phases.phases)
app.command("reproduce")(reproduce.reproduce)
app.command("ask")(ask.ask)
app.command("parity")(parity.parity)
app.add_typer(lab.app, name="lab")


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"errata {version('errata')}")
        raise typer.Exit


@app.callback()
def _options(
    asked: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Print the version and end.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def _say(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say a warning that is meant for the user in a line; any other as Python does."""
    if issubclass(category, PluginWarning):
        remark(f"warning: {message}")
    else:
        sys.stderr.write(warnings.formatwarning(message, category, filename, lineno, line))


def main() -> None:
    """Run the command line; user errors end with a message and status 1, an interruption with 130."""
    warnings.showwarning = _say
    try:
        app()
    except ErrataError as e:
        sys.stderr.write(f"error: {e}\n")
        sys.exit(1)
    except OSError as e:
        if e.errno not in REFUSALS:
            raise
        sys.stderr.write(
            f"error: {e.filename or 'a file'}: {e.strerror}. Make room, mend the disk, or change places.\n"
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
