"""Attention beside PyTorch's: the same mask given, the same numbers forward and backward."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import Mask
from support.arrays import close
from support.attention import arrays, both
from support.peers import KEY, by_torch, each_dtype

CAUSAL, BIAS, ALLOWED, LENGTHS = "causal", "bias", "allowed", "lengths"
CASES = {
    "plain": (),
    CAUSAL: (CAUSAL,),
    BIAS: (BIAS,),
    ALLOWED: (ALLOWED,),
    LENGTHS: (LENGTHS,),
    "together": (CAUSAL, BIAS, LENGTHS),
}
BATCH, HEADS, N = 2, 4, 130


def options_of(torch, names, dtype):
    """The options of ours, and what PyTorch adds to scores instead."""
    rng = np.random.default_rng(9)
    ours, added = {}, np.zeros((BATCH, 1, N, N), dtype)
    if CAUSAL in names:
        ours["causal"] = True
        added = added + np.where(np.tri(N, dtype=bool), 0, -np.inf).astype(dtype)
    if BIAS in names:
        ours["bias"] = rng.normal(size=(HEADS, N, N)).astype(dtype)
        added = added + ours["bias"]
    if LENGTHS in names:
        ours["lengths"] = np.array([N, 77])
        seen = np.arange(N) < ours["lengths"][:, None, None, None]
        added = added + np.where(seen, 0, -np.inf).astype(dtype)
    if ALLOWED in names:
        ours["allowed"] = (rng.random((BATCH, 1, N, N)) < 0.7) | np.eye(N, dtype=bool)
        added = added + np.where(ours["allowed"], 0, -np.inf).astype(dtype)
    return ours, torch.tensor(added)


def check(torch, attend, names, dtype, given):
    """Ours beside attend(q, k, v, added), for heads of their own and for grouped ones."""
    ours, added = options_of(torch, names, dtype)
    for key_heads in (HEADS, 2):
        *values, dout = arrays(BATCH, HEADS, N, N, 16, 24, key_heads=key_heads, dtype=dtype)
        out, _, *gradients = both(*values, dout, **ours, **given)
        wanted, theirs = by_torch(torch, lambda q, k, v: attend(q, k, v, added), values, dout)
        close(out, wanted, "out")
        for name, found, gradient in zip(("dq", "dk", "dv"), gradients, theirs, strict=True):
            close(found, gradient, name)


@each_dtype
@pytest.mark.parametrize("case", CASES)
def test_without_dropout(torch, case, dtype):
    """Beside the function that everybody calls."""
    function = torch.nn.functional.scaled_dot_product_attention

    def attend(q, k, v, added):
        return function(q, k, v, added, enable_gqa=True)

    check(torch, attend, CASES[case], dtype, {})
    if case == CAUSAL:

        def attend_causal(q, k, v, _):
            return function(q, k, v, is_causal=True, enable_gqa=True)

        check(torch, attend_causal, CASES[case], dtype, {})


@each_dtype
@pytest.mark.parametrize("case", CASES)
def test_the_math_path_with_the_same_mask(torch, case, dtype):
    mask = Mask((BATCH, HEADS, N, N), 0.25, key=KEY)
    kept = torch.tensor(mask.to_bool())
    math = torch.ops.aten._scaled_dot_product_attention_math

    def attend(q, k, v, added):
        return math(q, k, v, added, 0.25, False, kept, enable_gqa=True)[0]

    check(torch, attend, CASES[case], dtype, {"rate": 0.25, "key": KEY})


@each_dtype
@pytest.mark.parametrize("case", CASES)
def test_weights_times_the_mask_as_an_array(torch, case, dtype):
    """As the formula says: softmax, times the mask, times v."""
    mask = Mask((BATCH, HEADS, N, N), keep=0.8, key=KEY, offset=12345)
    factors = torch.tensor(mask.to_array(dtype))

    def attend(q, k, v, added):
        k, v = (x.repeat_interleave(HEADS // x.shape[1], 1) for x in (k, v))
        scores = q @ k.transpose(2, 3) * q.shape[3] ** -0.5
        return ((scores + added).softmax(-1) * factors) @ v

    check(torch, attend, CASES[case], dtype, {"keep": 0.8, "key": KEY, "offset": 12345})


def test_a_query_that_sees_no_key(torch):
    """Both give 0, and no NaN."""
    q, k, v, dout = arrays(1, 2, 5, 7, 4, dtype=np.float64)
    allowed = np.ones((5, 7), bool)
    allowed[3] = False
    out, _, *gradients = both(q, k, v, dout, allowed=allowed)
    wanted, theirs = by_torch(
        torch,
        lambda *a: torch.nn.functional.scaled_dot_product_attention(*a, torch.tensor(allowed)),
        [q, k, v],
        dout,
    )
    assert not out[:, :, 3].any()
    close(out, wanted)
    for found, gradient in zip(gradients, theirs, strict=True):
        close(found, gradient)
