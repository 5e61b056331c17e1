"""The command ``dropcore``."""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import dropcore
from dropcore._base.extras import EXTRAS

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status.

    Parameters
    ----------
    arguments : sequence of str, optional
        The arguments of the process by default.

    Returns
    -------
    int
        0 for success, 1 if a package is missing, 2 for a wrong argument, 130 after Ctrl-C.
    """
    chosen = _parser().parse_args(arguments)
    try:
        status = _run(chosen)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _run(chosen: argparse.Namespace) -> int:
    if chosen.command == "info":
        print(info())
        return 0
    return _demo(chosen.output, chosen.epochs, chosen.seeds)


def info() -> str:
    """The version, the build, the GPU and the installed extras, one line each."""
    build = dropcore.build_info()
    openmp = "yes" if build["openmp"] else "no: this build runs on a single thread"
    lines = {
        "dropcore": build["version"],
        "Python": platform.python_version(),
        "NumPy": np.__version__,
        "ISA": f"{build['isa']} (of {', '.join(build['isas'])})",
        "threads": build["threads"],
        "OpenMP": openmp,
        "GPU": _gpu(),
    }
    table = [f"{name:<14}{value}" for name, value in lines.items()]
    extras = [f"  {name:<12}{_presence(modules)}" for name, modules in EXTRAS.items()]
    return "\n".join([*table, "extras", *extras])


def _demo(output: Path, epochs: int, seeds: int) -> int:
    from dropcore.demo import check_output, run_demo

    try:
        check_output(output)
        run_demo(output, epochs=epochs, seeds=seeds)
    except ImportError as error:
        print(error, file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"dropcore demo: {error}", file=sys.stderr)
        return 2
    return 0


def _gpu() -> str:
    """The device that CuPy uses, or why there is none."""
    from dropcore._backends.cuda.kernels import require_device

    try:
        xp = require_device()
    except (ImportError, RuntimeError) as error:
        return f"none: {error}"
    name = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
    return f"{name}, CuPy {xp.__version__}"


def _presence(modules: Sequence[str]) -> str:
    missing = [module for module in modules if find_spec(module) is None]
    return f"missing {', '.join(missing)}" if missing else "installed"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dropcore", description="Dropout for neural networks at memory speed."
    )
    parser.add_argument("--version", action="version", version=f"dropcore {dropcore.__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    commands.add_parser("info", help="version, instruction set, threads, GPU and extras")
    demo = commands.add_parser(
        "demo", help="train with and without dropout on noisy digits; a table and a picture"
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("dropcore-demo.png"),
        metavar="PATH",
        help="the picture to write: .png, .svg, .pdf or another format of matplotlib "
        "(default: %(default)s)",
    )
    demo.add_argument(
        "--epochs", type=_positive, default=100, metavar="N", help="default: %(default)s"
    )
    demo.add_argument(
        "--seeds", type=_positive, default=3, metavar="N", help="default: %(default)s"
    )
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, got {text!r}")
    return int(text)
