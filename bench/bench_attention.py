"""Attention, its backward pass, and a training step of a transformer."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("attention", "attention_backward", "gpt"))
def bench_attention(measure, kernel, case, builder):
    measure(kernel, case, builder)
