"""Standardised targets of a regression."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._base.blocks import row_blocks
from dropcore._base.checks import check_number, expect_unmasked, shown, users_level
from dropcore._base.device import on_device

__all__ = ["TargetScaling"]


@dataclass(frozen=True)
class TargetScaling:
    """Standardise targets, (y - mean) / scale, and invert that for predictions.

    Parameters
    ----------
    mean : float or tuple of float, default 0.0
        Mean of the targets; one for each output if targets have more than one axis.
    scale : float or tuple of float, default 1.0
        Standard deviation of the targets, as many as means.

    Notes
    -----
    Multiply a standard deviation of predictions by `scale`, and a variance by its square. Subtract
    log(scale) from a log likelihood of scaled targets for that of the original ones.

    Examples
    --------
    >>> scaling = TargetScaling.fit([10.0, 30.0])
    >>> scaling
    TargetScaling(mean=20.0, scale=10.0)
    >>> scaling.transform([10.0, 30.0])
    array([-1.,  1.])
    """

    mean: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        mean = _numbers("mean", self.mean, "(-inf, inf)")
        scale = _numbers("scale", self.scale, "(0, inf)")
        if np.shape(mean) != np.shape(scale):
            raise ValueError(
                f"TargetScaling: mean and scale must be one number, or as many of each, got "
                f"{shown(self.mean)} and {shown(self.scale)}"
            )
        object.__setattr__(self, "mean", mean)
        object.__setattr__(self, "scale", scale)

    @classmethod
    def fit(cls, y: ArrayLike) -> TargetScaling:
        """Learn mean and standard deviation of the training targets.

        Parameters
        ----------
        y : array (samples,), (samples, outputs) or (samples, ..., outputs)
            Finite numbers. With more than one axis each output has its own mean and scale.

        Returns
        -------
        TargetScaling
            With a mean and a scale for each output.

        Raises
        ------
        TypeError
            If they are not numbers.
        ValueError
            If there are none, or one is not finite.

        Warns
        -----
        UserWarning
            If targets are all the same. Their scale is 1.
        """
        found = _targets("TargetScaling.fit: y", y)
        if not found.size:
            raise ValueError(f"TargetScaling.fit: y must not be empty, got shape {found.shape}")
        if found.ndim > 1:
            found = found.reshape(-1, found.shape[-1])
        for values in _in_float64(found):
            if not np.isfinite(values).all():
                bad = values[~np.isfinite(values)][0]
                raise ValueError(
                    f"TargetScaling.fit: y must be finite, got {bad}: leave out rows without a "
                    "target"
                )
        with np.errstate(over="ignore", invalid="ignore"):
            mean = sum(values.sum(0) for values in _in_float64(found)) / len(found)
            square = sum(((values - mean) ** 2).sum(0) for values in _in_float64(found))
            scale = np.sqrt(square / len(found))
        if not (np.isfinite(mean).all() and np.isfinite(scale).all()):
            raise ValueError(
                "TargetScaling.fit: y holds numbers too large for float64 arithmetic; divide them "
                "by a constant"
            )
        constant = found.min(0) == found.max(0)
        if constant.any():
            output = int(np.argmax(constant))
            which = "" if found.ndim == 1 else f" of output {output}"
            value = float(found[0] if found.ndim == 1 else found[0, output])
            warnings.warn(
                f"TargetScaling.fit: all targets{which} are {value}: there is nothing to learn",
                UserWarning,
                stacklevel=users_level(),
            )
        # A scale of 0, or one that underflows, would divide by zero.
        scale = np.where(constant | (scale < np.finfo(np.float64).tiny), 1.0, scale)
        return cls(mean.tolist(), scale.tolist())

    def transform(self, y: ArrayLike) -> NDArray[np.floating]:
        """(y - mean) / scale.

        Parameters
        ----------
        y : array
            Of as many axes as the targets that it was fitted to.

        Returns
        -------
        float array of the same shape
            float32 if y is float32, else float64. It is computed in float64.
        """
        found = self._fitting("TargetScaling.transform: y", y)
        scaled = np.empty(found.shape, _result_dtype(found))
        for rows in row_blocks(found) if found.ndim else [...]:
            scaled[rows] = (found[rows].astype(np.float64) - self.mean) / self.scale
        return scaled

    def inverse(self, y: ArrayLike) -> NDArray[np.floating]:
        """y * scale + mean, in the units of the targets.

        Parameters
        ----------
        y : array
            Scaled targets, or predictions of them. With one mean they may have any shape, such as
            (samples, 1) of a model that was fitted to targets (samples,).

        Returns
        -------
        float array of the same shape
            float32 if y is float32, else float64. It is computed in float64.
        """
        found = self._fitting("TargetScaling.inverse: y", y)
        values = found.astype(np.float64) * self.scale + self.mean
        return values.astype(_result_dtype(found), copy=False)

    def _fitting(self, what: str, y: ArrayLike) -> NDArray[Any]:
        found = _targets(what, y)
        outputs = np.shape(self.mean)
        if outputs and found.shape[-1:] != outputs:
            raise ValueError(
                f"{what} must have {outputs[0]} outputs on its last axis, got shape {found.shape}"
            )
        return found

    def to_config(self) -> dict[str, Any]:
        """Mean and scale as numbers, or lists of numbers, for JSON.

        Returns
        -------
        dict
            "mean" and "scale".
        """
        return {name: np.array(getattr(self, name)).tolist() for name in ("mean", "scale")}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> TargetScaling:
        """Create the object that `to_config` described.

        Parameters
        ----------
        config : dict
            Of `to_config`.

        Returns
        -------
        TargetScaling
            With this mean and scale.

        Raises
        ------
        ValueError
            If it is something else.
        """
        if not isinstance(config, Mapping) or set(config) != {"mean", "scale"}:
            raise ValueError(
                f"TargetScaling.from_config: expected a dict of mean and scale, got {shown(config)}"
            )
        try:
            return cls(config["mean"], config["scale"])
        except (TypeError, ValueError) as error:
            message = str(error).removeprefix("TargetScaling: ")
            raise ValueError(f"TargetScaling.from_config: {message}") from None


def _numbers(name: str, value: Any, interval: str) -> float | tuple[float, ...]:
    what = f"TargetScaling: {name}"
    if isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 1):
        if not len(value):
            raise ValueError(f"{what} must hold a number for each output, got none")
        return tuple(check_number(what, item, interval) for item in value)
    if isinstance(value, np.ndarray) and value.ndim == 0:
        value = value[()]
    return check_number(what, value, interval)


def _targets(what: str, y: ArrayLike) -> NDArray[Any]:
    """Numbers as an array.

    Raises
    ------
    TypeError
        If they are not numbers.
    """
    expect_unmasked(what, y)
    if on_device(y):
        raise TypeError(f"{what} must be in host memory; use cupy.asnumpy")
    found = np.asarray(y)
    if found.dtype.kind == "O":
        with suppress(TypeError, ValueError):
            found = found.astype(np.float64)
    if found.dtype.kind not in "fiu":
        raise TypeError(
            f"{what} must be numbers, got dtype {found.dtype}: only targets of a regression are "
            "scaled"
        )
    return found


def _in_float64(y: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Blocks of rows, so that large targets are not copied as a whole."""
    for rows in row_blocks(y):
        yield y[rows].astype(np.float64)


def _result_dtype(found: NDArray[Any]) -> type[np.floating]:
    return np.float32 if found.dtype == np.float32 else np.float64
