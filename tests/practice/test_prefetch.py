"""Batches that a thread reads ahead."""

import gc
import threading
import time
import traceback

import pytest

from dropcore.data import prefetch


def others():
    """Threads besides those that were there before."""
    return threading.active_count()


class Source:
    """Numbers, and what was asked of them."""

    def __init__(self, count, fails_at=None):
        self.count = count
        self.fails_at = fails_at
        self.taken = 0
        self.closed = 0

    def __len__(self):
        return self.count

    def __iter__(self):
        try:
            for number in range(self.count):
                if number == self.fails_at:
                    raise OSError(f"disk {number}")
                self.taken += 1
                yield number
        finally:
            self.closed += 1


def wait_for(condition):
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("n", [1, 2, 5, 100])
def test_items_come_in_order_and_anew(n):
    before = others()
    source = Source(20)
    ahead = prefetch(source, n)
    for _ in range(3):
        assert list(ahead) == list(range(20))
    assert len(ahead) == 20
    assert source.closed == 3
    assert others() == before
    assert list(prefetch([])) == []


def test_two_runs_at_once_do_not_mix():
    ahead = prefetch([1, 2, 3])
    assert list(zip(ahead, ahead, strict=True)) == [(1, 1), (2, 2), (3, 3)]


@pytest.mark.parametrize("n", [1, 3])
def test_no_more_than_n_items_are_ready(n):
    source = Source(20)
    run = iter(prefetch(source, n))
    for taken in range(5):
        assert next(run) == taken
        wait_for(lambda taken=taken: source.taken == taken + 1 + n)
        time.sleep(0.005)
        assert source.taken == taken + 1 + n
    run.close()
    assert source.closed == 1


def test_the_thread_runs_ahead_of_the_consumer():
    met = threading.Barrier(2, timeout=10)

    def meeting():
        yield 1
        met.wait()  # passed only if the consumer works meanwhile
        yield 2

    run = iter(prefetch(meeting(), 1))
    assert next(run) == 1
    met.wait()
    assert list(run) == [2]


@pytest.mark.parametrize("at", [0, 1, 7])
def test_an_exception_comes_where_its_item_would(at):
    before = others()
    source = Source(20, fails_at=at)
    found = []
    with pytest.raises(OSError, match=f"disk {at}") as caught:
        found.extend(prefetch(source, 3))
    assert found == list(range(at))
    assert "in __iter__" in "".join(traceback.format_tb(caught.value.__traceback__))
    assert others() == before
    assert source.closed == 1


def test_what_iter_raises_is_raised():
    class Broken:
        def __iter__(self):
            raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        list(prefetch(Broken()))


def test_the_thread_ends_with_a_run_that_is_left_early():
    before = others()
    source = Source(1000)
    for item in prefetch(source):
        if item == 3:
            break
    gc.collect()
    assert others() == before
    assert source.closed == 1
    assert source.taken <= 7

    def fails():
        for item in prefetch(source):
            raise KeyError(item)

    with pytest.raises(KeyError):
        fails()
    gc.collect()
    assert others() == before
    assert source.closed == 2


def test_an_iterator_that_can_be_closed_is_closed():
    closed = []

    class Numbers:
        def __iter__(self):
            return self

        def __next__(self):
            return 1

        def close(self):
            closed.append(threading.current_thread())

    class Source:
        def __iter__(self):
            return numbers

    numbers = Numbers()
    run = iter(prefetch(Source()))
    assert next(run) == 1
    run.close()
    assert len(closed) == 1
    assert closed[0] is not threading.current_thread()
    # What the user gave stays open.
    run = iter(prefetch(numbers))
    assert next(run) == 1
    run.close()
    assert len(closed) == 1


def test_a_run_that_never_began_starts_no_thread():
    before = others()
    run = iter(prefetch(Source(3)))
    assert others() == before
    del run
    assert others() == before


def test_an_iterator_runs_once():
    numbers = (number for number in range(3))
    ahead = prefetch(numbers)
    assert list(ahead) == [0, 1, 2]
    with pytest.raises(ValueError, match="is an iterator, which was run through before: give"):
        list(ahead)
    with pytest.raises(TypeError):
        len(ahead)


def test_arguments_are_checked():
    with pytest.raises(TypeError, match="batches must be an iterable, got 3"):
        prefetch(3)
    with pytest.raises(ValueError, match="n must be a positive integer, got 0"):
        prefetch([], 0)
    with pytest.raises(TypeError, match="n must be a positive integer"):
        prefetch([], 1.5)


def test_many_runs_leave_no_thread():
    before = others()
    for stop in range(60):
        for item in prefetch(range(40), 1 + stop % 4):
            if item == stop % 50:
                break
    gc.collect()
    assert others() == before
