"""From the words of a command line to the exit status."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Final

import dropcore
from dropcore.cli._command import Command
from dropcore.cli._defaults import with_defaults
from dropcore.cli._output import as_options, check_files, note, print_result
from dropcore.cli._ranks import communicator, leads, ranks
from dropcore.cli._shared import DeviceError, apply
from dropcore.cli.bench import COMMAND as BENCH
from dropcore.cli.demo import COMMAND as DEMO
from dropcore.cli.evaluate import COMMAND as EVALUATE
from dropcore.cli.explain import COMMAND as EXPLAIN
from dropcore.cli.info import COMMAND as INFO
from dropcore.cli.predict import COMMAND as PREDICT
from dropcore.cli.report import COMMAND as REPORT
from dropcore.cli.reproduce import COMMAND as REPRODUCE
from dropcore.cli.train import COMMAND as TRAIN
from dropcore.cli.tune import COMMAND as TUNE
from dropcore.distributed._group import joined

__all__ = ["COMMANDS", "main", "parser"]

COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        TRAIN,
        TUNE,
        PREDICT,
        EVALUATE,
        REPORT,
        EXPLAIN,
        DEMO,
        REPRODUCE,
        INFO,
        BENCH,
    )
}

FAILURES: Final = (
    ArithmeticError,
    DeviceError,
    ImportError,
    MemoryError,
    OSError,
    TypeError,
    ValueError,
)
"""What is reported in a line; anything else is a mistake of the program and shows where it is."""

EPILOG: Final = """\
results go to stdout or to the file that is named, everything else to stderr.

exit status:
  0    success
  1    an optional package or a GPU is missing; the message says what to install
  2    a wrong argument, or data that cannot be used; the message says what to do
  3    training diverged: the loss or the weights were not finite
  130  interrupted by Ctrl-C; the message says what was saved

`dropcore COMMAND --help` lists the options of a command, with examples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments of the process by default.

    Returns
    -------
    int
        0 for success, 1 if a package or a GPU is missing, 2 for a wrong argument or data that
        cannot be used, 3 if training diverged, 130 after Ctrl-C.

    Raises
    ------
    SystemExit
        With status 2 if the arguments cannot be parsed, and 0 after ``--help`` and ``--version``.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    name = f"dropcore {words[0]}" if words and words[0] in COMMANDS else "dropcore"
    shown = warnings.showwarning
    warnings.showwarning = lambda message, *_, **__: note(
        f"{name}: warning: {as_options(str(message))}"
    )
    try:
        # An error of one process alone ends all of them. One that all have is reported once.
        with joined(communicator()):
            options = parser().parse_args(with_defaults(words, COMMANDS))
            _check_ranks(words)
            check_files(options)
            apply(options)
            result = options.run(options)
        if leads():
            print_result(result, as_json=getattr(options, "json", False))
            sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except FAILURES as error:
        if os.environ.get("DROPCORE_TRACEBACK", "0") not in ("", "0"):
            traceback.print_exc()
        note(f"{name}: {as_options(str(error))}")
        return _status(error)
    finally:
        warnings.showwarning = shown
    return 0


def _check_ranks(words: Sequence[str]) -> None:
    if ranks() > 1 and words[0] != TRAIN.name:
        raise ValueError(
            f"a launcher of MPI has started this command {ranks()} times, and only `dropcore "
            f"{TRAIN.name}` shares its work out: start it once"
        )


def _status(error: Exception) -> int:
    if isinstance(error, ImportError | DeviceError):
        return 1
    return 3 if isinstance(error, FloatingPointError) else 2


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    root = argparse.ArgumentParser(
        prog="dropcore",
        description="Dropout for neural networks at memory speed: from a table to a tuned, saved "
        "and explained model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    root.add_argument("--version", action="version", version=f"dropcore {dropcore.__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="command")
    for command in COMMANDS.values():
        command.add_to(commands)
    return root
