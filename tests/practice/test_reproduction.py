"""Experiments: their runs, their file, and the command that repeats them."""

import dataclasses
import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import reproduction
from dropcore.cli import main
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.reproduction import Experiment, Measure, Row, SeededRun, read_results, reproduce
from dropcore.reproduction._records import append_record

pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def blobs():
    """Two classes that overlap (400, 5)."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 400)
    return (rng.normal(size=(400, 5)) + 1.5 * y[:, None]).astype(np.float32), y


def one(run):
    x, y = blobs()
    x, y, x_test, y_test = run.split(x[:300], y[:300], x[300:], y[300:])
    model = run.fit(
        Sequential([Dense(run.settings.units), Dropout(run.settings.rate), Dense(2)]), x, y,
        epochs=run.settings.epochs, optimizer="adam", loss="softmax_cross_entropy",
        validation_data=(x_test, y_test),
    )  # fmt: skip
    run.add_errors(model)
    return {"test error": 100 * (1 - model.evaluate(x_test, y_test)["accuracy"])}


@pytest.fixture
def experiment():
    return Experiment(
        title="Blobs", paper="Somebody 2000, table 1", train=one,
        rows=[Row("plain", 9.5), Row("dropout", rate=0.5)],
        settings={"units": 8, "rate": 0.0, "epochs": 4}, quick={"epochs": 1}, seeds=(0, 1),
    )  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- runs and their file -------------------------------------------------------------------------


def test_every_row_is_run_with_every_seed(experiment, tmp_path):
    path = tmp_path / "blobs.jsonl"
    said = []
    results = reproduce(experiment, path, report=said.append)
    found = lines(path)
    assert [(run["row"], run["seed"]) for run in found] == [
        ("plain", 0), ("dropout", 0), ("plain", 1), ("dropout", 1)
    ]  # fmt: skip
    assert found[1]["settings"] == {"units": 8, "rate": 0.5, "epochs": 4, "held_out": False}
    assert found[0]["updates"] == 4 * 10
    assert found[0]["curves"]["test error"][0] == [10, 20, 30, 40]
    assert found[0]["curves"]["test error"][1][-1] == pytest.approx(
        found[0]["values"]["test error"], rel=1e-5
    )
    assert 0 < found[0]["seconds"] < 60
    assert 0 < found[0]["cpu_seconds"] < 60
    assert found[0]["machine"]["isa"]
    assert said[0] == "plain, seed 0: begins, run 1 of 4"
    assert said[1].startswith("plain, seed 0: test error ")
    assert "% (published: 9.5), 40 updates" in said[1]
    assert "published" not in said[3]
    assert path.with_suffix(".png").stat().st_size > 1000
    assert sorted(p.name for p in tmp_path.iterdir()) == ["blobs.jsonl", "blobs.png"]
    errors = [run["values"]["test error"] for run in found if run["row"] == "plain"]
    assert results.mean("plain") == pytest.approx(np.mean(errors))
    assert results.standard_error("plain") == pytest.approx(abs(errors[0] - errors[1]) / 2)


def test_a_row_may_have_seeds_of_its_own(experiment, tmp_path):
    experiment.rows[0].seeds = (1,)
    path = tmp_path / "blobs.jsonl"
    reproduce(experiment, path)
    wanted = [("dropout", 0), ("plain", 1), ("dropout", 1)]
    assert [(run["row"], run["seed"]) for run in lines(path)] == wanted
    results = reproduce(experiment, tmp_path / "quick.jsonl", quick=True)
    assert [(r.row, r.seed) for r in results.records] == [("dropout", 0), ("plain", 1)]


def test_a_seed_repeats_its_numbers(experiment, tmp_path):
    first, second, other = (
        [(r.values, r.curves) for r in reproduce(experiment, tmp_path / name, seeds=[seed]).records]
        for name, seed in (("a.jsonl", 3), ("b.jsonl", 3), ("c.jsonl", 4))
    )
    assert first == second
    assert first != other


def test_finished_runs_are_kept(experiment, tmp_path):
    path = tmp_path / "blobs.jsonl"
    reproduce(experiment, path, rows=["plain"], seeds=[0])
    before = path.read_text()
    said = []
    reproduce(experiment, path, seeds=[0], report=said.append)
    assert said[0] == "dropout, seed 0: begins"
    assert len(said) == 2
    assert path.read_text().startswith(before)


def test_other_settings_are_refused_or_replace(experiment, tmp_path):
    path = tmp_path / "blobs.jsonl"
    reproduce(experiment, path, seeds=[0])
    before = path.read_text()
    for changed in ({"settings": {"units": 4}}, {"held_out": True}, {"quick": True}):
        with pytest.raises(ValueError, match=r"has runs of 'plain' with .*write to another file"):
            reproduce(experiment, path, seeds=[0], **changed)
    assert path.read_text() == before
    with pytest.raises(ValueError, match=r"with units=8, and now it is units=4"):
        reproduce(experiment, path, seeds=[0], settings={"units": 4})
    results = reproduce(experiment, path, seeds=[0], settings={"units": 4}, again=True)
    assert [r.settings["units"] for r in results.records] == [4, 4]


def test_what_is_replaced_counts_until_a_new_run_is_finished(experiment, tmp_path):
    path = tmp_path / "blobs.jsonl"
    reproduce(experiment, path)
    before = path.read_text()

    def stopped(run):
        raise KeyboardInterrupt

    changed = {"settings": {"units": 4}, "again": True}
    experiment.train, train = stopped, experiment.train
    with pytest.raises(KeyboardInterrupt):
        reproduce(experiment, path, **changed)
    assert path.read_text() == before
    experiment.train = train
    results = reproduce(experiment, path, rows=["plain"], seeds=[1], **changed)
    found = sorted((r.row, r.seed, r.settings["units"]) for r in results.records)
    assert found == [("dropout", 0, 8), ("dropout", 1, 8), ("plain", 1, 4)]


def test_held_out_data_takes_the_place_of_the_test_data(experiment, tmp_path):
    run = SeededRun("plain", 0, {}, tmp_path, held_out=True)
    x = np.arange(60)
    x_train, y_train, x_test, y_test = run.split(x, x + 1, -x, -x)
    assert x_train.tolist() == list(range(50))
    assert x_test.tolist() == list(range(50, 60))
    assert (y_train == x_train + 1).all()
    assert (y_test == x_test + 1).all()
    run = SeededRun("plain", 0, {}, tmp_path)
    x_train, _, x_test, _ = run.split(x, x, -x, -x, samples=7)
    assert x_train.tolist() == list(range(7))
    assert (x_test == -x).all()


def test_quick_form(experiment, tmp_path):
    results = reproduce(experiment, tmp_path / "q.jsonl", quick=True)
    assert [(r.seed, r.settings["epochs"]) for r in results.records] == [(0, 1), (0, 1)]
    assert math.isnan(results.standard_error("plain"))
    assert results.shown("plain").count("+-") == 0


def test_a_line_that_was_cut_is_ignored(experiment, tmp_path):
    path = tmp_path / "blobs.jsonl"
    reproduce(experiment, path, seeds=[0])
    whole = path.read_text()
    path.write_text(whole[:-20])
    assert [r.row for r in read_results(experiment, path).records] == ["plain"]
    results = reproduce(experiment, path, seeds=[0, 1])
    assert len(results.records) == 4
    path.write_text(whole + "{}\n")
    with pytest.raises(ValueError, match="line 3 is no record of a run"):
        read_results(experiment, path)


def test_values_are_checked(experiment, tmp_path):
    for values in ({"error": 1.0}, {}, None, {"test error": math.nan}):
        experiment.train = lambda run, values=values: values
        with pytest.raises(ValueError, match=r"must return (a dict with|finite numbers)"):
            reproduce(experiment, tmp_path / "a.jsonl")
    assert not (tmp_path / "a.jsonl").exists()


SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
import test_reproduction
test_reproduction.reproduce(test_reproduction.slow(0.05), {path!r})
"""


