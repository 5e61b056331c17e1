"""What the tests run on several ranks: ``mpirun -n 2 python programs.py NAME ARGUMENTS``."""

import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
from mpi4py import MPI

import dropcore
from dropcore.data import ParquetRows
from dropcore.distributed import Ranks
from dropcore.distributed._group import Group
from dropcore.nn import BatchNorm, ConcreteDropout, Dense, Dropout, Sequential, UnitDropout
from dropcore.optim import SGD, Adam, Clip
from dropcore.regularizers import L2
from dropcore.training import Callback, Checkpoint, CSVLog, EarlyStopping

COMM = MPI.COMM_WORLD
MODELS = {
    "dropout": lambda: [Dense(40, activation="relu"), Dropout(0.5), Dense(30, activation="relu"),
                        Dropout(0.5), Dense(3)],
    "units": lambda: [Dense(40, activation="relu"), UnitDropout(0.5, group=8), Dense(3)],
    "moments": lambda: [Dense(40), BatchNorm(), Dropout(0.3), Dense(20), BatchNorm(), Dense(3)],
    "penalties": lambda: [ConcreteDropout(Dense(40, activation="relu"), data_points=60.0),
                          Dense(3, regularizer=L2(0.01))],
}  # fmt: skip


def data(rows=90):
    rng = np.random.default_rng(8)
    return rng.standard_normal((rows, 12)).astype(np.float32), rng.integers(0, 3, rows)


def digest(model):
    found = hashlib.sha256()
    for array in (*model.params.values(), *model.buffers.values()):
        found.update(array.tobytes())
    return found.hexdigest()


def fitted(model="dropout", *, x=None, y=None, **options):
    if isinstance(model, str):
        model = Sequential(MODELS[model]())
    if x is None:
        x, y = data()
    options = {
        "epochs": 3, "batch_size": 32, "optimizer": SGD(0.1, momentum=0.9), "key": 5,
        "loss": "softmax_cross_entropy", "comm": COMM, "progress": False,
    } | options  # fmt: skip
    model.fit(x, y, **options)
    return model


def history(model):
    return {k: v for k, v in dict(model.training_state.history).items() if k != "seconds"}


def trainings(blocks):
    """Digests, histories and weights of several models, the same on all ranks."""
    blocks = int(blocks) or None
    found = {}
    for name in MODELS:
        model = fitted(name, blocks=blocks, validation_split=0.2, metrics=["f1"])
        weights = next(array for array in model.params.values() if array.ndim == 2)
        found[name] = [digest(model), history(model), weights.astype(float).ravel()[:20].tolist()]
    more = fitted(
        "moments",
        blocks=blocks,
        optimizer=Clip(Adam(0.01), norm=0.5),
        sample_weight=np.arange(90) % 4,
        class_weight="balanced",
        callbacks=[EarlyStopping("val_loss", patience=1)],
        validation_data=data(50),
        epochs=4,
    )
    found["more"] = [digest(more), history(more), []]
    return found


def parquet(path, blocks):
    """The digest of a model from a Parquet file, and the row groups that this rank read."""
    rows = ParquetRows(path, "y", streams=4, window=1)
    read, table = [], rows._table
    rows._table = lambda group: read.append(group) or table(group)
    model = Sequential([Dense(8, activation="relu"), Dropout(0.3), Dense(3)])
    fitted(model, x=rows, blocks=int(blocks), epochs=2)
    # The model is built for the first rows, which are all 64 row groups here.
    return [digest(model), history(model), read[64:]]


def files(folder):
    """Only rank 0 writes, and a callback that one rank's clock stops ends all."""
    folder = Path(folder)
    seen = []

    def stop_on_the_last_rank(epoch, metrics):
        seen.append(epoch)
        return COMM.rank == COMM.size - 1 and epoch == 2

    class WhoIsThere(Callback):
        def on_fit_begin(self, run):
            seen.append((run.rank, run.ranks))

    model = fitted(
        epochs=9,
        callbacks=[
            Checkpoint(folder / "model.dropcore"), CSVLog(folder / "log.csv"), WhoIsThere(),
            stop_on_the_last_rank,
        ],
    )  # fmt: skip
    assert model.training_state.stopped
    COMM.Barrier()
    saved = dropcore.load(folder / "model.dropcore")
    return [seen, digest(model) == digest(saved), saved.training_state.stopped]


def masks(folder):
    """The masks that each rank draws for its rows of a batch."""
    drawn = []

    class Recorder(Dropout):
        def mask(self, shape, key, row_offset=0, like=None):
            found = super().mask(shape, key, row_offset, like)
            drawn.append([int(key.step), int(row_offset), found.to_bool().astype(int).tolist()])
            return found

    fitted(Sequential([Dense(8), Recorder(0.5), Dense(3)]), epochs=1)
    return drawn


