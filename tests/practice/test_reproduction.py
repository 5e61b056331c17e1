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
    state, epochs, said = dropcore.load(checkpoint).training_state, [], []
    done, before = state.epoch, state.notes
    assert 0 < done < 30
    (killed,) = reproduce(slow(0, epochs), path, report=said.append).records
    assert epochs == list(range(done + 1, 31))
    assert said[0] == "plain, seed 0: continues from its checkpoint"
    assert killed.seconds >= round(sum(state.history["seconds"]), 2)
    assert killed.cpu_seconds >= round(before["cpu_seconds"], 2) > 0
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
    with pytest.raises(ValueError, match="curve 'error': x and y must be finite numbers"):
        run.add_curve("error", [1, 2], [1, math.nan])
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

        returned, running = None, 0

        def __init__(self, command, **options):
            assert command[1:3] == ["-m", "dropcore"]
            started.append(command[3:])
            Process.running += 1
            assert Process.running <= 2
            self.returncode, self.polled = None, 0

        def poll(self):
            self.polled += 1
            if self.polled == 2:
                Process.running -= 1
                self.returncode = main(started.pop(0)) if self.returned is None else self.returned
                ended.append(self.returncode)
            return self.returncode

    ended = []
    monkeypatch.setattr(subprocess, "Popen", Process)
    monkeypatch.setattr("dropcore.cli.reproduce.POLLING", 0)
    arguments = [
        "reproduce", "blobs", "--quick", "--jobs", "2", "--seeds", "0,1,2", "--threads", "6",
        "-o", str(tmp_path), "--held-out", "--quiet", "--again", "--rows", "dropout",
    ]  # fmt: skip
    assert main([*arguments, "--set", "units=2"]) == 0
    assert main([*arguments, "--set", "units=3"]) == 0
    assert ended == 6 * [0]
    found = lines(tmp_path / "blobs-quick-held-out.jsonl")[-3:]
    assert {(r["row"], r["settings"]["units"]) for r in found} == {("dropout", 3)}
    assert sorted(r["seed"] for r in found) == [0, 1, 2]
    assert [r["machine"]["threads"] for r in found] == 3 * [3]
    assert capsys.readouterr().err == ""
    Process.returned = 1
    assert main([*arguments, "--set", "units=4"]) == 2
    assert "3 of 3 runs failed, the first one blobs, 'dropout', seed 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["blobs", "--set", "units"], "must be name=value"),
        (["blobs", "--seeds", "one"], "at least 0"),
        (["blobs", "--rows", "maxout"], "the rows are 'plain', 'dropout'"),
        (["blobs", "--set", "unit=3"], "'unit' is no setting"),
        (["blobs", "--set", "units=many"], "units must be a value of the type of 8, got 'many'"),
        (["blobs", "--set", "rate=0.1"], "set it for rows that share a value, chosen with --rows"),
        (["all,blobs"], "'all' and 'list' stand alone"),
        (["blobs", "--set", "units=1;units=2"], "units is set twice in 'units=1;units=2'"),
        (["blobs", "--set", "units=1", "--set", "epochs=2"], "--set: is given twice"),
        (["blobs", "--set", "units=None"], "got None"),
        (["blobs", "--set", "units=False"], "got False"),
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


# --- wrong use, and what must not be lost ---------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"measures": []}, ValueError, "measures: need different names, got "),
        ({"measures": [Measure("e"), Measure("e")]}, ValueError, "measures: need different names"),
        ({"train": None}, TypeError, "train must be a function"),
        ({"seeds": []}, ValueError, "seeds must have at least one seed"),
        ({"seeds": 3}, TypeError, "seeds must be a sequence of integers, got 3"),
        ({"seeds": [1.5]}, TypeError, r"seeds must be an integer >= 0, got 1\.5"),
        ({"settings": {"a": math.nan}}, ValueError, "settings must be numbers, texts"),
        ({"settings": {"a": {1, 2}}}, TypeError, "settings must be numbers, texts"),
        ({"settings": {"a": 1, "held_out": 2}}, ValueError, "'held_out' is recorded of every run"),
    ],
)
def test_an_experiment_is_checked_when_it_is_made(changed, error, message):
    given = {"train": one, "rows": [Row("a")], "settings": {"a": 1}, "quick": {}, **changed}
    with pytest.raises(error, match=message):
        Experiment(title="", paper="", **given)


