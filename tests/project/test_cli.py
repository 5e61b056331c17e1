"""The command: info, demo, version."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore._base.extras import EXTRAS
from dropcore.cli import main


def test_python_m_dropcore_prints_the_version():
    done = subprocess.run(
        [sys.executable, "-m", "dropcore", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"dropcore {dropcore.__version__}\n"


def test_info(capsys):
    assert main(["info"]) == 0
    rows = dict(
        line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines() if " " in line
    )
    build = dropcore.build_info()
    assert rows["dropcore"] == build["version"]
    assert rows["ISA"].split()[0] == build["isa"]
    assert rows["threads"] == str(build["threads"])
    assert rows["OpenMP"].startswith("yes" if build["openmp"] else "no")
    assert rows.keys() > EXTRAS.keys()


def test_info_imports_no_heavy_package():
    code = (
        "import sys; from dropcore.cli import main; main(['info']); "
        "print(sorted({'torch', 'sklearn', 'matplotlib', 'cupy', 'jax'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_info_says_what_is_missing(capsys, monkeypatch):
    monkeypatch.setitem(EXTRAS, "nowhere", ("no_such_module",))
    assert main(["info"]) == 0
    assert "nowhere     missing no_such_module" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: command"),
        (["demonstrate"], "choose from"),
        (["demo", "--epochs", "0"], "at least 1, got '0'"),
        (["demo", "--seeds", "two"], "at least 1, got 'two'"),
    ],
)
def test_bad_arguments(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


def test_demo_checks_the_directory_first(tmp_path, capsys):
    assert main(["demo", "--output", str(tmp_path / "missing" / "a.png")]) == 2
    assert "no such directory" in capsys.readouterr().err


@pytest.mark.parametrize("module", ["sklearn.datasets", "matplotlib.figure"])
def test_demo_says_what_to_install(module, tmp_path, capsys, monkeypatch):
    pytest.importorskip(module)
    monkeypatch.setitem(sys.modules, module, None)
    assert main(["demo", "--output", str(tmp_path / "a.png")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    expected = "the demo needs scikit-learn and matplotlib: pip install 'dropcore[demo]'"
    assert err == f"dropcore demo: {expected}\n"


def test_demo_draws_and_dropout_halves_the_error(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the demo's data are scikit-learn's")
    pytest.importorskip("matplotlib", reason="the demo draws with matplotlib")
    path = tmp_path / "curves.png"
    assert main(["demo", "--output", str(path), "--epochs", "50", "--seeds", "1"]) == 0
    out, err = capsys.readouterr()
    assert str(path) in out
    assert err == ""
    data = path.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(data) > 20_000
    rows = {
        name: line.removeprefix(name).split()
        for line in out.splitlines()
        for name in ("without dropout", "dropout + max-norm")
        if line.startswith(name)
    }
    (learnt, plain, *_), (noise, dropped, *_) = (map(float, rows[name]) for name in rows)
    assert plain > 10
    assert dropped <= plain / 2
    assert learnt < 2
    assert noise > 15


def test_demo_replaces_a_fifth_of_the_training_labels():
    datasets = pytest.importorskip("sklearn.datasets", reason="the demo's data")
    from dropcore.demo import noisy_digits

    images, labels = datasets.load_digits(return_X_y=True)
    true = {
        image.tobytes(): label for image, label in zip((images / 16).astype(np.float32), labels)
    }
    x, y, x_test, y_test = noisy_digits(1)
    assert (len(x), len(x_test)) == (800, 997)
    assert sum(true[image.tobytes()] != label for image, label in zip(x, y)) == 160
    assert all(true[image.tobytes()] == label for image, label in zip(x_test, y_test))
    assert not {image.tobytes() for image in x} & {image.tobytes() for image in x_test}
    assert not np.array_equal(noisy_digits(2)[1], y)
    np.testing.assert_array_equal(noisy_digits(1)[1], y)


def test_table_has_means_and_standard_errors():
    from dropcore.demo import WITH, WITHOUT, Curves, table

    norms = np.array([1.0, 3.0])
    runs = {
        WITHOUT: [Curves([0.1], [error], norms, 2.0) for error in (0.1, 0.2, 0.3)],
        WITH: [Curves([0.2], [0.05], norms, 4.0) for _ in range(3)],
    }
    _, first, second, *_, last = table(runs).splitlines()
    columns = [" ".join(line.split()) for line in (first, second)]
    assert columns[0] == "without dropout 10.0 +- 0.0 20.0 +- 5.8 2.00 3.00 2.0"
    assert columns[1] == "dropout + max-norm 20.0 +- 0.0 5.0 +- 0.0 2.00 3.00 4.0"
    assert "4.0 times" in last


def test_info_names_the_gpu_or_what_is_missing(host, monkeypatch, capsys):
    runtime = host.cuda.runtime
    monkeypatch.setattr(host, "__version__", "0", raising=False)
    properties = {"name": b"A GPU"}
    monkeypatch.setattr(runtime, "getDeviceProperties", lambda _: properties, raising=False)
    assert main(["info"]) == 0
    assert "GPU           A GPU, CuPy 0\n" in capsys.readouterr().out
    monkeypatch.setattr(runtime, "getDeviceCount", lambda: 0)
    assert main(["info"]) == 0
    assert "GPU           none: arrays on a GPU need CuPy and an" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a directory: name a file"),
        ("a.xyz", r"must end in one of .*\.png"),
        ("a", "must end in one of"),
    ],
)
def test_demo_checks_its_output_before_it_trains(name, message, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the demo's data are scikit-learn's")
    assert main(["demo", "--output", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert re.search(message, err)
    assert list(tmp_path.iterdir()) == []


def test_demo_writes_the_format_of_the_ending(tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the demo's data are scikit-learn's")
    path = tmp_path / "curves.svg"
    assert main(["demo", "--output", str(path), "--epochs", "1", "--seeds", "1"]) == 0
    assert "<svg" in path.read_text(encoding="utf-8")[:2000]
    out = capsys.readouterr().out
    assert "1 seed, 1 epoch.\n" in out
    assert "standard error" not in out
    assert "times fewer" not in out


def test_a_network_that_is_not_better_is_not_called_so():
    from dropcore.demo import WITH, WITHOUT, Curves, table

    runs = {name: [Curves([0.1], [0.2], np.ones(1), 1.0)] for name in (WITHOUT, WITH)}
    assert "has not lowered the test error" in table(runs)


def test_an_interrupt_ends_quietly(monkeypatch, tmp_path, capsys):
    pytest.importorskip("sklearn", reason="the demo's data are scikit-learn's")
    import dropcore.demo

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(dropcore.demo, "run_demo", interrupted)
    assert main(["demo", "--output", str(tmp_path / "a.png")]) == 130
    assert capsys.readouterr().err == "\n"


def test_a_reader_that_stops_early_is_no_error():
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", "import time; time.sleep(1)\nfrom dropcore.cli import main\n"
         "raise SystemExit(main(['info']))"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    process.stdout.close()
    error = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), error) == (0, b"")


def test_info_lists_the_extras_that_the_package_offers():
    path = Path(__file__).resolve().parents[2] / "pyproject.toml"
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    offered = set(project["optional-dependencies"]) - {"test", "bench", "lint", "peers", "docs"}
    assert set(EXTRAS) == offered
