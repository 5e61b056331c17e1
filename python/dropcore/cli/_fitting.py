"""What `train` and `tune` share: the split, training that can be resumed, the final scores."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from dropcore._base.checks import rounded
from dropcore.cli._command import Option, Result
from dropcore.cli._examples import CLASSIFICATION, REGRESSION, Examples, fingerprint
from dropcore.cli._output import note
from dropcore.cli._ranks import communicator, leads
from dropcore.cli._scores import estimated_noise, scores, table_of
from dropcore.cli._values import at_least_zero, fraction, positive, words

if TYPE_CHECKING:
    from dropcore.data import Preprocessing
    from dropcore.nn import Sequential
    from dropcore.optim import Optimizer

__all__ = [
    "AUTOENCODER",
    "OUTPUT",
    "SETTINGS",
    "Job",
    "Parts",
    "check_same",
    "learn",
    "parts_of",
    "reconstruction",
    "summary",
]

AUTOENCODER: Final = "autoencoder"

_TRAINING: Final = "training"

OUTPUT = Option(
    "--output",
    "the model to write, such as model.dropcore",
    short="-o",
    kind=Path,
    metavar="FILE",
    required=True,
)

SETTINGS: Final = (
    Option(
        "--epochs",
        "largest number of epochs; early stopping usually ends training before",
        kind=positive,
        default=200,
        metavar="N",
        group=_TRAINING,
    ),
    Option(
        "--validation-split",
        "fraction of the rows to hold out, for early stopping and scores",
        kind=fraction,
        default=0.2,
        metavar="F",
        group=_TRAINING,
    ),
    Option(
        "--patience",
        "stop if the loss of the held-out rows has not improved for so many epochs, and take the "
        "weights of the best one; 0 to train to the end",
        kind=at_least_zero,
        default=20,
        metavar="N",
        group=_TRAINING,
    ),
    Option(
        "--save-every",
        "number of updates after which the model is saved; by default after each epoch",
        kind=positive,
        metavar="N",
        group=_TRAINING,
    ),
    Option(
        "--balanced",
        "weight the classes, so that all count the same in the loss",
        flag=True,
        group=_TRAINING,
    ),
    Option(
        "--metrics",
        "additional metrics of the training log, such as f1,roc_auc or r2",
        kind=words,
        default=None,
        metavar="NAME,NAME",
        group=_TRAINING,
    ),
    Option(
        "--log", "write the metrics of each epoch to a CSV", kind=Path, metavar="FILE",
        group=_TRAINING,
    ),
)  # fmt: skip


LASTING: Final = (
    "batch_size",
    "optimizer",
    "learning_rate",
    "patience",
    "balanced",
    "metrics",
    "log",
)
"""Options that must be the same in a resumed run."""


@dataclass(frozen=True)
class Parts:
    """The rows to train on, and those that are held out, if any."""

    training: Examples
    held_out: Examples | None


@dataclass(frozen=True)
class Job:
    """A model that is to be trained and saved.

    Attributes
    ----------
    kind : str
        "classification", "regression" or "autoencoder".
    path : Path
        Of the model's file.
    data : Path
        Of the training data.
    target : str or None
        The column to predict; None for an autoencoder.
    parts : Parts
    preprocessing : Preprocessing or None
        Not fitted yet; None for images and sequences.
    """

    kind: str
    path: Path
    data: Path
    target: str | None
    parts: Parts
    preprocessing: Preprocessing | None

    @property
    def loss(self) -> str:
        """The name of the loss."""
        return "softmax_cross_entropy" if self.kind == CLASSIFICATION else "mse"

    def notes(self, options: argparse.Namespace, network: str) -> dict[str, Any]:
        """What the file of the model says about its data, for the other commands."""
        return {
            "task": self.kind,
            "target": self.target,
            "columns": self.parts.training.names,
            "drop": list(options.drop or ()),
            "network": network,
            "data": {"name": self.data.name, "sha256": fingerprint(self.data)},
            "held_out": options.validation_split,
            "seed": options.seed,
            "options": {name: _plain(getattr(options, name)) for name in LASTING},
        }


def parts_of(examples: Examples, kind: str, held_out: float, seed: int) -> Parts:
    """Split the rows, stratified by class.

    The same rows, fraction and seed give the same parts.
    """
    if not held_out:
        return Parts(examples, None)
    from dropcore.data import split

    y = examples.y
    if y is None:
        training, held = split(examples.x, validation=held_out, key=seed)
        return Parts(Examples(training), Examples(held))
    if kind == CLASSIFICATION:
        labels, counts = np.unique(y, return_counts=True)
        if counts.min() < 2:
            rare = labels[counts.argmin()].item()
            raise ValueError(
                f"the class {rare!r} has 1 row, too few to be in both parts: "
                "remove it or merge it with another class, or hold nothing out by "
                "--validation-split 0"
            )
    training, held = split(
        examples.x,
        y,
        validation=held_out,
        stratify=y if kind == CLASSIFICATION else None,
        key=seed,
    )
    return Parts(Examples(*training), Examples(*held))


def learn(
    job: Job,
    model: Sequential,
    optimizer: Optimizer,
    options: argparse.Namespace,
    *,
    network: str,
    resume: bool = False,
) -> None:
    """Train a model and save it: after each epoch, at the end, and after Ctrl-C.

    Raises
    ------
    FloatingPointError
        If training diverges. The file has the last whole epoch.
    KeyboardInterrupt
        After Ctrl-C, when the model is saved.
    """
    from dropcore.training import Callback, Checkpoint, CSVLog, EarlyStopping
    from dropcore.training.state import training_state_of

    held_out = job.parts.held_out
    callbacks: list[Callback] = [Checkpoint(job.path, every_updates=options.save_every)]
    if options.patience and held_out is not None:
        callbacks.append(EarlyStopping(patience=options.patience))
    if options.log is not None:
        callbacks.append(CSVLog(options.log))
    more: dict[str, Any] = {}
    if job.preprocessing is not None:
        more["preprocessing"] = job.preprocessing
    if held_out is not None:
        more["validation_data"] = (held_out.x, held_out.y)
    if options.balanced:
        more["class_weight"] = "balanced"
    if "blocks" in options:
        more["blocks"] = options.blocks
    training_state_of(model).notes.update(job.notes(options, network))
    model.to(options.device)
    try:
        model.fit(
            job.parts.training.x,
            job.parts.training.y,
            epochs=options.epochs,
            batch_size=options.batch_size,
            optimizer=optimizer,
            loss=job.loss,
            key=options.seed,
            metrics=options.metrics or (),
            scale_targets=job.kind == REGRESSION,
            callbacks=callbacks,
            progress=not options.quiet,
            resume=resume,
            comm=communicator(),
            **more,
        )
    except KeyboardInterrupt:
        if job.path.exists():
            further = "; the same command with --resume continues" if "resume" in options else ""
            note(f"\ninterrupted: {job.path} has what was learned{further}")
        raise
    state = training_state_of(model)
    if job.kind == REGRESSION and held_out is not None:
        state.notes["noise"] = estimated_noise(model, held_out, options.seed)
    if leads():
        model.save(job.path)


def check_same(model: Sequential, loaded: Any, job: Job, options: argparse.Namespace) -> None:
    """ValueError unless a file holds the model and the data that the options describe."""
    notes = {} if loaded.training_state is None else loaded.training_state.notes
    now = job.notes(options, "")
    differ = [
        f"{words} differ"
        for name, words in (
            ("data", "the data"),
            ("target", "the targets"),
            ("task", "the tasks"),
            ("drop", "the columns that are dropped"),
            ("held_out", "the fractions held out"),
            ("seed", "the seeds"),
        )
        if notes.get(name) != now[name]
    ]
    if loaded.to_config() != model.to_config():
        differ.append("the networks differ")
    for name, value in now["options"].items():
        before = notes.get("options", {}).get(name)
        if before != value:
            was, now_is = _typed(before), _typed(value)
            differ.append(f"--{name.replace('_', '-')} was {was} and is {now_is}")
    if differ:
        raise ValueError(
            f"--resume continues the training that {job.path} holds, which needs the same "
            f"command: {', '.join(differ)}; use --force instead to train a new model"
        )


def _plain(value: Any) -> Any:
    """An option as it is kept with the model."""
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def _typed(value: Any) -> str:
    """An option as it was typed."""
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "not given" if value is None or value is False else str(value)


def summary(job: Job, model: Sequential, *, what: str, extra: dict[str, Any]) -> Result:
    """What was trained, and how good it is."""
    from dropcore.training.state import training_state_of

    state, parts = training_state_of(model), job.parts
    columns = {"training": scores(model, parts.training, job.kind)}
    if parts.held_out is not None:
        columns["held out"] = scores(model, parts.held_out, job.kind)
    rows = f"{len(parts.training)} rows"
    if parts.held_out is not None:
        rows += f", {len(parts.held_out)} held out"
    lines = [
        f"{what}, {sum(a.size for a in model.params.values()):,} parameters; {rows}; "
        f"{state.epoch} epochs",
        "",
        *table_of(columns),
    ]
    data = {
        "model": str(job.path),
        "task": job.kind,
        "epochs": state.epoch,
        "best_epoch": getattr(state.history, "best_epoch", None),
        "stopped_early": state.stopped,
        "rows": len(parts.training),
        "held_out_rows": 0 if parts.held_out is None else len(parts.held_out),
        "scores": {name.replace(" ", "_"): found for name, found in columns.items()},
    }
    noise = state.notes.get("noise")
    if noise is not None:
        lines += ["", f"noise of the targets: {rounded(noise, 4)} (standard deviation)"]
        data["noise"] = noise
    lines += ["", f"saved to {job.path}"]
    return Result("\n".join(lines), data | extra)


def reconstruction(examples: Examples, preprocessing: Preprocessing) -> Examples:
    """Rows whose targets are themselves, as the network sees them."""
    return replace(examples, y=preprocessing.transform(examples.x))