def slow(seconds, epochs=None):
    """An experiment whose epochs take so long; their numbers are added to a list."""

    def each(epoch, metrics):
        time.sleep(seconds)
        if epochs is not None:
            epochs.append(epoch)

    def train(run):
        fit = run.fit
        run.fit = lambda *args, **kwargs: fit(*args, callbacks=[each], **kwargs)
        return one(run)

    return Experiment(
        title="Blobs", paper="", train=train, rows=[Row("plain")], quick={}, seeds=(0,),
        settings={"units": 8, "rate": 0.0, "epochs": 30},
    )  # fmt: skip


class Plain(Dense):
    """A layer that dropcore does not know."""


def test_a_run_with_classes_of_its_own_continues(tmp_path):
    x, y = blobs()
    found = []
    for epochs in (2, 3):
        run = SeededRun("plain", 0, {}, tmp_path)
        model = run.fit(
            Sequential([Plain(2)]), x, y, epochs=epochs, loss="softmax_cross_entropy",
            custom={"Plain": Plain},
        )  # fmt: skip
        found.append(model.training_state.epoch)
    assert found == [2, 3]
    with pytest.raises(ValueError, match="custom"):
        SeededRun("plain", 0, {}, tmp_path).fit(Sequential([Plain(2)]), x, y, epochs=4)


