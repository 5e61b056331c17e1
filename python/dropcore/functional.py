"""Dropout and max-norm as functions of arrays."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._backends.cpu import dropout_fast
from dropcore.key import Key
from dropcore.mask import Mask, resolve_keep

__all__ = ["dropout", "dropout_backward", "max_norm_"]

Array = npt.NDArray[Any]


def dropout(
    x: npt.ArrayLike,
    rate: npt.ArrayLike | None = None,
    *,
    keep: npt.ArrayLike | None = None,
    key: Key | int | None = None,
    mask: Mask | None = None,
    shared_axes: int | Iterable[int] = (),
    offset: int = 0,
    out: Array | None = None,
) -> Array:
    """Zero a random part of the elements and scale up the rest.

    With m = 1 for a kept element, which has probability keep = 1 - rate::

        y = m ? x * (1 / keep) : +0.0

    A dropped element is selected away, so a dropped NaN or infinity is gone. The scale is rounded
    once to the dtype computed in (float64 for float64, else float32), the product to nearest even.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16 (ml_dtypes)
        Any shape and strides; it may be read-only. Of a cupy.ndarray the result is one, with the
        same mask.
    rate : float or array_like, optional
        Fraction dropped, in [0, 1]; 0.5 if neither `rate` nor `keep` is given. An array broadcasts
        to the mask's shape: a rate per unit, per sample or per element.
    keep : float or array_like, optional
        Fraction kept, ``1 - rate``. Instead of `rate`.
    key : Key or int
        The address of the mask; the same key gives the same mask, always and everywhere.
    mask : Mask
        Instead of rate, keep, key, shared_axes and offset. It broadcasts to x.
    shared_axes : int or iterable of int, default ()
        Axes along which one decision holds: ``shared_axes=0`` on (batch, units) drops the same
        units for the whole batch.
    offset : int, default 0
        Index of the mask's first element, where x is a part of a larger batch.
    out : numpy.ndarray or cupy.ndarray, optional
        Where to write; of the shape and dtype of x. May be x itself.

    Returns
    -------
    numpy.ndarray
        `out`, or a new C-contiguous array of the shape and dtype of x.

    Raises
    ------
    TypeError
        If neither key nor mask is given, or the dtype is not taken.
    ValueError
        If a rate is outside [0, 1] or NaN, arguments contradict each other, shapes do not
        broadcast, or `out` overlaps x partly.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout: a simple way to
    prevent neural networks from overfitting", JMLR 15.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.ones((2, 4), dtype=np.float32)
    >>> y = dropout(x, 0.5, key=Key(7))
    >>> bool(np.isin(y, [0.0, 2.0]).all())
    True
    """
    if mask is None and shared_axes == () and type(x) is np.ndarray:
        y = dropout_fast(x, rate, keep, key, offset, out)
        if y is not None:
            return y
    backend = backend_of("x", x)
    array: Array = backend.as_array("x", x)
    chosen = _mask("dropout", array.shape, rate, keep, key, mask, shared_axes, offset)
    return backend.dropout(array, chosen, out)


def dropout_backward(
    dy: npt.ArrayLike,
    rate: npt.ArrayLike | None = None,
    *,
    keep: npt.ArrayLike | None = None,
    key: Key | int | None = None,
    mask: Mask | None = None,
    shared_axes: int | Iterable[int] = (),
    offset: int = 0,
    out: Array | None = None,
) -> Array:
    """The gradient of `dropout`: dx = m ? dy * (1 / keep) : +0.0, with the mask drawn again.

    Parameters
    ----------
    dy : array_like
        The gradient with respect to y, of the shape of x.
    rate, keep, key, mask, shared_axes, offset, out
        As they were given to `dropout`. Of a mask only its address has to be kept between the two
        calls; `Mask.from_packed` reads stored bits instead.

    Returns
    -------
    numpy.ndarray
        dx, of the shape and dtype of dy.
    """
    if mask is None and shared_axes == () and type(dy) is np.ndarray:
        dx = dropout_fast(dy, rate, keep, key, offset, out)
        if dx is not None:
            return dx
    backend = backend_of("dy", dy)
    array: Array = backend.as_array("dy", dy)
    chosen = _mask("dropout_backward", array.shape, rate, keep, key, mask, shared_axes, offset)
    return backend.dropout(array, chosen, out, "dy")


def _mask(
    what: str,
    shape: tuple[int, ...],
    rate: npt.ArrayLike | None,
    keep: npt.ArrayLike | None,
    key: Key | int | None,
    mask: Mask | None,
    shared_axes: int | Iterable[int],
    offset: int,
) -> Mask:
    axes = _axes(shared_axes)
    if mask is not None:
        if not isinstance(mask, Mask):
            raise TypeError(
                f"{what}: mask must be a Mask, got {type(mask).__name__}; "
                "Mask.given(kept) takes a boolean array"
            )
        if rate is not None or keep is not None or key is not None or axes or offset:
            raise ValueError(
                f"{what}: mask= has its own rate, key, shape and offset: give either mask or those"
            )
        return mask
    if key is None:
        raise TypeError(
            f"{what} needs key= (the address of the mask, such as Key(seed, step=step)) or mask=; "
            "for inference leave dropout out"
        )
    kept = resolve_keep(rate, keep, what=what)
    if axes:
        shape = shared_shape(shape, axes, what)
    return Mask(shape, keep=kept, key=key, offset=offset)


def _axes(axes: int | Iterable[int]) -> tuple[int, ...]:
    if type(axes) is tuple:
        return axes
    return tuple(axes) if isinstance(axes, Iterable) else (axes,)


def shared_shape(shape: tuple[int, ...], axes: Iterable[Any], what: str) -> tuple[int, ...]:
    """`shape` with 1 for the shared axes."""
    own = list(shape)
    for axis in normal_axes(axes, len(shape), f"{what}: shared_axes"):
        own[axis] = 1
    return tuple(own)


def normal_axes(axes: Iterable[Any], ndim: int, what: str) -> tuple[int, ...]:
    """Axes as sorted numbers in [0, ndim); ValueError for one that is not there, or twice."""
    found = []
    for axis in axes:
        try:
            number = operator.index(axis)
        except TypeError:
            raise TypeError(f"{what} must be integers, got {axis!r}") from None
        if not -ndim <= number < ndim:
            raise ValueError(
                f"{what}: an array of {ndim} axes has none numbered {number}; allowed is "
                f"{-ndim} ... {ndim - 1}"
            )
        found.append(number % ndim)
    if len(set(found)) != len(found):
        raise ValueError(f"{what} names an axis twice: {tuple(axes)}")
    return tuple(sorted(found))


def max_norm_(w: Array, max_norm: float, *, axis: int | Iterable[int]) -> Array:
    """Project onto the max-norm ball, in place: vectors longer than max_norm are shortened to it.

    For every vector v that runs over `axis`::

        v <- v * min(1, max_norm / ||v||_2)

    A vector inside the ball is not touched at all. Afterwards the float64 norm of the stored values
    is at most max_norm, and a second call changes nothing. A vector that holds a NaN or an infinity
    is left alone.

    Parameters
    ----------
    w : numpy.ndarray or cupy.ndarray of float32 or float64
        Weights, changed in place. Any strides.
    max_norm : float
        Largest norm, > 0.
    axis : int or tuple of int
        The axes that the norm runs over, as in Keras: 0 for Dense weights (in, out), whose columns
        are the incoming weights of a unit; (0, 1, 2) for convolutions (height, width, in, out).
        (torch.renorm names the axis that is kept.)

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError
        If w is not an array of a real dtype that is taken.
    ValueError
        If max_norm is not positive, w is read-only, or axis is not an axis of w.

    References
    ----------
    Srebro and Shraibman 2005; Srivastava et al. 2014, section 5.1.
    """
    backend = backend_of("w", w)
    expect_weights("max_norm_", "w", w)
    backend.max_norm_(w, *axes_of("max_norm_", w, max_norm, axis))
    return w


def expect_weights(what: str, name: str, w: object) -> None:
    """An array of a real dtype that can be changed in place, or an error that says why not."""
    if not backend_of(name, w).is_array(w):
        raise TypeError(
            f"{what}: {name} is changed in place and must be a numpy.ndarray, got "
            f"{type(w).__name__}"
        )
    w = cast(Array, w)
    if w.dtype.name not in ("float32", "float64") or not w.dtype.isnative:
        raise TypeError(f"{what}: {name} must be float32 or float64, got {w.dtype}")
    if not getattr(w.flags, "writeable", True):  # CuPy's arrays all are
        raise ValueError(f"{what}: {name} is read-only and cannot be changed in place")


def axes_of(
    what: str, w: Array, max_norm: float, axis: int | Iterable[int]
) -> tuple[float, tuple[int, ...]]:
    """max_norm as float and axis as sorted axes of w."""
    try:
        bound = float(max_norm)
    except (TypeError, ValueError):
        raise TypeError(f"{what}: max_norm must be a number > 0, got {max_norm!r}") from None
    if not bound > 0 or math.isnan(bound):
        raise ValueError(f"{what}: max_norm must be > 0, got {max_norm}")
    axes = _axes(axis)
    if not axes:
        raise ValueError(f"{what}: axis must name the axes that the norm runs over, got ()")
    return bound, normal_axes(axes, w.ndim, f"{what}: axis")
