"""A model from a file, and data for it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import listed
from dropcore.cli._command import Option
from dropcore.cli._examples import (
    CLASSIFICATION,
    REGRESSION,
    Examples,
    fingerprint,
    read_examples,
)
from dropcore.cli._fitting import AUTOENCODER, Parts, parts_of, reconstruction
from dropcore.cli._output import note

if TYPE_CHECKING:
    from dropcore.nn.model import Model

__all__ = ["MODEL", "TARGET", "Saved", "read_model"]

MODEL = Option(
    "model", "a file of `dropcore train`, `dropcore tune` or model.save", kind=Path, metavar="MODEL"
)

TARGET = Option(
    "--target",
    "the column that was to be predicted; by default the one of training",
    metavar="COL",
    group="data",
)


@dataclass(frozen=True)
class Saved:
    """A model, and what its file says about its data.

    Attributes
    ----------
    model : Model
    path : Path
    kind : str
        "classification", "regression" or "autoencoder".
    notes : dict
        Of the command that trained it; empty for models of other programs.
    """

    model: Model
    path: Path
    kind: str
    notes: dict[str, Any]

    @property
    def noise(self) -> float | None:
        """Standard deviation of the noise of a regression's targets."""
        found = self.notes.get("noise")
        return None if found is None else float(found)

    @property
    def labels(self) -> NDArray[Any]:
        """The label of each output of a classifier."""
        state = self.model.training_state
        if state is not None and state.classes is not None:
            return state.classes
        shape = self.model.output_shape(self.model.input_shape or ())
        return np.arange(max(2, int(shape[-1] or 0)))

    def new_examples(self, path: Path, options: argparse.Namespace) -> Examples:
        """Data to predict; a target is ignored."""
        return self._fitting(read_examples(path, options, optional=True))

    def examples(self, path: Path, options: argparse.Namespace) -> Examples:
        """Data with targets.

        Raises
        ------
        ValueError
            If it is not known which column is the target, or it does not fit the model.
        """
        if self.kind == AUTOENCODER:
            found = self.new_examples(path, options)
            state = self.model.training_state
            preprocessing = None if state is None else state.preprocessing
            assert preprocessing is not None
            return reconstruction(found, preprocessing)
        target = options.target or self.notes.get("target")
        if target is None:
            raise ValueError(
                f"{self.path} does not say which column it predicts: name it by --target"
            )
        found = self._fitting(read_examples(path, options, target=target))
        if self.kind == REGRESSION:
            if found.y.dtype.kind not in "iufb":
                raise ValueError(
                    f"the model predicts numbers, and the target {target!r} holds text such as "
                    f"{found.y[0]!r}"
                )
            return Examples(found.x, found.y.astype(np.float64))
        labels = self._labels(found.y, target)
        self._check_labels(labels, target)
        return Examples(found.x, labels)

    def parts(self, path: Path, examples: Examples) -> Parts | None:
        """The training and the held-out rows of the file that the model was trained on.

        None for any other file.
        """
        known = self.notes.get("data")
        if not known or known.get("sha256") != fingerprint(path):
            return None
        return parts_of(examples, self.kind, self.notes["held_out"], self.notes["seed"])

    def _labels(self, y: NDArray[Any], target: str) -> NDArray[Any]:
        """Targets of the kind that the model was trained on."""
        labels = self.labels
        if labels.dtype.kind in "US":
            return y.astype(str)
        if y.dtype.kind not in "iufb":
            raise ValueError(
                f"the classes of the model are the numbers {', '.join(map(str, labels[:8]))}, and "
                f"the target {target!r} holds text such as {y[0]!r}"
            )
        return y if (y != np.round(y)).any() else y.astype(np.int64)

    def _check_labels(self, y: NDArray[Any], target: str) -> None:
        """ValueError if targets have classes that the model does not know."""
        unknown = sorted(set(y.tolist()) - set(self.labels.tolist()))
        if unknown:
            raise ValueError(
                f"the target {target!r} has {listed(unknown)}, which are none of "
                f"the classes of the model: {', '.join(map(repr, self.labels.tolist()))}"
            )

    def _fitting(self, examples: Examples) -> Examples:
        """The columns that the model was trained on."""
        state = self.model.training_state
        columns = self.notes.get("columns")
        if columns is None and state is not None:
            columns = state.feature_names
            if columns is None and state.preprocessing is not None and examples.names is not None:
                columns = list(state.preprocessing.columns)
        if columns is not None:
            examples = examples.with_columns(columns)
        if state is None or state.preprocessing is None:
            examples = examples.as_numbers(self.notes.get("network", "network"))
        return examples


def read_model(path: Path, options: argparse.Namespace) -> Saved:
    """Load a model to the device of the options.

    Raises
    ------
    OSError, ValueError
        If there is no such file or it is not one of a model.
    """
    from dropcore.losses import CheckedLoss
    from dropcore.nn._saving import load

    if not path.exists():
        raise FileNotFoundError(
            f"there is no file {path}: `dropcore train DATA --target COL -o {path}` writes one"
        )
    model = load(path)
    state = model.training_state
    if state is None or not model.built:
        raise ValueError(f"{path} holds a model that has not been trained")
    kind = state.notes.get("task")
    if kind is None:
        loss = state.loss
        classifies = isinstance(loss, CheckedLoss) and loss.classifies
        kind = CLASSIFICATION if classifies else REGRESSION
        note(f"{path} was not written by this command; taken as a {kind}, after its loss")
    model.to(options.device)
    return Saved(model, path, kind, dict(state.notes))