def test_a_run_that_finishes_leaves_the_folder_to_others(tmp_path):
    folder = tmp_path / "shared.unfinished"
    first, second = (SeededRun("plain", seed, {}, folder) for seed in (0, 1))
    first.file("model.dropcore").write_text("first")
    path = second.file("model.dropcore")
    first.finish()
    path.write_text("second")
    first.file("model.dropcore").write_text("first, again")
    second.finish()
    assert [path.read_text() for path in folder.glob("*/*")] == ["first, again"]
    first.finish()
    assert not folder.exists()


def test_a_folder_that_another_run_deletes_is_made_again(tmp_path, monkeypatch):
    make, shared, deleted = Path.mkdir, tmp_path / "shared.unfinished", []

    def mkdir(path, **options):
        if path.parent == shared and not deleted:
            deleted.append(path)
            shared.rmdir()
        make(path, **options)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    SeededRun("plain", 0, {}, shared).file("model.dropcore").write_text("a model")
    assert deleted


def test_a_checkpoint_counts_until_the_record_is_written(experiment, tmp_path, monkeypatch):
    def fail(path, record):
        raise OSError("the disk is full")

    with monkeypatch.context() as patched:
        patched.setattr("dropcore.reproduction._reproduce.append_record", fail)
        with pytest.raises(OSError, match="full"):
            reproduce(experiment, tmp_path / "a.jsonl", rows=["plain"], seeds=[0])
    (checkpoint,) = tmp_path.glob("a.unfinished/plain-0-*/model.dropcore")
    assert dropcore.load(checkpoint).training_state.epoch == 4
    reproduce(experiment, tmp_path / "a.jsonl", rows=["plain"], seeds=[0])
    assert not (tmp_path / "a.unfinished").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no locks of POSIX")
def test_processes_that_share_a_file_share_its_runs(experiment, tmp_path):
    """The second call, which has files and locks of its own, is made during the first."""
    path, trained, said = tmp_path / "a.jsonl", [], []

    def train(run):
        trained.append((run.row, run.seed))
        if len(trained) == 1:
            reproduce(experiment, path, report=said.append)
            assert len(list(tmp_path.glob("a.unfinished/plain-0-*"))) == 1
        return one(run)

    experiment.train = train
    reproduce(experiment, path)
    assert trained == [("plain", 0), ("dropout", 0), ("plain", 1), ("dropout", 1)]
    assert sorted((run["row"], run["seed"]) for run in lines(path)) == sorted(trained)
    assert said[0] == "plain, seed 0: another process trains it"
    assert len(said) == 1 + 2 * 3
    assert sorted(os.listdir(tmp_path)) == ["a.jsonl", "a.png"]


def test_a_run_that_fails_can_be_claimed_again(experiment, tmp_path):
    def fail(run):
        raise KeyError("a fault of the script")

    good, experiment.train = experiment.train, fail
    with pytest.raises(KeyError, match="fault"):
        reproduce(experiment, tmp_path / "a.jsonl", rows=["plain"], seeds=[0])
    assert os.listdir(tmp_path) == []
    experiment.train = good
    assert len(reproduce(experiment, tmp_path / "a.jsonl").records) == 4


