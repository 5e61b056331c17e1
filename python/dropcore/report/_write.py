"""`write_report`: what is on the page. How it looks is in template.html."""

from __future__ import annotations

import datetime
import math
import platform
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dropcore._base.checks import rounded, shown
from dropcore._base.extras import require
from dropcore._base.files import checked_path, replacing
from dropcore._version import __version__
from dropcore.diagnosis import Diagnosis, NormHistory, Score, diagnose
from dropcore.key import Key
from dropcore.losses import LOSSES, Loss
from dropcore.nn.layer import Layer
from dropcore.nn.model import Model
from dropcore.plotting import (
    activation_histogram,
    averaging_chart,
    first_layer,
    learning_curves,
    norm_curves,
    prediction_intervals,
    reliability_diagram,
    sensitivity_curve,
    weight_norm_histogram,
)
from dropcore.report._svg import inline_svg
from dropcore.training import TrainingState
from dropcore.training.metrics import Metric
from dropcore.tuning import Sensitivity
from dropcore.uncertainty import AveragingCurve, Intervals, MonteCarlo, Reliability, reliability
from dropcore.uncertainty._outputs import fitted_labels, kind_of

__all__ = ["write_report"]

MOST = 6
"""Layers whose histograms are drawn; the table has all."""

TITLES = {"rmse": "RMSE", "mae": "MAE", "mse": "MSE", "roc_auc": "ROC AUC"}
"""Names of metrics that are abbreviations."""

PERCENT = ("accuracy", "f1", "roc_auc", "precision", "recall")


def write_report(
    path: str | Path,
    model: Model,
    x: ArrayLike,
    y: ArrayLike,
    *,
    validation: tuple[Any, ...] | None = None,
    sensitivity: Sensitivity | None = None,
    uncertainty: Any = None,
    title: str = "Report on a model",
    lengths: ArrayLike | None = None,
    loss: str | Loss | None = None,
    metrics: Sequence[str | Metric] = (),
    norms: NormHistory | None = None,
    image_shape: tuple[int, ...] | None = None,
    max_samples: int | None = 2000,
    key: Key | int = 0,
) -> Diagnosis:
    """Write a report on a trained model to one self-contained HTML file.

    It begins with the scores, their standard errors, and advice. Learning curves, the sensitivity
    to the rate, calibration or intervals, the diagnosis of `dropcore.diagnosis`, the layers, and
    how to repeat the training follow. It needs no network and no scripts. The file is replaced
    atomically: after a failure the old one remains.

    Parameters
    ----------
    path : str or Path
        Of the file, such as "report.html".
    model : Model
        With weights.
    x, y : array_like
        The training data, as given to `fit`.
    validation : (x, y) or (x, y, lengths), optional
        Held-out data. With it, the calibration of a classifier is measured, without noise.
    sensitivity : Sensitivity, optional
        Result of `dropcore.tuning.sensitivity`.
    uncertainty : object or sequence of objects, optional
        Results of functions of `dropcore.uncertainty`: `Reliability`, `AveragingCurve`,
        `MonteCarlo`, and `Intervals`, which must be those of all validation samples.
    title : str, default "Report on a model"
    lengths, loss, metrics, norms, image_shape, max_samples, key
        As for `dropcore.diagnosis.diagnose`.

    Returns
    -------
    Diagnosis
        The diagnosis that the page shows.

    Raises
    ------
    TypeError, ValueError
        As `diagnose`; for another `sensitivity`; for an object in `uncertainty` that is none of
        these, or for intervals that do not belong to the validation data.
    OSError
        If the file cannot be written.
    ImportError
        If Jinja2 or matplotlib is missing.

    Examples
    --------
    >>> import tempfile
    >>> import numpy as np
    >>> from dropcore.nn import Dense, Sequential
    >>> x, y = np.eye(8, dtype=np.float32), np.arange(8) % 2
    >>> model = Sequential([Dense(16, activation="relu"), Dense(2)])
    >>> _ = model.fit(x, y, epochs=5, loss="softmax_cross_entropy", progress=False)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     found = write_report(f"{folder}/report.html", model, x, y, title="Eight samples")
    """
    jinja2 = require("jinja2", "report", "a report")
    require("matplotlib", "report", "a report")
    target = checked_path("write_report", path)
    if not isinstance(title, str):
        raise TypeError(f"write_report: title must be a str, got {shown(title)}")
    if sensitivity is not None and not isinstance(sensitivity, Sensitivity):
        raise TypeError(
            "write_report: sensitivity must be what dropcore.tuning.sensitivity returns, got "
            f"{shown(sensitivity)}"
        )
    found = diagnose(
        model,
        x,
        y,
        validation=validation,
        lengths=lengths,
        loss=loss,
        metrics=metrics,
        norms=norms,
        image_shape=image_shape,
        max_samples=max_samples,
        key=key,
    )
    results = _results(uncertainty, validation)
    if validation is not None and not any(isinstance(r, Reliability) for r in results):
        results = [*_calibration(model, found, validation), *results]
    page = _Page(model, found)
    text = _template(jinja2).render(page.content(title, sensitivity, results, validation))
    with replacing("write_report", target) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return found


