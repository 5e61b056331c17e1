"""Attention: each step of a sequence takes a weighted mean of what others offer."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_bool, check_integer
from dropcore._base.device import array_namespace, on_device
from dropcore._ops.attention import AttentionOp
from dropcore._ops.dense import DenseOp
from dropcore.constraints import Constraint
from dropcore.key import Key, as_key
from dropcore.mask import Mask
from dropcore.nn._checks import check_array, check_built, check_dtype, check_gradient
from dropcore.nn.dropout import RatedLayer, check_row_offset, first_element
from dropcore.nn.initializers import Initializer, drawn, initializer_of
from dropcore.nn.layer import Array, ArrayShape, Backward, BackwardFrom, Shape, Stateful
from dropcore.nn.rates import Rate, Schedule
from dropcore.regularizers import Regularizer

__all__ = ["CrossAttention", "MultiHeadAttention"]

Lengths = NDArray[np.int64]


class _Attention(RatedLayer):
    """The base of attention layers: heads, the dropout of their weights, and the projections."""

    own_streams = 1
    takes_lengths = True
    input_weights = ("weight",)
    _weights: tuple[str, ...] = ("weight", "output_weight")
    _fixed = frozenset({"heads", "key_heads", "head_size", "use_bias", "initializer"})

    def __init__(
        self,
        heads: int,
        rate: float | Schedule | None,
        keep: float | Schedule | None,
        key_heads: int | None,
        head_size: int | None,
        use_bias: bool,
        initializer: str | Initializer,
        constraint: Constraint | None,
        regularizer: Regularizer | None,
    ) -> None:
        super().__init__()
        what = type(self).__name__
        self.heads = check_integer(f"{what}: heads", heads, 1)
        self._rate = Rate(f"{what}: rate", rate, keep, default=0.0, arrays=False)
        if key_heads is not None:
            key_heads = check_integer(f"{what}: key_heads", key_heads, 1)
            if self.heads % key_heads:
                raise ValueError(
                    f"{what}: key_heads must divide the {self.heads} heads, got {key_heads}"
                )
        self.key_heads = key_heads
        self.head_size = (
            None if head_size is None else check_integer(f"{what}: head_size", head_size, 1)
        )
        self.use_bias = check_bool(f"{what}: use_bias", use_bias)
        initializer_of(f"{what}: initializer", initializer)
        self.initializer = initializer
        self.constraint = constraint
        self.regularizer = regularizer
        for name in self._weights:
            self._register(name, constraint, regularizer)

    @property
    def built(self) -> bool:
        return bool(self._params)

    @property
    def draws(self) -> bool:
        return self.expected_keep() != 1.0

    def noise_notes(self, shape: Shape) -> list[str]:
        return [f"{self.rate_note()} of the attention weights"] if self.draws else []

    @property
    def _shared_heads(self) -> int:
        """Heads of the keys and values."""
        return self.heads if self.key_heads is None else self.key_heads

    def _width(self, heads: int) -> int | Fraction:
        """Numbers of so many heads, or how many times those of the input they are."""
        return Fraction(heads, self.heads) if self.head_size is None else heads * self.head_size

    @property
    def _groups(self) -> dict[str, tuple[int, ...]]:
        """Heads of the groups that lie side by side in a weight, each drawn on its own."""
        raise NotImplementedError

    def _shapes(self, features: int) -> dict[str, tuple[int, ...]]:
        """The shapes of the parameters for an input with so many features."""
        return {
            name: tuple(n if isinstance(n, int) else int(features * (n or 1)) for n in shape)
            for name, shape in self._array_shapes()[0].items()
        }

    def output_shape(self, input_shape: Shape) -> Shape:
        features = self._params["weight"].shape[0] if self.built else None
        found = input_shape[-1] if len(input_shape) == 2 else None
        if found is None or found < 1 or features not in (None, found):
            expected = "features" if features is None else features
            raise ValueError(
                f"{self!r} expects samples of shape (time, {expected}), got {input_shape}"
            )
        if self.head_size is None and found % self.heads:
            raise ValueError(
                f"{self!r} expects features that divide into {self.heads} heads, or head_size=, "
                f"got samples of shape {input_shape}"
            )
        return input_shape

    def _build(self, input_shape: Shape, rng: np.random.Generator, dtype: np.dtype[Any]) -> None:
        if self.built:
            return
        features = input_shape[-1]
        assert features is not None  # checked by output_shape
        for name, shape in self._shapes(features).items():
            if name.endswith("bias"):
                self._params[name] = np.zeros(shape, dtype)
                continue
            heads = self._groups.get(name, (1,))
            size = shape[1] // sum(heads)
            parts = [
                drawn(self.initializer, rng, (shape[0], count * size), dtype) for count in heads
            ]
            self._params[name] = np.concatenate(parts, axis=1)

    def _check(self, name: str, x: Array, weight: str) -> Array:
        """The weight that multiplies x, if x is (batch, time, features)."""
        check_array(self, x)
        check_built(self)
        found = self._params[weight]
        if x.ndim != 3 or x.shape[-1] != len(found):
            raise ValueError(
                f"{self!r} expects {name} of shape (batch, time, {len(found)}), got {x.shape}"
            )
        check_dtype(self, x, found.dtype)
        return found

    def mask(self, shape: tuple[int, int, int], key: Key | int, row_offset: int = 0) -> Mask | None:
        """The mask of the attention weights.

        Parameters
        ----------
        shape : (int, int, int)
            Samples, queries and keys.
        key : Key or int
            With the stream of the layer.
        row_offset : int, default 0
            Index of the first sample in the global batch.

        Returns
        -------
        Mask or None
            Of shape (batch, heads, queries, keys); None where nothing is dropped.
        """
        address = as_key(key)
        own = (shape[0], self.heads, *shape[1:])
        row_offset = check_row_offset(own, row_offset)
        keep = self._rate(address.step)
        if keep == 1.0:
            return None
        return Mask(own, keep=keep, key=address, offset=first_element(own, row_offset))

    def projections(self) -> dict[str, tuple[Array, Array | None]]:
        """The weight and the bias of each projection, as views that may be written to.

        Returns
        -------
        dict of str to (ndarray, ndarray or None)
            "query", "key" and "value": (features, heads, size) and (heads, size). "output": (heads,
            size, features) and (features,). There is no bias with ``use_bias=False``.
        """
        check_built(self)
        found: dict[str, tuple[Array, Array | None]] = {}
        size = self._params["output_weight"].shape[0] // self.heads
        names = iter(("query", "key", "value"))
        for name, groups in self._groups.items():
            weight, bias = self._params[name], self._params.get(name.replace("weight", "bias"))
            first = 0
            for heads in groups:
                part = slice(first, first + heads)
                apart = weight.reshape(len(weight), -1, size)
                found[next(names)] = (
                    apart[:, part], None if bias is None else bias.reshape(-1, size)[part]
                )  # fmt: skip
                first += heads
        weight = self._params["output_weight"].reshape(self.heads, size, -1)
        return found | {"output": (weight, self._params.get("output_bias"))}

    def _output(self, op: AttentionOp, behind: Array | None) -> DenseOp:
        """The output projection of what the heads have found, zero behind the sequences."""
        batch, steps, heads, size = op.y.shape
        output = DenseOp(
            op.y.reshape(batch, steps, heads * size), self._params["output_weight"],
            self._params.get("output_bias"),
        )  # fmt: skip
        if behind is not None:
            output.values[behind] = 0
        return output

    def _before_output(
        self, dy: Array, output: DenseOp, behind: Array | None, for_update: bool
    ) -> tuple[Array, dict[str, Gradient]]:
        """The gradients with respect to what the heads have found, and of the projection of it."""
        check_gradient(self, dy, output.values.shape, output.values.dtype)
        if behind is not None:
            dy = dy.copy()
            dy[behind] = 0
        dfound, dweight, dbias = output.backward(dy, for_update=for_update)
        assert dfound is not None
        return dfound, _named("output_", dweight, dbias)


class MultiHeadAttention(Stateful, _Attention):
    """Multi-head self-attention: (batch, time, features) -> (batch, time, features).

    Each head has queries q, keys k and values v, which are projections of x. With m = 1 for a
    weight that is kept, which has probability keep = 1 - rate::

        q, k, v = x @ weight + bias                     for each head
        y = concat(dropout(softmax(q @ k.T / sqrt(size))) @ v) @ output_weight + output_bias
        dropout(p) = p * m / keep

    Weights of the attention are computed a tile at a time and never stored; the backward pass draws
    their mask again. Memory grows with the length of the sequences, not with its square. Without a
    key nothing is dropped. See `dropcore.attention`.

    Parameters
    ----------
    heads : int
        Number of heads.
    rate, keep : float or callable, optional
        Of the attention weights: fraction dropped, or kept; a function of the step is a schedule.
        By default nothing is dropped. The mask is (batch, heads, time, time).
    causal : bool, default False
        Whether a step sees itself and earlier steps only. The layer then carries a state: see
        `forward_from`.
    key_heads : int, optional
        Heads of keys and values, each of which serves ``heads // key_heads`` neighbouring heads of
        queries (grouped-query attention). By default as many as `heads`.
    head_size : int, optional
        Numbers of a head. By default ``features // heads``.
    use_bias : bool, default True
        Whether there are `bias` and `output_bias`, which start at zero.
    initializer : str or callable, default "glorot_uniform"
        Of the weights: for queries, keys, values and output on their own.
    constraint : callable, optional
        What must hold for both weights after every update.
    regularizer : Regularizer, optional
        What is added to the loss for both weights.

    Raises
    ------
    TypeError
        If a number is not one.
    ValueError
        If one is out of range, `key_heads` does not divide `heads`, or for an unknown initializer.

    Notes
    -----
    `weight` is (features, (heads + 2 * key_heads) * size): the heads of queries, then those of
    keys, then those of values. `bias` has its length, `output_weight` is (heads * size, features)
    and `output_bias` (features,).

    With `lengths` (batch,), steps after the end of a sequence are not seen; their output is zero.

    References
    ----------
    Vaswani et al. 2017, "Attention is all you need"; Ainslie et al. 2023, "GQA: training
    generalized multi-query transformer models from multi-head checkpoints".
    """

    def __init__(
        self,
        heads: int,
        rate: float | Schedule | None = None,
        *,
        keep: float | Schedule | None = None,
        causal: bool = False,
        key_heads: int | None = None,
        head_size: int | None = None,
        use_bias: bool = True,
        initializer: str | Initializer = "glorot_uniform",
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(
            heads, rate, keep, key_heads, head_size, use_bias, initializer, constraint, regularizer
        )
        self.causal = check_bool("MultiHeadAttention: causal", causal)

    @property
    def carries_state(self) -> bool:
        return self.causal

    def _array_shapes(self) -> tuple[dict[str, ArrayShape], dict[str, ArrayShape]]:
        width = self._width(self.heads + 2 * self._shared_heads)
        shapes: dict[str, ArrayShape] = {
            "weight": (None, width), "output_weight": (self._width(self.heads), None)
        }  # fmt: skip
        if self.use_bias:
            shapes |= {"bias": (width,), "output_bias": (None,)}
        return shapes, {}

    @property
    def _groups(self) -> dict[str, tuple[int, ...]]:
        return {"weight": (self.heads, self._shared_heads, self._shared_heads)}

    def _parts(self, rows: Array) -> tuple[Array, Array, Array]:
        """Views of queries, keys and values in (batch, time, all heads, size)."""
        first, second = self.heads, self.heads + self._shared_heads
        return rows[:, :, :first], rows[:, :, first:second], rows[:, :, second:]

    def forward_from(
        self,
        x: Array,
        state: Any = None,
        *,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: ArrayLike | None = None,
    ) -> tuple[Array, Any, BackwardFrom]:
        """`forward` of the steps that follow those of a state, with ``causal=True``.

        The state holds the keys and values of all steps so far, so that a step costs what it adds:
        text is generated with one word at a time. Queries of x see all of them.

        Parameters
        ----------
        x : ndarray (batch, time, features)
        state : optional
            What the call for the previous steps returned.
        key, row_offset, lengths
            As in `forward`. The mask is (batch, heads, time, steps so far and time).

        Returns
        -------
        y : ndarray (batch, time, features)
        state : tuple of ndarray, or None
            Keys and values (batch, steps, key_heads, size), and which of them are valid, (batch,
            steps) or None for all. None unless ``causal=True``.
        backward : callable
            As of `Layer.forward_from`; dstate is the pair of the gradients of keys and values.

        Raises
        ------
        ValueError
            If a state does not fit, or the layer carries none.
        """
        weight = self._check("x", x, "weight")
        valid = self.checked_lengths(x, lengths)
        batch, steps, _ = x.shape
        past = self._past(state, batch)
        projected = DenseOp(x, weight, self._params.get("bias"))
        size = self._params["output_weight"].shape[0] // self.heads
        split = (batch, steps, self.heads + 2 * self._shared_heads, size)
        q, k, v = self._parts(projected.values.reshape(split))
        seen, allowed = _seen(past, valid, batch, steps)
        before = 0
        if past is not None:
            before, xp = past[0].shape[1], array_namespace(x)
            k, v = (xp.concatenate((a, b), axis=1) for a, b in zip(past[:2], (k, v), strict=True))
        mask = None if key is None else self.mask((batch, steps, before + steps), key, row_offset)
        op = AttentionOp(
            q, k, v, causal=self.causal and past is None, lengths=valid if past is None else None,
            allowed=allowed, mask=mask,
        )  # fmt: skip
        behind = _behind(valid, x)
        output = self._output(op, behind)

        def backward(
            dy: Array,
            dstate: Any = None,
            *,
            input_gradient: bool = True,
            for_update: bool = False,
        ) -> tuple[Any, dict[str, Gradient], Any]:
            dfound, grads = self._before_output(dy, output, behind, for_update)
            drows = op.backend.empty(split, x.dtype)
            dq, dk, dv = self._parts(drows)
            dkeys, dvalues = dk, dv
            if before:
                dkeys, dvalues = (op.backend.empty(k.shape, x.dtype) for _ in range(2))
            op.backward(dfound.reshape(q.shape), dq, dkeys, dvalues)
            if dstate is not None:
                for total, more in zip((dkeys, dvalues), self._dstate(dstate, k), strict=True):
                    total += more
            dfirst = None
            if before:
                dk[...], dv[...] = dkeys[:, before:], dvalues[:, before:]
                dfirst = dkeys[:, :before], dvalues[:, :before]
            dx, dweight, dbias = projected.backward(
                drows.reshape(projected.values.shape),
                input_gradient=input_gradient,
                for_update=for_update,
            )
            return dx, _named("", dweight, dbias) | grads, dfirst

        return output.values, (k, v, seen) if self.causal else None, backward

    def _past(self, state: Any, batch: int) -> tuple[Array, Array, Array | None] | None:
        """The state of earlier steps, checked; None where there are none."""
        if state is None:
            return None
        if not self.causal:
            raise ValueError(f"{self!r} carries no state without causal=True, got one")
        weight = self._params["weight"]
        size = self._params["output_weight"].shape[0] // self.heads
        expected = (batch, self._shared_heads, size)
        parts = tuple(state) if isinstance(state, tuple | list) else (state,)
        if len(parts) != 3 or not _are_keys(parts, expected, weight):
            raise ValueError(
                f"{self!r} expects the state that forward_from returned, keys and values of shape "
                f"({batch}, steps, {expected[1]}, {size}) and {weight.dtype}, and which are valid, "
                f"got {', '.join(map(_kind_of, parts))}"
            )
        return parts

    def _dstate(self, dstate: Any, k: Array) -> tuple[Array, Array]:
        """The gradients of the returned keys and values, checked."""
        parts = tuple(dstate) if isinstance(dstate, tuple | list) else (dstate,)
        if len(parts) != 2 or any(
            getattr(part, "shape", None) != k.shape or part.dtype != k.dtype for part in parts
        ):
            raise ValueError(
                f"{self!r} expects dstate to be two arrays of shape {k.shape} and {k.dtype}, got "
                f"{', '.join(map(_kind_of, parts))}"
            )
        return parts[0], parts[1]


class CrossAttention(_Attention):
    """Attention of a sequence to another one, the context, as of a decoder to an encoder.

    With queries of x, and keys and values of the context::

        q = x @ weight + bias          k, v = context @ context_weight + context_bias
        y = concat(dropout(softmax(q @ k.T / sqrt(size))) @ v) @ output_weight + output_bias

    The layer takes two arrays and gives the gradients of both, in a layer or a loop of your own::

        y, backward = layer.forward(x, context=context, key=key)
        (dx, dcontext), grads = backward(dy)

    Parameters
    ----------
    heads, rate, keep
        As for `MultiHeadAttention`. The mask is (batch, heads, time, time of the context).
    context_features : int, optional
        Features of the context. By default as many as those of x.
    key_heads, head_size, use_bias, initializer, constraint, regularizer
        As for `MultiHeadAttention`.

    Raises
    ------
    TypeError, ValueError
        As for `MultiHeadAttention`.

    Notes
    -----
    `weight` is (features, heads * size), `context_weight` (context_features, 2 * key_heads * size):
    the heads of keys, then those of values. `output_weight` is (heads * size, features).

    With `lengths` the output of steps after the end of a sequence is zero. `context_lengths` are
    the lengths of the contexts: steps behind them are not seen. A sequence whose context is empty
    gets `output_bias`.

    References
    ----------
    Vaswani et al. 2017, "Attention is all you need".
    """

    _weights = ("weight", "context_weight", "output_weight")
    _fixed = _Attention._fixed | {"context_features"}

    def __init__(
        self,
        heads: int,
        rate: float | Schedule | None = None,
        *,
        keep: float | Schedule | None = None,
        context_features: int | None = None,
        key_heads: int | None = None,
        head_size: int | None = None,
        use_bias: bool = True,
        initializer: str | Initializer = "glorot_uniform",
        constraint: Constraint | None = None,
        regularizer: Regularizer | None = None,
    ) -> None:
        super().__init__(
            heads, rate, keep, key_heads, head_size, use_bias, initializer, constraint, regularizer
        )
        self.context_features = (
            None
            if context_features is None
            else check_integer("CrossAttention: context_features", context_features, 1)
        )

    def _array_shapes(self) -> tuple[dict[str, ArrayShape], dict[str, ArrayShape]]:
        width, both = self._width(self.heads), self._width(2 * self._shared_heads)
        shapes: dict[str, ArrayShape] = {
            "weight": (None, width),
            "context_weight": (self.context_features, both),
            "output_weight": (width, None),
        }
        if self.use_bias:
            shapes |= {"bias": (width,), "context_bias": (both,), "output_bias": (None,)}
        return shapes, {}

    @property
    def _groups(self) -> dict[str, tuple[int, ...]]:
        shared = self._shared_heads
        return {"weight": (self.heads,), "context_weight": (shared, shared)}

    def __call__(
        self,
        x: Array,
        key: Key | int | None = None,
        *,
        context: Array | None = None,
        row_offset: int = 0,
        lengths: ArrayLike | None = None,
        context_lengths: ArrayLike | None = None,
    ) -> Array:
        y, _ = self.forward(
            x, context=context, key=key, row_offset=row_offset, lengths=lengths,
            context_lengths=context_lengths,
        )  # fmt: skip
        return y

    def forward(
        self,
        x: Array,
        *,
        context: Array | None = None,
        key: Key | int | None = None,
        row_offset: int = 0,
        lengths: ArrayLike | None = None,
        context_lengths: ArrayLike | None = None,
    ) -> tuple[Array, Backward]:
        """Output of a training step, and the function that computes its gradients.

        Parameters
        ----------
        x : ndarray (batch, time, features)
        context : ndarray (batch, time of the context, context_features)
            Needed.
        key, row_offset, lengths
            As for any layer.
        context_lengths : array_like of int (batch,), optional
            Valid steps of each context.

        Returns
        -------
        y : ndarray (batch, time, features)
        backward : callable
            ``(dx, dcontext), grads = backward(dy)``; ``None, grads`` with `input_gradient` False.

        Raises
        ------
        TypeError, ValueError
            If there is no context, or one of them does not fit.
        """
        weight = self._check("x", x, "weight")
        if context is None:
            features = len(self._params["context_weight"])
            raise TypeError(
                f"{self!r} needs context=, the sequences (batch, time, {features}) that x attends "
                "to; attention within x is MultiHeadAttention"
            )
        context_weight = self._check("context", context, "context_weight")
        if len(context) != len(x):
            raise ValueError(
                f"{self!r} expects a context for each sequence, got {len(context)} for {len(x)}"
            )
        valid = self.checked_lengths(x, lengths)
        seen = self.checked_lengths(context, context_lengths)
        params, shared = self._params, self._shared_heads
        size = params["output_weight"].shape[0] // self.heads
        queries = DenseOp(x, weight, params.get("bias"))
        both = DenseOp(context, context_weight, params.get("context_bias"))
        split = (*context.shape[:2], 2 * shared, size)
        q, kv = queries.values.reshape(*x.shape[:2], self.heads, size), both.values.reshape(split)
        mask = None
        if key is not None:
            mask = self.mask((len(x), x.shape[1], context.shape[1]), key, row_offset)
        op = AttentionOp(q, kv[:, :, :shared], kv[:, :, shared:], lengths=seen, mask=mask)
        behind = _behind(valid, x)
        output = self._output(op, behind)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            dfound, grads = self._before_output(dy, output, behind, for_update)
            dq = op.backend.empty(q.shape, x.dtype)
            dkv = op.backend.empty(split, x.dtype)
            op.backward(dfound.reshape(q.shape), dq, dkv[:, :, :shared], dkv[:, :, shared:])
            how = {"input_gradient": input_gradient, "for_update": for_update}
            dx, dweight, dbias = queries.backward(dq.reshape(queries.values.shape), **how)
            found = _named("", dweight, dbias) | grads
            dcontext, dweight, dbias = both.backward(dkv.reshape(both.values.shape), **how)
            found |= _named("context_", dweight, dbias)
            return (dx, dcontext) if input_gradient else None, found

        return output.values, backward


def _named(prefix: str, dweight: Gradient, dbias: Gradient | None) -> dict[str, Gradient]:
    """The gradients of a projection by the names of its parameters."""
    found: dict[str, Gradient] = {f"{prefix}weight": dweight}
    return found if dbias is None else found | {f"{prefix}bias": dbias}


def _behind(lengths: Lengths | None, x: Array) -> Any:
    """True for the steps after the ends of sequences, on the device of x; None if all are valid."""
    if lengths is None or (lengths == x.shape[1]).all():
        return None
    return array_namespace(x).asarray(np.arange(x.shape[1]) >= lengths[:, None])


def _seen(
    past: tuple[Array, Array, Any] | None, lengths: Lengths | None, batch: int, steps: int
) -> tuple[Any, Any]:
    """Which of all steps are valid, None for all; and what the new steps see after past ones."""
    before = 0 if past is None else past[0].shape[1]
    valid = None if past is None else past[2]
    seen = None
    if valid is not None or lengths is not None:
        seen = np.ones((batch, before + steps), np.bool_)
        if valid is not None:
            seen[:, :before] = valid
        if lengths is not None:
            seen[:, before:] = np.arange(steps) < lengths[:, None]
    if past is None or (seen is None and steps == 1):
        return seen, None
    allowed = np.tri(steps, before + steps, before, dtype=np.bool_)[None, None]
    return seen, allowed if seen is None else allowed & seen[:, None, None]


def _are_keys(parts: tuple[Any, ...], expected: tuple[int, int, int], weight: Array) -> bool:
    """Whether the parts of a state are keys, values, and None or which of them are valid."""
    batch, heads, size = expected
    k, v, valid = parts
    steps = k.shape[1] if getattr(k, "ndim", 0) == 4 else 0
    return all(
        getattr(part, "shape", None) == (batch, steps, heads, size)
        and part.dtype == weight.dtype
        and on_device(part) == on_device(weight)
        for part in (k, v)
    ) and (
        valid is None
        or (type(valid) is np.ndarray and valid.dtype == bool and valid.shape == (batch, steps))
    )


def _kind_of(part: Any) -> str:
    return f"{part.shape} of {part.dtype}" if hasattr(part, "dtype") else type(part).__name__
