"""Forward dropout over sizes, and the elementwise kernels over threads."""

import pytest
from subjects import candidates
from subjects.scaling import THREADS


@pytest.mark.parametrize(**candidates("scaling"))
def bench_sizes(measure, kernel, case, builder):
    measure(kernel, case, builder)


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(**candidates("threads"))
def bench_threads(measure, set_threads, threads, kernel, case, builder):
    set_threads(threads)
    measure(kernel, case, builder, group=f"threads, {case.name}, {threads} threads")
