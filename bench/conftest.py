from __future__ import annotations

import sys
import warnings

import pytest
import subjects

import dropcore


@pytest.fixture
def measure(benchmark):
    """Benchmarks what a builder builds, in the group of its case; skips an absent peer."""

    def run(kernel, case, builder, group=""):
        # Peers warn while they are imported and compiled, and here a warning would be an error.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                call = builder(*case.arguments)
            except subjects.Absent as absent:
                pytest.skip(str(absent))
            benchmark.group = group or f"{kernel}, {case.name}"
            benchmark.extra_info.update(subjects.description(kernel, case, builder))
            call()
            benchmark(call)

    return run


@pytest.fixture
def set_threads():
    """Sets dropcore's threads for one benchmark; the peers follow when they are built."""

    def set_all(threads):
        # They may share one OpenMP, where the last benchmark's PyTorch limits dropcore.
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(threads)
        dropcore.set_num_threads(threads)
        assert dropcore.get_num_threads() == threads

    before = dropcore.get_num_threads()
    yield set_all
    set_all(before)
