"""One training step of whole networks, with and without dropout."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("training", "convolution", "recurrent"))
def bench_training(measure, kernel, case, builder):
    measure(kernel, case, builder)
