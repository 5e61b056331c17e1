"""The measurement and the model behind docs/scaling.md."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import ranks_model
from ranks_model import Machine, Network, efficiency, pays_until, seconds_of_sum, seconds_of_update

from support.mpi import launcher

BENCH = Path(__file__).parents[2] / "bench"

MACHINE = Machine("a machine", "made up", fixed=1e-3, per_row=1e-5, backward=0.6, weights=2e-3,
                  latency=1e-5, bandwidth=1e9, adding=4e9, overlaps=False)  # fmt: skip
NETWORK = Network.of([784, 1024, 1024, 10])
BYTES = 4 * (785 * 1024 + 1025 * 1024 + 1025 * 10)


def test_buckets_have_all_bytes_the_last_layer_first():
    found = NETWORK.buckets()
    assert sum(size for _, size in found) == sum(NETWORK.bytes) == BYTES
    assert [size for _, size in found] == [4 * (1025 * 1024 + 1025 * 10), 4 * 785 * 1024]
    assert [part for part, _ in found] == pytest.approx([found[0][1] / BYTES, 1.0])


def test_a_sum_takes_its_steps_and_its_bytes():
    assert seconds_of_sum(MACHINE, 1, 1 << 20) == 0
    assert seconds_of_sum(MACHINE, 4, 8_000_000) == pytest.approx(4e-5 + 6e6 * (2e-9 + 0.25e-9))


def test_an_update_without_overlap_is_the_sum_of_its_parts():
    found = seconds_of_update(MACHINE, NETWORK, 4, 100)
    sums = sum(seconds_of_sum(MACHINE, 4, size) for _, size in NETWORK.buckets())
    assert found == pytest.approx(1e-3 + 100e-5 + 4e-5 + sums + 2e-3)


def test_overlap_hides_all_but_the_last_bucket():
    slow = replace(MACHINE, overlaps=True, per_row=1e-3)
    found = seconds_of_update(slow, NETWORK, 4, 100)
    last = seconds_of_sum(slow, 4, NETWORK.buckets()[-1][1])
    assert found == pytest.approx(1e-3 + 0.1 + 4e-5 + last + 2e-3)


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("weak", [False, True])
def test_efficiency_falls_with_the_ranks(weak, overlaps):
    machine = replace(MACHINE, overlaps=overlaps)
    found = [efficiency(machine, NETWORK, n, rows=4096, weak=weak) for n in ranks_model.RANKS]
    assert found[0] == 1
    assert all(a >= b > 0 for a, b in zip(found, found[1:]))  # noqa: RUF007
    last = pays_until(machine, NETWORK, rows=4096, weak=weak)
    assert efficiency(machine, NETWORK, last, rows=4096, weak=weak) >= 0.5


def test_the_model_is_fitted_to_a_measurement():
    def compute(rows):
        return MACHINE.fixed + MACHINE.per_row * rows

    size = 4 * 3_000_000
    report = {
        "units": [784, 1024, 1024, 10], "batch": 512, "cores": 2, "parameters": 3_000_000,
        "seconds": {
            str(n): {
                f"forward {rows}": 0.4 * compute(rows) for rows in (512 // n, 256 // n)
            } | {f"backward {rows}": 0.6 * compute(rows) for rows in (512 // n, 256 // n)}
            | {"weights": 2e-3, "update": 0.1, "sum in a tree": size / 1e9 + size / 2 / 4e9,
               "message 64": 1e-5, f"message {1 << 22}": (1 << 22) / 1e9}
            for n in (1, 2)
        },
    }  # fmt: skip
    found = ranks_model.fitted(report)
    for name in ("fixed", "per_row", "backward", "weights", "latency", "bandwidth", "adding"):
        assert getattr(found, name) == pytest.approx(getattr(MACHINE, name), rel=1e-6), name
    assert [row[0] for row in ranks_model.compared(report)] == [1, 2]


def test_the_scripts_run(tmp_path):
    launcher()
    path = tmp_path / "ranks.json"
    done = subprocess.run(
        [sys.executable, BENCH / "ranks.py", "--output", path, "--quick", "--ranks", "1", "2",
         "--updates", "2"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seconds = json.loads(path.read_text())["seconds"]
    for ranks in "12":
        assert {"update", "update in blocks", "weights", "totals"} <= seconds[ranks].keys()
    done = subprocess.run(
        [sys.executable, BENCH / "ranks_model.py", path, "--plot", tmp_path / "ranks.svg"],
        capture_output=True, text=True, timeout=120, check=False,
        env=os.environ | {"MPLCONFIGDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "ranks  measured  model" in done.stdout
    assert (tmp_path / "ranks.svg").stat().st_size > 5000
