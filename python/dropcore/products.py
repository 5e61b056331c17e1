"""Products with masks on their factors and on their result."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import scipy.sparse

from dropcore._backends import backend_of, cpu
from dropcore.key import Key
from dropcore.mask import Mask

__all__ = ["masked_matmul", "masked_matmul_backward"]

Array = npt.NDArray[Any]

ACTIVATIONS = (None, "relu")


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

    Units that a mask drops for the whole batch are left out of the product: at rate 0.5 on both
    sides a quarter of the multiplications remain.

    Parameters
    ----------
    x : array_like of float32 or float64, (..., K), or scipy.sparse CSR (B, K)
    w : array_like of the same dtype, (K, N)
    bias : array_like of the same dtype, (N,), optional
    x_mask : Mask, optional
        Broadcasts to x. (B, K) drops elements, (1, K) units, (G, 1, K) on x (G, R, K) units by
        groups of rows.
    w_mask : Mask, optional
        (K, N) drops weights (DropConnect), (B, K, N) other weights for every sample; the latter is
        drawn where it is used and never stored.
    y_mask : Mask, optional
        Broadcasts to y; kinds as for `x_mask`.
    activation : None or "relu"
    out : numpy.ndarray, (..., N), optional

    Returns
    -------
    numpy.ndarray
        y, (..., N).

    Raises
    ------
    TypeError
        If a dtype is not taken, or dtypes differ.
    ValueError
        If shapes do not fit, `activation` is unknown, or `out` overlaps an input.

    References
    ----------
    Srivastava et al. 2014 (element); Graham et al. 2015, "Efficient batchwise dropout training
    using submatrices" (unit); Wan et al. 2013, "Regularization of neural networks using
    DropConnect".
    """
    p = _Product("masked_matmul", x, w, x_mask, w_mask, y_mask, activation)
    b = p.bias(bias)
    if out is None:
        y = p.xp.empty(p.y_shape, p.w.dtype)
    else:
        y = p.backend.expect_out(out, p.y_shape, p.w.dtype, "y")
        for name, array in (("x", p.x), ("w", p.w), ("bias", b)):
            if p.backend.is_array(array) and p.backend.overlap(y, array):
                raise ValueError(f"masked_matmul: out overlaps {name}; give memory of its own")
    p.forward(y, b)
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
) -> tuple[Any, Array, Array]:
    """The gradients of `masked_matmul`.

    With dz = (dy ∘ My) * act'::

        dx = (dz @ (w ∘ Mw).T) ∘ Mx      dw = ((x ∘ Mx).T @ dz) ∘ Mw      dbias = sum of dz

    Parameters
    ----------
    dy : array_like, (..., N)
    x, w, x_mask, w_mask, y_mask, activation
        As they were given to `masked_matmul`.
    y : array_like, (..., N)
        What `masked_matmul` returned. Needed with an activation only.

    Returns
    -------
    dx : numpy.ndarray, (..., K)
        For a sparse x a CSR array: the gradient of the stored elements.
    dw : numpy.ndarray, (K, N)
    dbias : numpy.ndarray, (N,)

    Raises
    ------
    TypeError, ValueError
        As `masked_matmul`.
    """
    p = _Product("masked_matmul_backward", x, w, x_mask, w_mask, y_mask, activation)
    dz = p.like_y("dy", dy)
    if y_mask is not None:
        dz = p.backend.dropout(dz, y_mask, None)
    if activation == "relu":
        if y is None:
            raise TypeError("masked_matmul_backward: activation='relu' needs y, the forward result")
        dz = dz * (p.like_y("y", y) > 0)
    dx, dw = p.backward(p.xp.ascontiguousarray(dz))
    return dx, dw, dz.sum(axis=tuple(range(dz.ndim - 1)))


@dataclass(frozen=True)
class _Side:
    """What a mask means for rows (M, width) of x or y: an element mask, or live units."""

    bits: Array | None = None
    live: Array | None = None
    scale: float = 1.0


NOTHING = _Side()


