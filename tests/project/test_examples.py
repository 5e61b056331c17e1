"""The examples that need data or a GPU run on small ones."""

from __future__ import annotations

import gzip
import importlib.util
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--units", "24", "--epochs", "3", "--samples", "300"]


def written(path, array):
    head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(head + array.tobytes(), compresslevel=1))


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """The example, with digits that are a bright row each."""
    folder = tmp_path / "MNIST"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part, n in (("train", 400), ("t10k", 10_000)):
        labels = rng.integers(0, 10, n).astype(np.uint8)
        images = rng.integers(0, 60, (n, 28, 28)).astype(np.uint8)
        images[np.arange(n), 2 * labels] = 255
        written(folder / f"{part}-images-idx3-ubyte.gz", images)
        written(folder / f"{part}-labels-idx1-ubyte.gz", labels)
    monkeypatch.setenv("DROPCORE_DATA", str(tmp_path))
    spec = importlib.util.spec_from_file_location("mnist_8192", EXAMPLES / "mnist_8192.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mnist_learns(mnist, capsys):
    x, _, x_test, y_test = mnist.digits()
    assert (len(x), len(x_test), x.dtype, x.max()) == (400, 10_000, np.float32, 1)
    assert (x_test.reshape(-1, 28, 28)[np.arange(10_000), 2 * y_test] == 1).all()
    assert mnist.main(["--device", "cpu", *SMALL]) < 50
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("0.95 %" in line for line in lines)


def test_mnist_stops_in_time(mnist, capsys):
    mnist.main(["--device", "cpu", "--minutes", "0", *SMALL])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_mnist_on_a_device(mnist, host_graphs):
    wanted = mnist.main(["--device", "cpu", *SMALL])
    assert mnist.main(SMALL) == pytest.approx(wanted, abs=0.2)


def test_mnist_without_a_device(mnist, monkeypatch):
    from dropcore._backends.cuda import kernels

    kernels.forget()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit, match=r"pip install cupy-cuda12x.*--device cpu --units 256"):
        mnist.main(SMALL)
    kernels.forget()


@pytest.fixture
def uci(tmp_path, monkeypatch):
    """The example, with a table of which half of the variance is noise of deviation 3."""
    folder = tmp_path / "UCI" / "yacht"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    y = 3 * x[:, 0] + 3 * rng.normal(size=300)
    np.savetxt(folder / "data.txt", np.column_stack([x, y]))
    monkeypatch.setenv("DROPCORE_DATA", str(tmp_path))
    spec = importlib.util.spec_from_file_location("uci_intervals", EXAMPLES / "uci_intervals.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "uci_intervals", module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_intervals_of_targets_with_known_noise(uci, capsys):
    found = uci.main(["--sets", "yacht", "--splits", "2", "--epochs", "10", "--samples", "50"])
    scores = found["yacht"]
    assert 2.5 < scores.rmse < 4.2
    assert scores.log_likelihood == pytest.approx(-2.6, abs=0.3)  # -log(3 sqrt(2 pi e)) = -2.52
    assert 0.8 < scores.coverage <= 1
    assert 9 < scores.width < 15  # of the noise alone: 9.9
    assert capsys.readouterr().out.startswith("yacht, 2 splits: RMSE ")