def _template(jinja2: Any) -> Any:
    source = resources.files("dropcore.report").joinpath("template.html")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.from_string(source.read_text(encoding="utf-8"))


# --- how sure ------------------------------------------------------------------------------------


def _results(uncertainty: Any, validation: Any) -> list[Any]:
    """What the user gave, as a list of known objects."""
    known = (Reliability, AveragingCurve, MonteCarlo, Intervals)
    given = uncertainty if isinstance(uncertainty, list | tuple) else [uncertainty]
    results = [result for result in given if result is not None]
    for result in results:
        if not isinstance(result, known):
            names = ", ".join(kind.__name__ for kind in known)
            raise TypeError(
                "write_report: uncertainty must be results of dropcore.uncertainty "
                f"({names}), got {shown(result)}"
            )
        if isinstance(result, Intervals):
            rows = None if validation is None else len(validation[1])
            if rows != len(result.mean):
                raise ValueError(
                    f"write_report: there are {len(result.mean)} intervals and "
                    f"{'no' if rows is None else rows} validation samples: give the intervals of "
                    "validation[0]"
                )
    return results


def _calibration(model: Model, found: Diagnosis, validation: Any) -> Iterator[Reliability]:
    """The calibration of a classifier of single labels, on all validation samples."""
    if found.classes is None or model.training_state is None or model.training_state.loss is None:
        return
    kind = kind_of("write_report", model, None)
    chances = model.predict_proba(validation[0])
    labels = np.asarray(validation[1])
    if np.size(labels) != len(chances):  # a probability for each class
        return
    classes = model.training_state.classes
    fitted = fitted_labels("validation y", labels, chances.shape, kind, classes)
    yield reliability(chances, fitted)


def _sentences(results: Iterable[Any], validation: Any) -> Iterator[str]:
    for result in results:
        if isinstance(result, Reliability):
            yield _of_calibration(result)
        elif isinstance(result, Intervals):
            yield _of_intervals(result, validation[1])
        elif isinstance(result, AveragingCurve):
            least = float(np.min(result.error))
            yield (
                f"The {result.metric} of averages of up to {result.samples[-1]} Monte Carlo "
                f"samples is {least:.3g} at best, that of weight scaling "
                f"{result.weight_scaling:.3g}."
            )
        elif isinstance(result, MonteCarlo):
            yield _of_samples(result)


def _of_calibration(result: Reliability) -> str:
    """Whether confidences are too high or too low, if that is more than chance."""
    filled = result.count > 0
    sure, right, count = (a[filled] for a in (result.confidence, result.accuracy, result.count))
    excess = float((sure - right) @ count)
    chance = 2 * math.sqrt(float((sure * (1 - sure)) @ count))
    text = (
        f"The confidence of predictions is off by {100 * result.ece:.1f} % on average (expected "
        "calibration error)"
    )
    if abs(excess) <= chance:
        return (
            f"{text}. That they are too sure, or not sure enough, cannot be told from "
            f"{int(count.sum()):,} samples."
        )
    return f"{text}: they are {'too sure' if excess > 0 else 'not sure enough'}."


