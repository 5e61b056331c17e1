"""Monte Carlo prediction, beside passes without noise and PyTorch."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("monte_carlo"))
def bench_prediction(measure, kernel, case, builder):
    measure(kernel, case, builder)
