"""Dropout that is called as a function inside of PyTorch's own code."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

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

    softmax(query @ key.T * scale + attn_mask), dropout, then @ value: what PyTorch computes on the
    CPU as soon as there is dropout. Without dropout the call is PyTorch's own, which is fused.

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
    if enable_gqa:
        key = key.repeat_interleave(query.size(-3) // key.size(-3), -3)
        value = value.repeat_interleave(query.size(-3) // value.size(-3), -3)
    factor = 1.0 / math.sqrt(query.size(-1)) if scale is None else scale
    weights = (query * factor) @ key.transpose(-2, -1)
    if is_causal:
        bias = torch.full(weights.shape[-2:], -math.inf, dtype=weights.dtype, device=weights.device)
        weights = weights + bias.triu(1)
    elif attn_mask is not None:
        bias = attn_mask
        if attn_mask.dtype is torch.bool:
            bias = torch.zeros_like(attn_mask, dtype=weights.dtype)
            bias = bias.masked_fill(~attn_mask, -math.inf)
        # A position that may attend to none gets 0, as in PyTorch, and not NaN.
        alone = (bias == -math.inf).all(-1, keepdim=True)
        weights = torch.softmax(weights + bias.masked_fill(alone, 0.0), -1)
        return (own.dropout(weights, dropout_p) @ value).masked_fill(alone, 0.0)
    return own.dropout(torch.softmax(weights, -1), dropout_p) @ value


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
