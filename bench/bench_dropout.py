"""Forward and backward dropout beside a copy and the peers."""

import pytest
import subjects

FORWARD = [
    subjects.copy,
    subjects.copy_torch,
    subjects.forward,
    subjects.scale_in_place,
    subjects.forward_in_place,
    subjects.forward_numpy,
    subjects.forward_torch,
    subjects.forward_jax,
]
BACKWARD = [
    subjects.copy,
    subjects.copy_torch,
    subjects.backward,
    subjects.backward_packed,
    subjects.backward_numpy,
    subjects.backward_torch,
]


def name(builder):
    return builder.__name__


@pytest.mark.parametrize("where", subjects.SIZES)
@pytest.mark.parametrize("keep", subjects.KEEPS)
@pytest.mark.parametrize("builder", FORWARD, ids=name)
def bench_forward(measure, where, keep, builder):
    size = subjects.SIZES[where]
    measure(f"forward, {where}, keep {keep}", builder, size, keep, elements=size)


@pytest.mark.parametrize("where", subjects.SIZES)
@pytest.mark.parametrize("keep", subjects.KEEPS)
@pytest.mark.parametrize("builder", BACKWARD, ids=name)
def bench_backward(measure, where, keep, builder):
    size = subjects.SIZES[where]
    measure(f"backward, {where}, keep {keep}", builder, size, keep, elements=size)