def test_rows_and_measures_are_checked():
    for wrong in (3, "", None):
        with pytest.raises(TypeError, match="Row: name must be a text"):
            Row(wrong)
        with pytest.raises(TypeError, match="Measure: name must be a text"):
            Measure(wrong)
    with pytest.raises(TypeError, match=r"row 'a': published must be a number, got '1\.0'"):
        Row("a", "1.0")
    with pytest.raises(TypeError, match="row 'a': RMSE must be a number"):
        Row("a", {"RMSE": [1]})
    with pytest.raises(ValueError, match="digits must be an integer >= 0, got -1"):
        Measure("error", digits=-1)


def test_settings_are_as_json_writes_them(experiment, tmp_path):
    """So that a run is found again whose settings had a tuple or numbers as keys."""
    experiment = Experiment(
        title="", paper="", train=lambda run: {"test error": sum(run.settings.units)},
        rows=[Row("a", units=(1, 2)), Row("b")], settings={"units": (3, 4)}, quick={}, seeds=(0,),
    )  # fmt: skip
    reproduce(experiment, tmp_path / "a.jsonl")
    said = []
    results = reproduce(experiment, tmp_path / "a.jsonl", report=said.append)
    assert not said
    assert [record.settings["units"] for record in results.records] == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"units": "8"}, TypeError, "settings: units must be a value of the type of 8, got '8'"),
        ({"units": True}, TypeError, "settings: units must be a value of the type of 8, got True"),
        ({"units": 2.5}, TypeError, r"got 2\.5"),
        ({"units": None}, TypeError, "got None"),
        ({"widths": [2, "a"]}, TypeError, "settings: widths: an item must be .* of 4, got 'a'"),
        ({"widths": []}, ValueError, "widths must have at least one item"),
        ({"rate": 0.2}, ValueError, r"'rate' differs between the rows, .* 0\.0, 0\.5: set it"),
        ({"samples": "all"}, TypeError, "must be a value of the type of None, 10, got 'all'"),
    ],
)
def test_settings_that_are_given_have_the_type_of_the_experiment(changed, error, message, tmp_path):
    experiment = Experiment(
        title="", paper="", train=one, rows=[Row("plain"), Row("dropout", rate=0.5)],
        settings={"units": 8, "rate": 0.0, "widths": [4], "samples": None},
        quick={"samples": 10},
    )  # fmt: skip
    with pytest.raises(error, match=message):
        reproduce(experiment, tmp_path / "a.jsonl", settings=changed)
    assert os.listdir(tmp_path) == []
    good = {"units": 3, "widths": [1, 2], "samples": 5, "rate": 1}
    assert experiment.settings_of("dropout", changed=good) == good


def test_a_setting_that_the_quick_form_has_for_all_rows_may_be_given(tmp_path):
    experiment = Experiment(
        title="", paper="", train=lambda run: {"test error": run.settings.epochs},
        rows=[Row("long"), Row("short", epochs=2)], settings={"epochs": 3}, quick={"epochs": 1},
    )  # fmt: skip
    results = reproduce(experiment, tmp_path / "a.jsonl", quick=True, settings={"epochs": 4})
    assert [record.values["test error"] for record in results.records] == [4, 4]


@pytest.mark.parametrize("other", [("α", {}, 0), ("β", {"a": 1}, 0), ("β", {}, 1), ("b", {}, 0)])
def test_each_run_has_files_of_its_own(other, tmp_path):
    row, settings, seed = other
    first, second = SeededRun("β", 0, {}, tmp_path), SeededRun(row, seed, settings, tmp_path)
    assert first.file("model.dropcore") != second.file("model.dropcore")
    assert first.file("a") == SeededRun("β", 0, {}, tmp_path).file("a")


