"""`secateur`: the command line. Each command is one function in a module of this package."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

import secateur
from secateur.cli.advise import advise
from secateur.cli.bisect import bisect
from secateur.cli.build import build
from secateur.cli.command import Command, command_of
from secateur.cli.compare import compare
from secateur.cli.compress import compress
from secateur.cli.failures import USAGE, guarded, tell, terminable
from secateur.cli.groups import groups
from secateur.cli.inspect import inspect
from secateur.cli.lint import lint
from secateur.cli.replay import replay
from secateur.cli.run_pass import run_pass
from secateur.cli.sparsity import sparsity
from secateur.cli.text import diff, print_model
from secateur.cli.times import times

COMMANDS: dict[str, Command] = {
    "inspect": inspect,
    "groups": groups,
    "sparsity": sparsity,
    "advise": advise,
    "times": times,
    "compress": compress,
    "replay": replay,
    "compare": compare,
    "lint": lint,
    "build": build,
    "print": print_model,
    "diff": diff,
    "run-pass": run_pass,
    "bisect": bisect,
}

# What typer raises for a mistake on the command line; whether it brings click along or needs it depends on its version.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="secateur",
    help="Makes neural networks smaller and faster without retraining: prune, sparsify, quantize, build engines.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _name, _command in COMMANDS.items():
    app.command(_name)(command_of(_command))


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"secateur {secateur.__version__}")
        raise typer.Exit


@app.callback()
def _callback(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def main(arguments: Sequence[str]) -> int:
    """Runs one command and returns its exit code: 0 for success only, 2 for mistakes on the command line."""
    asked_for_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        # Names in a model need not be text in the terminal's encoding, or text at all.
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")

    def work() -> int:
        try:
            code = app(args=list(arguments), prog_name="secateur", standalone_mode=False)
        except _UsageError as error:
            return _explain_usage(error, asked_for_json)
        return code if isinstance(code, int) else 0

    with terminable():
        return guarded(work, json=asked_for_json, debug="--debug" in arguments)


def _explain_usage(error: Any, json: bool) -> int:
    context = error.ctx
    message = error.format_message()
    if not message or (context is not None and message == context.get_help()):
        sys.stderr.write(f"{context.get_help()}\n" if context is not None else "")
        return USAGE
    path = context.command_path if context is not None else "secateur"
    tell(message.rstrip("."), f"see `{path} --help`", json=json)
    return USAGE


def run() -> None:
    """The entry point of the `secateur` script."""
    sys.exit(main(sys.argv[1:]))
