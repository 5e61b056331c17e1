"""Threads: many callers at once, forked children, and everything that sets their number."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core, _openmp

LARGE = 3 << 20  # elements: well above the size from which a call has a team
OPENMP = _core.has_openmp()
needs_openmp = pytest.mark.skipif(not OPENMP, reason="built without OpenMP: one thread always")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork() here")


@pytest.fixture
def restored():
    """The number of threads is what it was, afterwards."""
    before = dropcore.get_num_threads()
    yield
    dropcore.set_num_threads(before)


def large_dropout(seed=11):
    x = np.arange(LARGE, dtype=np.float32)
    return dropcore.dropout(x, 0.3, key=seed)


def checksum(array):
    return zlib.crc32(np.ascontiguousarray(array).view(np.uint8))


def in_new_process(code, **variables):
    """What code prints as JSON, in an interpreter of its own."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("OMP_NUM_THREADS", "OMP_THREAD_LIMIT", "OMP_DYNAMIC", "DROPCORE_ISA")
    }
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=environment | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- many Python threads at once -----------------------------------------------------------------


@pytest.mark.parametrize("team", [1, 2, 5])
def test_many_callers_at_once_get_what_one_gets(restored, team):
    dropcore.set_num_threads(team)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((700, 1024), dtype=np.float32)
    a = rng.standard_normal((64, 300), dtype=np.float32)
    w = rng.standard_normal((300, 200), dtype=np.float32)

    def work(seed):
        key = Key(seed, stream=seed)
        clipped = w.copy()
        dropcore.max_norm_(clipped, 2.0, axis=seed % 2)
        return [
            checksum(dropcore.dropout(x, 0.25, key=key)),
            checksum(dropcore.dropout(x[:, ::3], 0.5, key=key, shared_axes=0)),
            checksum(Mask(x.shape, keep=1 / 3, key=key, offset=seed).packed()),
            checksum(
                dropcore.masked_matmul(
                    a, w, x_mask=Mask((1, 300), 0.2, key=key), y_mask=Mask((64, 200), 0.5, key=key)
                )
            ),
            checksum(dropcore.masked_matmul(a, w, w_mask=Mask((300, 200), 0.5, key=key))),
            checksum(clipped),
        ]

    alone = [work(seed) for seed in range(8)]
    assert len({tuple(result) for result in alone}) == 8
    dropcore.dropout(x, 0.25, key=0)  # a call of the size that has a team
    assert _core.last_team_size() == (team if OPENMP else 1)
    start = threading.Barrier(8)

    def together(seed):
        start.wait(timeout=60)
        return [work(seed) for _ in range(3)]

    with ThreadPoolExecutor(8) as pool:
        for seed, results in enumerate(pool.map(together, range(8), timeout=120)):
            assert results == [alone[seed]] * 3


def test_the_number_of_threads_may_change_under_way(restored):
    expected = checksum(large_dropout())
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for n in (1, 4, 2, 3):
                dropcore.set_num_threads(n)

    changer = threading.Thread(target=change)
    changer.start()
    try:
        for _ in range(20):
            assert checksum(large_dropout()) == expected
    finally:
        stop.set()
        changer.join()


# ---- fork ----------------------------------------------------------------------------------------


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_forked_child_draws_the_same(restored):
    dropcore.set_num_threads(4)
    expected = checksum(large_dropout())  # the team exists, so fork() leaves it behind
    if OPENMP:
        assert _core.last_team_size() == 4
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            found = {"threads": dropcore.get_num_threads(), "sum": checksum(large_dropout())}
            os.write(write, json.dumps(found).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    try:
        ready, _, _ = select.select([read], [], [], 60)
        if not ready:
            os.kill(child, signal.SIGKILL)
            pytest.fail("the forked child did not answer within a minute")
        answer = os.read(read, 4096)
    finally:
        os.close(read)
        _, status = os.waitpid(child, 0)
    assert status == 0
    assert json.loads(answer) == {"threads": 1, "sum": expected}
    assert checksum(large_dropout()) == expected  # and the parent goes on with its team
    if OPENMP:
        assert _core.last_team_size() == 4


def answer_from_child(queue, seed):
    mask = Mask((LARGE,), 0.5, key=seed).packed()
    queue.put((checksum(large_dropout(seed)), checksum(mask)))


@needs_fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_multiprocessing_by_fork(restored):
    dropcore.set_num_threads(2)
    expected = (checksum(large_dropout(5)), checksum(Mask((LARGE,), 0.5, key=5).packed()))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=answer_from_child, args=(queue, 5)) for _ in range(2)]
    for child in children:
        child.start()
    deadline = time.monotonic() + 60
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
    alive = [child for child in children if child.is_alive()]
    for child in alive:
        child.kill()
        child.join()
    assert not alive
    assert [child.exitcode for child in children] == [0, 0]
    assert [queue.get() for _ in children] == [expected, expected]


