"""max_norm_ over rows and columns of a matrix inside the ball, beside reading it and the peers."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("max_norm"))
def bench_max_norm(measure, kernel, case, builder):
    measure(kernel, case, builder)
