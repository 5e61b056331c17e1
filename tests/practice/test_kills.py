"""A file of a model is replaced as a whole, whatever happens to the process or the disk."""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import stat
import sys
import threading
import time
import traceback

import numpy as np
import pytest

import dropcore
from dropcore._base import files
from dropcore.nn import BatchNorm, Dense, Dropout, Sequential
from dropcore.training import Checkpoint, CSVLog, EarlyStopping, ReduceOnPlateau

pytest.importorskip(
    "safetensors", reason="models are saved by safetensors, which has no free-threaded wheels"
)

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork to kill")

RNG = np.random.default_rng(5)
X = RNG.normal(size=(60, 5)).astype(np.float32)
Y = RNG.integers(0, 3, 60)


def model_of(seed):
    model = Sequential([Dense(4), Dense(2)])
    model.build((3,), key=seed)
    return model


@pytest.fixture
def path(tmp_path):
    """A file that is there."""
    model_of(1).save(tmp_path / "model.dropcore")
    return tmp_path / "model.dropcore"


def seed_of(path):
    """Which model is in the file; everything else in the folder is a failure."""
    found = dropcore.load(path).params["0.weight"]
    assert os.listdir(path.parent) == [path.name]
    (seed,) = [s for s in (1, 2) if np.array_equal(found, model_of(s).params["0.weight"])]
    return seed


# --- failures ------------------------------------------------------------------------------------


def full(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("moment", ["fsync", "replace", "open"])
def test_a_full_disk_leaves_the_old_file(path, monkeypatch, moment):
    with monkeypatch.context() as patch:
        patch.setattr(os, moment, full)
        with pytest.raises(OSError, match="No space left"):
            model_of(2).save(path)
    assert seed_of(path) == 1


def test_a_file_that_cannot_grow_leaves_the_old_one(path):
    large = Sequential([Dense(500)])
    large.build((500,), key=1)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, before[1]))
    try:
        with pytest.raises(OSError, match="was not written, and what was there is unchanged"):
            large.save(path)
        weights = path.with_name("weights.npz")
        with pytest.raises(OSError, match=r"save_weights: .*weights\.npz was not written, and wha"):
            large.save_weights(weights)
        log = path.with_name("log.csv")
        resource.setrlimit(resource.RLIMIT_FSIZE, (50, before[1]))
        with pytest.raises(OSError, match=r"CSVLog: the line of epoch 1 was not written to .*log"):
            model_of(1).fit(
                np.ones((3, 3)), np.ones((3, 2)), loss="mse", epochs=3, callbacks=[CSVLog(log)]
            )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    log.unlink()
    assert seed_of(path) == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what a handle belongs to")
def test_everything_is_on_the_disk_before_and_after_the_file_gets_its_name(path, monkeypatch):
    calls = []

    def noted(name, function):
        def call(*args):
            of = os.readlink(f"/proc/self/fd/{args[0]}") if name == "fsync" else str(args[0])
            calls.append((name, of))
            return function(*args)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    model_of(2).save(path)
    (first, written), (second, moved), (third, folder) = calls
    assert (first, second, third) == ("fsync", "replace", "fsync")
    assert written == moved != str(path)
    assert folder == str(path.parent)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError, ValueError])
def test_any_error_leaves_the_old_file(path, monkeypatch, error):
    def fails(*args, **kwargs):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr("safetensors.numpy.save_file", fails)
        with pytest.raises(error):
            model_of(2).save(path)
    assert seed_of(path) == 1


