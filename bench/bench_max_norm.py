"""max_norm_ over rows and columns of a matrix inside the ball, beside reading it and the peers."""

from math import prod

import pytest
import subjects

BUILDERS = [
    subjects.read,
    subjects.max_norm,
    subjects.max_norm_numpy,
    subjects.max_norm_torch,
]


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.__name__)
def bench_max_norm(measure, axis, builder):
    measure(f"max-norm, axis {axis}", builder, axis, elements=prod(subjects.NORM_SHAPE))


@pytest.mark.parametrize("axis", [0, 1])
def bench_copy(measure, axis):
    size = prod(subjects.NORM_SHAPE)
    measure(f"max-norm, axis {axis}", subjects.copy, size, 1.0, elements=size)