class _Product:
    """The arguments of a product, checked, and the ways to carry it out.

    Masks that the packing understands go there as bits or as lists of live units. What it does not
    understand (arrays of rates, a mask shared along an odd axis) is applied to the array first.
    """

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
        if self.sparse:
            self.x = self._csr(x)
        else:
            self.x = self.backend.as_array("x", x, self.dtypes)
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
        for name, mask in (("x_mask", x_mask), ("w_mask", w_mask), ("y_mask", y_mask)):
            if mask is not None and not isinstance(mask, Mask):
                raise TypeError(
                    f"{what}: {name} must be a Mask, got {type(mask).__name__}; "
                    "Mask.given(kept) takes a boolean array"
                )
        if x_mask is not None:
            cpu.expect_broadcast(x_mask, self.x.shape, "x")
        if y_mask is not None:
            cpu.expect_broadcast(y_mask, self.y_shape, "y")
        self.per_sample = w_mask is not None and len(w_mask.shape) == 3
        if w_mask is not None:
            if not self.per_sample:
                cpu.expect_broadcast(w_mask, self.w.shape, "w")
            elif len(self.x.shape) < 2 or w_mask.shape != (self.x.shape[0], self.k, self.n):
                raise ValueError(
                    f"{what}: a weight mask for every sample must be (B, K, N) = "
                    f"({self.x.shape[0]}, {self.k}, {self.n}), got {w_mask.shape}"
                )
            elif not isinstance(w_mask.scale, float) or w_mask.run != 1:
                raise ValueError(
                    f"{what}: a weight mask for every sample takes one rate for all, without runs"
                )
        self.x_mask, self.w_mask, self.y_mask = x_mask, w_mask, y_mask

    def _csr(self, x: Any) -> Any:
        if x.format != "csr" or x.ndim != 2:
            raise TypeError(
                f"{self.what}: a sparse x must be a 2-D CSR array, got {x.format}; use .tocsr()"
            )
        if x.dtype.name not in self.dtypes:
            raise TypeError(f"{self.what}: x must be float32 or float64, got {x.dtype}")
        return x

    def bias(self, bias: npt.ArrayLike | None) -> Array | None:
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
        a: Array = self.backend.as_array(name, array, self.dtypes)
        if a.shape != self.y_shape or a.dtype != self.w.dtype:
            raise ValueError(
                f"{self.what}: {name} must have the shape of y, {self.y_shape} of "
                f"{self.w.dtype}, got {a.shape} of {a.dtype}"
            )
        return a

    # ---- masks on x and y ----

    def _groups(self) -> int:
        """How many groups of rows have unit masks of their own; 1 for a plain batch."""
        found = {
            mask.shape[0]
            for mask, shape in ((self.x_mask, self.x.shape), (self.y_mask, self.y_shape))
            if mask is not None and _is_grouped(mask, shape)
        }
        return found.pop() if found else 1

    def _sides(self, mask: Mask | None, shape: tuple[int, ...], groups: int) -> list[_Side] | None:
        """A side for each group, or None where the mask has to be applied beforehand."""
        if mask is None:
            return [NOTHING] * groups
        if not isinstance(mask.scale, float):
            return None
        if shape[-1] != 1 and mask.shape[-1:] == shape[-1:] and math.prod(mask.shape[:-1]) == 1:
            return [_Side(live=self.backend.kept_units(mask)[0], scale=mask.scale)] * groups
        if _is_grouped(mask, shape):
            live = self.backend.kept_units(mask, groups)
            return [_Side(live=units, scale=mask.scale) for units in live]
        if groups == 1 and mask.shape == shape:
            return [_Side(bits=self.backend.element_bits(mask), scale=mask.scale)]
        return None

    def _rows(self, array: Array, groups: int) -> Array:
        """(groups, rows of each, last axis)."""
        rows = math.prod(array.shape[:-1])
        return array.reshape(groups, rows // groups, array.shape[-1])

    def _weights(self) -> tuple[Array, _Side]:
        """w as the packing takes it, with its mask."""
        mask = self.w_mask
        if mask is None or self.per_sample:
            return self.w, NOTHING
        if mask.shape == self.w.shape and isinstance(mask.scale, float):
            return self.w, _Side(bits=self.backend.element_bits(mask), scale=mask.scale)
        return self.backend.dropout(self.w, mask, None), NOTHING

    def _factor_w(self, w: Array, side: _Side, rows: Any, columns: Any) -> Any:
        return self.backend.Factor(
            w, rows=rows, columns=columns, bits=side.bits, bit_strides=(self.n, 1),
            scale=side.scale,
        )  # fmt: skip

    def _factor_x(self, x: Array, side: _Side) -> Any:
        return self.backend.Factor(
            x, columns=side.live, bits=side.bits, bit_strides=(self.k, 1), scale=side.scale
        )

    # ---- forward ----

    def forward(self, y: Array, bias: Array | None) -> None:
        if self.per_sample:
            self._forward_per_sample(y, bias)
        elif self.sparse:
            self._forward_sparse(y, bias)
        else:
            self._forward_dense(y, bias)

    def _forward_dense(self, y: Array, bias: Array | None) -> None:
        groups = self._groups()
        x_sides = self._sides(self.x_mask, self.x.shape, groups)
        y_sides = self._sides(self.y_mask, self.y_shape, groups)
        dropout, product, xp = self.backend.dropout, self.backend.product, self.xp
        x = self.x if x_sides is not None else dropout(self.x, cast(Mask, self.x_mask), None)
        rows = y if y.flags.c_contiguous else xp.empty(y.shape, y.dtype)
        w, w_side = self._weights()
        x3, y3 = self._rows(x, groups), self._rows(rows, groups)
        nothing = [NOTHING] * groups
        for x_g, y_g, x_side, y_side in zip(
            x3, y3, x_sides or nothing, y_sides or nothing, strict=True
        ):
            a = self._factor_x(x_g, x_side)
            b = self._factor_w(w, w_side, x_side.live, y_side.live)
            if y_side.live is None:
                product(y_g, a, b, bias=bias, relu=self.relu, bits=y_side.bits, scale=y_side.scale)
            else:
                live = xp.empty((len(y_g), len(y_side.live)), y.dtype)
                product(
                    live, a, b, bias=None if bias is None else bias[y_side.live], relu=self.relu,
                    scale=y_side.scale,
                )  # fmt: skip
                y_g[...] = 0
                y_g[:, y_side.live] = live
        if y_sides is None:
            dropout(rows, cast(Mask, self.y_mask), rows)
        if rows is not y:
            y[...] = rows

    def _finish(self, y: Array, bias: Array | None) -> None:
        """Bias, activation and output mask for the products that lack an epilogue."""
        if bias is not None:
            y += bias
        if self.relu:
            self.xp.maximum(y, 0, out=y)
        if self.y_mask is not None:
            self.backend.dropout(y, self.y_mask, y)

    # ---- a weight mask for every sample ----

    def _connect(self, which: str, out: Array, a: Array, b: Array) -> None:
        self.backend.dropconnect_matmul(which, out, a, b, cast(Mask, self.w_mask))

    def _dense_x(self) -> Array:
        """x with its mask applied, (B, R, K): sample b is masked by entry b of the weight mask."""
        x = self.x.toarray() if self.sparse else self.x
        if self.x_mask is not None:
            x = self.backend.dropout(x, self.x_mask, None)
        return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), self.k)

    def _forward_per_sample(self, y: Array, bias: Array | None) -> None:
        x = self._dense_x() * self.w.dtype.type(cast(Mask, self.w_mask).scale)
        w = self.xp.ascontiguousarray(self.w)
        total = self.xp.zeros((x.shape[1], x.shape[0], self.n), self.w.dtype)
        for r in range(x.shape[1]):
            self._connect("y", total[r], self.xp.ascontiguousarray(x[:, r]), w)
        y[...] = total.swapaxes(0, 1).reshape(y.shape)
        self._finish(y, bias)

    def _backward_per_sample(self, dz: Array) -> tuple[Array, Array]:
        x = self._dense_x()
        scale = self.w.dtype.type(cast(Mask, self.w_mask).scale)
        scaled = dz.reshape(*x.shape[:2], self.n) * scale
        xp = self.xp
        w = xp.ascontiguousarray(self.w)
        dw = xp.zeros_like(w)
        dx = xp.zeros((x.shape[1], x.shape[0], self.k), w.dtype)
        for r in range(x.shape[1]):
            dz_r = xp.ascontiguousarray(scaled[:, r])
            self._connect("dw", dw, xp.ascontiguousarray(x[:, r]), dz_r)
            self._connect("dx", dx[r], dz_r, w)
        result = xp.ascontiguousarray(dx.swapaxes(0, 1)).reshape(self.x.shape)
        if self.x_mask is not None:
            self.backend.dropout(result, self.x_mask, result)
        return result, dw

    # ---- sparse x ----

    def _masked_csr(self) -> tuple[Any, Array]:
        """x with its mask applied, and the factor of each stored element."""
        x = self.x
        rows = np.repeat(np.arange(x.shape[0], dtype=np.int64), np.diff(x.indptr))
        factor = _at(self.x_mask, rows, x.indices, x.shape, x.dtype)
        data = np.where(factor != 0, x.data * factor, x.dtype.type(0))
        return scipy.sparse.csr_array((data, x.indices, x.indptr), shape=x.shape), factor

    def _forward_sparse(self, y: Array, bias: Array | None) -> None:
        x, _ = self._masked_csr()
        w = self.w if self.w_mask is None else self.backend.dropout(self.w, self.w_mask, None)
        cpu.sparse_product(y, x, w)
        self._finish(y, bias)

    def _backward_sparse(self, dz: Array) -> tuple[Any, Array]:
        x, factor = self._masked_csr()
        w = self.w if self.w_mask is None else self.backend.dropout(self.w, self.w_mask, None)
        dw = np.empty(self.w.shape, self.w.dtype)
        cpu.sparse_product(dw, x.T.tocsr(), dz)
        if self.w_mask is not None:
            self.backend.dropout(dw, self.w_mask, dw)
        data = np.empty_like(x.data)
        for row in range(x.shape[0]):
            stored = slice(x.indptr[row], x.indptr[row + 1])
            # einsum without optimisation stays off the other thread pool
            data[stored] = np.einsum("kn,n->k", w[x.indices[stored]], dz[row])
        data = np.where(factor != 0, data * factor, data.dtype.type(0))
        return scipy.sparse.csr_array((data, x.indices, x.indptr), shape=x.shape), dw

    # ---- backward ----

    def backward(self, dz: Array) -> tuple[Any, Array]:
        if self.per_sample:
            return self._backward_per_sample(dz)
        if self.sparse:
            return self._backward_sparse(dz)
        return self._backward_dense(dz)

    def _backward_dense(self, dz: Array) -> tuple[Array, Array]:
        dropout, product, xp = self.backend.dropout, self.backend.product, self.xp
        groups = self._groups()
        x_sides = self._sides(self.x_mask, self.x.shape, groups)
        y_sides = self._sides(self.y_mask, self.y_shape, groups)
        x = self.x if x_sides is not None else dropout(self.x, cast(Mask, self.x_mask), None)
        w, w_side = self._weights()
        dx = xp.empty(self.x.shape, w.dtype)
        dw = xp.zeros(w.shape, w.dtype)
        nothing = [NOTHING] * groups
        for x_g, dx_g, dz_g, x_side, y_side in zip(
            self._rows(x, groups),
            self._rows(dx, groups),
            self._rows(dz, groups),
            x_sides or nothing,
            y_sides or nothing,
            strict=True,
        ):
            # dz is zero where y was dropped: the live lists leave those columns out.
            b = self.backend.Factor(dz_g, columns=y_side.live)
            weights = self._factor_w(w, w_side, x_side.live, y_side.live)
            k_live = self.k if x_side.live is None else len(x_side.live)
            n_live = self.n if y_side.live is None else len(y_side.live)
            dw_live = xp.empty((k_live, n_live), w.dtype)
            product(dw_live, self._factor_x(x_g, x_side), b, transpose_a=True)
            if x_side.live is None:
                product(dx_g, b, weights, transpose_b=True, bits=x_side.bits, scale=x_side.scale)
            else:
                dx_live = xp.empty((len(dx_g), k_live), w.dtype)
                product(dx_live, b, weights, transpose_b=True, scale=x_side.scale)
                dx_g[...] = 0
                dx_g[:, x_side.live] = dx_live
            if k_live == self.k and n_live == self.n:
                dw += dw_live
            else:
                rows = xp.arange(self.k) if x_side.live is None else x_side.live
                columns = xp.arange(self.n) if y_side.live is None else y_side.live
                dw[xp.ix_(rows, columns)] += dw_live
        if self.w_mask is not None:
            dropout(dw, self.w_mask, dw)
        if x_sides is None:
            dropout(dx, cast(Mask, self.x_mask), dx)
        return dx, dw


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


def _at(
    mask: Mask | None,
    rows: npt.NDArray[np.int64],
    columns: Array,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
) -> Array:
    """scale where kept and 0 where dropped, for scattered elements of a (B, K) array."""
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
