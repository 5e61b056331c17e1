"""From a table to a model and predictions: train, tune, predict, evaluate, explain."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import dropcore
from dropcore.cli import main
from dropcore.training.state import TrainingState

pandas = pytest.importorskip("pandas", reason="the commands read tables by pandas")
pytest.importorskip("sklearn", reason="the commands prepare tables by scikit-learn")
pytest.importorskip("safetensors", reason="the commands save models")

ROWS = 120
QUICK = ["--epochs", "3", "--units", "16", "--quiet"]


def frame(rows=ROWS, seed=0):
    """Two numbers, one of them with holes, a text, and targets that follow from them."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(2, rows))
    town = rng.choice(["Bern", "Lyon", "Turin"], rows)
    found = pandas.DataFrame({"a": a, "b": b, "town": town})
    found["kind"] = np.where(a + b > 0, "yes", "no")
    found["price"] = (100 + 30 * a - 20 * b + rng.normal(size=rows)).round(2)
    found.loc[::11, "b"] = np.nan
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frame().to_csv("data.csv", index=False)
    return tmp_path


@pytest.fixture
def classifier(folder):
    assert main(["train", "data.csv", "--target", "kind", "--drop", "price", "-o", "kind.dropcore",
                 *QUICK]) == 0  # fmt: skip
    return folder


@pytest.fixture
def regression(folder):
    assert main(["train", "data.csv", "--target", "price", "--drop", "kind", "-o", "price.dropcore",
                 "--epochs", "60", "--units", "16", "--rate", "0.1", "--learning-rate", "0.01",
                 "--quiet"]) == 0  # fmt: skip
    return folder


def run(capsys, *arguments, status=0):
    capsys.readouterr()
    assert main(list(arguments)) == status
    return capsys.readouterr()


def as_json(capsys, *arguments):
    return json.loads(run(capsys, *arguments, "--json").out)


def error(capsys, *arguments, status=2):
    out, err = run(capsys, *arguments, status=status)
    assert out == ""
    assert "Traceback" not in err
    last = err.splitlines()[-1]
    assert last.startswith(f"dropcore {arguments[0]}: ")
    return last.partition(": ")[2]


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


# --- train ---------------------------------------------------------------------------------------


def test_train_says_what_it_learned(folder, capsys):
    out, err = run(capsys, "train", "data.csv", "--target", "kind", "--drop", "price",
                   "-o", "m.dropcore", "--epochs", "20", "--units", "32")  # fmt: skip
    assert "mlp for classification" in out
    assert "96 rows, 24 held out" in out
    assert "saved to m.dropcore" in out
    assert "classification: the target is text of 2 kinds" in err
    assert "epoch 1/20: loss" in err
    model = dropcore.load("m.dropcore")
    assert list(model.training_state.classes) == ["no", "yes"]
    x = frame().drop(columns=["kind", "price"])
    assert (model.predict_labels(x) == frame()["kind"]).mean() > 0.85


def test_train_as_json_has_what_the_file_holds(folder, capsys):
    found = as_json(capsys, "train", "data.csv", "--target", "price", "--drop", "kind",
                    "-o", "m.dropcore", *QUICK)  # fmt: skip
    assert found["task"] == "regression"
    assert (found["rows"], found["held_out_rows"], found["epochs"]) == (96, 24, 3)
    assert found["scores"]["held_out"].keys() == {"loss", "rmse", "mae", "r2"}
    state = dropcore.load("m.dropcore").training_state
    assert found["noise"] == state.notes["noise"]
    assert state.notes["target"] == "price"
    assert state.notes["columns"] == ["a", "b", "town"]
    assert state.target_scaling.scale > 10


def test_few_held_out_rows_are_pointed_out(folder, capsys):
    command = ["train", "data.csv", "--target", "price", "-o", "m.dropcore", *QUICK]
    err = run(capsys, *command, "--validation-split", "0.1").err
    assert "12 rows held out are few: intervals will be rough" in err
    found = as_json(capsys, *command, "--force", "--validation-split", "0")
    assert found["held_out_rows"] == 0
    assert "noise" not in found
    out, err = run(capsys, "predict", "m.dropcore", "data.csv", "--samples", "5")
    assert out.splitlines()[0] == "prediction,std"
    assert "no rows were held out" in err
    err = run(capsys, "explain", "m.dropcore", "data.csv").err
    assert "no rows were held out in training, so that overfitting cannot be seen" in err


def test_training_stops_when_the_held_out_rows_get_worse(folder, capsys):
    command = ["train", "data.csv", "--target", "kind", "--drop", "price", "-o", "m.dropcore",
               "--force", "--units", "64", "--learning-rate", "0.03", "--epochs", "60",
               "--quiet"]  # fmt: skip
    found = as_json(capsys, *command, "--patience", "3")
    assert found["stopped_early"]
    assert found["epochs"] == found["best_epoch"] + 3 < 60
    found = as_json(capsys, *command, "--patience", "0")
    assert (found["epochs"], found["best_epoch"], found["stopped_early"]) == (60, None, False)


