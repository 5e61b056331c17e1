"""The section that times attention with dropout on its weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from dropcore import attention, attention_backward

from .setting import Call, Setting, section, torch_on_device
from .timing import measured, over, target, tf32

RATE = 0.1


def by_cupy(s: Setting, q: Any, k: Any, v: Any) -> Call:
    """Attention as it is written with CuPy: every step is an array of all scores."""
    scale, kept_scale = q.dtype.type(q.shape[3] ** -0.5), q.dtype.type(1 / (1 - RATE))
    shape = (*q.shape[:3], k.shape[2])

    def call() -> Any:
        scores = s.xp.matmul(q, k.swapaxes(2, 3)) * scale
        scores = s.xp.exp(scores - scores.max(axis=3, keepdims=True))
        scores /= scores.sum(axis=3, keepdims=True)
        scores *= s.xp.random.random(shape, dtype=np.float32) >= RATE
        scores *= kept_scale
        return s.xp.matmul(scores, v)

    return call


def by_torch(rate: float, backward: bool, q: Any, k: Any, v: Any, dy: Any) -> Call:
    """Attention of PyTorch, forward or forward and backward."""
    torch = torch_on_device()
    given = [torch.from_dlpack(a).requires_grad_(backward) for a in (q, k, v)]
    gradient = torch.from_dlpack(dy)

    def call() -> Any:
        with torch.set_grad_enabled(backward):
            y = torch.nn.functional.scaled_dot_product_attention(*given, dropout_p=rate)
        return torch.autograd.grad(y, given, gradient) if backward else y

    return call


def both(q: Any, k: Any, v: Any, dy: Any, **how: Any) -> Any:
    """Forward and backward."""
    y, sums = attention(q, k, v, return_logsumexp=True, **how)
    return attention_backward(dy, q, k, v, y, sums, **how)


@section
def attention_passes(s: Setting) -> dict[str, Any]:
    """Attention with and without dropout, forward and with backward; products in TF32."""
    shape = s.sizes.attention
    q, k, v, dy = (s.numbers(*shape, seed=seed) for seed in range(4))
    dropped = {"rate": RATE, "key": 7}
    with tf32(s):
        result = measured(
            s,
            {
                "plain": lambda: partial(attention, q, k, v),
                "dropout": lambda: partial(attention, q, k, v, **dropped),
                "causal": lambda: partial(attention, q, k, v, causal=True, **dropped),
                "plain_both": lambda: partial(both, q, k, v, dy),
                "dropout_both": lambda: partial(both, q, k, v, dy, **dropped),
                "cupy": partial(by_cupy, s, q, k, v),
                "torch_plain": partial(by_torch, 0.0, False, q, k, v, dy),
                "torch": partial(by_torch, RATE, False, q, k, v, dy),
                "torch_both": partial(by_torch, RATE, True, q, k, v, dy),
            },
            elements=shape[0] * shape[1] * shape[2] * shape[2],
            own="dropout",
        )
    targets = [
        target(f"attention with dropout, {what}: times as long as without",
               over(result, f"dropout{which}", f"plain{which}"), 1.1, most=True)
        for which, what in (("", "forward"), ("_both", "forward and backward"))
    ]  # fmt: skip
    targets.append(target("attention with dropout, forward: times as fast as written with CuPy",
                          over(result, "cupy", "dropout"), 2.0))  # fmt: skip
    return {"shape": shape, "float32": result, "targets": targets}
