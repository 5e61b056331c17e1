"""What the tests of the compiled core share."""

from __future__ import annotations

import gc
import os
import platform
import signal
import sys

import numpy as np
import pytest

pytest.register_assert_rewrite("support")

# Set where every package is installed, as in `make peers`: a skip is then a failure.
NO_SKIPS = os.environ.get("DROPCORE_NO_SKIPS", "0") not in ("", "0")

ISAS = ("scalar", "avx2", "avx512", "neon")

# A shell starts what it runs in the background with Ctrl-C ignored, and tests press Ctrl-C.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish(session):
    """Leave the thousands of tests out of every pass of the garbage collector from here on."""
    gc.collect()
    gc.freeze()


@pytest.fixture(params=ISAS)
def isa(request):
    """Each instruction set in turn, active in this process while the test runs."""
    import dropcore
    from dropcore import _core

    runnable = dropcore.build_info()["isas"]
    if request.param not in runnable:
        pytest.skip(
            f"{request.param} cannot run on this {platform.machine()} processor, "
            f"which runs {', '.join(runnable)}"
        )
    before = dropcore.build_info()["isa"]
    _core.set_isa(request.param)
    try:
        assert dropcore.build_info()["isa"] == request.param
        yield request.param
        # A test that ended under another instruction set has shown nothing about this one.
        assert dropcore.build_info()["isa"] == request.param
    finally:
        _core.set_isa(before)


@pytest.fixture(params=(1, 2, 3, 4, 5, 6, 7))
def threads(request):
    """Each number of threads in turn."""
    import dropcore

    before = dropcore.get_num_threads()
    dropcore.set_num_threads(request.param)
    try:
        expected = request.param if dropcore.build_info()["openmp"] else 1
        assert dropcore.get_num_threads() == expected
        yield request.param
    finally:
        dropcore.set_num_threads(before)


@pytest.fixture
def assert_team(threads):
    """A check that the last parallel loop ran on the number of threads that was asked for."""
    import dropcore
    from dropcore import _core

    expected = threads if dropcore.build_info()["openmp"] else 1

    def check() -> None:
        assert _core.last_team_size() == expected

    return check


@pytest.fixture(scope="session")
def host_module(request, tmp_path_factory):
    """A stand-in for CuPy that compiles the kernels for the host, once for all runs of tests."""
    from support import host_cupy

    if host_cupy.COMPILER is None or platform.system() != "Linux":
        pytest.skip("the kernels run on the host where g++ and Linux are")
    kept = getattr(request.config, "cache", None)  # which pytest can do without
    folder = kept.mkdir("host-kernels") if kept else tmp_path_factory.mktemp("kernels")
    return host_cupy.module(folder)


@pytest.fixture
def host(monkeypatch, host_module):
    """The stand-in, in CuPy's place, and one for cuBLAS."""
    from dropcore._backends.cuda import blas, kernels
    from support import cublas, host_cupy

    own_blas = cublas.FakeBlas()
    monkeypatch.setitem(sys.modules, "cupy", host_module)
    monkeypatch.setattr(blas, "loaded", lambda: own_blas)
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", host_cupy.special())
    kernels.forget()
    yield host_module
    kernels.forget()


@pytest.fixture
def host_graphs(host, monkeypatch):
    """The stand-in, whose own product replaces the direct calls of cuBLAS."""
    from dropcore._backends.cuda import graphs

    class Handle:
        def multiply(self, a, b, out):
            host.matmul(a, b, out=out)

        def multiply_stack(self, a, b, out, accumulate):
            if accumulate:
                out += host.matmul(a, b)
            else:
                host.matmul(a, b, out=out)

    monkeypatch.setattr(graphs, "Handle", Handle)
    return host


def device():
    """CuPy, where there is a device."""
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        cupy.zeros(1)
    except Exception as error:
        pytest.skip(f"no CUDA device: {error}")
    return cupy


@pytest.fixture(params=["numpy", "host", "cupy"])
def xp(request):
    """NumPy, the stand-in for CuPy, and CuPy itself where there is a device."""
    if request.param == "numpy":
        return np
    return request.getfixturevalue("host") if request.param == "host" else device()


@pytest.fixture(params=["host", "cupy"])
def gpu(request):
    """The stand-in for CuPy, and CuPy itself where there is a device."""
    return request.getfixturevalue("host") if request.param == "host" else device()


@pytest.fixture
def products_in_graphs(request, gpu):
    """On the stand-in, its own product instead of the direct calls of cuBLAS."""
    if not hasattr(gpu, "_core"):  # which CuPy itself has
        request.getfixturevalue("host_graphs")


def refuse_skip(report):
    if NO_SKIPS and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"no skip is allowed here (DROPCORE_NO_SKIPS): {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport():
    return refuse_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return refuse_skip((yield))
