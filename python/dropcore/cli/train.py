"""``dropcore train``: a network from a table, saved to a file."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from dropcore.cli._command import Command, Option, Result
from dropcore.cli._examples import (
    CLASSIFICATION,
    DATA,
    DROP,
    READING,
    REGRESSION,
    TASK,
    Examples,
    read_examples,
    task_of,
)
from dropcore.cli._fitting import (
    AUTOENCODER,
    OUTPUT,
    SETTINGS,
    Job,
    Parts,
    check_same,
    learn,
    parts_of,
    reconstruction,
    summary,
)
from dropcore.cli._network import NETWORK, OPTIMIZER, SAMPLES, network, optimizer_of
from dropcore.cli._output import check_output, note
from dropcore.cli._shared import CONFIG, DEVICE, FORCE, JSON, QUIET, RUN, SEED, THREADS
from dropcore.cli._values import positive

__all__ = ["COMMAND"]


def run(options: argparse.Namespace) -> Result:
    """Train and save a model."""
    from dropcore.data import Preprocessing
    from dropcore.nn._saving import load

    if options.force and options.resume:
        raise ValueError("--force begins anew and --resume continues: give one of them")
    check_output(
        options.output,
        force=options.force or options.resume,
        instead="--force to replace it, or --resume to continue its training",
    )
    if options.log is not None:
        check_output(options.log, force=options.force or options.resume)
    _check_options(options)
    network(options, 1, 1)  # whose options are checked before the data is read
    examples = read_examples(options.data, options, target=options.target, drop=options.drop or ())
    kind, examples, n_outputs = _task(options, examples)
    tabular = options.model in ("mlp", AUTOENCODER)
    examples = _checked(examples, options, tabular)
    parts = parts_of(examples, kind, options.validation_split, options.seed)
    preprocessing = Preprocessing() if tabular else None
    n_inputs = 0
    if kind == AUTOENCODER:
        assert preprocessing is not None
        preprocessing.fit(parts.training.x)
        n_inputs = len(preprocessing.feature_names_out)
        held_out = parts.held_out
        parts = Parts(
            reconstruction(parts.training, preprocessing),
            None if held_out is None else reconstruction(held_out, preprocessing),
        )
    job = Job(kind, options.output, options.data, options.target, parts, preprocessing)
    model: Any = network(options, n_inputs, n_outputs, regression=kind == REGRESSION)
    resume = options.resume and options.output.exists()
    if resume:
        loaded = load(options.output)
        check_same(model, loaded, job, options)
        model = loaded
        note(f"continuing after epoch {model.training_state.epoch}")
    learn(job, model, optimizer_of(options), options, network=options.model, resume=resume)
    return summary(job, model, what=_name(options.model, kind), extra={})


def _name(network: str, kind: str) -> str:
    return network if network == kind else f"{network} for {kind}"


def _check_options(options: argparse.Namespace) -> None:
    """ValueError for options that have no effect together."""
    if options.model == AUTOENCODER:
        for name in ("target", "task", "balanced"):
            if getattr(options, name):
                raise ValueError(
                    f"--{name} has no effect on an autoencoder, which reconstructs its input; "
                    "leave a column out by --drop"
                )
    elif options.target is None:
        raise ValueError("--target must name the column to predict")
    if options.balanced and options.task == REGRESSION:
        raise ValueError("--balanced is for classes, and the task is a regression")


def _task(options: argparse.Namespace, examples: Examples) -> tuple[str, Examples, int]:
    """The task, the targets as it takes them, and the number of outputs."""
    if options.model == AUTOENCODER:
        return AUTOENCODER, examples, 0
    assert examples.y is not None
    kind, y = task_of(examples.y, options.task)
    if options.balanced and kind != CLASSIFICATION:
        raise ValueError("--balanced is for classes, and the targets are numbers")
    n_outputs = len(set(y.tolist())) if kind == CLASSIFICATION else 1
    return kind, replace(examples, y=y), n_outputs


def _checked(examples: Examples, options: argparse.Namespace, tabular: bool) -> Examples:
    """The inputs as such a network takes them."""
    network = options.model
    if not tabular:
        found = examples.as_numbers(network)
        axes, shape = SAMPLES[network], found.x.shape[1:]
        if options.input_shape is None and len(shape) != len(axes.split(",")):
            near = (*shape, 1)
            such = ",".join(map(str, near)) if len(near) == len(axes.split(",")) else axes
            raise ValueError(
                f"--model {network} takes samples of shape ({axes}), got {shape}: say how to "
                f"arrange the numbers of a sample by --input-shape {such}"
            )
        return found
    if examples.names is None and examples.x.ndim != 2:
        raise ValueError(
            f"--model {network} takes rows of numbers (rows, columns), got x of shape "
            f"{examples.x.shape}: use --model cnn for images and lstm for sequences"
        )
    return examples


COMMAND = Command(
    name="train",
    help="train a network on a table and save it",
    description="""
    Train a network with dropout on a table or on arrays. Missing values are filled in, text
    becomes categories and numbers are standardised; this is learned from the training rows and
    saved with the model. A part of the rows is held out, for early stopping and scores. The model
    is saved after each epoch, or more often by --save-every, so that neither Ctrl-C nor a crash
    loses more than that: the same command with --resume continues as if nothing had happened.
    Under mpirun all processes train one model together, on one machine or on several.
    """,
    examples=(
        "dropcore train cancer.csv --target diagnosis -o cancer.dropcore",
        "dropcore train prices.csv --target price --units 256,256 --rate 0.2 -o p.dropcore",
        "dropcore train digits.npz --target y --model cnn --input-shape 8,8,1 -o digits.dropcore",
        "dropcore train cancer.csv --target diagnosis -o cancer.dropcore --resume",
        "mpirun -n 4 dropcore train big.csv --target y --blocks 4 -o big.dropcore",
    ),
    options=(
        DATA,
        Option("--target", "the column to predict, or the array of an .npz", metavar="COL"),
        OUTPUT,
        *READING,
        DROP,
        TASK,
        *NETWORK,
        *SETTINGS,
        *OPTIMIZER,
        Option(
            "--blocks",
            "cut each batch into so many blocks, a power of two, and add their gradients in one "
            "order: then mpirun -n 1, 2, 4 ... BLOCKS ends with the same bits",
            kind=positive,
            metavar="N",
            group=RUN,
        ),
        Option(
            "--resume",
            "continue the training that the output holds, or begin if there is none",
            flag=True,
            group=RUN,
        ),
        FORCE,
        SEED,
        THREADS,
        DEVICE,
        QUIET,
        JSON,
        CONFIG,
    ),
    run=run,
)
