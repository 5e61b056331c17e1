"""``dropcore info``: what is installed, and what it runs on."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np

import dropcore
from dropcore._base.extras import EXTRAS
from dropcore.cli._command import Command, Result
from dropcore.cli._shared import JSON

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> Result:
    """The version, the build, the GPU and the installed extras."""
    build = dropcore.build_info()
    device, absence = _gpu()
    missing = {extra: _missing(modules) for extra, modules in EXTRAS.items()}
    data: dict[str, Any] = {
        "dropcore": build["version"],
        "python": platform.python_version(),
        "numpy": np.__version__,
        "isa": build["isa"],
        "isas": list(build["isas"]),
        "threads": build["threads"],
        "openmp": bool(build["openmp"]),
        "gpu": device,
        "extras": {
            extra: {"installed": not gone, "missing": gone} for extra, gone in missing.items()
        },
    }
    lines = {
        "dropcore": data["dropcore"],
        "Python": data["python"],
        "NumPy": data["numpy"],
        "ISA": f"{data['isa']} (of {', '.join(data['isas'])})",
        "threads": data["threads"],
        "OpenMP": "yes" if data["openmp"] else "no: this build runs on a single thread",
        "GPU": device or f"none: {absence}",
    }
    table = [f"{name:<14}{value}" for name, value in lines.items()]
    extras = [
        f"  {extra:<12}" + (f"missing {', '.join(gone)}" if gone else "installed")
        for extra, gone in missing.items()
    ]
    return Result("\n".join([*table, "extras", *extras]), data)


def _gpu() -> tuple[str | None, str]:
    """The device that CuPy uses, and why there is none."""
    from dropcore._backends.cuda.kernels import require_device

    try:
        xp = require_device()
    except (ImportError, RuntimeError) as error:
        return None, str(error)
    name = xp.cuda.runtime.getDeviceProperties(xp.cuda.Device().id)["name"].decode()
    return f"{name}, CuPy {xp.__version__}", ""


def _missing(modules: Sequence[str]) -> list[str]:
    return [module for module in modules if find_spec(module) is None]


COMMAND = Command(
    name="info",
    help="version, instruction set, threads, GPU and extras",
    description="""
    Print the version, the instruction set and the number of threads in use, the GPU, and which
    extras are installed.
    """,
    examples=("dropcore info", "dropcore info --json"),
    options=(JSON,),
    run=run,
)