def test_the_size_of_batches_counts_updates(folder, capsys):
    run(capsys, "train", "data.csv", "--target", "kind", "-o", "m.dropcore", *QUICK,
        "--batch-size", "10")  # fmt: skip
    assert dropcore.load("m.dropcore").training_state.step == 3 * 10  # of 96 rows


def test_balanced_classes_find_the_rare_one(folder, capsys):
    table = frame(400)
    table["kind"] = np.where(table["a"] + table["b"].fillna(0) > 2, "rare", "common")
    table.to_csv("data.csv", index=False)
    command = ["train", "data.csv", "--target", "kind", "--drop", "price,town", "-o", "m.dropcore",
               "--force", "--epochs", "8", "--units", "16", "--quiet"]  # fmt: skip
    counts = []
    for more in ([], ["--balanced"]):
        run(capsys, *command, *more)
        found = as_json(capsys, "predict", "m.dropcore", "data.csv")["predictions"]["prediction"]
        counts.append(found.count("rare"))
    plain, balanced = counts
    assert balanced > plain + 10


def test_a_rate_that_is_typed_replaces_a_keep_of_the_file(folder, capsys):
    (folder / "defaults.toml").write_text("[train]\nkeep = 0.25\nunits = [8]\n")
    command = ["train", "data.csv", "--target", "kind", "-o", "m.dropcore", "--epochs", "1",
               "--quiet", "--force", "--config", "defaults.toml"]  # fmt: skip
    run(capsys, *command)
    assert dropcore.load("m.dropcore")[1].keep == 0.25
    run(capsys, *command, "--rate", "0.125")
    assert dropcore.load("m.dropcore")[1].rate == 0.125


def test_the_options_make_the_network(folder, capsys):
    run(capsys, "train", "data.csv", "--target", "kind", "-o", "m.dropcore", "--epochs", "1",
        "--units", "8,4", "--keep", "0.5,0.75", "--input-rate", "0.25", "--max-norm", "3",
        "--activation", "tanh", "--optimizer", "sgd")  # fmt: skip
    model = dropcore.load("m.dropcore")
    assert repr(model) == (
        "Sequential([Dropout(0.25), "
        "Dense(8, activation='tanh', constraint=MaxNorm(3.0)), Dropout(keep=0.5), "
        "Dense(4, activation='tanh', constraint=MaxNorm(3.0)), Dropout(keep=0.75), Dense(2)])"
    )
    assert model.training_state.optimizer == "SGD"


@pytest.mark.parametrize(
    ("options", "rate"), [(["price"], 0.1), (["kind"], 0.5), (["price", "--rate", "0.25"], 0.25)]
)
def test_numbers_are_dropped_less_by_default(folder, capsys, options, rate):
    run(capsys, "train", "data.csv", "-o", "m.dropcore", "--epochs", "1", "--target", *options)
    assert dropcore.load("m.dropcore")[1].rate == rate


def test_the_same_seed_gives_the_same_bytes(folder, capsys):
    for name, seed, threads in (("a", "5", "1"), ("b", "5", "2"), ("c", "6", "1")):
        before = dropcore.get_num_threads()
        try:
            run(capsys, "train", "data.csv", "--target", "kind", "-o", f"{name}.dropcore",
                "--seed", seed, "--threads", threads, *QUICK)  # fmt: skip
        finally:
            dropcore.set_num_threads(before)
    a, b, c = (weights(f"{name}.dropcore") for name in "abc")
    assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(a["0.weight"], c["0.weight"])


def weights(path):
    return dict(dropcore.load(path).params)


