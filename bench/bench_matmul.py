"""Products with every kind of mask, forward and backward, beside the peers' plain products.

An element mask and a unit mask are different estimators: that the second is faster says nothing
about which network learns better.
"""

import pytest
from subjects import candidates


@pytest.mark.parametrize(**candidates("product", "product_backward", "layer", "dropconnect"))
def bench_matmul(measure, kernel, case, builder):
    measure(kernel, case, builder)
