"""What is probably wrong with a model: one function for each finding.

A finding follows from measured numbers, quotes them as evidence, and says what to do. Where chance
could give the same numbers, a difference of two standard errors is required.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore.diagnosis._diagnosis import Diagnosis, Finding
from dropcore.diagnosis._layers import in_order, lowest_keep
from dropcore.nn.bidirectional import Bidirectional
from dropcore.nn.layer import Layer
from dropcore.nn.rates import width_for
from dropcore.nn.recurrent import Recurrent

__all__ = ["findings_of"]

POOR: Final = 0.7
"""Of 1 - error / error of a constant: below this a model has learned little."""

STRONG: Final = 0.6
"""The largest keep of strong dropout."""

NOISE_COSTS: Final = 1.05
"""Ratio of the training loss under strong noise to that without, at least, unless a model has
learned too little for a difference."""

LITTLE: Final = 0.3
"""As `POOR`, of a model that has learned so little."""

SHIFT: Final = 0.05
"""Relative change of a variance by noise that BatchNorm should not see."""

DEAD: Final = 0.2
"""Share of a layer's units that never respond."""

CLIPS_ALL: Final = 0.95

WAITED: Final = 5
"""Epochs after the best one that tell that the validation loss no longer falls."""

STILL_FALLING: Final = 0.1
"""Share of the fall of the loss that is in the last fifth of the epochs; levelled off, it is 0."""

RISES: Final = 0.05
"""Mean rise of the loss between epochs, relative to its mean, without noise."""

FINE: Final = 0.05
"""Share of the first loss below which jumps do no harm to a model with a good score."""

FAR: Final = 10.0
"""Mean or standard deviation of an input that is not standardised."""

TINY: Final = 0.1
"""Standard deviation of all inputs, below which they are too small."""

UNBALANCED: Final = 5.0
"""Ratio of the largest to the smallest class."""


def findings_of(model: Layer, found: Diagnosis) -> tuple[Finding, ...]:
    """All findings about a model, the most important ones first."""
    return tuple(itertools.chain.from_iterable(rule(model, found) for rule in RULES))


# --- the fit -------------------------------------------------------------------------------------