# ---- what sets the number ------------------------------------------------------------------------


@needs_openmp
def test_more_threads_than_processors_are_honoured(restored):
    expected = checksum(large_dropout())
    for n in (7, (os.cpu_count() or 1) + 3):
        dropcore.set_num_threads(n)
        assert dropcore.get_num_threads() == n
        assert checksum(large_dropout()) == expected
        assert _core.last_team_size() == n


@needs_openmp
def test_small_work_stays_on_one_thread(restored):
    dropcore.set_num_threads(7)
    large_dropout()
    assert _core.last_team_size() == 7
    dropcore.dropout(np.ones(4096, np.float32), 0.5, key=1)
    assert _core.last_team_size() == 1


@needs_openmp
@pytest.mark.parametrize("asked", [None, 2, 7])
def test_threadpoolctl_lowers_the_number(asked):
    """With and without an explicit set_num_threads before it, and gone when its block ends."""
    pytest.importorskip("threadpoolctl")
    found = in_new_process(
        f"""
        import json, numpy as np, dropcore
        from threadpoolctl import threadpool_limits
        from dropcore import _core
        asked = {asked!r}
        if asked:
            dropcore.set_num_threads(asked)
        else:
            asked = dropcore.get_num_threads()
        x = np.ones(3 << 20, np.float32)
        result = []
        for limit in (1, None):
            with threadpool_limits(limit, user_api="openmp"):
                dropcore.dropout(x, 0.5, key=1)
                result.append([dropcore.get_num_threads(), _core.last_team_size()])
        dropcore.dropout(x, 0.5, key=1)
        result.append([dropcore.get_num_threads(), _core.last_team_size()])
        print(json.dumps([asked, result]))
        """,
        # A default of more than one, so that a limit of 1 can be seen.
        OMP_NUM_THREADS="2",
    )
    n, result = found
    assert result == [[1, 1], [n, n], [n, n]]