def _of_intervals(result: Intervals, y: Any) -> str:
    """Coverage of validation targets, and why it is not the level."""
    inside, count = result.coverage(y), np.size(result.mean)
    chance = 2 * math.sqrt(result.level * (1 - result.level) / count)
    text = (
        f"Intervals of {100 * result.level:g} % cover {100 * inside:.1f} % of the validation "
        f"targets and are {rounded(result.width, 3)} wide on average"
    )
    if abs(inside - result.level) <= chance:
        return f"{text}; {100 * chance:.1f} % more or fewer would be chance."
    beyond = f"beyond the {100 * chance:.1f} % that are chance"
    if inside > result.level:
        error = math.sqrt(float(np.mean((result.mean - np.reshape(y, result.mean.shape)) ** 2)))
        spread = math.sqrt(float(np.mean(result.std**2)))
        return (
            f"{text}. They cover more than they should, {beyond}: they expect errors of "
            f"{rounded(spread, 3)}, and errors are {rounded(error, 3)} (root mean square). Either "
            "dropout makes the samples differ by more than the model errs, and a smaller rate "
            "narrows them; or the noise level is too high; or errors have longer tails than a "
            "Gaussian."
        )
    return (
        f"{text}. They cover less than they should, {beyond}: the noise level is too low (estimate "
        "it on held-out data), or the validation data differ from those it was estimated on."
    )


def _of_samples(result: MonteCarlo) -> str:
    if result.entropy is None or result.mutual_information is None:
        return (
            f"Over {result.n_samples} samples of the noise, predictions have a standard deviation "
            f"of {rounded(float(np.mean(result.std)), 3)} on average."
        )
    return (
        f"Over {result.n_samples} samples of the noise, predictions have an entropy of "
        f"{float(np.mean(result.entropy)):.3g} nats on average, of which "
        f"{float(np.mean(result.mutual_information)):.3g} come from uncertain weights "
        "(mutual information)."
    )


# --- the page ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Table:
    """Heads, rows, and which columns are numbers."""

    heads: Sequence[str]
    rows: list[list[str]]
    numbers: Sequence[int]


