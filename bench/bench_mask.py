"""Packed masks alone, beside a copy of as many float32 and the peers."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("mask"))
def bench_mask(measure, kernel, case, builder):
    measure(kernel, case, builder)
