"""``dropcore tune``: the rate, the width and the rest from the data; then the model itself."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from dropcore.cli._command import Command, Option, Result
from dropcore.cli._examples import (
    CLASSIFICATION,
    DATA,
    DROP,
    READING,
    REGRESSION,
    TASK,
    read_examples,
    task_of,
)
from dropcore.cli._fitting import OUTPUT, SETTINGS, Job, learn, parts_of, summary
from dropcore.cli._network import (
    ACTIVATION,
    HIDDEN,
    LEARNING_RATES,
    MAX_NORM,
    OPTIMIZER,
    RATE,
    REGRESSION_RATE,
    UNITS,
    optimizer_of,
)
from dropcore.cli._output import check_output, note
from dropcore.cli._shared import CONFIG, DEVICE, FORCE, JSON, QUIET, SEED, THREADS
from dropcore.cli._values import jobs, positive, positive_number, several

__all__ = ["COMMAND"]

_SEARCH: Final = "tuning"

KEEPS: Final = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)

ONLY_RATE: Final = ("units", "max_norm", "activation", "learning_rate")
ONLY_SEARCH: Final = ("trials", "timeout", "storage", "max_units", "max_depth")

DEFAULTS: Final = {"trials": 30, "max_units": 256, "max_depth": 2}


def run(options: argparse.Namespace) -> Result:
    """Tune, train and save a model."""
    from dropcore.data import Preprocessing

    check_output(options.output, force=options.force)
    if options.log is not None:
        check_output(options.log, force=options.force)
    _check_options(options)
    examples = read_examples(options.data, options, target=options.target, drop=options.drop or ())
    if examples.names is None and examples.x.ndim != 2:
        raise ValueError(
            f"tune takes rows of numbers (rows, columns), got x of shape {examples.x.shape}"
        )
    kind, y = task_of(examples.y, options.task)
    if options.balanced and kind != CLASSIFICATION:
        raise ValueError("--balanced is for classes, and the targets are numbers")
    n_outputs = len(set(y.tolist())) if kind == CLASSIFICATION else 1
    parts = parts_of(replace(examples, y=y), kind, options.validation_split, options.seed)
    job = Job(kind, options.output, options.data, options.target, parts, Preprocessing())
    tuned = _by_rate if options.by == "rate" else _by_search
    try:
        with _workers(options.cluster):
            model, optimizer, text, data = tuned(job, options, n_outputs)
    except KeyboardInterrupt:
        if options.storage is not None:
            note(f"\ninterrupted: {options.storage} has the trials; the same command goes on")
        else:
            further = "" if options.by == "rate" else "; with --storage FILE trials are kept"
            note(f"\ninterrupted: nothing is saved{further}")
        raise
    note("training the model that was chosen")
    learn(job, model, optimizer, options, network="mlp")
    found = summary(job, model, what=f"mlp for {kind}", extra={"tuning": data})
    return Result(f"{text}\n\n{found.text}", found.data)


def _workers(cluster: str | None) -> AbstractContextManager[None]:
    """Where networks are trained: by the workers of a cluster, or by this process."""
    from dropcore.tuning._cluster import connected

    return nullcontext() if cluster is None else connected("--cluster", cluster)


def _by_search(
    job: Job, options: argparse.Namespace, n_outputs: int
) -> tuple[Any, Any, str, dict[str, Any]]:
    """Search rates, widths, max-norm, activation and learning rate by Optuna."""
    from dropcore._base.extras import require
    from dropcore.tuning import MLPSpace, search

    space = MLPSpace(
        n_outputs,
        units=(min(32, options.max_units), options.max_units),
        depth=(1, options.max_depth),
        optimizer=options.optimizer,
    )
    found = search(
        space,
        job.parts.training.x,
        _targets(job),
        n_trials=options.trials,
        timeout=options.timeout,
        folds=options.folds,
        storage=options.storage,
        start=_start(job, space),
        **_shared(job, options),
    )
    optuna = require("optuna", "tune", "dropcore tune")
    model, chosen = space(optuna.trial.FixedTrial(found.best_params))
    data = {
        "by": "search",
        "metric": found.metric,
        "value": found.best_value,
        "parameters": found.best_params,
        "trials": len(found.study.trials),
        "pruned": sum(trial.state.name == "PRUNED" for trial in found.study.trials),
    }
    return model, chosen["optimizer"], str(found), data


def _start(job: Job, space: Any) -> dict[str, Any]:
    """What `dropcore train` uses by default, which the search has to beat."""
    widest, deepest = space.units[1], space.depth[1]
    depth = min(len(HIDDEN), deepest)
    rate = REGRESSION_RATE if job.kind == REGRESSION else RATE
    start = {
        "units": min(HIDDEN[0], widest),
        "depth": depth,
        **{f"rate_{layer}": rate for layer in range(1, depth + 1)},
        "input_dropout": False,
        "bounded": False,
        "activation": "relu",
        "learning_rate": LEARNING_RATES[space.optimizer],
    }
    # What the space fixes is no choice.
    fixed = {name for name in ("units", "depth") if len(set(getattr(space, name))) == 1}
    return {name: value for name, value in start.items() if name not in fixed}


def _by_rate(
    job: Job, options: argparse.Namespace, n_outputs: int
) -> tuple[Any, Any, str, dict[str, Any]]:
    """Train at each keep of a grid, and take the one that is recommended."""
    from dropcore.nn import architectures
    from dropcore.tuning import sensitivity

    def build(keep: float) -> Any:
        return architectures.mlp(
            options.units or HIDDEN,
            n_outputs,
            keep=keep,
            max_norm=options.max_norm,
            activation=options.activation or "relu",
        )

    optimizer = optimizer_of(options)
    found = sensitivity(
        build,
        job.parts.training.x,
        _targets(job),
        keeps=KEEPS,
        folds=options.folds,
        optimizer=optimizer,
        **_shared(job, options),
    )
    data = {
        "by": "rate",
        "metric": found.metric,
        "keeps": found.keeps,
        "mean": found.mean,
        "standard_error": found.standard_error,
        "best": found.best,
        "flat": found.flat,
        "recommended": found.recommended,
        "verdict": found.verdict,
    }
    return build(found.recommended), optimizer, str(found), data


def _targets(job: Job) -> Any:
    """Targets of the trials: classes by number, which no trial needs to encode and announce."""
    import numpy as np

    y = job.parts.training.y
    return np.unique(y, return_inverse=True)[1] if job.kind == CLASSIFICATION else y


def _shared(job: Job, options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of both ways, and of `fit`."""
    found: dict[str, Any] = {
        "metric": options.metric,
        "key": options.seed,
        "n_jobs": options.jobs,
        "progress": not options.quiet,
        "epochs": options.trial_epochs,
        "batch_size": options.batch_size,
        "loss": job.loss,
        "preprocessing": job.preprocessing,
        "scale_targets": job.kind == REGRESSION,
    }
    if options.balanced:
        found["class_weight"] = "balanced"
    return found


