"""Dropout and max-norm as functions of arrays."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, cast

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of
from dropcore._backends.cpu import dropout_fast
from dropcore._base.checks import check_axes, check_axis_numbers, check_number, expect_unmasked
from dropcore._base.device import array_namespace
from dropcore.key import Key
from dropcore.mask import Mask, resolve_keep

__all__ = ["alpha_dropout", "alpha_dropout_backward", "dropout", "dropout_backward", "max_norm_"]

Array = npt.NDArray[Any]

FLOATS = ("float32", "float64", "float16", "bfloat16")
"""The dtypes that elementwise functions take."""

SELU_SATURATION: Final = -1.0507009873554805 * 1.6732632423543772
"""What SELU gives for x to minus infinity: - scale * alpha."""


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

    Elements are selected, not multiplied by 0, so a dropped NaN or infinity becomes 0. The scale is
    rounded to the dtype of the computation (float64 for float64, otherwise float32), and the
    product is rounded once, to nearest even.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16 (ml_dtypes)
        Any shape and strides; it may be read-only. For a cupy.ndarray the result is one too, with
        the same mask.
    rate : float or array_like, optional
        Fraction dropped, in [0, 1]. An array broadcasts to the mask's shape: a rate per unit, per
        sample or per element.
    keep : float or array_like, optional
        Fraction kept, ``1 - rate``. Give `rate` or `keep`.
    key : Key or int
        The address of the mask. The same key always gives the same mask, on any machine.
    mask : Mask
        Replaces rate, keep, key, shared_axes and offset. It broadcasts to x.
    shared_axes : int or iterable of int, default ()
        Axes along which decisions are shared: ``shared_axes=0`` on (batch, units) drops the same
        units for the whole batch.
    offset : int, default 0
        Index of the mask's first element, if x is a part of a larger batch.
    out : numpy.ndarray or cupy.ndarray, optional
        The result is written to it. It has the shape and dtype of x, and may be x itself.

    Returns
    -------
    numpy.ndarray
        `out`, or a new C-contiguous array of the shape and dtype of x.

    Raises
    ------
    TypeError
        If neither key nor mask is given, neither rate nor keep, x is a masked array, or its dtype
        is not one of those above.
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
    if mask is None and type(shared_axes) is tuple and not shared_axes and type(x) is np.ndarray:
        y = dropout_fast(x, rate, keep, key, offset, out)
        if y is not None:
            return y
    return _dropout("dropout", "x", x, rate, keep, key, mask, shared_axes, offset, out)


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
        The arguments of `dropout`. Only the address of a mask needs to be kept between the two
        calls; `Mask.from_packed` uses stored bits instead.

    Returns
    -------
    numpy.ndarray
        dx, of the shape and dtype of dy.
    """
    if mask is None and type(shared_axes) is tuple and not shared_axes and type(dy) is np.ndarray:
        dx = dropout_fast(dy, rate, keep, key, offset, out)
        if dx is not None:
            return dx
    return _dropout(
        "dropout_backward", "dy", dy, rate, keep, key, mask, shared_axes, offset, out
    )  # fmt: skip


