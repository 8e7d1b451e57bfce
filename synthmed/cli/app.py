"""The `synthmed` program: its commands, and how a failure becomes one line and an exit code."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from types import FrameType
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from synthmed.cli import (
    checkpoints,
    demo,
    evaluate,
    evaluate_autoencoder,
    generate,
    inspect,
    pack,
    recipes,
    regenerate,
    train,
    train_autoencoder,
    train_classifier,
    train_diffusion,
    unpack,
    verify,
)
from synthmed.cli.prepare import prepare_app
from synthmed.cli.streams import open_streams
from synthmed.cli.system_errors import system_error
from synthmed.errors import Interrupted, ReaderGone, SynthmedError
from synthmed.runtime import version
from synthmed.runtime.progress import printable

app = typer.Typer(
    name="synthmed",
    help="Synthetic medical images: train generative models, make class-balanced shards, measure what they are worth.",
    epilog="Exit codes: 0 done, 1 bug, 2 usage, 3 bad input, 4 device or system, 5 incomplete, 130/143 interrupted. "
    "SYNTHMED_HOME names the folder of registered models, SYNTHMED_DEBUG=1 shows the trace of an error.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
app.add_typer(prepare_app, name="prepare")
app.command("train")(train.train)
app.command("train-autoencoder")(train_autoencoder.train_autoencoder)
app.command("train-diffusion")(train_diffusion.train_diffusion)
app.command("generate")(generate.generate)
app.command("regenerate")(regenerate.regenerate)
app.command("inspect")(inspect.inspect)
app.command("verify")(verify.verify)
app.command("pack")(pack.pack)
app.command("unpack")(unpack.unpack)
app.command("train-classifier")(train_classifier.train_classifier)
app.command("evaluate")(evaluate.evaluate)
app.command("evaluate-autoencoder")(evaluate_autoencoder.evaluate_autoencoder)
app.command("demo")(demo.demo)
app.add_typer(recipes.recipes, name="recipes")
app.add_typer(checkpoints.checkpoints, name="checkpoints")


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"synthmed {version.__version__}\n")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def synthmed_command(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if context.invoked_subcommand is None:
        sys.stdout.write(context.get_help() + "\n")


def main() -> None:
    """Run the program and exit with one of the documented codes."""
    open_streams()
    signal.signal(signal.SIGTERM, _raise_interrupted)
    signal.signal(signal.SIGINT, _raise_interrupted)
    try:
        code = app(prog_name="synthmed", standalone_mode=False)
        sys.stdout.flush()
    except ReaderGone:
        code = 0
    except TyperException as error:
        _fail(f"{error.format_message().rstrip('.')}{_range(error)} (see {_help_command()})", error.exit_code)
    except (Exception, Interrupted, SystemExit) as error:
        # Typer turns a broken pipe into SystemExit(1).
        pipe = isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
        cause = error.__context__ if pipe else error
        known = cause if isinstance(cause, SynthmedError | Interrupted) else system_error(cause)
        if known is None or os.environ.get("SYNTHMED_DEBUG") == "1":
            raise
        _fail(str(known), known.exit_code)
    sys.exit(code if isinstance(code, int) else 0)


def _raise_interrupted(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number, "finished files are whole; run the same command again to go on")


def _fail(message: str, code: int) -> NoReturn:
    # What was printed before stands above the error, if anybody takes it.
    with contextlib.suppress(ReaderGone, SynthmedError):
        sys.stdout.flush()
    # One line whatever the message holds: scripts read stderr line by line.
    print("error: " + printable(" ".join(message.split())), file=sys.stderr)
    sys.exit(code)


def _range(error: TyperException) -> str:
    """Return what an option that takes a number takes, where that was not said."""
    option = getattr(getattr(getattr(error, "param", None), "type_descriptor", None), "parameter_info", None)
    least, most = getattr(option, "min", None), getattr(option, "max", None)
    return "" if least is None or most is None else f", from {least} to {most}"


def _help_command() -> str:
    known = {command.name for command in app.registered_commands} | {group.name for group in app.registered_groups}
    chosen = [word for word in sys.argv[1:2] if word in known]
    return " ".join(["synthmed", *chosen, "--help"])
