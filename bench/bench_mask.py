"""Packed masks alone, beside a copy of as many float32 and the peers."""

import pytest
import subjects

BUILDERS = [subjects.copy, subjects.mask, subjects.mask_numpy, subjects.mask_torch]


@pytest.mark.parametrize("where", subjects.SIZES)
@pytest.mark.parametrize("keep", subjects.KEEPS)
@pytest.mark.parametrize("builder", BUILDERS, ids=lambda b: b.__name__)
def bench_mask(measure, where, keep, builder):
    size = subjects.SIZES[where]
    measure(f"mask, {where}, keep {keep}", builder, size, keep, elements=size)
