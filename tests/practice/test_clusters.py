"""Searches on a Dask cluster: scores as here, whatever happens to workers, and clear errors."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import joblib
import numpy as np
import pytest

import dropcore
from dropcore import nn, tuning
from dropcore.cli import main
from dropcore.optim import Adam
from dropcore.tuning import _cluster

distributed = pytest.importorskip(
    "distributed", reason="Dask has no wheels for free-threaded Python"
)
pytest.importorskip("optuna", reason="search needs Optuna")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).astype(np.int64)

OPTIONS = {"epochs": 4, "loss": "softmax_cross_entropy", "progress": False}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Two processes, each of which does two tasks at a time."""
    options = {
        "n_workers": 2, "threads_per_worker": 2, "dashboard_address": ":0",
        "local_directory": str(tmp_path_factory.mktemp("dask")),
    }  # fmt: skip
    with distributed.LocalCluster(**options, silence_logs=50) as cluster:
        yield cluster


@pytest.fixture
def client(cluster):
    with distributed.Client(cluster, set_as_default=False) as client:
        wait_for_processes(cluster, client)
        yield client


def wait_for_processes(cluster, client):
    """Wait until Dask has started again what was killed; it gives up what is killed before."""
    deadline = time.monotonic() + 30
    while (
        any(
            nanny.process is None or nanny.process.status.name != "running"
            for nanny in cluster.workers.values()
        )
        or len(client.nthreads()) < 2
    ):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def on(client, **options):
    return joblib.parallel_config(backend="dask", client=client, **options)


def grid(build=lambda keep: nn.mlp(8, 2, keep=keep), **changes):
    options = {"keeps": (1.0, 0.75, 0.5), "folds": 3, "optimizer": Adam(1e-2)} | OPTIONS
    return tuning.sensitivity(build, X, Y, **options | changes)


def search(**changes):
    space = tuning.MLPSpace(2, units=(4, 16), depth=(1, 2))
    options = {"n_trials": 14, "folds": 2, "n_jobs": 4} | OPTIONS
    return tuning.search(space, X, Y, **options | changes)


@pytest.fixture(scope="module")
def local_grid():
    return grid()


@pytest.fixture(scope="module")
def local_search():
    with joblib.parallel_config(backend="threading"):
        return search()


def assert_same_grid(found, local):
    np.testing.assert_array_equal(found.scores, local.scores)
    np.testing.assert_array_equal(found.train_scores, local.train_scores)
    assert (found.verdict, found.recommended) == (local.verdict, local.recommended)


def assert_same_search(found, local):
    for name in ("number", "state", "params", "value", "intermediate_values"):
        values = [[getattr(trial, name) for trial in s.study.trials] for s in (found, local)]
        assert values[0] == values[1], name
    assert (found.best_params, found.best_value) == (local.best_params, local.best_value)


class Note:
    """A callback that writes a line after each epoch: process, thread, threads, time."""

    def __init__(self, path):
        self.path = path

    def __call__(self, epoch, metrics):
        n = dropcore.get_num_threads()
        line = f"{os.getpid()} {threading.get_ident()} {n} {epoch} {time.monotonic()}\n"
        with open(self.path, "a") as file:
            file.write(line)
        time.sleep(0.01)

    def lines(self):
        return [line.split() for line in Path(self.path).read_text().splitlines()]


class Kills:
    """A callback that kills processes in the middle of a training, once."""

    def __init__(self, path, pids=()):
        self.path, self.pids = path, pids

    def __call__(self, epoch, metrics):
        if epoch == 2:
            try:
                Path(self.path).touch(exist_ok=False)
            except FileExistsError:
                return
            for pid in self.pids:
                if pid != os.getpid():
                    os.kill(pid, signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


# --- the same results ----------------------------------------------------------------------------


def test_a_grid_is_trained_by_the_workers_with_the_scores_of_this_machine(
    client, local_grid, tmp_path, capsys
):
    note = Note(tmp_path / "notes")
    workers = set(client.run(os.getpid).values())
    client.run(dropcore.set_num_threads, 4)
    before = dropcore.get_num_threads()
    with on(client):
        found = grid(callbacks=[note], progress=True)
    assert_same_grid(found, local_grid)
    assert {int(line[0]) for line in note.lines()} == workers
    # Each of the two tasks of a worker has half of its threads, and other tasks have all again.
    assert {line[2] for line in note.lines()} == {"2"}
    assert set(client.run(dropcore.get_num_threads).values()) == {4}
    assert dropcore.get_num_threads() == before
    assert "9/9" in capsys.readouterr().err


def test_a_search_chooses_and_scores_as_on_this_machine(client, local_search, tmp_path):
    assert len(local_search.study.trials) == 14
    # No worker needs the storage.
    with on(client, n_jobs=4):
        assert_same_search(search(n_jobs=None, storage=tmp_path / "trials.log"), local_search)


@pytest.mark.parametrize("all_of_them", [False, True])
def test_workers_that_are_killed_do_not_change_a_grid(client, local_grid, tmp_path, all_of_them):
    pids = list(client.run(os.getpid).values()) if all_of_them else ()
    with on(client):
        found = grid(callbacks=[Kills(tmp_path / "killed", pids)])
    assert (tmp_path / "killed").exists()
    assert_same_grid(found, local_grid)


def test_a_worker_that_is_killed_does_not_change_a_search(client, local_search, tmp_path):
    with on(client):
        found = search(callbacks=[Kills(tmp_path / "killed")])
    assert (tmp_path / "killed").exists()
    assert_same_search(found, local_search)


def test_the_command_finds_the_same_on_a_cluster(cluster, client, tmp_path, monkeypatch, capsys):
    pytest.importorskip("safetensors", reason="the command saves a model")
    monkeypatch.chdir(tmp_path)
    names = ",".join("abcdef")
    np.savetxt("data.csv", np.c_[X, Y], delimiter=",", header=f"{names},y", comments="")
    command = ["tune", "data.csv", "--target", "y", "--task", "classification", "--trials", "4",
               "--trial-epochs", "2", "--folds", "2", "--epochs", "2", "--jobs", "2",
               "--json"]  # fmt: skip
    address = ["--cluster", cluster.scheduler_address.removeprefix("tcp://")]
    assert main([*command, "-o", "a.dropcore", *address]) == 0
    out, err = capsys.readouterr()
    assert "search: 4/4 models" in err
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "2")
    with joblib.parallel_config(backend="threading"):
        assert main([*command, "-o", "b.dropcore", "--quiet"]) == 0
    local = capsys.readouterr().out
    assert json.loads(out)["tuning"] == json.loads(local)["tuning"]
    assert json.loads(out)["scores"] == json.loads(local)["scores"]