@pytest.mark.parametrize("chosen", [{}, {"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "passive"}])
def test_spins_are_set_for_the_load_alone_and_not_over_the_user(monkeypatch, chosen):
    for name in _openmp.SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    before, seen = dict(os.environ), []
    monkeypatch.setattr(importlib, "import_module", lambda name: seen.append(dict(os.environ)))
    _openmp.load_core()
    assert dict(os.environ) == before
    assert seen == [before if chosen else before | {"GOMP_SPINCOUNT": _openmp.SPINS}]


@pytest.mark.skipif(sys.platform != "linux", reason="only there are symbols shared by scope")
def test_openmp_is_shared_with_a_library_that_is_loaded_later(monkeypatch):
    opened = []
    monkeypatch.setattr(_openmp.ctypes, "CDLL", lambda path, mode: opened.append((path, mode)))
    monkeypatch.setitem(sys.modules, "a_library", importlib)
    _openmp.share_threads("a_library")
    assert opened == []
    monkeypatch.delitem(sys.modules, "a_library")
    _openmp.share_threads("a_library")
    assert opened == [(_core.__file__, os.RTLD_GLOBAL)]


@needs_openmp
def test_a_limit_from_before_does_not_lower_an_explicit_number():
    """As after torch.set_num_threads(1), where both libraries share an OpenMP."""
    pytest.importorskip("threadpoolctl")
    found = in_new_process(
        """
        import json, dropcore
        from threadpoolctl import threadpool_limits
        with threadpool_limits(1, user_api="openmp"):
            dropcore.set_num_threads(3)
            inside = dropcore.get_num_threads()
        print(json.dumps([inside, dropcore.get_num_threads()]))
        """,
        OMP_NUM_THREADS="2",
    )
    assert found == [3, 3]


@needs_openmp
def test_omp_num_threads_is_honoured():
    code = """
        import json, numpy as np, dropcore
        from dropcore import _core
        y = dropcore.dropout(np.ones(3 << 20, np.float32), 0.5, key=1)
        print(json.dumps([dropcore.get_num_threads(), _core.last_team_size(), float(y.sum())]))
    """
    one, one_team, total = in_new_process(code, OMP_NUM_THREADS="1")
    assert (one, one_team) == (1, 1)
    many, many_team, same_total = in_new_process(code, OMP_NUM_THREADS="3")
    # The default never exceeds what the process may use.
    usable = in_new_process("import dropcore; print(dropcore.get_num_threads())")
    assert (many, many_team) == (min(3, usable), min(3, usable))
    assert total == same_total


@needs_openmp
def test_an_explicit_number_goes_beyond_omp_num_threads():
    found = in_new_process(
        """
        import json, numpy as np, dropcore
        from dropcore import _core
        dropcore.set_num_threads(3)
        dropcore.dropout(np.ones(3 << 20, np.float32), 0.5, key=1)
        print(json.dumps([dropcore.get_num_threads(), _core.last_team_size()]))
        """,
        OMP_NUM_THREADS="1",
    )
    assert found == [3, 3]


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
def test_the_default_keeps_to_the_affinity():
    found = in_new_process(
        """
        import json, os
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        import numpy as np, dropcore
        from dropcore import _core
        dropcore.dropout(np.ones(3 << 20, np.float32), 0.5, key=1)
        print(json.dumps([dropcore.get_num_threads(), _core.last_team_size()]))
        """
    )
    assert found == [1, 1]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no affinity here")
def test_the_default_is_at_most_what_the_process_may_use():
    usable = in_new_process("import dropcore; print(dropcore.get_num_threads())")
    assert 1 <= usable <= len(os.sched_getaffinity(0))


# ---- next to other libraries that have threads ---------------------------------------------------

BESIDE = {
    "torch": """
        import torch
        torch.manual_seed(0)
        a = torch.randn(700, 700)
        other = lambda: float((a @ a).relu().sum())
    """,
    "sklearn": """
        from sklearn.cluster import KMeans
        points = np.random.default_rng(0).standard_normal((3000, 8))
        other = lambda: float(KMeans(4, n_init=1, max_iter=3, random_state=0).fit(points).inertia_)
    """,
}


@pytest.mark.parametrize("first", ["dropcore", "other"])
@pytest.mark.parametrize("name", BESIDE)
def test_beside_another_library_with_threads(name, first):
    pytest.importorskip(name)
    lines = ["import json, zlib", "import numpy as np"]
    lines += ["import dropcore", *textwrap.dedent(BESIDE[name]).splitlines()]
    if first == "other":
        lines = [lines[0], lines[1], f"import {name}", *lines[2:]]
    lines += [
        "x = np.arange(3 << 20, dtype=np.float32)",
        "sums, others = set(), set()",
        "for _ in range(5):",
        "    y = dropcore.dropout(x, 0.3, key=11)",
        "    sums.add(zlib.crc32(y.view(np.uint8)))",
        "    others.add(round(other(), 1))",
        "dropcore.set_num_threads(3)",
        "y = dropcore.dropout(x, 0.3, key=11)",
        "sums.add(zlib.crc32(y.view(np.uint8)))",
        "print(json.dumps([sorted(sums), len(others), dropcore._core.last_team_size()]))",
    ]
    sums, others, team = in_new_process("\n".join(lines))
    assert sums == [checksum(large_dropout())]
    assert others == 1
    assert team == (3 if OPENMP else 1)


# ---- the choice of the instruction set -----------------------------------------------------------


def test_every_instruction_set_can_be_forced():
    expected = checksum(large_dropout())
    code = """
        import json, zlib, numpy as np, dropcore
        y = dropcore.dropout(np.arange(3 << 20, dtype=np.float32), 0.3, key=11)
        print(json.dumps([dropcore.build_info()["isa"], zlib.crc32(y.view(np.uint8))]))
    """
    choices = dropcore.build_info()["isas"]
    assert choices[-1] == "scalar"
    for name in choices:
        assert in_new_process(code, DROPCORE_ISA=name) == [name, expected]
    assert in_new_process(code, DROPCORE_ISA="")[0] == choices[0]


@pytest.mark.parametrize("kind", ["unknown", "elsewhere"])
def test_another_instruction_set_is_an_error_that_lists_the_choices(kind):
    choices = dropcore.build_info()["isas"]
    if kind == "unknown":
        name, why = "sse9", "is not known"
    else:
        name = next(n for n in ("avx512", "avx2", "neon") if n not in choices)
        why = "cannot run on this machine"
    message = in_new_process(
        """
        import json
        try:
            import dropcore
        except ImportError as error:
            print(json.dumps([type(error).__name__, str(error)]))
        """,
        DROPCORE_ISA=name,
    )
    assert message == [
        "ImportError",
        f"DROPCORE_ISA: instruction set '{name}' {why}: choose one of {', '.join(choices)}",
    ]