def test_what_cannot_be_written_is_found_before_the_file_is_touched(path):
    model = Sequential([Dense(3, initializer=lambda rng, shape: rng.normal(size=shape))])
    model.build((2,), key=1)
    before = path.stat()
    with pytest.raises(
        TypeError, match=r"save: the model cannot be written to a file: .*Dense.ini"
    ):
        model.save(path)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    model = model_of(1)
    with pytest.raises(IsADirectoryError, match=r"save: .* is a folder: name a file in it$"):
        model.save(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*create it first"):
        model.save(tmp_path / "nowhere" / "m")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*file: create it first"):
        model.save(tmp_path / "file" / "m")
    (tmp_path / "file").unlink()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="is not a regular file and cannot be replaced"):
        model.save(tmp_path / "pipe")
    with pytest.raises(TypeError, match=r"save: path must be a str or a pathlib.Path, got int"):
        model.save(3)
    with pytest.raises(TypeError, match="save: optimizer must be True or False"):
        model.save(tmp_path / "m", optimizer=1)

    def denied(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("pathlib.Path.mkdir", denied)
    with pytest.raises(PermissionError, match=r"nothing can be created in .*give write permission"):
        model.save(tmp_path / "m")
    assert os.listdir(tmp_path) == ["pipe"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_read_only(path):
    path.parent.chmod(0o500)
    try:
        with pytest.raises(PermissionError, match="nothing can be created in"):
            model_of(2).save(path)
    finally:
        path.parent.chmod(0o700)
    assert seed_of(path) == 1


# --- names and permissions -----------------------------------------------------------------------


def test_a_link_stays_a_link(path):
    link = path.with_name("link")
    link.symlink_to(path.name)
    model_of(2).save(link)
    assert link.is_symlink()
    link.unlink()
    assert seed_of(path) == 2


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_the_permissions_of_any_other(tmp_path, mask, mode):
    before = os.umask(mask)
    try:
        model_of(1).save(tmp_path / "m")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == mode


def test_a_file_that_is_replaced_keeps_its_permissions(path):
    path.chmod(0o640)
    model_of(2).save(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("name", ["x" * 255, "模" * 85, " [a]*?.dropcore", "-rf"])
def test_any_name_is_taken(tmp_path, name):
    for seed in (1, 2):
        model_of(seed).save(tmp_path / name)
        assert seed_of(tmp_path / name) == seed


def test_threads_may_save_to_one_file(path):
    failures = []

    def work(seed):
        try:
            for _ in range(10):
                model_of(seed).save(path)
                dropcore.load(path)
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert seed_of(path) in (1, 2)


def test_a_living_writer_is_left_alone(path):
    with files.replacing("a test", path) as temporary:
        temporary.write_bytes(b"unfinished")
        model_of(2).save(path)
        assert temporary.read_bytes() == b"unfinished"
        temporary.unlink()
        model_of(1).save(temporary)
    assert seed_of(path) == 1


def test_a_folder_that_was_taken_for_abandoned_is_replaced(path, monkeypatch):
    """Another writer may remove it before it is locked."""
    fcntl = pytest.importorskip("fcntl")
    flock, removed = fcntl.flock, []

    def late(handle, operation):
        if operation == fcntl.LOCK_EX and not removed:
            (folder,) = path.parent.glob(".*.tmp")
            folder.rmdir()
            removed.append(folder)
        return flock(handle, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    model_of(2).save(path)
    assert len(removed) == 1
    assert seed_of(path) == 2


# --- kill -9 -------------------------------------------------------------------------------------


def in_a_child(work):
    """Start a function in a child process, which never returns here; its process number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    try:
        work()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def killed(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(
    "moment",
    ["pathlib.Path.mkdir", "safetensors.numpy.save_file", "pathlib.Path.chmod", "os.fsync",
     "os.replace", "shutil.rmtree"],
)  # fmt: skip
def test_a_process_killed_while_it_saves_leaves_a_whole_file(path, monkeypatch, moment):
    def work():
        monkeypatch.setattr(moment, killed)
        model_of(2).save(path)

    _, status = os.waitpid(in_a_child(work), 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    found = dropcore.load(path).params["0.weight"]
    renamed = moment == "shutil.rmtree"  # only what comes after the file has its name
    np.testing.assert_array_equal(found, model_of(2 if renamed else 1).params["0.weight"])
    model_of(2).save(path)  # which removes what the other left
    assert seed_of(path) == 2


def train(path, epochs, *more):
    """A script that is run again after each kill: load what there is, and finish."""
    model = dropcore.load(path) if path.exists() else Sequential(
        [Dense(8, activation="relu"), BatchNorm(), Dropout(0.5), Dense(3)]
    )  # fmt: skip
    callbacks = [EarlyStopping(patience=1000), ReduceOnPlateau(patience=3), *more]
    model.fit(
        X, Y, epochs=epochs, batch_size=8, key=3, loss="softmax_cross_entropy", resume=True,
        callbacks=callbacks, metrics=["f1"], validation_split=0.2, progress=False,
    )  # fmt: skip
    return model


def plain(value):
    """A value with the bytes of its arrays instead of them, so that it can be compared."""
    if isinstance(value, dict):
        return {name: plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    return value.tobytes() if isinstance(value, np.ndarray) else value


def bits(model):
    """Everything that training leaves, but for the seconds it took."""
    state = vars(model.training_state) | {"history": dict(model.training_state.history)}
    del state["history"]["seconds"]
    return plain([dict(model.params), dict(model.buffers), state])


def test_a_run_killed_at_fifty_moments_ends_with_the_bits_of_one_that_never_was(tmp_path):
    rng = random.Random(4)
    path, epochs, kills = tmp_path / "run.dropcore", 40, 0
    started = time.perf_counter()
    whole = train(tmp_path / "none", epochs)
    longest = max(0.08, 0.6 * (time.perf_counter() - started))  # whatever the processor's load
    expected = bits(whole)
    assert whole.training_state.step == epochs * 6
    assert whole.training_state.learning_rate_factor < 1

    def work():
        train(path, epochs, Checkpoint(path, every_updates=4))

    steps = []
    while kills < 50:
        child = in_a_child(work)
        time.sleep(rng.uniform(0, longest))
        os.kill(child, rng.choice([signal.SIGKILL, signal.SIGTERM]))
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            kills += 1
            if path.exists():
                steps.append(dropcore.load(path).training_state.step)
            continue
        assert os.waitstatus_to_exitcode(status) == 0
        assert bits(dropcore.load(path)) == expected
        path.unlink()  # and once more, until there were 50 kills
    _, status = os.waitpid(in_a_child(work), 0)
    assert status == 0
    found = bits(dropcore.load(path))
    assert found == expected
    assert os.listdir(tmp_path) == [path.name]
    assert len(set(steps)) > 10, steps  # kills were spread over the run