@dataclass
class _Page:
    """The content of the template, for one model."""

    model: Model
    found: Diagnosis
    drawn: int = field(default=0)

    def content(
        self, title: str, sensitivity: Sensitivity | None, results: list[Any], validation: Any
    ) -> dict[str, Any]:
        found = self.found
        sentences = list(_sentences(results, validation))
        main = [result for result in results if isinstance(result, Reliability | Intervals)]
        today = datetime.datetime.now(tz=datetime.UTC).date().isoformat()
        return {
            "version": __version__,
            "title": title,
            "subtitle": f"Written on {today} by dropcore {__version__}",
            "scores": list(_headline(found)),
            "verdict": [
                *self._verdict(),
                *_sentences(main, validation),
            ],
            "findings": found.findings,
            "curves": list(self._curves()),
            "sensitivity": sensitivity and {
                "verdict": str(sensitivity.verdict),
                "pictures": [
                    self._picture(
                        sensitivity_curve(sensitivity),
                        "Score of held-out samples against the fraction that dropout keeps: mean "
                        "and standard error over the folds.",
                    )
                ],
            },
            "sure": results and {
                "sentences": sentences,
                "pictures": list(self._uncertainty(results, validation)),
            },
            "score_table": _score_table(found),
            "notes": list(self._notes()),
            "classes": _class_table(found),
            "norms": _norm_table(found),
            "norm_pictures": list(self._norms()),
            "activations": _activation_table(found),
            "activation_pictures": [
                self._picture(activation_histogram(a), f"Outputs of layer {a.path} at inference.")
                for a in found.activations[:MOST]
            ],
            "features": list(self._features()),
            **self._layers(),
            **self._settings(),
        }  # fmt: skip

    def _picture(self, ax: Any, caption: str) -> dict[str, Any]:
        self.drawn += 1
        return {"svg": inline_svg(ax, caption, self.drawn), "caption": caption}

    def _verdict(self) -> Iterator[str]:
        gap = self.found.gap
        if gap is None:
            yield (
                "There are no validation data, so the score is that of the samples that the model "
                "was trained on, and says little about others."
            )
        elif gap.large:
            yield (
                f"The model is worse on validation data than on training data: {gap.metric} "
                f"{gap.validation:.3g} against {gap.train:.3g}."
            )
        else:
            yield (
                "There is no sign of overfitting: the "
                f"{gap.metric} is {gap.train:.3g} on training data and {gap.validation:.3g} on "
                f"validation data, and the standard error of the difference is {gap.error:.1g}."
            )

    def _curves(self) -> Iterator[dict[str, Any]]:
        history = self.found.history
        names = {name.removeprefix("val_"): None for name in history if name != "seconds"}
        for name in list(names)[:MOST]:
            if len(history.epochs) > 1:
                yield self._picture(
                    learning_curves(history, metric=name),
                    f"The {name} over the epochs. That of training data is measured under noise, "
                    "while weights change.",
                )
        if self.found.norms is not None and len(self.found.norms.epochs) > 1:
            yield self._picture(
                norm_curves(self.found.norms),
                "Mean norms of incoming weights. Growing norms are a sign of overfitting.",
            )

    def _uncertainty(self, results: list[Any], validation: Any) -> Iterator[dict[str, Any]]:
        for result in results:
            if isinstance(result, Reliability):
                yield self._picture(
                    reliability_diagram(result),
                    "Accuracy against confidence. Below the diagonal, the model is overconfident.",
                )
            elif isinstance(result, Intervals) and np.size(result.mean) == len(result.mean):
                yield self._picture(
                    prediction_intervals(result, validation[1]),
                    "Validation samples with their intervals and true values.",
                )
            elif isinstance(result, AveragingCurve):
                yield self._picture(
                    averaging_chart(result),
                    "Averages of Monte Carlo samples, compared with weight scaling.",
                )

    def _norms(self) -> Iterator[dict[str, Any]]:
        for norms in self.found.weights[:MOST]:
            if len(norms.norms) > 3:
                yield self._picture(
                    weight_norm_histogram(norms), f"Norms of the incoming weights, {norms.name}."
                )

    def _features(self) -> Iterator[dict[str, Any]]:
        features = self.found.features
        if features is not None and features.images is not None:
            caption = "Weights of units, each scaled by its largest: red positive, blue negative."
            yield self._picture(first_layer(features), caption)
        elif features is not None and features.names:
            caption = (
                "Inputs with the largest weights. Comparable if the inputs have one scale, as "
                "standardised ones have."
            )
            yield self._picture(first_layer(features), caption)

    def _notes(self) -> Iterator[str]:
        found = self.found
        if found.train.samples < found.total:
            yield (
                f"Of {found.total:,} training samples, {found.train.samples:,} were used, "
                "chosen at random."
            )
        if found.inputs is not None:
            yield (
                "Inputs, as the model sees them: means of at most "
                f"{found.inputs.largest_mean:.3g} and standard deviations of at most "
                f"{found.inputs.largest_std:.3g}."
            )
        state = self.model.training_state
        dropped = (
            {} if state is None or state.preprocessing is None else state.preprocessing.dropped
        )
        if dropped:
            columns = ", ".join(f"{name} ({why})" for name, why in dropped.items())
            yield f"Columns that are not used: {columns}."
        for shift in found.shifts:
            yield (
                f"Under noise, variances before BatchNorm in layer {shift.norm} are "
                f"{shift.ratio:.2f} times those without (dropout in layer {shift.dropout})."
            )

    def _layers(self) -> dict[str, Any]:
        if self.model.input_shape is None:
            rows = [
                [
                    path,
                    type(layer).__name__,
                    "",
                    "",
                    f"{sum(a.size for a in layer.params.values()):,}",
                ]
                for path, layer in self.model.leaves()
            ]
        else:
            rows = [
                [row.path, row.layer, _shape(row.output_shape), f"{row.parameters:,}",
                 "; ".join(row.notes)]
                for row in self.model.summary().rows
            ]  # fmt: skip
        heads = ("path", "layer", "output", "parameters", "notes")
        size = (
            f"{self.found.parameters:,} parameters for {self.found.total:,} training samples, "
            f"{self.found.parameters / self.found.total:.3g} for each."
        )
        return {"layers": _Table(heads, rows, numbers=(2, 3)), "size": size}

    def _settings(self) -> dict[str, Any]:
        state = self.model.training_state or TrainingState()
        history = state.history
        seconds = math.fsum(history.get("seconds", []))
        settings = [
            ("key", "not known" if state.key is None else repr(state.key)),
            ("updates, epochs", f"{state.step:,}, {state.epoch:,}"),
            ("optimiser", state.optimizer or "not known"),
            ("loss", _loss_name(state.loss)),
            ("last call of fit", f"{len(history.epochs)} epochs in {seconds:.3g} s"),
            ("dropcore", __version__),
            ("NumPy, Python", f"{np.__version__}, {platform.python_version()}"),
        ]
        if state.learning_rate_factor != 1.0:
            settings.append(("learning rate, factor", f"{state.learning_rate_factor:g}"))
        if state.preprocessing is not None:
            settings.append(("preprocessing", repr(state.preprocessing)))
        if state.target_scaling is not None:
            settings.append(("target scaling", repr(state.target_scaling)))
        if state.classes is not None:
            settings.append(("classes", ", ".join(map(str, state.classes))))
        promise = (
            "The same data, model, settings and key give the same weights, bit for bit, for any "
            "number of threads."
        )
        return {"settings": settings, "promise": promise, "code": f"model = {self.model!r}"}


