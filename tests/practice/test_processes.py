"""Children of every kind and many threads compute what one process does, and none hangs."""

from __future__ import annotations

import json
import multiprocessing
import os
import select
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest

import dropcore
from support import jobs

SEEDS = range(1, 5)
SECONDS = 120
"""After which a child is taken to hang."""


@pytest.fixture
def team():
    """Teams of three threads, which a fork leaves behind."""
    before = dropcore.get_num_threads()
    dropcore.set_num_threads(3)
    yield
    dropcore.set_num_threads(before)


def pool_of(kind):
    """An executor of two processes."""
    if kind == "loky":
        loky = pytest.importorskip("joblib.externals.loky")
        return loky.ProcessPoolExecutor(2)
    if kind not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system does not start processes by {kind}")
    return ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(kind))


@pytest.mark.parametrize("kind", ["fork", "spawn", "forkserver", "loky"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_children_answer_as_their_parent_does(team, kind):
    model = jobs.fitted(0)
    expected = [jobs.answers(seed, model) for seed in SEEDS]
    assert len(set(map(tuple, expected))) == len(SEEDS)
    with pool_of(kind) as pool:
        given = [pool.submit(jobs.answers_of_child, seed, model) for seed in SEEDS]
        try:
            found = [future.result(timeout=SECONDS) for future in given]
        except TimeoutError:
            for child in multiprocessing.active_children():
                child.kill()
            raise
    assert os.getpid() not in {child for child, _ in found}
    assert [answer for _, answer in found] == expected
    assert [jobs.answers(seed, model) for seed in SEEDS] == expected


def test_64_threads_answer_as_one_does(team):
    model = jobs.fitted(0)
    expected = {seed: jobs.answers(seed, model) for seed in SEEDS}
    start = threading.Barrier(64)

    def work(i):
        start.wait(timeout=SECONDS)
        return jobs.answers(SEEDS[i % len(SEEDS)], model)

    with ThreadPoolExecutor(64) as pool:
        for i, found in enumerate(pool.map(work, range(64), timeout=SECONDS)):
            assert found == expected[SEEDS[i % len(SEEDS)]]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_children_of_a_parent_whose_threads_are_at_work():
    """The memory of arrays is taken and given by threads that do not exist in the children."""
    model = jobs.fitted(0)
    expected = jobs.answers(1, model)
    stop = threading.Event()
    threads = [threading.Thread(target=jobs.churn, args=(stop,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(15):
            assert answer_of_fork(model) == expected
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert jobs.answers(1, model) == expected


def answer_of_fork(model):
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.write(write, json.dumps(jobs.answers(1, model)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    try:
        if not select.select([read], [], [], SECONDS)[0]:
            os.kill(child, signal.SIGKILL)
            pytest.fail("a forked child hangs")
        return json.loads(os.read(read, 1 << 16))
    finally:
        os.close(read)
        os.waitpid(child, 0)