def refusals():
    """Errors that all ranks raise, after each of which they can train."""
    x, y = data()
    last = COMM.rank == COMM.size - 1
    wrong = y.copy()
    wrong[0] = (wrong[0] + 1) % 3
    cases = {
        "samples": {"x": x[: 80 if last else 90], "y": y[: 80 if last else 90]},
        "key": {"key": 6 if last else 5},
        "batch_size": {"batch_size": 16 if last else 32},
        "values": {"y": wrong if last else y, "x": x},
        "model": {"model": "units" if last else "dropout"},
        "epochs": {"epochs": 2 if last else 3},
        "nan": {"x": np.where(np.arange(90)[:, None] == 7, np.nan, x), "y": y},
        "nan on one rank": {"x": np.where(last, np.nan, x), "y": y},
        "blocks": {"blocks": 2, "batch_size": 32} if COMM.size > 2 else {"blocks": 1},
        "argument": {"batch_size": 0},
    }  # fmt: skip
    found = {}
    for name, options in cases.items():
        try:
            fitted(**options)
            found[name] = "no error"
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    batches = [(x[:30], y[:30]), (x[30 : 57 if last else 60], y[30 : 57 if last else 60])]
    more = {
        "batches": {"x": batches, "y": None, "batch_size": None},
        "weights": {"callbacks": [At(4, 1, lambda run: run.model.params["0.bias"].fill(9.0))]},
    }
    for name, options in more.items():
        try:
            fitted(**options)
            found[name] = "no error"
        except ValueError as error:
            found[name] = str(error)
    version, dropcore.training._in_words.__version__ = (
        dropcore.training._in_words.__version__, "9.9" if last else "1.0",
    )  # fmt: skip
    try:
        fitted()
    except ValueError as error:
        found["version"] = str(error)
    dropcore.training._in_words.__version__ = version
    found["after"] = digest(fitted())
    return found


def wrong_ranks():
    """What `Ranks` refuses, and how it shows."""
    found = []
    for comm, options in (
        ("MPI.COMM_WORLD", {}), (MPI.COMM_NULL, {}), (COMM, {"timeout": 0}),
        (COMM, {"cuda_aware": 1}),
    ):  # fmt: skip
        try:
            Ranks(comm, **options)
        except (TypeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    found.append(repr(Ranks(COMM, timeout=9.0)))
    return found


class At(Callback):
    """Calls a function on one rank after an update."""

    def __init__(self, update, rank, function):
        self.update, self.rank, self.function = update, rank, function

    def on_update_end(self, run):
        if run.state.step == self.update and run.rank == self.rank:
            self.function(run)


def nonfinite():
    """A loss that is not finite on one rank."""

    def spoil(run):
        run.model.params["4.weight"][...] = np.nan

    model = Sequential(MODELS["dropout"]())
    try:
        fitted(model, callbacks=[At(4, 1, spoil)])
    except FloatingPointError as error:
        return [str(error), model.training_state.step, digest(model)]
    return "no error"


def checkpointed(folder, blocks, mode="", epochs=6):
    """Train, saving every 2 updates, or resume from the file; one rank may be killed."""
    path = Path(folder) / "model.dropcore"
    callbacks = [Checkpoint(path, every_updates=2), EarlyStopping("loss", patience=50)]
    if mode == "kill":
        callbacks.append(At(8, 2, lambda run: os.kill(os.getpid(), signal.SIGKILL)))
    model = dropcore.load(path) if path.exists() else Sequential(MODELS["moments"]())
    fitted(
        model, blocks=int(blocks), callbacks=callbacks, resume=True, epochs=int(epochs),
        metrics=["f1"],
    )  # fmt: skip
    return [digest(model), history(model)]


def hanging(how):
    """One rank hangs, fails or leaves in the middle of an epoch."""

    def fail(run):
        raise KeyError("a callback of one rank")

    act = {
        "stop": lambda run: os.kill(os.getpid(), signal.SIGSTOP),
        "sleep": lambda run: time.sleep(600),
        "fail": fail,
        "interrupt": lambda run: os.kill(os.getpid(), signal.SIGINT),
        "exit": lambda run: sys.exit(3),
    }[how]
    gathered = Group._gathered

    def noted(self, comm, value, seconds=None):
        if seconds is not None:
            os.write(2, f"waits {seconds:g} s for the error of the others\n".encode())
        return gathered(self, comm, value, seconds)

    Group._gathered = noted
    begun = time.monotonic()
    try:
        fitted(comm=Ranks(COMM, timeout=2.0), callbacks=[At(4, 1, act)])
    finally:
        os.write(2, f"after {time.monotonic() - begun:.1f} s\n".encode())


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    result = globals()[name](*arguments)
    # One write for a line, so that those of several ranks do not mix.
    os.write(1, (json.dumps({"rank": COMM.rank, "result": result}) + "\n").encode())
