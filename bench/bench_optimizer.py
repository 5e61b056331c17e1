"""One optimiser step with and without max-norm."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("sgd", "adam"))
def bench_optimizer(measure, kernel, case, builder):
    measure(kernel, case, builder)
