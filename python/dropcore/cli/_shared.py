"""Options that several commands have, and how they take effect."""

from __future__ import annotations

import argparse
from pathlib import Path

from dropcore.cli._command import Option
from dropcore.cli._values import at_least_zero, positive

__all__ = [
    "CONFIG",
    "DEVICE",
    "FORCE",
    "JSON",
    "QUIET",
    "SEED",
    "THREADS",
    "DeviceError",
    "apply",
]

RUN = "how it runs"

JSON = Option("--json", "print the result as JSON", flag=True, group=RUN)

CONFIG = Option(
    "--config",
    "defaults of these options from a TOML file; the command line takes precedence",
    kind=Path,
    metavar="FILE",
    group=RUN,
)

SEED = Option(
    "--seed",
    "seed of everything random: the same seed gives the same result, with any number of threads",
    kind=at_least_zero,
    default=0,
    metavar="N",
    group=RUN,
)

THREADS = Option(
    "--threads",
    "number of threads; by default as many as this process may use",
    kind=positive,
    metavar="N",
    group=RUN,
)

DEVICE = Option(
    "--device",
    "cpu or cuda, which needs CuPy and an NVIDIA GPU",
    choices=("cpu", "cuda"),
    default="cpu",
    group=RUN,
)

QUIET = Option("--quiet", "show no progress", flag=True, group=RUN)

FORCE = Option("--force", "replace the output if it exists", flag=True, group=RUN)


class DeviceError(RuntimeError):
    """There is no GPU that can be used."""


def apply(options: argparse.Namespace) -> None:
    """What ``--threads`` and ``--device`` ask for, before the command runs.

    Raises
    ------
    ImportError
        If CuPy is missing.
    DeviceError
        If there is no GPU that can be used.
    """
    if getattr(options, "threads", None) is not None:
        from dropcore import set_num_threads

        set_num_threads(options.threads)
    if getattr(options, "device", "cpu") == "cuda":
        from dropcore._backends.cuda.kernels import require_device

        try:
            require_device()
        except RuntimeError as error:
            raise DeviceError(str(error)) from error