def test_a_model_is_not_overwritten_by_accident(classifier, capsys):
    arguments = ["train", "data.csv", "--target", "kind", "-o", "kind.dropcore", *QUICK]
    before = (classifier / "kind.dropcore").read_bytes()
    message = error(capsys, *arguments)
    assert "kind.dropcore exists already" in message
    assert "--force to replace it, or --resume" in message
    assert (classifier / "kind.dropcore").read_bytes() == before
    run(capsys, *arguments, "--force")
    assert (classifier / "kind.dropcore").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "data.csv", "--target", "kind", "-o", "data.csv"],
         "data.csv is given as --output and as the data: choose another name"),
        (["train", "data.csv", "--target", "kind", "-o", "m.dropcore", "--log", "./data.csv"],
         "data.csv is given as --log and as the data"),
        (["train", "data.csv", "--target", "kind", "-o", "m.log", "--log", "m.log"],
         "m.log is given as --log and as the output"),
        (["tune", "data.csv", "--target", "kind", "-o", "t.db", "--storage", "t.db"],
         "t.db is given as --storage and as the output"),
        (["predict", "kind.dropcore", "data.csv", "-o", "kind.dropcore"],
         "kind.dropcore is given as --output and as the model"),
        (["report", "kind.dropcore", "test.csv", "--training-data", "data.csv", "-o", "data.csv"],
         "data.csv is given as --output and as the training data"),
    ],
)  # fmt: skip
def test_no_file_is_read_and_written(classifier, capsys, arguments, message):
    before = {path.name: path.read_bytes() for path in classifier.iterdir()}
    assert message in error(capsys, *arguments, "--force")
    assert {path.name: path.read_bytes() for path in classifier.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--storage", "t.db"], "t.db has the trials; the same command goes on"),
        ([], "nothing is saved; with --storage FILE trials are kept"),
        (["--by", "rate"], "nothing is saved\n"),
    ],
)
def test_an_interrupted_tune_says_what_is_kept(folder, capsys, monkeypatch, options, message):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dropcore.cli.tune._by_search", interrupted)
    monkeypatch.setattr("dropcore.cli.tune._by_rate", interrupted)
    arguments = ["tune", "data.csv", "--target", "kind", "-o", "m.dropcore", *options]
    assert f"interrupted: {message}" in run(capsys, *arguments, status=130).err


@pytest.mark.parametrize("command", ["train", "tune"])
def test_a_log_is_not_overwritten_by_accident(folder, capsys, command):
    (folder / "notes.csv").write_text("mine")
    arguments = [command, "data.csv", "--target", "kind", "-o", "m.dropcore", "--log", "notes.csv"]
    assert "notes.csv exists already: choose another name, or add --force" in error(
        capsys, *arguments
    )
    assert (folder / "notes.csv").read_text() == "mine"


def test_resume_goes_on_to_the_same_bits(folder, capsys):
    command = ["train", "data.csv", "--target", "kind", "--units", "16", "--quiet"]
    run(capsys, *command, "-o", "whole.dropcore", "--epochs", "6")
    run(capsys, *command, "-o", "part.dropcore", "--epochs", "2")
    out, err = run(capsys, *command, "-o", "part.dropcore", "--epochs", "6", "--resume")
    assert "continuing after epoch 2" in err
    assert "6 epochs" in out
    whole, part = weights("whole.dropcore"), weights("part.dropcore")
    assert all(np.array_equal(whole[name], part[name]) for name in whole)


def test_resume_needs_the_same_command(classifier, capsys):
    resumed = ["-o", "kind.dropcore", "--resume", "--epochs", "4", "--quiet"]
    message = error(capsys, "train", "data.csv", "--target", "kind", "--drop", "price",
                    "--units", "17", *resumed)  # fmt: skip
    assert "the networks differ; use --force instead" in message
    frame(seed=1).to_csv("data.csv", index=False)
    message = error(capsys, "train", "data.csv", "--target", "kind", "--units", "16", "--seed", "1",
                    *resumed)  # fmt: skip
    assert "the data differ, the columns that are dropped differ, the seeds differ" in message


def test_resume_without_a_file_begins(folder, capsys):
    run(capsys, "train", "data.csv", "--target", "kind", "-o", "m.dropcore", "--resume", *QUICK)
    assert dropcore.load("m.dropcore").training_state.epoch == 3


def test_an_interrupt_keeps_what_was_learned(folder, capsys, monkeypatch):
    """As Ctrl-C between two epochs: the file goes on to the same bits."""
    command = ["train", "data.csv", "--target", "kind", "--units", "16", "--quiet", "--epochs", "5"]
    run(capsys, *command, "-o", "whole.dropcore")

    from dropcore.training import CSVLog

    def stop(self, run, epoch, metrics):
        if epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(CSVLog, "on_epoch_end", stop)
        out, err = run(capsys, *command, "-o", "part.dropcore", "--log", "log.csv", status=130)
    assert out == ""
    assert "part.dropcore has what was learned" in err
    message = error(capsys, *command, "-o", "part.dropcore", "--resume", "--patience", "3")
    assert "--patience was 20 and is 3, --log was log.csv and is not given" in message
    run(capsys, *command, "-o", "part.dropcore", "--log", "log.csv", "--resume")
    whole, part = weights("whole.dropcore"), weights("part.dropcore")
    assert all(np.array_equal(whole[name], part[name]) for name in whole)


