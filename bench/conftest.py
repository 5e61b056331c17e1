from __future__ import annotations

import pytest
from subjects import Absent

import dropcore


@pytest.fixture
def measure(benchmark):
    """Benchmarks what a builder builds, in a group; skips an absent peer with its reason."""

    def run(group, builder, *args, elements, **kwargs):
        try:
            call = builder(*args, **kwargs)
        except Absent as absent:
            pytest.skip(str(absent))
        benchmark.group = group
        info = dropcore.build_info()
        benchmark.extra_info.update(
            elements=elements, isa=info["isa"], threads=dropcore.get_num_threads()
        )
        call()
        benchmark(call)

    return run
