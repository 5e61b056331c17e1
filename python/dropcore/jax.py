"""Dropout for JAX, on the CPU.

`dropout` can be transformed like every other function of JAX: by ``jit``, ``grad``, ``jvp``,
``vmap`` and ``checkpoint``. The mask is the one that `dropcore.Mask` draws from the same key. The
backward pass draws it again, so that nothing of it is kept. XLA calls the compiled core itself,
without Python and without copies.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from dropcore._backends import cpu
from dropcore._base.checks import check_axis_numbers, check_integer
from dropcore._base.decisions import INDEX_LIMIT
from dropcore._base.extras import require
from dropcore.functional import FLOATS, shared_shape
from dropcore.key import Key, as_key
from dropcore.mask import Mask, resolve_keep

jax = require("jax", "jax", "dropcore.jax")
jnp = require("jax.numpy", "jax", "dropcore.jax")
ffi, ad, batching, mlir = (
    require(f"jax.{name}", "jax", "dropcore.jax")
    for name in ("ffi", "interpreters.ad", "interpreters.batching", "interpreters.mlir")
)
Primitive = require("jax.extend.core", "jax", "dropcore.jax").Primitive

__all__ = ["dropout"]


def dropout(
    x: Any,
    rate: float | None = None,
    *,
    keep: float | None = None,
    key: Any,
    step: Any = None,
    shared_axes: int | Iterable[int] = (),
    offset: Any = 0,
) -> Any:
    """Zero a random part of the elements and scale up the rest: `dropcore.dropout` for JAX.

    ``jax.vmap`` does what it promises: ``vmap(f)(xs)[i]`` is ``f(xs[i])``. So all elements of a
    batch have the same mask, unless `key`, `step` or `offset` is mapped as well::

        vmap(lambda x, key: dropout(x, 0.5, key=key))(xs, jax.random.split(key, len(xs)))
        vmap(lambda x, at: dropout(x, 0.5, key=key, offset=at))(xs, x.size * jnp.arange(len(xs)))

    The second line draws the mask that xs has as a whole.

    Parameters
    ----------
    x : array_like of float32, float64, float16 or bfloat16
        float64 needs JAX's option ``jax_enable_x64``.
    rate, keep : float
        The fraction dropped, or the fraction kept, in [0, 1]; exactly one is needed. It is part of
        the compiled function: another rate compiles again.
    key : jax.Array, Key or int
        A key of JAX with two words, such as ``jax.random.key(0)``, which stands for
        ``Key.from_words(*jax.random.key_data(key))``; a raw one, uint32 (2,); or a `Key`. It is not
        consumed: the same key gives the same mask.
    step : int or jax.Array of shape (), optional
        Replaces the step of the key, in [0, 2**32). With a `Key` it is what changes from one call
        of a compiled function to the next.
    shared_axes : int or iterable of int, default ()
        Axes along which decisions are shared.
    offset : int or jax.Array of shape (), default 0
        Index of the mask's first element. Under ``jit`` it has the range of its dtype.

    Returns
    -------
    jax.Array
        Of the shape and dtype of x.

    Raises
    ------
    TypeError
        If x has another dtype, the rate is not a number that is known while the function is traced,
        or the key is none of those above.
    ValueError
        If a number is out of range, or both rate and keep are given.
    NotImplementedError
        If it is compiled for another platform than the CPU.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> y = dropout(jnp.ones(8), 0.5, key=7)
    >>> bool(((y == 0) | (y == 2)).all())
    True
    """
    for name, given in (("rate", rate), ("keep", keep)):
        if isinstance(given, jax.core.Tracer):
            raise TypeError(
                f"dropout: {name} must be known while the function is traced, got {given}; name it "
                "in static_argnames of jax.jit"
            )
    kept = resolve_keep(rate, keep, what="dropout")
    if not isinstance(kept, float):
        raise TypeError(f"dropout: one rate is taken here, got an array of shape {kept.shape}")
    x = jnp.asarray(x)
    if x.dtype.name not in FLOATS:
        raise TypeError(f"x must be {', '.join(FLOATS[:-1])} or {FLOATS[-1]}, got {x.dtype}")
    shared = check_axis_numbers("dropout: shared_axes", shared_axes)
    shape = shared_shape(x.shape, shared, "dropout")
    seed, stream, own_step = _address(key)
    place: Any = (stream, *_words("step", own_step if step is None else step, 1 << 32)[:1],
             *_words("offset", offset, INDEX_LIMIT - math.prod(shape) + 1))  # fmt: skip
    if not any(isinstance(word, jax.Array) for word in place):
        place = np.array(place, np.uint32)  # one array to hand over, and not four
    return _dropout(x, seed, place, keep=kept, shape=shape)


def _address(key: Any) -> tuple[Any, int, int]:
    """The words of the seed, the word of domain and stream, and the step of a key."""
    if isinstance(key, Key | int):
        own = as_key(key)
        seed = np.array([own.seed & 0xFFFFFFFF, own.seed >> 32], np.uint32)
        return seed, own.domain << 28 | own.stream, own.step
    given = key
    if isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.key_data(key)
    if not isinstance(key, jax.Array | np.ndarray) or key.dtype != np.uint32 or key.shape != (2,):
        found = f"{given.dtype} {given.shape}" if hasattr(given, "shape") else type(given).__name__
        raise TypeError(
            "dropout: key must be one key of JAX with two words (threefry2x32), uint32 (2,), or a "
            f"dropcore.Key, got {found}"
        )
    return key, 0, 0


def _words(name: str, number: Any, end: int) -> tuple[Any, Any]:
    """The low and high 32 bits of an integer, which may be traced."""
    if not isinstance(number, jax.Array):
        number = check_integer(f"dropout: {name}", number, 0, end - 1)
        return number & 0xFFFFFFFF, number >> 32
    if number.shape != () or not jnp.issubdtype(number.dtype, jnp.integer):
        raise TypeError(
            f"dropout: {name} must be an integer, got {number.dtype} of shape {number.shape}"
        )
    high = number >> 32 if number.dtype.itemsize == 8 else 0
    return number.astype(np.uint32), high


@functools.partial(jax.jit, static_argnames=("keep", "shape"))
def _dropout(x: Any, seed: Any, place: Any, *, keep: float, shape: tuple[int, ...]) -> Any:
    """Dropout with a mask of that shape."""
    if isinstance(place, tuple):
        place = jnp.stack([jnp.asarray(word, dtype=np.uint32) for word in place])
    if shape == x.shape:
        return _primitive.bind(x, seed, place, keep=keep)
    kept = _primitive.bind(jnp.ones(shape, np.float32), seed, place, keep=keep) != 0
    wide = jnp.promote_types(x.dtype, np.float32)
    scaled = x.astype(wide) * jnp.asarray(Mask(1, keep=keep, key=0).scale, wide)
    return jnp.where(kept, scaled.astype(x.dtype), jnp.zeros((), x.dtype))


def _batched(args: Any, axes: Any, *, keep: float) -> tuple[Any, int]:
    """A mask for each element of the batch: rows of words, for equal parts of x."""
    size = next(a.shape[axis] for a, axis in zip(args, axes) if axis is not None)
    rows = [
        jnp.broadcast_to(a, (size, *a.shape)) if axis is None else jnp.moveaxis(a, axis, 0)
        for a, axis in zip(args, axes)
    ]
    return _primitive.bind(*rows, keep=keep), 0


def _lower(context: Any, x: Any, seed: Any, place: Any, *, keep: float) -> Any:
    return ffi.ffi_lowering(_TARGET)(context, x, seed, place, keep=np.float64(keep))


def _refuse(context: Any, *_: Any, keep: float) -> Any:
    raise NotImplementedError(
        "dropcore.jax runs on the CPU: keep x there, or use jax.random.bernoulli on the "
        f"{', '.join(context.module_context.platforms)}"
    )


_TARGET = "dropcore_dropout"
ffi.register_ffi_target(_TARGET, cpu.xla_dropout(), platform="cpu")

# x, seed and place are those of `xla_dropout` in the core. It is linear in x and symmetric.
_primitive = Primitive(_TARGET)
_primitive.def_impl(jax.jit(_primitive.bind, static_argnames="keep"))
_primitive.def_abstract_eval(lambda x, seed, place, *, keep: x)
mlir.register_lowering(_primitive, _refuse)
mlir.register_lowering(_primitive, _lower, platform="cpu")
batching.primitive_batchers[_primitive] = _batched
ad.defjvp(_primitive, lambda dx, x, *at, keep: _primitive.bind(dx, *at, keep=keep), None, None)
ad.primitive_transposes[_primitive] = lambda dy, x, *at, keep: (
    _primitive.bind(dy, *at, keep=keep), None, None,
)  # fmt: skip
