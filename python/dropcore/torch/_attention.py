"""Dropout that is called as a function inside of PyTorch's own code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dropcore.attending import attention, attention_backward
from dropcore.torch import _functions as own
from dropcore.torch._namespace import in_namespace
from dropcore.torch._recurrent import LAYER_BY_LAYER

__all__ = ["fast_dropout", "multi_head_attention_forward", "scaled_dot_product_attention"]


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention whose weights are dropped by `dropout`.

    softmax(query @ key.T * scale + attn_mask), dropout, then @ value. Without dropout the call is
    PyTorch's own. With dropout, PyTorch stores the weights on the CPU; here `dropcore.attention`
    computes a tile of them at a time. Compilers, `torch.func`, other devices and dtypes, and a
    mask with a gradient get the composition of PyTorch's functions, with the same decisions.

    Parameters
    ----------
    query : Tensor (..., L, E)
    key : Tensor (..., S, E)
    value : Tensor (..., S, Ev)
    attn_mask : Tensor, optional
        Broadcasts to (..., L, S): boolean, True = attend, or numbers that are added.
    dropout_p : float, default 0.0
        Fraction of the attention weights dropped.
    is_causal : bool, default False
        A position attends to none behind it. Not together with `attn_mask`.
    scale : float, optional
        ``1 / sqrt(E)`` by default.
    enable_gqa : bool, default False
        Heads of key and value are repeated to the number of those of query.

    Returns
    -------
    Tensor (..., L, Ev)
    """
    if not dropout_p:
        fused: Tensor = F.scaled_dot_product_attention(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return fused
    if is_causal and attn_mask is not None:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal, not both")
    factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    call = _Call(attn_mask, float(dropout_p), is_causal, factor, enable_gqa)
    if not _fuses(query, key, value, call):
        return _composed(query, key, value, call, None)
    own.expect_probability(dropout_p)
    y: Tensor = _FUSED(query, key, value, call, own.drawn_address())
    return y


class _Call(NamedTuple):
    """What attention is called with besides query, key and value."""

    mask: Tensor | None
    p: float
    causal: bool
    scale: float
    grouped: bool


def _composed(
    query: Tensor, key: Tensor, value: Tensor, call: _Call, address: int | None
) -> Tensor:
    """Attention as a composition of PyTorch's functions, which stores the weights."""
    if call.grouped:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    weights = (query * call.scale) @ key.transpose(-2, -1)
    if call.causal:
        bias = torch.full(weights.shape[-2:], -math.inf, dtype=weights.dtype, device=weights.device)
        weights = weights + bias.triu(1)
    elif call.mask is not None:
        bias = call.mask
        if bias.dtype is torch.bool:
            bias = torch.zeros_like(call.mask, dtype=weights.dtype)
            bias = bias.masked_fill(~call.mask, -math.inf)
        # A position that may attend to none gets 0, as in PyTorch, and not NaN.
        alone = (bias == -math.inf).all(-1, keepdim=True)
        weights = torch.softmax(weights + bias.masked_fill(alone, 0.0), -1)
        return (own.dropout(weights, call.p, key=address) @ value).masked_fill(alone, 0.0)
    return own.dropout(torch.softmax(weights, -1), call.p, key=address) @ value


def _fuses(query: Tensor, key: Tensor, value: Tensor, call: _Call) -> bool:
    """Whether the kernel of dropcore takes the call.

    It has to be eager and on the CPU, with at most one axis of samples and one of heads, and a mask
    that needs no gradient.
    """
    tensors = (query, key, value) if call.mask is None else (query, key, value, call.mask)
    heads = query.dim() == 4
    batches = query.shape[:-3] if call.grouped else query.shape[:-2]
    return (
        all(map(own.is_eager, tensors))
        and query.dtype in (torch.float32, torch.float64)
        and query.dtype == key.dtype == value.dtype
        and query.dim() == key.dim() == value.dim() in (2, 3, 4)
        and (heads or not call.grouped)
        and all(x.shape[: len(batches)] == batches for x in (key, value))
        and (not call.causal or query.size(-2) == key.size(-2))
        and (
            call.mask is None
            or (
                call.mask.dim() <= query.dim()
                and call.mask.dtype in (torch.bool, query.dtype)
                and not call.mask.requires_grad
            )
        )
    )


class _Fused(torch.autograd.Function):
    """`dropcore.attention` of tensors on the CPU: nothing of size L x S is stored."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, call: _Call, address: int
    ) -> Tensor:
        ctx.call, ctx.options, ctx.address = call, _options(query, call, address), address
        out, sums = attention(
            *map(_heads, (query, key, value)), return_logsumexp=True, **ctx.options
        )
        y = _tensor(out, query.dim())
        ctx.save_for_backward(query, key, value, y, torch.from_numpy(sums))
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        query, key, value, y, sums = ctx.saved_tensors
        if torch.is_grad_enabled():  # the gradient will be differentiated
            again = _composed(query, key, value, ctx.call, ctx.address)
            needed = [x for x in (query, key, value) if x.requires_grad]
            found = iter(torch.autograd.grad(again, needed, dy, create_graph=True))
            grads = [next(found) if x.requires_grad else None for x in (query, key, value)]
            return *grads, None, None
        gradient, q, k, v, out = map(_heads, (dy, query, key, value, y))
        arrays = attention_backward(gradient, q, k, v, out, sums.numpy(), **ctx.options)
        return *(_tensor(array, query.dim()) for array in arrays), None, None


_FUSED: Final[Any] = _Fused.apply


def _options(query: Tensor, call: _Call, address: int) -> dict[str, Any]:
    """The keywords of `dropcore.attention`."""
    options: dict[str, Any] = {
        "rate": call.p, "key": address, "causal": call.causal, "scale": call.scale
    }  # fmt: skip
    if call.mask is not None:
        mask = call.mask.unsqueeze(-3) if query.dim() == call.mask.dim() == 3 else call.mask
        options["allowed" if mask.dtype is torch.bool else "bias"] = mask.resolve_neg().numpy()
    return options


def _heads(x: Tensor) -> Any:
    """An array (batch, heads, rows, size)."""
    x = x.detach().resolve_neg()
    return x.reshape(-1, 1, *x.shape[-2:]).numpy() if x.dim() < 4 else x.numpy()


def _tensor(x: Any, dim: int) -> Tensor:
    """A tensor with so many axes: without those that `_heads` has put in."""
    y = torch.from_numpy(x)
    return y if dim == 4 else y.squeeze(1) if dim == 3 else y[0, 0]


class fast_dropout(TorchFunctionMode):
    """A block in which PyTorch's dropout functions are those of dropcore.

    For code that calls functions in place of modules: `torch.nn.functional.dropout` and its
    relatives, `scaled_dot_product_attention` with dropout, `multi_head_attention_forward`, and
    LSTM, GRU and RNN with dropout between their layers. All other functions are PyTorch's own.
    Each call of a PyTorch function within the block costs about a microsecond more.

    Examples
    --------
    >>> import torch
    >>> with fast_dropout():
    ...     y = torch.nn.functional.dropout(torch.ones(8), 0.5)
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        return _OWN.get(func, func)(*args, **(kwargs or {}))


multi_head_attention_forward = in_namespace(
    F.multi_head_attention_forward,
    dropout=own.dropout,
    scaled_dot_product_attention=scaled_dot_product_attention,
)
"""`torch.nn.functional.multi_head_attention_forward` whose dropout is dropcore's."""


_OWN: Final[dict[Any, Callable[..., Any]]] = {
    F.dropout: own.dropout,
    F.dropout1d: own.dropout1d,
    F.dropout2d: own.dropout2d,
    F.dropout3d: own.dropout3d,
    F.alpha_dropout: own.alpha_dropout,
    F.feature_alpha_dropout: own.feature_alpha_dropout,
    F.scaled_dot_product_attention: scaled_dot_product_attention,
    F.multi_head_attention_forward: multi_head_attention_forward,
    **{getattr(torch, name): function for name, function in LAYER_BY_LAYER.items()},
}