def _headline(found: Diagnosis) -> Iterator[dict[str, str]]:
    """The scores that matter, of validation data if there are any."""
    score, what = found.train, "training"
    if found.validation is not None:
        score, what = found.validation, "validation"
    numbers = "accuracy" not in score.metrics and score.skill is not None
    if numbers:
        yield {
            "name": "R²",
            "value": f"{score.skill:.3g}",
            "note": f"share of the variance explained, {score.samples:,} {what} samples",
        }
    names = [name for name in score.metrics if name != "r2"]
    names.sort(key=lambda name: name == "loss")  # an accuracy says more
    # At most four in a row, with that of the training data, which of numbers is a loss.
    for name in [*names[:1], *names[1:][-1:]] if numbers else names[:3]:
        error = score.errors.get(name)
        yield {
            "name": TITLES.get(name, name.replace("_", " ").capitalize()),
            "value": _figure(name, score.metrics[name]),
            "note": (f"± {_figure(name, error, 2)}, " if error else "")
            + f"{score.samples:,} {what} samples",
        }
    if found.gap is not None and found.gap.metric in score.metrics:
        yield {
            "name": f"{found.gap.metric.capitalize()} on training data",
            "value": _figure(found.gap.metric, found.gap.train),
            "note": "overfits" if found.gap.large else "no sign of overfitting",
        }


def _figure(name: str, value: float, digits: int = 3) -> str:
    if name in PERCENT or name.startswith("top_"):
        return f"{100 * value:.1f} %"
    return rounded(value, digits)


def _score_table(found: Diagnosis) -> _Table:
    parts: list[tuple[str, Score]] = [("training", found.train)]
    if found.validation is not None:
        parts.append(("validation", found.validation))
    rows = []
    for what, score in parts:
        for name, value in score.metrics.items():
            error = score.errors.get(name)
            rows.append(
                [what, name, rounded(value, 4), "" if error is None else rounded(error, 2),
                 f"{score.samples:,}"]
            )  # fmt: skip
    return _Table(("data", "metric", "value", "± s.e.", "samples"), rows, numbers=range(2, 5))


def _class_table(found: Diagnosis) -> _Table | None:
    classes = found.classes
    if classes is None:
        return None
    total = max(int(classes.counts.sum()), 1)
    rows = [
        [name, f"{count:,}", f"{100 * count / total:.1f} %",
         "" if math.isnan(recall) else f"{100 * recall:.1f} %"]
        for name, count, recall in zip(classes.names, classes.counts, classes.recall)
    ]  # fmt: skip
    return _Table(("class", "samples", "share", "recognised"), rows, numbers=range(1, 4))


def _norm_table(found: Diagnosis) -> _Table | None:
    if not found.weights:
        return None
    rows = [
        [w.name, f"{len(w.norms):,}", f"{w.mean:.3g}", f"{w.largest:.3g}",
         "" if w.bound is None else f"{w.bound:.3g}",
         "" if w.clipped is None else f"{100 * w.clipped:.0f} %"]
        for w in found.weights
    ]  # fmt: skip
    heads = ("weight", "units", "mean", "largest", "max-norm", "held")
    return _Table(heads, rows, numbers=range(1, 6))


def _activation_table(found: Diagnosis) -> _Table | None:
    if not found.activations:
        return None
    rows = [
        [a.path, a.layer, f"{a.units:,}", f"{100 * a.sparsity:.0f} %", f"{len(a.dead):,}",
         f"{a.mean:.3g}", f"{a.std:.3g}"]
        for a in found.activations
    ]  # fmt: skip
    heads = ("path", "layer", "units", "zeros", "dead", "mean", "std")
    return _Table(heads, rows, numbers=range(2, 7))


def _loss_name(loss: Any) -> str:
    named = [name for name, known in LOSSES.items() if known == loss]
    return named[0] if named else "not known" if loss is None else repr(loss)


def _size(layer: Layer) -> str:
    return f"{sum(array.size for array in layer.params.values()):,}"


def _shape(shape: Iterable[int | None]) -> str:
    return " × ".join("any" if n is None else str(n) for n in shape)