@pytest.mark.parametrize("made_again", [False, True])
def test_a_run_that_another_process_finishes_now_is_not_claimed(tmp_path, monkeypatch, made_again):
    """The folder is removed, and perhaps made by a third process, while the lock is waited for."""
    fcntl = pytest.importorskip("fcntl")
    run = SeededRun("plain", 0, {}, tmp_path / "a.unfinished")
    folder = run.file("model.dropcore").parent
    flock = fcntl.flock

    def late(handle, operation):
        folder.rename(tmp_path / "finished")
        if made_again:
            folder.mkdir()
        flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with run.claimed() as mine:
        assert not mine
    assert folder.exists() == made_again


@pytest.mark.parametrize("cause", ["the system", "the file system"])
def test_runs_where_there_are_no_locks(experiment, tmp_path, monkeypatch, cause):
    fcntl = pytest.importorskip("fcntl")

    def flock(handle, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    if cause == "the system":
        monkeypatch.setattr("dropcore._base.files.fcntl", None)
    else:
        monkeypatch.setattr(fcntl, "flock", flock)
    assert len(reproduce(experiment, tmp_path / "a.jsonl").records) == 4


def test_a_record_waits_for_the_line_that_another_process_writes(experiment, tmp_path):
    fcntl = pytest.importorskip("fcntl")
    path = tmp_path / "a.jsonl"
    reproduce(experiment, path, rows=["plain"], seeds=[0])
    (first,) = read_results(experiment, path).records
    line, second = path.read_text(), dataclasses.replace(first, seed=1)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(line[:100])
        file.flush()
        writer = threading.Thread(target=append_record, args=(path, second))
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        file.write(line[100:])
    writer.join()
    assert read_results(experiment, path).records == [first, second]


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_run_that_is_killed_continues(tmp_path):
    (whole,) = reproduce(slow(0), tmp_path / "whole.jsonl").records
    path = tmp_path / "killed.jsonl"
    script = SCRIPT.format(tests=str(Path(__file__).parent), path=str(path))
    process = subprocess.Popen([sys.executable, "-c", script])
    while not list(tmp_path.glob("killed.unfinished/plain-0-*/model.dropcore")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()
    (checkpoint,) = tmp_path.glob("killed.unfinished/plain-0-*/model.dropcore")
    done, epochs = dropcore.load(checkpoint).training_state.epoch, []
    assert 0 < done < 30
    (killed,) = reproduce(slow(0, epochs), path).records
    assert epochs == list(range(done + 1, 31))
    assert (killed.values, killed.updates) == (whole.values, whole.updates)
    assert killed.curves["test error"][1] == list(whole.curves["test error"][1])
    assert sorted(os.listdir(tmp_path)) == [
        "killed.jsonl", "killed.png", "whole.jsonl", "whole.png"
    ]  # fmt: skip


# --- wrong use -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": [Row("a"), Row("a")]}, "rows: need different names, got 'a', 'a'"),
        ({"rows": []}, "rows: need different names"),
        ({"quick": {"epoch": 1}}, "quick: 'epoch' is no setting of this experiment, which has 'a'"),
        ({"rows": [Row("a", {"RMSE": 1.0})]}, "row 'a': 'RMSE' is no measure"),
    ],
)
def test_an_experiment_is_checked(changed, message):
    given = {"rows": [Row("a")], "settings": {"a": 1}, "quick": {}, **changed}
    with pytest.raises(ValueError, match=message):
        Experiment(title="", paper="", train=one, **given)


def test_names_that_do_not_exist(experiment, tmp_path):
    path = tmp_path / "blobs.jsonl"
    with pytest.raises(ValueError, match="row 'maxout': the rows are 'plain', 'dropout'"):
        reproduce(experiment, path, rows=["maxout"])
    with pytest.raises(ValueError, match=r"settings: 'unit' is no setting .* 'epochs', 'rate'"):
        reproduce(experiment, path, settings={"unit": 3})
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        reproduce(experiment, tmp_path / "no" / "blobs.jsonl")
    with pytest.raises(ValueError, match="no experiment is called 'nothing': they are "):
        reproduction.load_script("nothing")


def test_curves_are_checked(tmp_path):
    run = SeededRun("plain", 0, {}, tmp_path)
    with pytest.raises(ValueError, match=r"vectors of one length, got shapes \(2,\) and \(3,\)"):
        run.add_curve("error", [1, 2], [1, 2, 3])
    run.add_curve("error", [1, 2], [1 / 3, 2])
    assert run.curves["error"] == ([1.0, 2.0], [0.333333, 2.0])