# --- how jobs are sent ---------------------------------------------------------------------------


class Sent:
    """A function that builds models, and notes where it is received."""

    def __init__(self, path):
        self.path = path

    def __call__(self, keep):
        return nn.mlp(8, 2, keep=keep)

    def __setstate__(self, state):
        self.__dict__ |= state
        with open(self.path, "a") as file:
            file.write(f"{os.getpid()}\n")


def test_data_are_sent_to_a_worker_once(client, tmp_path):
    with on(client):
        grid(Sent(tmp_path / "sent"))
    received = (tmp_path / "sent").read_text().split()
    assert sorted(map(int, received)) == sorted(client.run(os.getpid).values())


def test_n_jobs_limits_the_jobs_at_a_time(client, tmp_path):
    note = Note(tmp_path / "notes")
    with on(client):
        grid(callbacks=[note], n_jobs=1)
    # One model after the other: the epochs of two are never mixed.
    assert [int(line[3]) for line in note.lines()] == [1, 2, 3, 4] * 9
    with on(client), pytest.raises(ValueError, match="n_jobs must be a positive integer, got -2"):
        grid(n_jobs=-2)


def is_idle(dask_worker):
    return not dask_worker.state.executing and not dask_worker.state.ready


def test_an_interrupt_keeps_what_is_finished_and_ends_the_jobs(client, tmp_path):
    options = {"keeps": (1.0, 0.5), "folds": 2, "epochs": 60, "n_jobs": 2}
    path, slow = tmp_path / "grid.json", tmp_path / "slow"

    def waits(epoch, metrics):
        """Make trainings long, once two of them are finished."""
        if slow.exists() and len(list(tmp_path.glob("finished-*"))) >= 2:
            time.sleep(0.5)
        if epoch == 60:
            Path(tmp_path / f"finished-{os.getpid()}-{time.monotonic()}").touch()
        return False

    def interrupts():
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if path.exists() and len(json.loads(path.read_text())["results"]) == 2:
                break
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    slow.touch()
    threading.Thread(target=interrupts).start()
    with on(client), pytest.raises(KeyboardInterrupt):
        grid(resume=path, callbacks=[waits], **options)
    deadline = time.monotonic() + 10  # and the two others would have lasted for thirty seconds
    while not all(client.run(is_idle).values()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(json.loads(path.read_text())["results"]) == 2
    slow.unlink()
    with on(client):
        found = grid(resume=path, callbacks=[waits], **options)
    assert len(list(tmp_path.glob("finished-*"))) == 4
    assert_same_grid(found, grid(**options | {"n_jobs": 1}))


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("workers", "message"),
    [(2, r"workers of tcp://.* died while they trained"), (1, r"were lost 1 times before one of")],
)
def test_models_that_kill_their_workers_end_the_search(tmp_path, monkeypatch, workers, message):
    monkeypatch.setattr(_cluster, "_LOSSES", 0)
    options = {"threads_per_worker": 1, "dashboard_address": ":0", "silence_logs": 50}
    options |= {"n_workers": workers, "local_directory": str(tmp_path)}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        # With one worker, the data are lost as well.
        cluster.scheduler.allowed_failures = 0 if workers == 2 else 3
        with on(client), pytest.raises(ConnectionError, match=message):
            grid(callbacks=[Kills(tmp_path / "killed")])