def _check_options(options: argparse.Namespace) -> None:
    """ValueError for options that have no effect; fill in the defaults of the others."""
    useless = ONLY_RATE if options.by == "search" else ONLY_SEARCH
    other = "rate" if options.by == "search" else "search"
    for name in useless:
        if getattr(options, name) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} is for --by {other}, and has no effect on --by "
                f"{options.by}"
            )
    for name, value in DEFAULTS.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.balanced and options.task == REGRESSION:
        raise ValueError("--balanced is for classes, and the task is a regression")


COMMAND = Command(
    name="tune",
    help="choose rates, width and learning rate on the data; train and save the model",
    description="""
    Choose a network for a table on the training rows, by cross-validation, then train it as
    `dropcore train` does. --by search looks for the rates, the width, the depth, max-norm, the
    activation and the learning rate at once, by Bayesian optimisation. --by rate trains one
    network at keep = 1.0, 0.9, ... 0.1 and says how sensitive it is to the rate. The rows that are
    held out are seen by neither.
    """,
    examples=(
        "dropcore tune cancer.csv --target diagnosis -o cancer.dropcore",
        "dropcore tune prices.csv --target price --trials 100 --storage trials.db -o p.dropcore",
        "dropcore tune prices.csv --target price --by rate --units 256 -o p.dropcore",
        "dropcore tune prices.csv --target price --cluster 10.0.0.5:8786 --jobs 8 -o p.dropcore",
    ),
    options=(
        DATA,
        Option(
            "--target",
            "the column to predict, or the array of an .npz",
            metavar="COL",
            required=True,
        ),
        OUTPUT,
        *READING,
        DROP,
        TASK,
        Option(
            "--by",
            "what is tuned: everything, or the rate of one network",
            choices=("search", "rate"),
            default="search",
            group=_SEARCH,
        ),
        Option(
            "--trials",
            f"networks to try; by default {DEFAULTS['trials']}",
            kind=positive,
            metavar="N",
            group=_SEARCH,
        ),
        Option(
            "--timeout",
            "seconds after which no further trial begins; by default unlimited",
            kind=positive_number,
            metavar="S",
            group=_SEARCH,
        ),
        Option(
            "--storage",
            "keep trials in a file, .db or .log, so that the same command continues if it was "
            "stopped",
            kind=Path,
            metavar="FILE",
            group=_SEARCH,
        ),
        Option(
            "--max-units",
            f"largest width of a hidden layer; by default {DEFAULTS['max_units']}",
            kind=positive,
            metavar="N",
            group=_SEARCH,
        ),
        Option(
            "--max-depth",
            f"largest number of hidden layers; by default {DEFAULTS['max_depth']}",
            kind=positive,
            metavar="N",
            group=_SEARCH,
        ),
        Option(
            "--folds",
            "folds of the cross-validation",
            kind=several,
            default=3,
            metavar="N",
            group=_SEARCH,
        ),
        Option(
            "--trial-epochs",
            "epochs of each network that is tried",
            kind=positive,
            default=40,
            metavar="N",
            group=_SEARCH,
        ),
        Option(
            "--metric",
            "metric that decides, such as loss, f1, roc_auc, rmse or mae; by default accuracy or "
            "rmse",
            metavar="NAME",
            group=_SEARCH,
        ),
        Option(
            "--jobs",
            "number of networks trained in parallel, -1 for one for each processor; by default 1, "
            "with --cluster one for each thread of its workers. Each N trials of a search learn "
            "from those before",
            kind=jobs,
            metavar="N",
            group=_SEARCH,
        ),
        Option(
            "--cluster",
            "train the networks that are tried on the workers of a Dask cluster: host:port of its "
            "scheduler. Data and results stay here, and scores are those of this machine",
            metavar="ADDRESS",
            group=_SEARCH,
        ),
        UNITS,
        MAX_NORM,
        ACTIVATION,
        *SETTINGS,
        *OPTIMIZER,
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