def _overfitting(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    gap = found.gap
    if gap is None or not gap.large:
        return
    evidence = (
        f"{gap.metric} is {gap.train:.3g} on training data and {gap.validation:.3g} on validation "
        f"data (difference {abs(gap.train - gap.validation):.2g} ± {gap.error:.1g}), with "
        f"{found.parameters:,} parameters for {found.total:,} samples"
    )
    growing = [] if found.norms is None else found.norms.growing()
    if growing:
        name, first, last = growing[0]
        evidence += f"; the norms of {name} grew from {first:.3g} to {last:.3g} on average"
    if not _regularised(model):
        yield Finding(
            "overfitting",
            "The model overfits, and nothing regularises it",
            evidence,
            "put Dropout(0.5) after each hidden layer and Dropout(0.2) before the first, "
            "with constraint=MaxNorm(2.0) on them; dropcore.tuning.sensitivity finds the rate",
        )
        return
    keep = _strongest(model)[0]
    noise = f"with dropout that keeps {keep:.2g}" if keep < 1 else "although it is regularised"
    yield Finding(
        "overfitting_with_dropout",
        f"The model overfits, {noise}",
        evidence,
        "try a larger rate, a smaller max-norm or fewer epochs (dropcore.tuning.sensitivity "
        "compares rates); more data helps most",
    )


def _strongest(model: Layer) -> tuple[float, str, Layer]:
    """Keep, path and layer of the strongest dropout."""
    layers = [(lowest_keep(layer), path, layer) for path, layer in model.tree()]
    return min(layers, key=lambda entry: entry[0])


def _regularised(model: Layer) -> bool:
    # Usual networks have their dropouts at the rate 0, too; other noise has no `keep`.
    return bool(model.regularizers or model.constraints) or any(
        layer.draws and (lowest_keep(layer) < 1 or not hasattr(layer, "keep"))
        for _, layer in model.tree()
    )


def _underfitting(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    """Strong noise, a poor score on the training data, and no overfitting that it would prevent."""
    if any(_learning_rate(model, found)):  # what dropout does is then unknown
        return
    skill, noisy = found.train.skill, found.history.get("loss")
    clean = found.train.metrics["loss"]
    if skill is None or skill >= POOR or not noisy or _worse_on_validation(found):
        return
    keep, path, layer = _strongest(model)
    if keep > STRONG or (skill > LITTLE and 0 < noisy[-1] < NOISE_COSTS * clean):
        return
    evidence = (
        f"under noise the training loss is {noisy[-1]:.3g}, without it {clean:.3g}; the model "
        f"explains {max(100 * skill, 0):.0f} % of what a constant prediction leaves, and layer "
        f"{path or type(layer).__name__} keeps {keep:.2g}"
    )
    recurrent = _next_recurrent(model, path, layer)
    if recurrent is not None:
        place, units = recurrent
        wider = width_for(units, keep=round(keep, 9)) if keep > 0 else 0
        wider_text = f"try {wider:,} units (units / keep), or " if wider else ""
        yield Finding(
            "recurrent_too_small",
            f"The recurrent layer {place} is too small for its rate: of {units} units about "
            f"{keep * units:.0f} are kept",
            evidence,
            f"{wider_text}a smaller rate; as the model does not overfit, it may need no dropout",
        )
        return
    yield Finding(
        "underfitting",
        "The model underfits, and dropout is strong",
        evidence,
        "try a smaller rate, or layers wider by 1 / keep (nn.width_for), and more epochs; if "
        "nothing changes, the inputs may say little about the targets",
    )


def _worse_on_validation(found: Diagnosis) -> bool:
    """Whether a better fit to the training data would not help, or has not.

    The validation loss is clearly larger; or it is larger, and was best epochs before the end,
    while the training loss fell further.
    """
    if found.gap is None or found.validation is None:
        return False
    train, other = found.train, found.validation
    error = math.hypot(train.errors.get("loss", math.inf), other.errors.get("loss", math.inf))
    excess = other.metrics["loss"] - train.metrics["loss"]
    if found.gap.large or excess > max(2 * error, 0.5 * abs(train.metrics["loss"])):
        return True
    if excess < error < math.inf:
        return False
    noisy, held_out = (np.array(found.history.get(name) or []) for name in ("loss", "val_loss"))
    if len(noisy) != len(held_out) or not np.isfinite([noisy, held_out]).all():
        return False
    after = noisy[int(np.argmin(held_out)) + 1 :] if len(noisy) else noisy
    if len(after) < WAITED:
        return False
    before = noisy[: -len(after)][-WAITED:]
    last = after[-WAITED:]
    spread = math.hypot(*(float(np.std(part)) / math.sqrt(len(part)) for part in (before, last)))
    fall = float(before.mean() - last.mean())
    return fall > max(2 * spread, 0.05 * abs(float(before.mean())))


def _next_recurrent(model: Layer, path: str, layer: Layer) -> tuple[str, int] | None:
    """Path and units of the recurrent layer that is dropped or that a dropout follows."""
    before: tuple[str, int] | None = None
    for place, found in in_order(model):
        inside = found.layer if isinstance(found, Bidirectional) else found
        here = (place, inside.units) if isinstance(inside, Recurrent) else None
        if place == path or layer is inside or path.startswith(f"{place}."):
            return here or before
        before = here
    return None


def _best_epoch_passed(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    losses = found.history.get("val_loss") or []
    if any(_learning_rate(model, found)):
        return
    if found.history.best_epoch is not None:  # whose weights the model has
        return
    if len(losses) < 5 or not np.isfinite(losses).all():
        return
    best = int(np.argmin(losses))
    if best + 1 <= 0.7 * len(losses) and losses[-1] > losses[best] + 0.05 * abs(losses[best]):
        yield Finding(
            "best_epoch_passed",
            "The best epoch was long before the end",
            f"the validation loss was {losses[best]:.3g} in epoch {found.history.epochs[best]} and "
            f"is {losses[-1]:.3g} after {found.history.epochs[-1]}",
            "use callbacks=[EarlyStopping()], which restores the best weights, or regularise more",
        )


# --- the learning rate ---------------------------------------------------------------------------


def _learning_rate(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    losses = np.array(found.history.get("loss") or [], dtype=np.float64)
    if len(losses) < 5 or not np.isfinite(losses).all():
        return
    steps, first, best = np.diff(losses), abs(float(losses[0])), float(losses.min())
    scale = float(np.abs(losses).mean()) or 1.0
    dead = max((len(layer.dead) / layer.units for layer in found.activations), default=0.0)
    # The loss under strong noise, or of few samples, varies from epoch to epoch.
    least = RISES / max(_strongest(model)[0], RISES)
    chance = min(3 * found.train.errors.get("loss", 0.0), 0.5 * abs(best))
    noise = _mask_noise(model, found, losses)
    rises = losses[-3:].min() - best > max(least * abs(best), 0.05 * first, chance, 3 * noise)
    rise, fall = float(steps.clip(0).sum()), float(-steps.clip(None, 0).sum())
    jumps = rise / len(steps) > max(least * scale, chance / 3, noise) and rise > 0.5 * fall
    jumps = jumps and (abs(float(losses[-3:].mean())) > FINE * first or _skill(found) < POOR)
    stuck = _skill(found) < 0.1 and losses[1] - best < 0.02 * abs(float(losses[1]))
    if rises or jumps or (stuck and dead > 0.5):
        how = "rises and falls" if jumps else "rises" if rises else "does not fall"
        gone = f", and {100 * dead:.0f} % of the units of a layer are dead" if dead > 0.5 else ""
        sgd = model.training_state is not None and model.training_state.optimizer == "SGD"
        momentum = "; momentum 0.9 multiplies the rate of plain SGD by 10" if sgd else ""
        yield Finding(
            "learning_rate_too_high",
            "The learning rate is probably too high",
            f"the training loss {how}: {losses[0]:.3g} in the first epoch, {best:.3g} in the best, "
            f"{losses[-1]:.3g} in the last{gone}",
            f"divide the learning rate by 3 to 10, or begin with schedules.WarmUp{momentum}",
        )
        return
    count = max(2, len(losses) // 5)
    recent = float(losses[-2 * count : -count].mean() - losses[-count:].mean())
    total = float(losses[0] - losses[-1])
    falling = recent > max(STILL_FALLING * total, 0.002 * first)
    falling = falling and (bool((steps[-2 * count + 1 :] < 0).all()) or recent > chance / 3)
    # Two standard errors of the correlation of numbers that do not depend on the epoch.
    slope = np.corrcoef(losses, np.arange(len(losses)))[0, 1]
    slow = stuck and slope < -max(0.3, min(2 / math.sqrt(len(losses)), 0.9))
    if slow or (falling and not _finished(found)):
        yield Finding(
            "learning_rate_too_low",
            "Training ended while the loss was still falling",
            f"the training loss is {losses[0]:.3g} in the first epoch, {losses[-count - 1]:.3g} "
            f"{count} epochs before the last, and {losses[-1]:.3g} in the last",
            "train for more epochs (fit continues where it stopped), or multiply the learning rate "
            "by 3 to 10",
        )


def _mask_noise(model: Layer, found: Diagnosis, losses: NDArray[np.float64]) -> float:
    """How much masks alone change the training loss from one epoch to the next, roughly.

    The standard error of the mean of `total` losses, whose spread is about their mean at the start
    and up to 3 times that once most samples are learned and few have a large loss under a mask.
    """
    level = float(np.median(np.abs(losses[len(losses) // 2 :])))
    tails = min(math.sqrt(max(abs(float(losses[0])) / level, 1.0)), 3.0) if level else 1.0
    spread = 3 * (1 - _strongest(model)[0]) * tails * level
    return spread / math.sqrt(found.total)


def _finished(found: Diagnosis) -> bool:
    """Whether more epochs would not help: the training loss also falls while data is memorised.

    By the validation loss, which is best in the last epochs if it is still falling; without one, by
    a good score.
    """
    losses = found.history.get("val_loss")
    if losses:
        return bool(np.argmin(losses) < len(losses) - max(2, len(losses) // 10))
    return _skill(found) >= POOR


def _skill(found: Diagnosis) -> float:
    """Improvement over a constant prediction; 1 where that is not defined."""
    return 1.0 if found.train.skill is None else found.train.skill


# --- the layers ----------------------------------------------------------------------------------


def _variance_shift(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    for shift in found.shifts:
        if abs(shift.ratio - 1) > SHIFT:
            yield Finding(
                "dropout_before_batch_norm",
                f"Dropout in layer {shift.dropout} comes before BatchNorm in layer {shift.norm}",
                f"the variances that BatchNorm sees in training are {shift.ratio:.2f} times those "
                "at inference (median over features), where its running moments do not fit",
                "put dropout after the last BatchNorm, or use LayerNorm (Li et al. 2019, "
                "'Understanding the disharmony between dropout and batch normalization')",
            )


def _dropout_at_the_end(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    after: list[tuple[str, Layer]] = []
    for path, layer in in_order(model):
        if layer.params:
            after = []
        elif layer.draws:
            after.append((path, layer))
    for path, layer in after:
        if lowest_keep(layer) < 1 or not hasattr(layer, "keep"):
            yield Finding(
                "dropout_after_last_layer",
                "The outputs are dropped",
                f"layer {path}, {layer!r}, comes after the last layer with weights, so that the "
                "loss compares noise with the targets",
                "put it before the last layer",
            )


def _max_norm(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    bounded = [w for w in found.weights if w.bound is not None and w.clipped is not None]
    ever: dict[str, float] = {} if found.norms is None else found.norms.most_clipped()
    idle = [w for w in bounded if not w.clipped and not ever.get(w.name)]
    if bounded and len(idle) == len(bounded):
        closest = max(idle, key=lambda w: w.largest / _bound(w))
        yield Finding(
            "max_norm_never_clips",
            "Max-norm has no effect",
            f"no unit's norm is at its bound; the closest is {closest.largest:.3g} of "
            f"{_bound(closest):.3g} in {closest.name}",
            f"try a bound near {0.7 * closest.largest:.2g}, or leave it out",
        )
    every = [w for w in bounded if (w.clipped or 0.0) >= CLIPS_ALL and len(w.norms) > 1]
    # Bounds that hold everything are the aim where they keep a model from overfitting.
    if every and (found.gap is None or not found.gap.large) and _skill(found) < POOR:
        names = ", ".join(f"{w.name} ({100 * (w.clipped or 0.0):.0f} %)" for w in every)
        yield Finding(
            "max_norm_clips_all",
            "Max-norm holds nearly all units, and the model has learned little",
            f"at the bound are the units of {names}; the smallest bound is "
            f"{min(_bound(w) for w in every):.3g}",
            "double the bound: 1 to 4 is usual with inverted scaling; or lower the learning rate",
        )


def _bound(norms: Any) -> float:
    return float(norms.bound) or math.inf


def _dead_units(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    layers = [a for a in found.activations if len(a.dead) > 1 and len(a.dead) > DEAD * a.units]
    if layers:
        text = ", ".join(f"{len(a.dead)} of {a.units} in layer {a.path}" for a in layers)
        yield Finding(
            "dead_units",
            "Units are dead",
            f"they give 0 for each of {found.train.samples:,} samples: {text}",
            "lower the learning rate, standardise the inputs, or use LeakyReLU or ELU; dead units "
            "have no gradient and do not recover",
        )


# --- the data ------------------------------------------------------------------------------------


def _inputs(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    scale = found.inputs
    first = next((layer for _, layer in in_order(model) if layer.params or layer.buffers), None)
    if scale is None or type(first).__module__ == "dropcore.nn.normalization":
        return
    if scale.largest_std > FAR or scale.largest_mean > FAR:
        which = f"input {scale.farthest}"
        evidence = f"{which} has mean {scale.mean:.3g} and standard deviation {scale.std:.3g}"
    elif 0 < scale.largest_std < TINY:
        evidence = f"no input has a standard deviation above {scale.largest_std:.2g}"
    else:
        return
    yield Finding(
        "inputs_not_standardised",
        "The inputs are not standardised",
        evidence,
        "subtract the mean of each input and divide by its standard deviation: "
        "fit(preprocessing=dropcore.data.Preprocessing()) does; images are divided by 255",
    )


def _classes(model: Layer, found: Diagnosis) -> Iterator[Finding]:
    classes = found.classes
    if classes is None or len(classes.counts) < 2:
        return
    large, small = int(classes.counts.argmax()), int(classes.counts.argmin())
    ratio = classes.counts[large] / max(classes.counts[small], 1)
    recall = classes.recall
    if ratio < UNBALANCED or not recall[small] < recall[large] - 0.1:
        return
    share = 100 * classes.counts[small] / classes.counts.sum()
    yield Finding(
        "unbalanced_classes",
        f"Class {classes.names[small]} is rare, and often missed",
        f"it makes up {share:.2g} % of the samples, and {100 * recall[small]:.0f} % of it are "
        f"recognised, against {100 * recall[large]:.0f} % of class {classes.names[large]}",
        "use fit(class_weight='balanced'), a stratified split, and a metric such as 'f1'; accuracy "
        "hides rare classes",
    )


Rule = Callable[[Layer, "Diagnosis"], Iterator[Finding]]

RULES: Final[tuple[Rule, ...]] = (
    _overfitting,
    _underfitting,
    _learning_rate,
    _best_epoch_passed,
    _dropout_at_the_end,
    _variance_shift,
    _dead_units,
    _max_norm,
    _inputs,
    _classes,
)
