"""``dropcore demo``: what dropout does, in a table and a picture."""

from __future__ import annotations

import argparse
from pathlib import Path

from dropcore.cli._command import Command, Option, Result
from dropcore.cli._shared import CONFIG, THREADS
from dropcore.cli._values import positive

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> Result:
    """Train both networks of `dropcore.demo`, which prints its table while it runs."""
    from dropcore.demo import check_output, run_demo

    check_output(options.output)
    run_demo(options.output, epochs=options.epochs, seeds=options.seeds)
    return Result("")


COMMAND = Command(
    name="demo",
    help="train with and without dropout on noisy digits; a table and a picture",
    description="""
    Train the same network with and without dropout on 800 digits, a fifth of whose labels are
    wrong; print a table and draw the learning curves.
    """,
    examples=("dropcore demo", "dropcore demo --epochs 30 --seeds 1 --output curves.svg"),
    options=(
        Option(
            "--output",
            "the picture to write: .png, .svg, .pdf or another format of matplotlib",
            short="-o",
            kind=Path,
            default=Path("dropcore-demo.png"),
            metavar="PATH",
        ),
        Option("--epochs", "of training", kind=positive, default=100, metavar="N"),
        Option("--seeds", "how often to repeat it", kind=positive, default=3, metavar="N"),
        THREADS,
        CONFIG,
    ),
    run=run,
)
