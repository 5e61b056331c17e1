"""bench/gpu.py on the stand-in for CuPy: its checks are right, and its times are there."""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dropcore._backends.cuda import kernels

SCRIPT = Path(__file__).parents[2] / "bench" / "gpu.py"
PARITY = ["parity_masks", "parity_dropout", "parity_noise", "parity_max_norm", "parity_products",
          "parity_attention", "parity_updates", "parity_training"]  # fmt: skip


@pytest.fixture(scope="module")
def script():
    """bench/gpu.py as a module."""
    if not SCRIPT.exists():  # as in an sdist without benchmarks
        pytest.skip("bench/ is not here")
    sys.path.insert(0, str(SCRIPT.parent))  # as when the script is run
    spec = importlib.util.spec_from_file_location("bench_gpu", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def gpu(script):
    """The package with its sections."""
    return importlib.import_module("on_gpu")


class HostClock:
    def milliseconds(self, call, repeats):
        start = time.perf_counter_ns()
        for _ in range(repeats):
            call()
        return (time.perf_counter_ns() - start) / 1e6 / repeats


def setting(gpu, host, **more):
    return gpu.Setting(host, HostClock(), gpu.SIZES["tiny"], **more)


@pytest.mark.parametrize("name", PARITY)
def test_parity(gpu, host_graphs, name):
    found = gpu.SECTIONS[name](setting(gpu, host_graphs))
    assert found["checks"]
    wrong = {name: check for name, check in found["checks"].items() if not check["ok"]}
    assert not wrong
    assert found["ok"]


def test_parity_is_looked_for(gpu, host, monkeypatch):
    """A wrong bit and a wrong number are found."""
    own = gpu.parity.normal

    def wrong(*args, like=None, **kwargs):
        z = own(*args, like=like, **kwargs)
        return z if like is None else z * np.float32(1 + 1e-6)

    monkeypatch.setattr(gpu.parity, "normal", wrong)
    found = gpu.SECTIONS["parity_noise"](setting(gpu, host))
    assert not found["ok"]
    assert not found["checks"]["float32"]["ok"]
    checks = gpu.Checks(setting(gpu, host))
    checks.bits("bits", np.array([1.0, -0.0]), np.array([1.0, 0.0]))
    checks.close("nan", np.array([np.nan]), np.array([1.0]), 1.0)
    checks.bits("shape", np.zeros(3), np.zeros(4))
    with checks.part("raises"):
        raise ValueError("what it says\nand more")
    assert [check["ok"] for check in checks.outcomes.values()] == [False] * 4
    assert checks.outcomes["bits"]["elements_that_differ"] == 1
    assert checks.outcomes["raises"]["failed"] == "ValueError: what it says"


TIMES = {
    "dropout_passes": ("float32", ["forward", "backward", "given_bits", "in_place"]),
    "packed_masks": ("bits", ["packed_0.5", "packed_0.9"]),
    "max_norm": ("rows", ["rows", "rows_shortened", "read"]),
    "fused_epilogue": ("bfloat16", ["forward", "backward"]),
    "attention_passes": ("float32", ["plain", "dropout", "causal", "plain_both", "dropout_both"]),
    "training_step": ("batch 8", ["regularised", "regularised_graph", "plain", "units"]),
    "unit_masks": ("8 x 32 x 32", ["plain", "units", "lazy"]),
    "small_calls": ("128 x 128", ["dropout", "masked_matmul", "max_norm", "cupy_matmul"]),
}  # fmt: skip


def test_every_section_is_tested(gpu):
    assert {*PARITY, *TIMES, "parity_streams"} == set(gpu.SECTIONS)


@pytest.mark.parametrize("name", TIMES)
def test_times(gpu, host_graphs, name):
    group, candidates = TIMES[name]
    found = gpu.SECTIONS[name](setting(gpu, host_graphs))
    missing = [own for own in candidates if own not in found[group]]
    assert not missing, found[group]["absent"]
    for own in candidates:
        assert 0 < found[group][own]["least_ms"] <= found[group][own]["ms"]
    for own, why in found[group].get("absent", {}).items():
        # Peers, and what the stand-in lacks.
        assert own.startswith(("copy", "torch", "cupy", "read_torch")), (own, why)
    assert all(line["found"] is None or line["met"] in (True, False) for line in found["targets"])


def test_a_run_is_written_as_it_goes(gpu, host, tmp_path, monkeypatch, capsys):
    written = []

    def breaks(setting):
        written.append(json.loads(output.read_text())["sections"])
        raise RuntimeError("no more\nthan that")

    output = tmp_path / "gpu.json"
    monkeypatch.setitem(gpu.SECTIONS, "packed_masks", breaks)
    names = ["parity_noise", "packed_masks", "unit_masks"]
    report = gpu.run(setting(gpu, host), names, output)
    assert list(written[0]) == ["parity_noise"]
    assert json.loads(output.read_text()) == json.loads(json.dumps(report))
    assert report["parity"] is True
    assert report["sections"]["packed_masks"]["failed"] == "RuntimeError: no more"
    assert "ms" in report["sections"]["unit_masks"]["8 x 32 x 32"]["units"]
    assert "| unit masks" in gpu.table(report)
    assert "no more" in capsys.readouterr().out
    late = gpu.run(setting(gpu, host, deadline=0.0), names, output)
    assert all("skipped" in found for found in late["sections"].values())


def test_targets(gpu):
    assert gpu.target("a", 2.6, 2.5)["met"] is True
    assert gpu.target("a", 2.4, 2.5)["met"] is False
    assert gpu.target("a", 0.7, 0.8, most=True)["met"] is True
    assert gpu.target("a", None, 1.0)["met"] is None
    result = {"slow": {"ms": 3.0}, "fast": {"ms": 1.5}}
    assert gpu.over(result, "slow", "fast") == 2.0
    assert gpu.over(result, "slow", "absent") is None
    assert gpu.fastest(result, "absent", "slow", "fast") == "fast"


def test_interleaved_turns(gpu, host):
    """There and back, medians of the turns."""
    order = []

    class Clock:
        def milliseconds(self, call, repeats):
            call()
            return float(len(order))

    own = gpu.Setting(host, Clock(), gpu.Sizes(rounds=2))
    calls = {name: (lambda name=name: order.append(name)) for name in "abc"}
    found = gpu.interleaved(own, calls)
    assert order[6:] == list("abccba" * 2)
    assert found["a"]["ms"] == np.median([7, 12, 13, 18])


def test_without_a_device_one_sentence(script, monkeypatch, capsys):
    kernels.forget()
    monkeypatch.setitem(sys.modules, "cupy", None)
    assert script.main([]) == 1
    assert "pip install cupy-cuda12x" in capsys.readouterr().err
    kernels.forget()


def test_list(script, capsys):
    assert script.main(["--list"]) == 0
    assert all(name in capsys.readouterr().out for name in ["parity_masks"])