def test_runs_that_were_replaced_do_not_return(experiment, tmp_path):
    path, old, new = tmp_path / "a.jsonl", {"epochs": 3}, {"epochs": 2}
    reproduce(experiment, path, rows=["plain"], seeds=[0, 1], settings=old)
    reproduce(experiment, path, rows=["plain"], seeds=[0], settings=new, again=True)
    reproduce(experiment, path, rows=["plain"], seeds=[0, 1], settings=old, again=True)
    assert [run["seed"] for run in lines(path)] == [0, 1, 0, 0, 1]
    assert len(read_results(experiment, path).records) == 2


def test_a_picture_is_drawn_once_there_are_runs(experiment, tmp_path):
    """Another process may train the only run; the scripts draw at least one."""

    def draw(figure, results):
        assert results.records

    experiment.draw, experiment.train = draw, None
    path = tmp_path / "a.jsonl"
    run = SeededRun("plain", 0, experiment.settings_of("plain") | {"held_out": False},
                    path.with_suffix(".unfinished"))  # fmt: skip
    with run.claimed():
        assert reproduce(experiment, path, rows=["plain"], seeds=[0]).records == []
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_place_of_checkpoints_is_refused(experiment, tmp_path):
    (tmp_path / "a.unfinished").write_text("")
    with pytest.raises(NotADirectoryError, match=r"to the folder .*a\.unfinished, which is a file"):
        reproduce(experiment, tmp_path / "a.jsonl")


def test_a_setting_that_tells_rows_apart_is_given_for_one_of_them(experiment, tmp_path):
    path = tmp_path / "a.jsonl"
    results = reproduce(experiment, path, rows=["dropout"], seeds=[0], settings={"rate": 0.2})
    assert results.records[0].settings["rate"] == 0.2


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({"seeds": [-1]}, ValueError, "seeds must be an integer >= 0, got -1"),
        ({"seeds": [True]}, TypeError, "seeds must be"),
        ({"seeds": "01"}, TypeError, "seeds must be a sequence of integers"),
        ({"seeds": []}, ValueError, "at least one seed"),
        ({"rows": "plain"}, TypeError, "rows must be a sequence of names, got 'plain'"),
        ({"rows": []}, ValueError, "rows must have at least one name"),
        ({"quick": 1}, TypeError, "quick must be True or False"),
    ],
)
def test_arguments_are_checked_before_training(experiment, changed, error, message, tmp_path):
    with pytest.raises(error, match=message):
        reproduce(experiment, tmp_path / "a.jsonl", **changed)
    assert os.listdir(tmp_path) == []


def test_seeds_of_numpy_are_integers(experiment, tmp_path):
    reproduce(experiment, tmp_path / "a.jsonl", rows=["plain"], seeds=np.arange(1, 2))
    assert lines(tmp_path / "a.jsonl")[0]["seed"] == 1


def test_an_experiment_is_no_name(tmp_path):
    with pytest.raises(TypeError, match="must be an Experiment, such as load_script returns"):
        reproduce("ridge", tmp_path / "a.jsonl")


@pytest.mark.parametrize("name", ["a.json", "a.png", "a"])
def test_other_files_are_refused(experiment, name, tmp_path):
    path = tmp_path / name
    path.write_text('{"precious": 1}')
    with pytest.raises(ValueError, match=r"path must end in \.jsonl"):
        reproduce(experiment, path)
    assert path.read_text() == '{"precious": 1}'


@pytest.mark.parametrize(
    "content",
    [
        '{"precious": 1}',
        "text",
        '{"row": 1}\n',
        '{"row": 1}',
        '{"row": "a", "b": 2}',
        "3\n",
        "\xff\n",
    ],
)
def test_a_file_of_something_else_is_kept(experiment, content, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"a\.jsonl.* is no record of a run"):
        reproduce(experiment, path)
    if not content.endswith("\n"):
        with pytest.raises(ValueError, match="is no record of a run"):
            append_record(path, reproduction.Record("plain", 0, {}, {"test error": 1.0}))
    assert path.read_text(encoding="latin-1") == content