@pytest.mark.parametrize("often", [[], ["--save-every", "7"]])
def test_a_killed_process_loses_little(folder, capsys, often):
    frame(rows=4000).to_csv("large.csv", index=False)
    command = ["train", "large.csv", "--target", "kind", "--drop", "price", "--units", "64",
               "--patience", "0", "--quiet", "--epochs", "12", *often]  # fmt: skip
    run(capsys, *command, "-o", "whole.dropcore")
    process = subprocess.Popen(
        [sys.executable, "-m", "dropcore", *command, "-o", "part.dropcore"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    path, deadline = folder / "part.dropcore", time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    state = dropcore.load(path).training_state
    assert state.step > 0
    assert often or state.epoch > 0
    run(capsys, *command, "-o", "part.dropcore", "--resume")
    whole, part = weights("whole.dropcore"), weights("part.dropcore")
    assert all(np.array_equal(whole[name], part[name]) for name in whole)


def test_training_that_diverges_has_its_status(folder, capsys):
    out, err = run(capsys, "train", "data.csv", "--target", "price", "--drop", "kind",
                   "-o", "m.dropcore", "--optimizer", "sgd", "--learning-rate", "1e20", *QUICK,
                   status=3)  # fmt: skip
    assert out == ""
    assert "smaller learning rate" in err
    assert "Traceback" not in err


def test_convolutions_and_sequences_take_rows_with_a_shape(folder, capsys):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (60, 4, 4, 1)).astype(np.uint8)
    labels = np.arange(60) % 2
    images[labels == 1, :, :2] = 255
    np.savez("images.npz", x=images, y=labels)
    found = as_json(capsys, "train", "images.npz", "--target", "y", "--model", "cnn", "--filters",
                    "8", "--units", "16", "-o", "cnn.dropcore", "--epochs", "15",
                    "--quiet")  # fmt: skip
    assert found["scores"]["held_out"]["accuracy"] > 0.7
    assert len(as_json(capsys, "predict", "cnn.dropcore", "images.npz")["predictions"]
               ["prediction"]) == 60  # fmt: skip
    table = pandas.DataFrame(images.reshape(60, 16)).add_prefix("p").assign(y=labels)
    table.to_csv("images.csv", index=False)
    run(capsys, "train", "images.csv", "--target", "y", "--model", "lstm", "--input-shape", "4,4",
        "--units", "8", "-o", "lstm.dropcore", "--epochs", "2", "--quiet")  # fmt: skip
    assert "held out" in run(capsys, "evaluate", "lstm.dropcore", "images.csv").out


def test_an_autoencoder_finds_unusual_rows(folder, capsys):
    run(capsys, "train", "data.csv", "--model", "autoencoder", "--drop", "kind,price", "-o",
        "auto.dropcore", "--units", "32", "--rate", "0", "--epochs", "60", "--quiet",
        "--learning-rate", "0.01")  # fmt: skip
    strange = frame(4)
    strange.loc[3, "a"] = 40.0
    strange.to_csv("strange.csv", index=False)
    found = as_json(capsys, "predict", "auto.dropcore", "strange.csv")["predictions"]["error"]
    assert found[3] > 3 * max(found[:3])
    assert "held out" in run(capsys, "evaluate", "auto.dropcore", "data.csv").out
    assert "no effect on an autoencoder" in error(
        capsys,
        "train",
        "data.csv",
        "--model",
        "autoencoder",
        "--target",
        "kind",
        "-o",
        "b.dropcore",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "Kind"], "did you mean 'kind'?"),
        (["--target", "weight"], "no column 'weight' in data.csv, which has 'a', 'b', 'town'"),
        ([], "--target must name the column to predict"),
        (["--target", "kind", "--task", "regression"], "needs a target of numbers, got text"),
        (["--target", "price", "--balanced"], "--balanced is for classes"),
        (["--target", "kind", "--drop", "tawn"], "no column 'tawn'"),
        (["--target", "kind", "--sep", ";"], "which has 'a,b,town,kind,price'"),
        (["--target", "kind", "--encoding", "utf-9"], "encoding must be one that Python knows"),
        (["--target", "kind", "--filters", "8"], "--filters is for --model cnn"),
        (["--target", "kind", "--input-shape", "2"], "--input-shape is for --model cnn and lstm"),
        (["--target", "kind", "--activation", "rellu"], "did you mean 'relu'?"),
        (["--target", "kind", "--model", "lstm", "--activation", "relu"], "no effect on an lstm"),
        (["--target", "price", "--model", "lstm", "--drop", "b"], "column 'town' holds '"),
        (["--target", "kind", "--model", "lstm", "--drop", "town"], "column 'b' has 11"),
        (["--target", "kind", "--resume", "--force"], "give one of them"),
        (["--target", "kind", "--metrics", "f2"], "f2"),
        (["--target", "kind", "--device", "cuda"], None),
    ],
)  # fmt: skip
def test_train_says_what_is_wrong(folder, capsys, arguments, message):
    status = 2 if message else 1
    found = error(capsys, "train", "data.csv", "-o", "m.dropcore", *arguments, status=status)
    assert (message or "GPU") in found
    assert not (folder / "m.dropcore").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"a,kind\n", "no rows"),
        ("a,kind\n1,caf\xe9\n2,the\n".encode("latin-1"), "--encoding"),
        (b"a,kind\n1,x\n2,x\n3,x\n", "there is nothing to learn"),
        (b"a,kind\n1,\n2,\n", "have no target"),
        (b"a,kind\n1,x\n2,y\n3,x\n4,x\n", "'y' has 1 row"),
        (b"1,2\n3,4\n", "--names"),
        (b"kind\nx\ny\n", "no columns besides 'kind'"),
        (b"a,kind\n1,x\n2,y,3,4\n", "is not a table with the separator"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused(folder, capsys, content, message):
    (folder / "bad.csv").write_bytes(content)
    assert message in error(capsys, "train", "bad.csv", "--target", "kind", "-o", "m.dropcore")


def test_a_missing_file_and_folder_are_named(folder, capsys):
    assert "there is no file dato.csv; the folder has 'data.csv'" in error(
        capsys, "train", "dato.csv", "--target", "kind", "-o", "m.dropcore"
    )
    assert "no such directory" in error(
        capsys, "train", "data.csv", "--target", "kind", "-o", "no/m.dropcore"
    )


@pytest.mark.filterwarnings("always::UserWarning")
def test_other_separators_encodings_and_holes_in_the_target_are_read(folder, capsys):
    table = frame().rename(columns={"kind": "qualité"})
    table.loc[::20, "qualité"] = np.nan
    table.to_csv("data.csv", index=False, sep=";", encoding="cp1252", decimal=",")
    out, err = run(capsys, "train", "data.csv", "--target", "qualité", "--encoding", "cp1252",
                   "-o", "m.dropcore", *QUICK)  # fmt: skip
    assert "91 rows, 23 held out" in out
    assert "6 of 120 rows of data.csv have no target" in err
    assert "read_table" not in err


def test_whole_numbers_of_few_kinds_are_classes(folder, capsys):
    table = frame().assign(stars=lambda t: (t["a"] > 0) + 3)
    table.to_csv("data.csv", index=False)
    command = ["train", "data.csv", "--target", "stars", "-o", "m.dropcore", "--force", *QUICK]
    assert "2 different whole numbers (--task changes that)" in run(capsys, *command).err
    assert list(dropcore.load("m.dropcore").training_state.classes) == [3, 4]
    found = as_json(capsys, *command, "--task", "regression")
    assert found["task"] == "regression"


def test_a_model_is_trained_and_used_on_a_device(folder, capsys, host):
    """On the stand-in for CuPy."""
    command = ["train", "data.csv", "--target", "kind", "--drop", "price", *QUICK]
    run(capsys, *command, "-o", "gpu.dropcore", "--device", "cuda")
    run(capsys, *command, "-o", "cpu.dropcore")
    gpu, cpu = weights("gpu.dropcore"), weights("cpu.dropcore")
    for name in cpu:
        np.testing.assert_allclose(gpu[name], cpu[name], rtol=1e-4, atol=1e-5)
    arguments = ["gpu.dropcore", "data.csv", "--samples", "3", "--device"]
    there = as_json(capsys, "predict", *arguments, "cuda")["predictions"]
    here = as_json(capsys, "predict", *arguments, "cpu")["predictions"]
    np.testing.assert_allclose(there["probability"], here["probability"], rtol=1e-4)
    found = as_json(capsys, "evaluate", "gpu.dropcore", "data.csv", "--device", "cuda")
    assert found["scores"]["training"]["loss"] > 0


def test_ctrl_c_ends_with_its_status_and_keeps_the_model(folder):
    frame(rows=4000).to_csv("large.csv", index=False)
    process = subprocess.Popen(
        [sys.executable, "-m", "dropcore", "train", "large.csv", "--target", "kind", "--epochs",
         "2000", "--patience", "0", "-o", "m.dropcore"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not (folder / "m.dropcore").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert out == ""
    assert "interrupted: m.dropcore has what was learned; the same command with --resume" in err
    assert "Traceback" not in err
    assert dropcore.load("m.dropcore").training_state.step > 0


# --- predict, evaluate, explain ------------------------------------------------------------------


def test_predictions_of_classes(classifier, capsys):
    run(capsys, "predict", "kind.dropcore", "data.csv", "-o", "out.csv")
    rows = rows_of("out.csv")
    assert len(rows) == ROWS
    assert list(rows[0]) == ["prediction", "probability", "probability_no", "probability_yes"]
    model, x = dropcore.load("kind.dropcore"), frame().drop(columns=["kind", "price"])
    assert [row["prediction"] for row in rows] == list(model.predict_labels(x))
    assert sorted(path.name for path in classifier.iterdir()) == [
        "data.csv", "kind.dropcore", "out.csv",
    ]  # fmt: skip
    found = [float(row["probability_yes"]) for row in rows]
    np.testing.assert_allclose(found, model.predict_proba(x)[:, 1], rtol=1e-5)


def test_sampled_predictions_of_classes_say_how_sure_they_are(classifier, capsys):
    found = as_json(capsys, "predict", "kind.dropcore", "data.csv", "--samples", "20")
    columns = found["predictions"]
    assert list(columns) == [
        "prediction", "probability", "std", "entropy", "mutual_information", "probability_no",
        "probability_yes",
    ]  # fmt: skip
    from dropcore.uncertainty import sample

    x = frame().drop(columns=["kind", "price"])
    drawn = sample(dropcore.load("kind.dropcore"), x, key=0, samples=20)
    np.testing.assert_array_equal(columns["entropy"], drawn.entropy)
    np.testing.assert_array_equal(columns["probability_yes"], drawn.mean[:, 1])
    best = drawn.mean.argmax(axis=1)
    np.testing.assert_array_equal(columns["std"], drawn.std[np.arange(ROWS), best])


def test_predictions_of_numbers_with_intervals(regression, capsys):
    frame(200, seed=9).to_csv("new.csv", index=False)
    plain = as_json(capsys, "predict", "price.dropcore", "new.csv")["predictions"]
    assert list(plain) == ["prediction"]
    run(capsys, "predict", "price.dropcore", "new.csv", "--samples", "50", "-o", "out.csv")
    rows = rows_of("out.csv")
    assert list(rows[0]) == ["prediction", "std", "model_std", "lower", "upper"]
    truth = frame(200, seed=9)["price"].to_numpy()
    values = {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}
    assert np.sqrt(np.mean((values["prediction"] - truth) ** 2)) < 0.5 * truth.std()
    assert (values["std"] > values["model_std"]).all()
    inside = (values["lower"] <= truth) & (truth <= values["upper"])
    assert 0.75 < inside.mean() <= 1
    narrow = as_json(capsys, "predict", "price.dropcore", "new.csv", "--samples", "50", "--level",
                     "0.5")["predictions"]  # fmt: skip
    assert (np.array(narrow["upper"]) < values["upper"]).all()


def test_predictions_go_to_stdout_without_a_file(classifier, capsys):
    out = run(capsys, "predict", "kind.dropcore", "data.csv").out
    assert out.startswith("prediction,probability,probability_no,probability_yes\n")
    assert len(out.splitlines()) == ROWS + 1


def test_new_data_needs_the_columns_of_training_in_any_order(classifier, capsys):
    frame()[["town", "a", "b"]].to_csv("new.csv", index=False)
    assert (
        run(capsys, "predict", "kind.dropcore", "new.csv").out
        == run(capsys, "predict", "kind.dropcore", "data.csv").out
    )
    frame()[["a", "town", "kind"]].rename(columns={"town": "Town"}).to_csv("new.csv", index=False)
    assert error(capsys, "predict", "kind.dropcore", "new.csv") == (
        "the data lacks 2 columns that the model was trained on: 'b', 'town'; 'town' may be 'Town'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "no.dropcore", "data.csv"], "there is no file no.dropcore: `dropcore train"),
        (["predict", "data.csv", "data.csv"], "data.csv"),
        (["predict", "kind.dropcore", "no.csv"], "there is no file no.csv"),
        (["predict", "kind.dropcore", "data.csv", "--level", "0.9"], "which need --samples"),
        (["predict", "kind.dropcore", "data.csv", "--samples", "9", "--level", "0.9"], "of a"),
        (["predict", "kind.dropcore", "data.csv", "-o", "data.csv"], "is given as --output and as"),
        (["predict", "kind.dropcore", "data.csv", "--force"], "no effect without --output"),
        (["predict", "kind.dropcore", "data.csv", "-o", "a.csv", "--json"], "give one"),
        (["evaluate", "kind.dropcore", "data.csv", "--target", "price"], "none of the classes"),
        (["evaluate", "kind.dropcore", "data.csv", "--target", "kint"], "did you mean 'kind'?"),
        (["explain", "kind.dropcore", "data.csv", "--training-data", "data.csv"], "no effect"),
    ],
)  # fmt: skip
def test_other_commands_say_what_is_wrong(classifier, capsys, arguments, message):
    assert message in error(capsys, *arguments)


def test_evaluate_finds_the_rows_that_were_held_out(classifier, capsys):
    trained = as_json(capsys, "train", "data.csv", "--target", "kind", "--drop", "price",
                      "-o", "again.dropcore", *QUICK)  # fmt: skip
    found = as_json(capsys, "evaluate", "kind.dropcore", "data.csv")
    assert found["rows"] == {"training": 96, "held_out": 24}
    assert found["scores"] == trained["scores"]
    assert found["monte_carlo"]["held_out"].keys() == {
        "accuracy", "log_likelihood", "calibration_error", "mean_entropy",
    }  # fmt: skip
    frame(30, seed=3).to_csv("test.csv", index=False)
    found = as_json(capsys, "evaluate", "kind.dropcore", "test.csv")
    assert found["rows"] == {"all": 30}


def test_evaluate_measures_intervals(regression, capsys):
    frame(200, seed=9).to_csv("test.csv", index=False)
    found = as_json(capsys, "evaluate", "price.dropcore", "test.csv", "--level", "0.8")
    intervals = found["monte_carlo"]["all"]
    assert intervals["level"] == 0.8
    assert 0.6 < intervals["coverage"] < 1
    assert intervals["interval_width"] > 0
    few = as_json(capsys, "evaluate", "price.dropcore", "test.csv", "--samples", "5")
    from dropcore.uncertainty import predictive

    model, table = dropcore.load("price.dropcore"), frame(200, seed=9)
    mixture = predictive(
        model,
        table[["a", "b", "town"]],
        key=0,
        samples=5,
        noise=model.training_state.notes["noise"],
    )
    wanted = mixture.log_likelihood(table["price"].to_numpy().reshape(mixture.mean.shape))
    assert few["monte_carlo"]["all"]["log_likelihood"] == pytest.approx(wanted, rel=1e-6)
    out = run(capsys, "evaluate", "price.dropcore", "test.csv").out
    assert "coverage" in out
    assert "r2" in out


def test_explain_gives_advice(classifier, capsys):
    found = as_json(capsys, "explain", "kind.dropcore", "data.csv")
    assert found["samples"] == 96
    assert found["validation"]["samples"] == 24
    out = run(capsys, "explain", "kind.dropcore", "data.csv").out
    assert out.startswith("146 parameters, 96 training samples")
    assert all(advice in out for advice in found["advice"])
    shown = run(capsys, "evaluate", "kind.dropcore", "data.csv", "--json").out
    wanted = json.loads(shown)["scores"]["held_out"]
    assert {"f1", "roc_auc"} <= wanted.keys()
    assert found["validation"]["metrics"] == pytest.approx(wanted)
    frame(30, seed=3).to_csv("test.csv", index=False)
    found = as_json(capsys, "explain", "kind.dropcore", "test.csv", "--training-data", "data.csv")
    assert (found["samples"], found["validation"]["samples"]) == (96, 30)
    assert (
        "is not the file that the model was trained on"
        in run(capsys, "explain", "kind.dropcore", "test.csv").err
    )


def test_report_writes_one_page(classifier, capsys):
    pytest.importorskip("jinja2", reason="the report is written by Jinja2")
    out, err = run(capsys, "report", "kind.dropcore", "data.csv", "-o", "page.html", "--title",
                   "On kinds")  # fmt: skip
    page = (classifier / "page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert "On kinds" in page
    assert "report written to page.html" in err
    assert out.startswith("- ") or not out
    assert "exists already" in error(
        capsys, "report", "kind.dropcore", "data.csv", "-o", "page.html"
    )
    found = as_json(capsys, "report", "kind.dropcore", "data.csv", "-o", "page.html", "--force")
    assert found["report"] == "page.html"


def test_report_of_a_regression_has_intervals(regression, capsys):
    pytest.importorskip("jinja2", reason="the report is written by Jinja2")
    run(capsys, "report", "price.dropcore", "data.csv", "-o", "page.html", "--samples", "20")
    page = (regression / "page.html").read_text(encoding="utf-8")
    assert "90 %" in page
    assert "RMSE" in page[: page.index("90 %")]  # in the units of the targets
    run(capsys, "report", "price.dropcore", "data.csv", "-o", "page.html", "--force", "--level",
        "0.75")  # fmt: skip
    assert "75 %" in (regression / "page.html").read_text(encoding="utf-8")


def test_models_of_other_programs_are_taken(folder, capsys):
    x = frame().drop(columns=["kind", "price"])
    model = dropcore.nn.mlp(8, 2)
    model.fit(x, frame()["kind"], epochs=2, loss="softmax_cross_entropy", key=0, progress=False,
              preprocessing=dropcore.data.Preprocessing())  # fmt: skip
    model.save("own.dropcore")
    out, err = run(capsys, "predict", "own.dropcore", "data.csv")
    assert "taken as a classification, after its loss" in err
    assert [line.split(",")[0] for line in out.splitlines()[1:]] == list(model.predict_labels(x))
    assert "name it by --target" in error(capsys, "evaluate", "own.dropcore", "data.csv")
    found = as_json(capsys, "evaluate", "own.dropcore", "data.csv", "--target", "kind")
    assert found["scores"]["all"]["accuracy"] == model.evaluate(x, frame()["kind"])["accuracy"]
    fresh = dropcore.nn.mlp(8, 2)
    fresh.build((3,), key=0)
    fresh.training_state = TrainingState()
    fresh.save("fresh.dropcore")
    run(capsys, "predict", "fresh.dropcore", "data.csv", status=2)


# --- tune ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "shape", "message"),
    [
        ("cnn", (6, 6), r"takes samples of shape \(height,width,channels\), got \(6, 6\): .*6,6,1"),
        ("cnn", (36,), r"got \(36,\): say how to .* by --input-shape height,width,channels"),
        ("lstm", (5,), r"takes samples of shape \(time,features\), got \(5,\): .*-shape 5,1"),
    ],
)
def test_samples_of_another_shape_are_told_how_to_be_arranged(
    folder, capsys, model, shape, message
):
    x = np.random.default_rng(0).standard_normal((20, *shape))
    np.savez("shaped.npz", x=x, y=np.arange(20) % 2)
    command = ["train", "shaped.npz", "--target", "y", "--model", model, "-o", "s.dropcore"]
    assert re.search(message, error(capsys, *command))


def test_tune_searches_and_trains_the_best(folder, capsys):
    pytest.importorskip("optuna", reason="dropcore tune searches by Optuna")
    command = ["tune", "data.csv", "--target", "kind", "--drop", "price", "--trials", "3",
               "--trial-epochs", "2", "--max-units", "40", "--max-depth", "1", "--epochs", "3",
               "--quiet"]  # fmt: skip
    kept = ["--folds", "2", "--storage", "trials.log"]
    found = as_json(capsys, *command, "-o", "m.dropcore", *kept)
    tuning = found["tuning"]
    assert (tuning["by"], tuning["metric"], tuning["trials"]) == ("search", "accuracy", 3)
    model = dropcore.load("m.dropcore")
    chosen = tuning["parameters"]
    assert (model[0].rate if chosen["input_dropout"] else None) == chosen.get("input_rate")
    assert model[chosen["input_dropout"]].units == chosen["units"]
    assert model.training_state.notes["target"] == "kind"
    # The trials are kept: the same command trains the same model without new ones.
    again = as_json(capsys, *command, "-o", "again.dropcore", *kept)
    assert again["tuning"] == tuning
    assert again["scores"] == found["scores"]
    other = ["--storage", "trials.log", "--folds", "3"]
    assert "differs in rows to train on" in error(capsys, *command, "-o", "b.dropcore", *other)
    assert "give a longer timeout" in error(
        capsys, *command, "-o", "b.dropcore", "--timeout", "1e-9", status=3
    )
    out = run(capsys, *command, "-o", "third.dropcore").out
    assert "Best of 3 trials" in out
    assert "saved to third.dropcore" in out


def test_tune_by_rate_says_how_sensitive_the_network_is(folder, capsys):
    out, err = run(capsys, "tune", "data.csv", "--target", "price", "--drop", "kind", "--by",
                   "rate", "--trial-epochs", "2", "--units", "8", "--epochs", "2", "--folds", "2",
                   "-o", "m.dropcore", "--quiet", "--max-norm", "2")  # fmt: skip
    assert "keep" in out.splitlines()[0]
    assert "training the model that was chosen" in err
    model = dropcore.load("m.dropcore")
    assert model[0].constraint.max_norm == 2
    assert model.training_state.notes["noise"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--units", "8"], "--units is for --by rate, and has no effect on --by search"),
        (["--by", "rate", "--max-units", "8"], "--max-units is for --by search"),
        (["--metric", "rmsd"], "rmsd"),
        (["--storage", "trials.txt"], "must be a file that ends in"),
        (["--storage", "garbage.db"], "cannot be read as the trials of a search"),
        (["--storage", "garbage.log"], "cannot be read as the trials of a search"),
    ],
)
def test_tune_says_what_is_wrong(folder, capsys, arguments, message):
    pytest.importorskip("optuna", reason="dropcore tune searches by Optuna")
    for name in ("garbage.db", "garbage.log"):
        (folder / name).write_text("garbage\n")
    found = error(capsys, "tune", "data.csv", "--target", "kind", "-o", "m.dropcore", *arguments)
    assert message in found


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("safetensors", ["train", "data.csv", "--target", "kind", "-o", "m.dropcore", *QUICK]),
        ("pandas", ["train", "data.csv", "--target", "kind", "-o", "m.dropcore", *QUICK]),
        ("optuna", ["tune", "data.csv", "--target", "kind", "-o", "m.dropcore", "--quiet"]),
    ],
)
def test_a_missing_package_is_named_with_its_extra(folder, capsys, monkeypatch, package, arguments):
    for name in [name for name in sys.modules if name.split(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, package, None)
    message = error(capsys, *arguments, status=1)
    assert f"needs {package}, which is not installed: pip install 'dropcore[" in message