def alpha_dropout(
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
    """Dropout for SELU networks, which keeps mean 0 and variance 1.

    A dropped element becomes c = -1.7581, where SELU saturates, and all are shifted and scaled::

        y = a * (x if kept else c) + b
        a = (keep * (1 + rate * c**2)) ** -0.5          b = -a * rate * c

    Where keep = 0, y is 0.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16 (ml_dtypes)
        The last two are computed in float32 and rounded once.
    rate, keep, key
        As for `dropout`, which has the same mask.
    mask : Mask
        As for `dropout`. keep is ``1 / mask.scale``.
    shared_axes, offset
        As for `dropout`.
    out : numpy.ndarray or cupy.ndarray, optional
        The result is written to it. It has the shape and dtype of x, and may be x itself.

    Returns
    -------
    numpy.ndarray
        `out`, or a new C-contiguous array of the shape and dtype of x.

    Raises
    ------
    TypeError, ValueError
        As for `dropout`.

    References
    ----------
    Klambauer, Unterthiner, Mayr and Hochreiter 2017, "Self-normalizing neural networks".

    Examples
    --------
    >>> import numpy as np
    >>> y = alpha_dropout(np.random.default_rng(0).normal(size=100_000), 0.2, key=7)
    >>> bool(abs(y.mean()) < 0.01 and abs(y.std() - 1) < 0.01)
    True
    """
    backend = backend_of("x", x)
    array: Array = backend.as_array("x", x)
    chosen = _mask("alpha_dropout", array.shape, rate, keep, key, mask, shared_axes, offset)
    wide = np.dtype(np.float32) if array.dtype.itemsize == 2 else array.dtype
    short = wide != array.dtype
    if out is not None:
        backend.expect_out_like(out, array, "x")
    # a * (x or c) + b = a * (x - c or 0) + a * keep * c, whose first term is a dropout. Where a
    # drawn mask keeps all, c does not matter, and with 0 for it x stays as it is.
    kept = _keep_of(chosen.element_scale())
    c = SELU_SATURATION * ((kept < 1.0) | (chosen.bits is not None))
    shift = alpha_scale(kept) * kept * c
    with np.errstate(all="ignore"):
        centred = backend.empty(array.shape, wide)
        centred[...] = array
        centred -= _as(wide, c, backend)
        y: Array = backend.dropout(centred, _rescaled(chosen), None if short else out, "x")
        y += _as(wide, shift, backend)
        if short:
            y = y.astype(array.dtype)
    if short and out is not None:
        out[...] = y
    return y if out is None else out


def alpha_dropout_backward(
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
    """The gradient of `alpha_dropout`: dx = m ? dy * a : +0.0, with the mask drawn again.

    Parameters
    ----------
    dy : array_like
        The gradient with respect to y, of the shape of x.
    rate, keep, key, mask, shared_axes, offset
        The arguments of `alpha_dropout`.
    out : numpy.ndarray or cupy.ndarray, optional
        The result is written to it. It may be dy itself.

    Returns
    -------
    numpy.ndarray
        dx, of the shape and dtype of dy.
    """
    backend = backend_of("dy", dy)
    array: Array = backend.as_array("dy", dy)
    chosen = _mask(
        "alpha_dropout_backward", array.shape, rate, keep, key, mask, shared_axes, offset
    )  # fmt: skip
    return backend.dropout(array, _rescaled(chosen), out, "dy")


def alpha_scale(keep: Any) -> Any:
    """The factor a of `alpha_dropout`, 0 where nothing is kept. keep may be an array."""
    spread = keep * (1.0 + (1.0 - keep) * SELU_SATURATION**2)
    if isinstance(keep, float):
        return spread**-0.5 if spread > 0.0 else 0.0
    xp = array_namespace(keep)
    return xp.where(spread > 0.0, xp.where(spread > 0.0, spread, 1.0) ** -0.5, 0.0)


def _rescaled(mask: Mask) -> Mask:
    """The mask with the scale of `alpha_dropout`."""
    return mask.rescaled(alpha_scale(_keep_of(mask.scale)))


def _keep_of(scale: Any) -> Any:
    """keep, from the scale 1 / keep, which is 0 where nothing is kept."""
    if isinstance(scale, float):
        return 1.0 / scale if scale else 0.0
    xp = array_namespace(scale)
    return xp.where(scale > 0.0, 1.0 / xp.where(scale > 0.0, scale, 1.0), 0.0)


def _as(dtype: np.dtype[Any], number: Any, backend: Any) -> Any:
    """A float or an array in another dtype, without a transfer to a device for a float."""
    return dtype.type(number) if isinstance(number, float) else backend.xp.asarray(number, dtype)


def _dropout(
    what: str,
    name: str,
    x: npt.ArrayLike,
    rate: npt.ArrayLike | None,
    keep: npt.ArrayLike | None,
    key: Key | int | None,
    mask: Mask | None,
    shared_axes: int | Iterable[int],
    offset: int,
    out: Array | None,
) -> Array:
    """The general path, in which x is called `name` in messages."""
    backend = backend_of(name, x)
    array: Array = backend.as_array(name, x)
    chosen = _mask(what, array.shape, rate, keep, key, mask, shared_axes, offset)
    return backend.dropout(array, chosen, out, name)


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
    axes = check_axis_numbers(f"{what}: shared_axes", shared_axes)
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


def shared_shape(shape: tuple[int, ...], axes: Iterable[int], what: str) -> tuple[int, ...]:
    """`shape` with 1 for the shared axes."""
    shared = check_axes(f"{what}: shared_axes", axes, len(shape))
    return tuple(1 if axis in shared else n for axis, n in enumerate(shape))


def max_norm_(w: Array, max_norm: float, *, axis: int | Iterable[int]) -> Array:
    """Project onto the max-norm ball in place: shorten all vectors longer than max_norm.

    For every vector v that runs over `axis`::

        v <- v * min(1, max_norm / ||v||_2)

    A vector inside the ball does not change. Afterwards the float64 norm of the stored values is at
    most max_norm, and a second call changes nothing. Vectors with a NaN or an infinity do not
    change either.

    Parameters
    ----------
    w : numpy.ndarray or cupy.ndarray of float32, float64, float16 or bfloat16
        Weights, changed in place. Any strides. The last two are computed in float32 and rounded
        once.
    max_norm : float
        Largest norm, > 0.
    axis : int or tuple of int
        The axes that the norm runs over, as in Keras: 0 for Dense weights (in, out), whose columns
        are the incoming weights of a unit; (0, 1, 2) for convolutions (height, width, in, out).
        torch.renorm names the axis that is kept instead.

    Returns
    -------
    numpy.ndarray
        w.

    Raises
    ------
    TypeError
        If w is not an array of one of these dtypes, or max_norm is not a number.
    ValueError
        If max_norm is not positive, w is read-only, or axis is not an axis of w.

    References
    ----------
    Srebro and Shraibman 2005; Srivastava et al. 2014, section 5.1.
    """
    expect_weights("max_norm_", "w", w, FLOATS)
    project(w, *bound_and_axes("max_norm_", w, max_norm, axis))
    return w


def project(w: Array, bound: float, axes: tuple[int, ...]) -> None:
    """`max_norm_` without checks, for a bound and sorted axes."""
    backend = backend_of("w", w)
    if w.dtype.itemsize > 2:
        backend.max_norm_(w, bound, axes)
        return
    before, short = w.astype(np.float32), w.astype(np.float32)
    backend.max_norm_(short, bound, axes)
    rounded = rounded_within(short, w.dtype, bound, axes)
    array_namespace(w).copyto(w, rounded, where=abs(short) < abs(before))


@np.errstate(under="ignore", invalid="ignore")
def rounded_within(x: Array, dtype: np.dtype[Any], bound: float, axes: tuple[int, ...]) -> Array:
    """Float32 vectors inside the ball, rounded to a dtype of 16 bits and still inside the ball.

    Rounding to nearest can make a vector longer than the bound, and rounding towards zero cannot.
    So the vectors for which it happens are rounded towards zero.
    """
    rounded: Array = x.astype(dtype)
    stored = rounded.astype(np.float32)
    limited = stored.copy()
    backend_of("x", x).max_norm_(limited, bound, axes)
    too_long = (limited != stored).any(axis=axes, keepdims=True)
    bits = rounded.view(np.uint16)  # one less is the next number towards zero
    bits -= (too_long & (abs(stored) > abs(x))).astype(np.uint16)
    return rounded


def expect_weights(
    what: str, name: str, w: object, dtypes: tuple[str, ...] = ("float32", "float64")
) -> None:
    """An array of one of the dtypes that can be changed in place, or an error that says why not."""
    if not backend_of(name, w).is_array(w):
        raise TypeError(
            f"{what}: {name} is changed in place and must be a numpy.ndarray, got "
            f"{type(w).__name__}"
        )
    expect_unmasked(f"{what}: {name}", w)
    w = cast(Array, w)
    if w.dtype.name not in dtypes or not w.dtype.isnative:
        raise TypeError(
            f"{what}: {name} must be {', '.join(dtypes[:-1])} or {dtypes[-1]}, got {w.dtype}"
        )
    if not getattr(w.flags, "writeable", True):  # CuPy's arrays all are
        raise ValueError(f"{what}: {name} is read-only and cannot be changed in place")


def bound_and_axes(
    what: str, w: Array, max_norm: float, axis: int | Iterable[int]
) -> tuple[float, tuple[int, ...]]:
    """max_norm as a float, and axis as sorted axes of w."""
    bound = check_number(f"{what}: max_norm", max_norm, "(0, inf]")
    axes = check_axes(f"{what}: axis", axis, w.ndim)
    if not axes:
        raise ValueError(f"{what}: axis must name the axes that the norm runs over, got ()")
    return bound, axes