def test_files_that_cannot_be_written_are_named_before_training(experiment, tmp_path):
    (tmp_path / "a.png").mkdir()
    (tmp_path / "b.jsonl").mkdir()
    experiment.train = None
    for name, found in (("a.jsonl", "a.png"), ("b.jsonl", "b.jsonl")):
        with pytest.raises(IsADirectoryError, match=rf"{found} is a folder"):
            reproduce(experiment, tmp_path / name)


def test_a_last_line_without_its_end_counts(experiment, tmp_path):
    """An editor may have removed the end, or a file was joined by hand."""
    path = tmp_path / "a.jsonl"
    reproduce(experiment, path, rows=["plain"], seeds=[0])
    path.write_text(path.read_text().rstrip("\n"))
    results = reproduce(experiment, path, rows=["plain"], seeds=[0, 1])
    assert [run["seed"] for run in lines(path)] == [0, 1]
    assert len(results.records) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": {}}, "has no value of 'test error'"),
        ({"values": 3}, "values must be of type dict, got 3"),
        ({"values": {"test error": "3"}}, "the value of 'test error' must be a number, got '3'"),
        ({"row": [1]}, "row must be of type str"),
        ({"seed": True}, "seed must be of type int, got True"),
        ({"updates": None}, "updates must be of type int, got None"),
        ({"cpu_seconds": "3"}, "cpu_seconds must be a number, got '3'"),
        ({"curves": {"weights": 3}}, "the curve 'weights' must be two lists of one length"),
        ({"curves": {"weights": [[1], []]}}, "the curve 'weights' must be two lists of one length"),
        ({"row": "maxout"}, "row 'maxout': the rows are 'plain', 'dropout'"),
    ],
)
def test_damaged_records_are_named(experiment, changed, message, tmp_path):
    path = tmp_path / "a.jsonl"
    reproduce(experiment, path, rows=["plain"], seeds=[0])
    path.write_text(json.dumps(lines(path)[0] | changed) + "\n")
    with pytest.raises(ValueError, match=f"a.jsonl.*{message}.*delete"):
        read_results(experiment, path)


def test_results_are_asked_for_what_there_is(experiment, tmp_path):
    results = reproduce(experiment, tmp_path / "a.jsonl", rows=["plain"], seeds=[0])
    for ask in (results.of, results.mean, lambda row: results.curve(row, "test error")):
        with pytest.raises(ValueError, match="row 'maxout': the rows are 'plain', 'dropout'"):
            ask("maxout")
    for ask in (results.mean, lambda row: results.curve(row, "test error")):
        with pytest.raises(ValueError, match=r"row 'dropout' has no runs yet; there are .*'plain'"):
            ask("dropout")
    with pytest.raises(ValueError, match="measure 'RMSE': the measures are 'test error'"):
        results.shown("plain", "RMSE")
    with pytest.raises(ValueError, match="no curve 'RMSE'; its curves are 'test error'"):
        results.curve("plain", "RMSE")


def test_a_run_adds_up_the_time_of_its_models(tmp_path):
    x, y = blobs()
    run, notes, seconds = SeededRun("plain", 0, {}, tmp_path), [], []
    for name in ("first", "second"):
        model = run.fit(
            Sequential([Dense(2)]), x, y, name=name, epochs=3, loss="softmax_cross_entropy"
        )
        notes.append(model.training_state.notes["cpu_seconds"])
        seconds += model.training_state.history["seconds"]
    assert min(notes) > 0
    assert run.cpu_seconds == pytest.approx(sum(notes))
    assert run.seconds == pytest.approx(sum(seconds))