def test_errors_of_jobs_are_raised_here(client):
    here = os.getpid()

    def build(keep):
        if keep == 0.5 and os.getpid() != here:
            raise RuntimeError("no such keep")
        return nn.mlp(8, 2, keep=keep)

    with on(client), pytest.raises(RuntimeError, match="no such keep"):
        grid(build)


def test_another_version_on_a_worker_is_refused(client, monkeypatch):
    monkeypatch.setattr(_cluster, "__version__", "9.9")
    version = re.escape(dropcore.__version__)
    message = f"sensitivity: the worker tcp://.* has dropcore {version}, and here is 9.9: install"
    with on(client), pytest.raises(ImportError, match=message):
        grid()
    # Also on a worker that came later.
    monkeypatch.setattr(_cluster.ClusterJobs, "_check_workers", lambda self, modules: None)
    with on(client), pytest.raises(ImportError, match=f"^the worker tcp://.* {version}, and here"):
        grid()


def without(name):
    """Take a package from a worker."""
    names = [found for found in sys.modules if found.partition(".")[0] == name]
    sys.kept = {found: sys.modules.pop(found) for found in names}
    sys.modules[name] = None


def again(name):
    del sys.modules[name]
    sys.modules.update(sys.kept)
    del sys.kept


@pytest.mark.parametrize("package", ["dropcore", "optuna"])
def test_a_worker_without_a_package_is_refused(client, package):
    client.run(without, package)
    try:
        message = f"search: the worker tcp://.* cannot import {package} .*: install there what is"
        with on(client), pytest.raises(ImportError, match=message):
            search()
    finally:
        client.run(again, package)


def test_workers_of_several_instruction_sets_are_announced(client, monkeypatch):
    def probe():
        return {"missing": "", "version": dropcore.__version__, "isa": f"isa {os.getpid()}"}

    monkeypatch.setattr(_cluster, "_probe_of", lambda modules: probe)
    with (
        on(client),
        pytest.warns(UserWarning, match="agree within rounding only: set DROPCORE_ISA"),
    ):
        grid(keeps=(1.0, 0.5), folds=2, epochs=1)


def test_a_cluster_without_workers_is_an_error(monkeypatch):
    monkeypatch.setattr(_cluster, "_TIMEOUT", 0.3)
    options = {"n_workers": 0, "host": "127.0.0.1", "dashboard_address": ":0"}
    message = r"has no workers after 0\.3 seconds: start some by `dask worker tcp://127\.0\.0\.1:"
    with (
        distributed.LocalCluster(**options) as cluster,
        distributed.Client(cluster) as client,
        on(client),
        pytest.raises(ConnectionError, match=message),
    ):
        grid()
    with on(client), pytest.raises(ConnectionError, match="the client of Dask is closed: connect"):
        grid()


@pytest.fixture
def silent():
    """The address of something that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize(
    "address", ["silent", "127.0.0.1:1", "no.such.host.invalid:8786", "tcp:/", ""]
)
def test_an_address_without_a_scheduler_is_an_error_in_time(
    tmp_path, monkeypatch, capsys, silent, address
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(_cluster, "_TIMEOUT", 0.5)
    address = silent if address == "silent" else address
    np.savez("data.npz", x=X, y=Y)
    started = time.monotonic()
    assert (
        main(["tune", "data.npz", "--target", "y", "-o", "a.dropcore", "--cluster", address]) == 2
    )
    assert time.monotonic() - started < 10
    message = f"--cluster: there is no scheduler of Dask at {address!r}, which must be host:port"
    assert message in capsys.readouterr().err


def started(*command):
    return subprocess.Popen(
        [sys.executable, "-m", *command, "--no-dashboard"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def test_a_scheduler_that_is_lost_ends_the_search_in_time(tmp_path, monkeypatch):
    file = tmp_path / "scheduler.json"
    scheduler = started(
        "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0",
        "--scheduler-file", str(file),
    )  # fmt: skip
    worker = started(
        "distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1",
        "--no-nanny", "--death-timeout", "20",
    )  # fmt: skip
    note = Note(tmp_path / "notes")

    def kills(epoch, metrics):
        note(epoch, metrics)
        if len(note.lines()) == 6:
            os.kill(scheduler_pid, signal.SIGKILL)
        time.sleep(0.05)
        return False

    scheduler_pid = scheduler.pid
    try:
        deadline = time.monotonic() + 30
        while not file.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        path = tmp_path / "grid.json"
        with distributed.Client(scheduler_file=str(file), timeout=1) as client:
            client.wait_for_workers(1, timeout=30)
            begun = time.monotonic()
            message = "sensitivity: the connection to the scheduler tcp://.* was lost"
            with on(client), pytest.raises(ConnectionError, match=message):
                grid(callbacks=[kills], resume=path)
            assert time.monotonic() - begun < 20
        # One thread on the cluster, and yet the jobs were not done here.
        assert {int(line[0]) for line in note.lines()} == {worker.pid}
        assert len(json.loads(path.read_text())["results"]) == 1
    finally:
        for process in (scheduler, worker):
            process.kill()
            process.wait()
