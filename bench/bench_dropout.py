"""Forward and backward dropout beside a copy and the peers."""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("forward", "forward_in_place", "backward"))
def bench_dropout(measure, kernel, case, builder):
    measure(kernel, case, builder)