# --- the command ---------------------------------------------------------------------------------


@pytest.fixture
def script(experiment, monkeypatch):
    monkeypatch.setattr(reproduction, "script_names", lambda: ["blobs"])
    monkeypatch.setattr(reproduction, "load_script", lambda name: experiment)


def test_command(script, tmp_path, capsys):
    out = tmp_path / "new"
    assert main(["reproduce", "blobs", "--quick", "-o", str(out)]) == 0
    shown = capsys.readouterr()
    assert shown.err.count("seed 0: test error ") == 2
    assert "plain, seed 0: begins, run 1 of 2" in shown.err
    assert "9.50" in shown.out
    assert sorted(os.listdir(out)) == ["blobs-quick.jsonl", "blobs-quick.png"]
    arguments = [
        "reproduce", "all", "--rows", "dropout", "--seeds", "4,5", "--set", "units=3;epochs=2",
        "--held-out", "--json", "--quiet", "-o", str(out),
    ]  # fmt: skip
    assert main(arguments) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert json.loads(shown.out)["blobs"].keys() == {"dropout"}
    found = lines(out / "blobs-held-out.jsonl")
    assert [(r["seed"], r["settings"]["units"]) for r in found] == [(4, 3), (5, 3)]
    assert main(["reproduce", "list"]) == 0
    assert capsys.readouterr().out == "blobs  Blobs (Somebody 2000, table 1)\n"


def test_command_with_several_processes(script, tmp_path, monkeypatch, capsys):
    started = []

    class Process:
        """Runs the command in this process; `returned`, if it is not None, stands for a failure."""

        returned = None

        def __init__(self, command, **options):
            assert command[1:3] == ["-m", "dropcore"]
            started.append(command[3:])
            self.returncode = main(command[3:]) if self.returned is None else self.returned

        def poll(self):
            return self.returncode

    monkeypatch.setattr(subprocess, "Popen", Process)
    arguments = [
        "reproduce", "blobs", "--quick", "--jobs", "2", "--seeds", "0,1", "-o", str(tmp_path),
        "--set", "units=3", "--again",
    ]  # fmt: skip
    assert main([*arguments[:-1], "--set", "units=2", "--rows", "dropout"]) == 0
    started.clear()
    assert main([*arguments, "--rows", "dropout"]) == 0
    assert sorted(words[-1] for words in started) == ["0", "1"]
    found = lines(tmp_path / "blobs-quick.jsonl")[-2:]
    assert {(r["row"], r["settings"]["units"]) for r in found} == {("dropout", 3)}
    assert sorted(r["seed"] for r in found) == [0, 1]
    Process.returned = 1
    assert main(arguments) == 2
    assert "2 of 2 runs failed, the first one blobs, 'plain', seed 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blobs", "--set", "units"], "must be name=value"),
        (["blobs", "--seeds", "one"], "at least 0"),
        (["blobs", "--rows", "maxout"], "the rows are 'plain', 'dropout'"),
        (["blobs", "--set", "unit=3"], "'unit' is no setting"),
    ],
)
def test_wrong_commands(script, arguments, message, tmp_path, capsys):
    try:
        status = main(["reproduce", *arguments, "-o", str(tmp_path)])
    except SystemExit as error:
        status = error.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_measures():
    assert Measure("RMSE").label == "RMSE"
    assert Measure("error", "%").label == "error, %"
    two = Experiment(
        title="", paper="", rows=[Row("a", {"RMSE": 2.0})], settings={}, quick={}, seeds=(0,),
        measures=[Measure("RMSE", digits=1), Measure("log likelihood")],
        train=lambda run: {"RMSE": 1.26, "log likelihood": -3},
    )  # fmt: skip
    results = reproduction.Results(
        two, [reproduction.Record("a", 0, {}, {"RMSE": 1.26, "log likelihood": -3})]
    )
    head, line = results.table().splitlines()
    assert head.split()[:5] == ["RMSE:", "published", "ours", "log", "likelihood"]
    assert line.split() == ["a", "2.0", "1.3", "-3.00", "1", "0", "0.0"]  # no figure, no column