def test_a_name_is_for_one_model(tmp_path):
    x, y = blobs()
    run = SeededRun("plain", 0, {}, tmp_path)
    given = {"epochs": 1, "loss": "softmax_cross_entropy"}
    run.fit(Sequential([Dense(2)]), x, y, **given)
    with pytest.raises(ValueError, match="has trained a model called 'model'"):
        run.fit(Sequential([Dense(2)]), x, y, **given)
    run.fit(Sequential([Dense(2)]), x, y, name="second", **given)
    assert run.updates == 2 * 13
    with pytest.raises(ValueError, match=r"second\.dropcore is the checkpoint of another network"):
        SeededRun("plain", 0, {}, tmp_path).fit(
            Sequential([Dense(3), Dense(2)]), x, y, name="second", **given
        )


def test_what_a_run_is_given_is_checked(tmp_path):
    run = SeededRun("plain", 7, {}, str(tmp_path), held_out=True)
    assert run.fold(8) == 7
    with pytest.raises(ValueError, match="the numbers of 7 folds, 0 to 6, got 7"):
        run.fold(7)
    x = np.arange(4)
    with pytest.raises(ValueError, match="one length, got 4 and 3"):
        run.split(x, x[1:], x, x)
    for samples in (0, 4):  # one of the four is held out
        with pytest.raises(ValueError, match=r"samples must be an integer in \[1, 3\]"):
            run.split(x, x, x, x, samples=samples)
    with pytest.raises(ValueError, match="must have been trained with validation_data"):
        run.add_errors(Sequential([Dense(2)]))


def test_an_error_of_training_names_the_settings_that_were_given(experiment, tmp_path):
    experiment.train = lambda run: {"test error": 1 / run.settings.units}
    with pytest.raises(ValueError, match=r"'plain', seed 0, cannot be .* units=0: ZeroDivisionErr"):
        reproduce(experiment, tmp_path / "a.jsonl", settings={"units": 0})


def test_all_experiments_are_checked_before_one_is_trained(tmp_path, capsys):
    arguments = ["reproduce", "ridge,uci", "--quick", "--rows", "keep 0.9", "-o", str(tmp_path)]
    assert main(arguments) == 2
    assert "the rows are 'concrete', 'energy', 'yacht'" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_all_files_are_checked_before_one_experiment_is_trained(script, tmp_path, capsys):
    """The names are those of one experiment, which has a file of its own for each."""
    given = ["reproduce", "--quick", "--quiet", "-o", str(tmp_path)]
    assert main([*given, "second"]) == 0
    assert main([*given, "first,second", "--set", "epochs=2"]) == 2
    assert "has runs of 'plain' with epochs=1, and now it is epochs=2" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["second-quick.jsonl", "second-quick.png"]


def test_the_output_is_a_folder(script, capsys):
    assert main(["reproduce", "blobs", "-o", __file__]) == 2
    assert "is a file, or is in one: name a folder" in capsys.readouterr().err


def test_an_interruption_says_how_to_go_on(script, experiment, tmp_path, capsys):
    def train(run):
        raise KeyboardInterrupt

    experiment.train = train
    assert main(["reproduce", "blobs", "-o", str(tmp_path)]) == 130
    assert "stopped; the same command continues" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_processes_of_the_command(number, tmp_path):
    waiting = "import sys, time; print('started', flush=True); time.sleep(60)"
    code = f"""
import argparse, subprocess, sys
import dropcore.cli.reproduce as command
start = subprocess.Popen
command.subprocess.Popen = lambda words, **options: start([sys.executable, "-c", {waiting!r}])
options = argparse.Namespace(
    jobs=2, threads=None, output="", quick=False, held_out=False, again=False, quiet=False, set=None
)
command._in_processes([("a", "b", 0), ("a", "b", 1)], options)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert len(process.stdout.read(2 * len("started\n"))) == 2 * len("started\n")
    process.send_signal(number)
    _, said = process.communicate(timeout=30)  # when the children have closed the pipe, too
    assert process.returncode == (143 if number == signal.SIGTERM else -number)
    assert ("stopped; the same command continues" in said) == (number == signal.SIGINT)
