"""One training step of a whole network, with and without dropout and max-norm."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("training"))
def bench_training(measure, kernel, case, builder):
    measure(kernel, case, builder)
