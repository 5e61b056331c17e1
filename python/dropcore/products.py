"""Products with masks on their factors and on their result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dropcore._backends import backend_of, cpu, kept_units
from dropcore._base.checks import check_bool
from dropcore._base.strides import expect_broadcast
from dropcore.key import Key
from dropcore.mask import Mask

__all__ = ["masked_matmul", "masked_matmul_backward"]

Array = npt.NDArray[Any]

ACTIVATIONS: Final = (None, "relu")

SPARSE_CHUNK: Final = 1 << 20
"""How many products of weights and gradients the gradient of a sparse x stores at once."""


def masked_matmul(
    x: Any,
    w: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    x_mask: Mask | None = None,
    w_mask: Mask | None = None,
    y_mask: Mask | None = None,
    activation: str | None = None,
    out: Array | None = None,
) -> Array:
    """A layer's product with dropout on its input, its weights and its output.

    With each mask's own scale::

        y = act((x ∘ Mx) @ (w ∘ Mw) + bias) ∘ My

    Units that a mask drops for the whole batch are left out of the product: with a rate of 0.5 on
    both sides a quarter of the multiplications remain.

    Parameters
    ----------
    x : array_like of float32 or float64, (..., K), or scipy.sparse CSR (B, K)
        On a GPU float16 and bfloat16 are allowed too.
    w : array_like of the same dtype, (K, N)
    bias : array_like of the same dtype, (N,), optional
    x_mask : Mask, optional
        Broadcasts to x. (B, K) drops elements, (1, K) units, (G, 1, K) on x (G, R, K) units by
        groups of rows.
    w_mask : Mask, optional
        (K, N) drops weights (DropConnect). (B, K, N) drops other weights for every sample; it is
        drawn during the product and is never stored.
    y_mask : Mask, optional
        Broadcasts to y, as `x_mask` to x.
    activation : None or "relu"
    out : numpy.ndarray, (..., N), optional

    Returns
    -------
    numpy.ndarray
        y, (..., N).

    Raises
    ------
    TypeError
        If a dtype is not allowed, dtypes differ, or an array is a masked array.
    ValueError
        If shapes do not fit, `activation` is unknown, or `out` overlaps an input.

    References
    ----------
    Srivastava et al. 2014 (element); Graham et al. 2015, "Efficient batchwise dropout training
    using submatrices" (unit); Wan et al. 2013, "Regularization of neural networks using
    DropConnect".
    """
    p = _Operands("masked_matmul", x, w, x_mask, w_mask, y_mask, activation)
    b = p.bias(bias)
    if out is None:
        y = p.xp.empty(p.y_shape, p.w.dtype)
    else:
        y = p.backend.expect_out(out, p.y_shape, p.w.dtype, "y")
        for name, array in (("x", p.x), ("w", p.w), ("bias", b)):
            if p.backend.is_array(array) and p.backend.overlap(y, array):
                raise ValueError(f"masked_matmul: out overlaps {name}; give a separate array")
    p.product().forward(y, b)
    return y


def masked_matmul_backward(
    dy: npt.ArrayLike,
    x: Any,
    w: npt.ArrayLike,
    y: npt.ArrayLike | None = None,
    *,
    x_mask: Mask | None = None,
    w_mask: Mask | None = None,
    y_mask: Mask | None = None,
    activation: str | None = None,
    input_gradient: bool = True,
) -> tuple[Any, Array, Array]:
    """The gradients of `masked_matmul`.

    With dz = (dy ∘ My) * act'::

        dx = (dz @ (w ∘ Mw).T) ∘ Mx      dw = ((x ∘ Mx).T @ dz) ∘ Mw      dbias = sum of dz

    Parameters
    ----------
    dy : array_like, (..., N)
    x, w
        As they were given to `masked_matmul`.
    y : array_like, (..., N)
        The result of `masked_matmul`. Needed with an activation only.
    x_mask, w_mask, y_mask, activation
        As they were given to `masked_matmul`.
    input_gradient : bool, default True
        Whether dx is computed, which the first layer of a network does not need.

    Returns
    -------
    dx : numpy.ndarray, (..., K), or None
        For a sparse x a CSR array that stores the same elements. None without `input_gradient`.
    dw : numpy.ndarray, (K, N)
    dbias : numpy.ndarray, (N,)

    Raises
    ------
    TypeError, ValueError
        As `masked_matmul`.
    """
    p = _Operands("masked_matmul_backward", x, w, x_mask, w_mask, y_mask, activation)
    dz = p.like_y("dy", dy)
    if y_mask is not None:
        dz = p.backend.dropout(dz, y_mask, None)
    if activation == "relu":
        if y is None:
            raise TypeError("masked_matmul_backward: activation='relu' needs y, the forward result")
        dz = dz * (p.like_y("y", y) > 0)
    wanted = check_bool("masked_matmul_backward: input_gradient", input_gradient)
    dx, dw = p.product().backward(p.xp.ascontiguousarray(dz), wanted)
    return dx, dw, dz.sum(axis=tuple(range(dz.ndim - 1)))


class _Operands:
    """The arguments of a product, checked."""

    def __init__(
        self,
        what: str,
        x: Any,
        w: npt.ArrayLike,
        x_mask: Mask | None,
        w_mask: Mask | None,
        y_mask: Mask | None,
        activation: str | None,
    ) -> None:
        self.what = what
        if activation not in ACTIVATIONS:
            raise ValueError(f"{what}: activation must be None or 'relu', got {activation!r}")
        self.relu = activation == "relu"
        self.backend = backend_of("w", w)
        self.xp, self.dtypes = self.backend.xp, self.backend.PRODUCTS
        if backend_of("x", x) is not self.backend:
            raise TypeError(
                f"{what}: x and w must be on one device, got {type(x).__module__}."
                f"{type(x).__name__} and {type(w).__module__}.{type(w).__name__}"
            )
        self.w: Array = self.backend.as_array("w", w, self.dtypes)
        if self.w.ndim != 2:
            raise ValueError(f"{what}: w must be (K, N), got shape {self.w.shape}")
        self.k, self.n = self.w.shape
        self.sparse = scipy.sparse.issparse(x)
        self.x = self._csr(x) if self.sparse else self.backend.as_array("x", x, self.dtypes)
        if self.x.ndim < 1 or self.x.shape[-1] != self.k:
            raise ValueError(
                f"{what}: the last axis of x must be K = {self.k}, the first of w "
                f"{self.w.shape}, got x of shape {self.x.shape}"
            )
        if self.x.dtype != self.w.dtype:
            raise TypeError(
                f"{what}: x and w must have one dtype, got {self.x.dtype} and {self.w.dtype}"
            )
        self.y_shape = (*self.x.shape[:-1], self.n)
        self.x_mask, self.w_mask, self.y_mask = x_mask, w_mask, y_mask
        self.per_sample = False
        self._check_masks()

    def product(self) -> _Product:
        """The way to compute it."""
        if self.per_sample:
            return _PerSample(self)
        return _Sparse(self) if self.sparse else _Dense(self)

    def bias(self, bias: npt.ArrayLike | None) -> Array | None:
        """A bias as a contiguous array."""
        if bias is None:
            return None
        b = self.xp.ascontiguousarray(self.backend.as_array("bias", bias, self.dtypes))
        if b.shape != (self.n,) or b.dtype != self.w.dtype:
            raise ValueError(
                f"{self.what}: bias must be ({self.n},) of {self.w.dtype}, got {b.shape} of "
                f"{b.dtype}"
            )
        return b

    def like_y(self, name: str, array: npt.ArrayLike) -> Array:
        """An array of the shape and dtype of y."""
        a: Array = self.backend.as_array(name, array, self.dtypes)
        if a.shape != self.y_shape or a.dtype != self.w.dtype:
            raise ValueError(
                f"{self.what}: {name} must have the shape of y, {self.y_shape} of "
                f"{self.w.dtype}, got {a.shape} of {a.dtype}"
            )
        return a

    def masked_w(self) -> Array:
        """w with a mask of its shape applied."""
        masked: Array = (
            self.w if self.w_mask is None else self.backend.dropout(self.w, self.w_mask, None)
        )
        return masked

    def epilogue(self, y: Array, bias: Array | None) -> None:
        """Add the bias and apply activation and mask, after products that do not do it."""
        if bias is not None:
            y += bias
        if self.relu:
            self.xp.maximum(y, 0, out=y)
        if self.y_mask is not None:
            self.backend.dropout(y, self.y_mask, y)

    def _csr(self, x: Any) -> Any:
        if x.format != "csr" or x.ndim != 2:
            raise TypeError(
                f"{self.what}: a sparse x must be a 2-D CSR array, got {x.format}; use .tocsr()"
            )
        if x.dtype.name not in self.dtypes:
            raise TypeError(f"{self.what}: x must be float32 or float64, got {x.dtype}")
        return x

    def _check_masks(self) -> None:
        what, w_mask = self.what, self.w_mask
        masks = {"x_mask": self.x_mask, "w_mask": w_mask, "y_mask": self.y_mask}
        for name, mask in masks.items():
            if mask is not None and not isinstance(mask, Mask):
                raise TypeError(
                    f"{what}: {name} must be a Mask, got {type(mask).__name__}; "
                    "Mask.given(kept) takes a boolean array"
                )
        if self.x_mask is not None:
            expect_broadcast(self.x_mask.shape, self.x.shape, "x")
        if self.y_mask is not None:
            expect_broadcast(self.y_mask.shape, self.y_shape, "y")
        if w_mask is None:
            return
        self.per_sample = len(w_mask.shape) == 3
        if not self.per_sample:
            expect_broadcast(w_mask.shape, self.w.shape, "w")
        elif self.x.ndim < 2 or w_mask.shape != (self.x.shape[0], self.k, self.n):
            raise ValueError(
                f"{what}: a weight mask for every sample must be (B, K, N) = "
                f"({self.x.shape[0]}, {self.k}, {self.n}), got {w_mask.shape}"
            )
        elif not isinstance(w_mask.scale, float) or w_mask.run != 1:
            raise ValueError(
                f"{what}: a weight mask for every sample takes one rate for all, without runs"
            )


class _Product(Protocol):
    """A way to compute a product and its gradients."""

    def forward(self, y: Array, bias: Array | None) -> None:
        """Write the product into y, with bias, activation and mask."""

    def backward(self, dz: Array, input_gradient: bool) -> tuple[Any, Array]:
        """dx, or None if it is not wanted, and dw, from the gradient before the activation."""


@dataclass(frozen=True)
class _Side:
    """A mask on rows (M, width) of x or y, as a factor takes it: element bits, or kept units."""

    bits: Any = None
    units: Array | None = None
    scale: float = 1.0


NO_MASK: Final = _Side()


class _Dense:
    """Dense x, and one mask at most for w.

    Masks are passed to the product as bits or as lists of kept units. Other masks (arrays of rates,
    axes shared in another way) are applied to the array before the product.
    """

    def __init__(self, operands: _Operands) -> None:
        self.of, self.backend, self.xp = operands, operands.backend, operands.xp
        self.groups = self._count_groups()
        self.x_sides = self._sides(operands.x_mask, operands.x.shape)
        self.y_sides = self._sides(operands.y_mask, operands.y_shape)
        self.w, self.w_side = self._weights()

    def forward(self, y: Array, bias: Array | None) -> None:
        of, product, xp = self.of, self.backend.product, self.xp
        rows = y if y.flags.c_contiguous else xp.empty(y.shape, y.dtype)
        for x_g, y_g, x_side, y_side in zip(
            self._rows(self._x()), self._rows(rows), *self._all_sides(), strict=True
        ):
            a, b = self._x_factor(x_g, x_side), self._w_factor(x_side, y_side)
            if y_side.units is None:
                product(y_g, a, b, bias=bias, relu=of.relu, bits=y_side.bits, scale=y_side.scale)
            else:
                kept = xp.empty((len(y_g), len(y_side.units)), y.dtype)
                product(
                    kept, a, b, bias=None if bias is None else bias[y_side.units], relu=of.relu,
                    scale=y_side.scale,
                )  # fmt: skip
                y_g[...] = 0
                y_g[:, y_side.units] = kept
        if self.y_sides is None:
            self.backend.dropout(rows, cast(Mask, of.y_mask), rows)
        if rows is not y:
            y[...] = rows

    def backward(self, dz: Array, input_gradient: bool) -> tuple[Any, Array]:
        of, xp = self.of, self.xp
        dw = xp.zeros(of.w.shape, of.w.dtype)
        dx = xp.empty(of.x.shape, of.w.dtype) if input_gradient else None
        into = [None] * self.groups if dx is None else self._rows(dx)
        for x_g, dx_g, dz_g, x_side, y_side in zip(
            self._rows(self._x()), into, self._rows(dz), *self._all_sides(), strict=True
        ):
            # dz is zero where y was dropped, so the columns of dropped units are left out.
            d = self.backend.Factor(dz_g, columns=y_side.units)
            if dx_g is not None:
                self._input_gradient(dx_g, d, x_side, y_side)
            self._add_weight_gradient(dw, x_g, d, x_side, y_side)
        if of.w_mask is not None:
            self.backend.dropout(dw, of.w_mask, dw)
        if dx is not None and self.x_sides is None:
            self.backend.dropout(dx, cast(Mask, of.x_mask), dx)
        return dx, dw

    def _input_gradient(self, dx: Array, d: Any, x_side: _Side, y_side: _Side) -> None:
        product, weights = self.backend.product, self._w_factor(x_side, y_side)
        if x_side.units is None:
            product(dx, d, weights, transpose_b=True, bits=x_side.bits, scale=x_side.scale)
            return
        kept = self.xp.empty((len(dx), len(x_side.units)), dx.dtype)
        product(kept, d, weights, transpose_b=True, scale=x_side.scale)
        dx[...] = 0
        dx[:, x_side.units] = kept

    def _add_weight_gradient(
        self, dw: Array, x: Array, d: Any, x_side: _Side, y_side: _Side
    ) -> None:
        xp = self.xp
        rows = xp.arange(self.of.k) if x_side.units is None else x_side.units
        columns = xp.arange(self.of.n) if y_side.units is None else y_side.units
        kept = xp.empty((len(rows), len(columns)), dw.dtype)
        self.backend.product(kept, self._x_factor(x, x_side), d, transpose_a=True)
        if kept.shape == dw.shape:
            dw += kept
        else:
            dw[xp.ix_(rows, columns)] += kept

    def _count_groups(self) -> int:
        """How many groups of rows have unit masks of their own; 1 for a plain batch."""
        of = self.of
        for mask, shape in ((of.x_mask, of.x.shape), (of.y_mask, of.y_shape)):
            if mask is not None and _is_grouped(mask, shape):
                return mask.shape[0]
        return 1

    def _sides(self, mask: Mask | None, shape: tuple[int, ...]) -> list[_Side] | None:
        """A side for each group, or None if the mask must be applied to the array."""
        if mask is None:
            return [NO_MASK] * self.groups
        if not isinstance(mask.scale, float):
            return None
        if shape[-1] != 1 and mask.shape[-1:] == shape[-1:] and math.prod(mask.shape[:-1]) == 1:
            return [_Side(units=kept_units(self.backend, mask)[0], scale=mask.scale)] * self.groups
        if _is_grouped(mask, shape):
            kept = kept_units(self.backend, mask, self.groups)
            return [_Side(units=units, scale=mask.scale) for units in kept]
        if self.groups == 1 and mask.shape == shape:
            return [_Side(bits=self.backend.decisions(mask), scale=mask.scale)]
        return None

    def _all_sides(self) -> tuple[list[_Side], list[_Side]]:
        """The sides of x and y for the product, without the masks that are applied apart."""
        none = [NO_MASK] * self.groups
        return self.x_sides or none, self.y_sides or none

    def _rows(self, array: Array) -> Array:
        """(groups, rows of each, last axis)."""
        rows = math.prod(array.shape[:-1])
        return array.reshape(self.groups, rows // self.groups, array.shape[-1])

    def _x(self) -> Array:
        """x, masked if the product does not do it."""
        x: Array = self.of.x
        if self.x_sides is None:
            x = self.backend.dropout(x, cast(Mask, self.of.x_mask), None)
        return x

    def _weights(self) -> tuple[Array, _Side]:
        """w, masked if the product does not do it, and the mask if it does."""
        w, mask = self.of.w, self.of.w_mask
        if mask is None:
            return w, NO_MASK
        if mask.shape == w.shape and isinstance(mask.scale, float):
            return w, _Side(bits=self.backend.decisions(mask), scale=mask.scale)
        return self.of.masked_w(), NO_MASK

    def _w_factor(self, x_side: _Side, y_side: _Side) -> Any:
        return self.backend.Factor(
            self.w, rows=x_side.units, columns=y_side.units, bits=self.w_side.bits,
            bit_strides=(self.of.n, 1), scale=self.w_side.scale,
        )  # fmt: skip

    def _x_factor(self, x: Array, side: _Side) -> Any:
        return self.backend.Factor(
            x, columns=side.units, bits=side.bits, bit_strides=(self.of.k, 1), scale=side.scale
        )


class _PerSample:
    """A weight mask for every sample, for x of (B, ..., K), dense or sparse."""

    def __init__(self, operands: _Operands) -> None:
        self.of, self.backend, self.xp = operands, operands.backend, operands.xp
        self.mask = cast(Mask, operands.w_mask)
        self.scale = operands.w.dtype.type(self.mask.scale)
        self.w = self.xp.ascontiguousarray(operands.w)

    def forward(self, y: Array, bias: Array | None) -> None:
        x = self._x() * self.scale
        total = self.xp.zeros((x.shape[1], x.shape[0], self.of.n), self.w.dtype)
        for r, y_r in enumerate(total):
            self._add("y", y_r, self.xp.ascontiguousarray(x[:, r]), self.w)
        y[...] = total.swapaxes(0, 1).reshape(y.shape)
        self.of.epilogue(y, bias)

    def backward(self, dz: Array, input_gradient: bool) -> tuple[Any, Array]:
        of, xp, x = self.of, self.xp, self._x()
        scaled = dz.reshape(*x.shape[:2], of.n) * self.scale
        dw = xp.zeros_like(self.w)
        dx = xp.zeros((x.shape[1], x.shape[0], of.k), self.w.dtype) if input_gradient else None
        for r in range(x.shape[1]):
            dz_r = xp.ascontiguousarray(scaled[:, r])
            self._add("dw", dw, xp.ascontiguousarray(x[:, r]), dz_r)
            if dx is not None:
                self._add("dx", dx[r], dz_r, self.w)
        if dx is None:
            return None, dw
        result = xp.ascontiguousarray(dx.swapaxes(0, 1)).reshape(of.x.shape)
        if of.x_mask is not None:
            self.backend.dropout(result, of.x_mask, result)
        if of.sparse:
            return _like(of.x, result[_row_numbers(of.x), of.x.indices]), dw
        return result, dw

    def _x(self) -> Array:
        """x with its mask applied, (B, R, K): sample b belongs to entry b of the weight mask."""
        of = self.of
        x = of.x.toarray() if of.sparse else of.x
        if of.x_mask is not None:
            x = self.backend.dropout(x, of.x_mask, None)
        return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), of.k)

    def _add(self, which: str, out: Array, a: Array, b: Array) -> None:
        self.backend.dropconnect_matmul(which, out, a, b, self.mask)


class _Sparse:
    """A CSR x, and one mask at most for w."""

    def __init__(self, operands: _Operands) -> None:
        self.of = operands
        x = operands.x
        self.rows = _row_numbers(x)
        self.factor = _factors(operands.x_mask, self.rows, x.indices, x.shape, x.dtype)
        self.w = operands.masked_w()

    def forward(self, y: Array, bias: Array | None) -> None:
        cpu.sparse_product(y, _like(self.of.x, self._apply(self.of.x.data)), self.w)
        self.of.epilogue(y, bias)

    def backward(self, dz: Array, input_gradient: bool) -> tuple[Any, Array]:
        of, x = self.of, self.of.x
        dw = np.empty(of.w.shape, of.w.dtype)
        cpu.sparse_product(dw, _like(x, self._apply(x.data)).T.tocsr(), dz)
        if of.w_mask is not None:
            of.backend.dropout(dw, of.w_mask, dw)
        if not input_gradient:
            return None, dw
        data = np.empty_like(x.data)
        step = max(1, SPARSE_CHUNK // max(of.n, 1))
        for start in range(0, data.size, step):
            part = slice(start, start + step)
            # einsum does not enter BLAS, whose threads would compete with those of the core.
            np.einsum("en,en->e", self.w[x.indices[part]], dz[self.rows[part]], out=data[part])
        return _like(x, self._apply(data)), dw

    def _apply(self, data: Array) -> Array:
        """Stored elements times their factors; those that are dropped are selected away."""
        kept: Array = np.multiply(
            data, self.factor, out=np.zeros_like(data), where=self.factor != 0
        )
        return kept


def _row_numbers(x: Any) -> npt.NDArray[np.int64]:
    """The row of each stored element of a CSR array."""
    return np.repeat(np.arange(x.shape[0], dtype=np.int64), np.diff(x.indptr))


def _like(x: Any, data: Array) -> Any:
    """A CSR array with the stored places of x and other numbers."""
    return scipy.sparse.csr_array((data, x.indices, x.indptr), shape=x.shape)


def _is_grouped(mask: Mask, shape: tuple[int, ...]) -> bool:
    """(G, 1, K) on (G, R, K), with one rate: unit masks by groups of rows."""
    return (
        len(shape) == 3
        and len(mask.shape) == 3
        and mask.shape == (shape[0], 1, shape[2])
        and shape[0] > 1
        and shape[2] > 1
        and isinstance(mask.scale, float)
    )


def _factors(
    mask: Mask | None,
    rows: npt.NDArray[np.int64],
    columns: Array,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Array:
    """For scattered elements of a (B, K) array the scale where kept, and 0 where dropped."""
    if mask is None:
        return np.ones(len(rows), dtype)
    own = (1,) * (2 - len(mask.shape)) + mask.shape
    row = rows if own[0] != 1 else np.zeros_like(rows)
    column = columns.astype(np.int64) if own[1] != 1 else np.zeros_like(rows)
    flat = row * own[1] + column
    if mask.bits is None and mask.run == 1 and isinstance(mask.threshold, int):
        kept = np.empty(len(flat), np.uint8)
        cpu.kept_at(kept, flat, cast(Key, mask.key), mask.domain, mask.threshold, mask.offset)
    else:
        kept = cpu.element_bits(mask)[flat // 8] >> (flat % 8) & 1
    scale = np.broadcast_to(np.asarray(mask.element_scale()), own)[row, column]
    return (kept * scale).astype(dtype)
