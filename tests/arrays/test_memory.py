"""Arrays from memory that is used again: never shared, always given back."""

from __future__ import annotations

import gc
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import pytest

from dropcore import Key, _core
from dropcore._backends.memory import SMALL, empty
from dropcore.constraints import MaxNorm
from dropcore.losses import softmax_cross_entropy
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import SGD, Adam

SIZE = 40_000  # bytes, well above SMALL


@pytest.fixture(autouse=True)
def nothing_waits():
    """The pool is empty before and after."""
    gc.collect()
    _core.release_pool()
    yield
    gc.collect()
    _core.release_pool()


def address(array):
    return array.ctypes.data


def held(*sizes):
    """What rooms of so many bytes leave waiting: at least as much, and rounded up perhaps."""
    _core.release_pool()
    rooms = [_core.PooledBuffer(size) for size in sizes]
    assert _core.waiting_bytes() == 0
    del rooms
    waiting = _core.release_pool()
    assert sum(sizes) <= waiting <= 2 * sum(sizes) + 64 * len(sizes)
    return waiting


# --- what one gets -------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(SMALL,), (10, 20, 50), (1, 7, 2000), (SIZE, 1), (3, 5001)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, "float32", np.uint8, np.int64])
def test_arrays_are_those_of_numpy(shape, dtype):
    array, wanted = empty(shape, dtype), np.empty(shape, dtype)
    assert type(array) is np.ndarray
    assert array.shape == shape
    assert array.dtype == wanted.dtype
    assert array.strides == wanted.strides
    assert array.flags.c_contiguous
    assert array.flags.writeable
    assert array.flags.aligned
    if array.nbytes >= SMALL:
        assert address(array) % 64 == 0
    array[...] = 7
    assert (array == 7).all()


@pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0, 7), (), (1,), (64, 10), (SMALL // 4 - 1,)])
def test_small_and_empty_arrays_are_left_to_numpy(shape):
    array = empty(shape, np.float32)
    assert array.shape == shape
    assert array.dtype == np.float32
    array[...] = 7
    assert (array == 7).all()
    del array
    assert _core.waiting_bytes() == 0


@pytest.mark.parametrize("size", [0, 1, 63, 64, 100, SIZE])
def test_a_room_is_so_many_bytes(size):
    kept = held(size)
    room = _core.PooledBuffer(size)
    with memoryview(room) as view:
        assert view.nbytes == len(view) == size
        assert (view.format, view.itemsize, view.ndim) == ("B", 1, 1)
        assert view.contiguous
        assert not view.readonly
        if size:
            assert np.frombuffer(room, np.uint8).ctypes.data % 64 == 0
        view[:] = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert bytes(view[:256]) == (bytes(range(256)) if size >= 256 else bytes(size))
    del room, view
    assert _core.waiting_bytes() == kept
    view = memoryview(_core.PooledBuffer(size))  # its only reference
    assert _core.waiting_bytes() == 0
    view.release()
    assert _core.waiting_bytes() == kept


def test_too_large_a_room():
    for size, error in [(-1, OverflowError), (1 << 62, MemoryError)]:
        with pytest.raises(error):
            _core.PooledBuffer(size)
    assert _core.waiting_bytes() == 0
    for shape in ((1 << 60,), (1 << 70,), (1 << 40, 1 << 40)):
        with pytest.raises(MemoryError):
            empty(shape, np.float32)


# --- memory goes round ---------------------------------------------------------------------------


def test_memory_is_used_again_for_as_many_bytes():
    kept = held(SIZE)
    first = empty((100, 100), np.float32)
    at = address(first)
    assert _core.waiting_bytes() == 0
    del first
    assert _core.waiting_bytes() == kept
    other = empty((SIZE * 2,), np.uint8)
    assert address(other) != at
    assert _core.waiting_bytes() == kept
    second = empty((5000,), np.float64)
    assert address(second) == at
    assert _core.waiting_bytes() == 0
    third = empty((5000,), np.float64)
    assert address(third) != at


def test_living_arrays_share_nothing():
    sizes = [SIZE + 64 * (i % 2) for i in range(20)]
    kept = held(*sizes)
    for _ in range(3):  # fresh memory, then memory from the round before
        arrays = [empty((size,), np.uint8) for size in sizes]
        for i, array in enumerate(arrays):
            array[:] = i
        spans = sorted((address(array), address(array) + array.nbytes) for array in arrays)
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        for i, array in enumerate(arrays):
            assert (array == i).all()
        arrays = array = None
        assert _core.waiting_bytes() == kept


VIEWS = {
    "slice": lambda a: a[3:5],
    "transpose": lambda a: a.T,
    "reshape": lambda a: a.reshape(-1)[::7],
    "dtype": lambda a: a.view(np.uint8),
    "element": lambda a: a[3:4, 3:4],
    "memoryview": memoryview,
    "buffer": lambda a: np.asarray(memoryview(a)),
    "view of a view": lambda a: a[1:][1:][..., None].T,
    "dlpack": lambda a: np.from_dlpack(a),
}


@pytest.mark.parametrize("name", VIEWS)
def test_a_view_keeps_the_memory(name):
    kept = held(SIZE)
    array = empty((100, 100), np.float32)
    array[...] = np.arange(100, dtype=np.float32)
    view = VIEWS[name](array)
    before = np.array(view)
    del array
    assert _core.waiting_bytes() == 0
    others = [empty((100, 100), np.float32) for _ in range(3)]
    for other in others:
        other[...] = -1
        assert not np.shares_memory(other, np.asarray(view))
    np.testing.assert_array_equal(np.asarray(view), before)
    del other, others
    assert _core.waiting_bytes() == 3 * kept
    del view
    assert _core.waiting_bytes() == 4 * kept


def test_release_pool_empties_the_pool_and_nothing_else():
    kept, total = held(SIZE), held(*(SIZE + 400 * (i % 3) for i in range(6)))
    living = empty((100, 100), np.float32)
    living[...] = 3
    dead = [empty((100, 100 + i % 3), np.float32) for i in range(6)]
    assert _core.release_pool() == 0
    del dead
    assert _core.waiting_bytes() == total
    assert _core.release_pool() == total
    assert _core.waiting_bytes() == 0
    assert _core.release_pool() == 0
    assert (living == 3).all()
    del living
    assert _core.release_pool() == kept


def test_no_more_waits_than_the_limit():
    """Pages that nobody writes cost nothing."""
    size = _core.POOL_BYTES // 2 + 4096
    rooms = [_core.PooledBuffer(size) for _ in range(3)]
    rooms.append(_core.PooledBuffer(1 << 20))
    del rooms
    assert size <= _core.waiting_bytes() <= _core.POOL_BYTES
    room = _core.PooledBuffer(_core.POOL_BYTES + 1)
    before = _core.waiting_bytes()
    del room
    assert _core.waiting_bytes() == before


def test_what_waits_is_bounded_by_what_lives_where_every_size_is_another():
    """As with masks that drop units: the number of kept ones changes from step to step."""
    most = 0
    for i in range(1000):
        array = empty((SIZE + 64 * (i * 389 % 1000),), np.uint8)
        most = max(most, array.nbytes)
        del array
    assert _core.waiting_bytes() <= 16 * most


# --- threads -------------------------------------------------------------------------------------


def test_many_threads_share_nothing():
    n, start = 8, threading.Barrier(8)

    def work(own):
        rng = np.random.default_rng(own)
        start.wait(timeout=60)
        held, wrong = [], 0
        for i in range(300):
            array = empty((5000 + int(rng.integers(3)),), np.float64)
            array[:] = 1000 * own + i
            held.append((array, 1000 * own + i))
            if len(held) > 3:
                old, value = held.pop(int(rng.integers(4)))
                wrong += not (old == value).all()
        return wrong + sum(not (array == value).all() for array, value in held)

    with ThreadPoolExecutor(n) as pool:
        assert list(pool.map(work, range(n), timeout=120)) == [0] * n
    gc.collect()
    # Four arrays a thread lived at a time, and one that was made, of one of three sizes.
    assert SIZE < _core.waiting_bytes() <= n * 5 * 3 * 2 * (SIZE + 64)


# --- a training step -----------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", [SGD(0.1, momentum=0.9), Adam()], ids=["SGD", "Adam"])
@pytest.mark.parametrize("rate", [None, 0.5])
@pytest.mark.parametrize("for_update", [False, True])
def test_a_training_step_takes_no_new_memory(optimizer, rate, for_update):
    drop = [] if rate is None else [Dropout(rate)]
    hidden = Dense(256, activation="relu", constraint=MaxNorm(2.0))
    model = Sequential([*drop, hidden, *drop, Dense(10)])
    model.build((784,), key=0)
    state = optimizer.init(model.params)
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(64, 784)).astype(np.float32), rng.integers(0, 10, 64)
    found = []
    for step in range(8):
        y, backward = model.forward(x, key=Key(1, step=step))
        dy = softmax_cross_entropy(y, labels)[1]
        _, grads = backward(dy, input_gradient=False, for_update=for_update)
        optimizer.apply(model.params, grads, state, step, model.constraints)
        within = _core.waiting_bytes()
        del y, dy, backward, grads, _
        found.append((within, _core.waiting_bytes()))
    # What the hidden layer gives, and the gradient of its weights unless it is never stored.
    assert found[0][1] > (64 if for_update else 784) * 256 * 4
    assert len(set(found[2:])) == 1


def test_fit_takes_no_new_memory():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(256, 784)).astype(np.float32), rng.integers(0, 10, 256)
    model = Sequential([Dropout(0.2), Dense(256, activation="relu"), Dropout(0.5), Dense(10)])
    found = []
    for _ in range(4):
        model.fit(x, y, epochs=1, batch_size=64, optimizer=SGD(0.1, momentum=0.9), key=1)
        gc.collect()
        found.append(_core.waiting_bytes())
    assert found[1] == found[2] == found[3] > 64 * 256 * 4
