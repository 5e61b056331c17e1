"""masked_matmul with every kind of mask, beside the plain products of NumPy and PyTorch.

An element mask and a unit mask are different estimators: that the second is faster says nothing
about which network learns better.
"""

from math import prod

import pytest
import subjects


@pytest.mark.parametrize("shape", subjects.PRODUCTS)
@pytest.mark.parametrize("kind", ["plain", "element", "unit", "weight"])
def bench_masked(measure, shape, kind):
    sizes = subjects.PRODUCTS[shape]
    masks = subjects.product_masks(sizes)[kind]
    measure(f"product {shape}", subjects.product, sizes, elements=prod(sizes), **masks)


@pytest.mark.parametrize("shape", subjects.PRODUCTS)
@pytest.mark.parametrize(
    "builder", [subjects.product_blas, subjects.product_torch], ids=lambda b: b.__name__
)
def bench_plain(measure, shape, builder):
    sizes = subjects.PRODUCTS[shape]
    measure(f"product {shape}", builder, sizes, elements=prod(sizes))


@pytest.mark.parametrize("shape", subjects.PRODUCTS)
def bench_copy(measure, shape):
    m, _, n = subjects.PRODUCTS[shape]
    measure(f"product {shape}", subjects.copy, m * n, 1.0, elements=m * n)
