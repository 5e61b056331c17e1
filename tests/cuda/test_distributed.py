"""Blocks of a batch, and sums over ranks, with CuPy arrays: see support/host_cupy.py."""

from __future__ import annotations

import queue
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from dropcore.distributed._blocks import Blocks
from dropcore.distributed._group import Group
from dropcore.distributed._reduction import Reduction
from dropcore.nn import BatchNorm, ConcreteDropout, Dense, Dropout, Sequential
from dropcore.optim import SGD

pytest.importorskip("greenlet")


class Request:
    """What a rank waits for; `Testall` is that of the first of a list."""

    def __init__(self, finish):
        self.finish = finish

    def Testall(self, requests):
        for request in requests:
            request.finish()
        return True


class Wire:
    """The messages of two ranks, which are two threads."""

    def __init__(self, host, rank, queues, kinds):
        self.host, self.rank, self.queues, self.kinds = host, rank, queues, kinds

    def on_host(self, array):
        return array.copy() if type(array) is np.ndarray else self.host.asnumpy(array)

    def Isend(self, array, partner, tag):
        self.kinds.append(type(array))
        self.queues[self.rank].put(self.on_host(array))
        return Request(lambda: None)

    def Irecv(self, array, partner, tag, own=0.0):
        def finish():
            found = own + self.queues[partner].get(timeout=10)
            array[...] = found if type(array) is np.ndarray else self.host.asarray(found)

        return Request(finish)

    def Iallreduce(self, array, result):
        assert array is not result
        self.Isend(array, 1 - self.rank, 0)
        return self.Irecv(result, 1 - self.rank, 0, self.on_host(array))


class Pair(Group):
    """One of two ranks."""

    def __init__(self, rank, comm, cuda_aware):
        self.rank, self.size, self.comm, self.aware = rank, 2, comm, cuda_aware

    @property
    def cuda_aware(self):
        return self.aware

    def wait(self, requests, *, seconds=None):
        return requests[0].Testall(requests)


@pytest.mark.parametrize("cuda_aware", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_gradients_of_two_ranks_are_added_on_the_device(host, fixed, cuda_aware):
    rng = np.random.default_rng(1)
    params = {"0.weight": host.asarray(np.zeros((7, 5))), "0.bias": host.asarray(np.zeros(5))}
    grads = [{name: rng.standard_normal(p.shape) for name, p in params.items()} for _ in range(4)]
    queues, kinds = [queue.Queue(), queue.Queue()], []

    def rank(number):
        group = Pair(number, Wire(host, number, queues, kinds), cuda_aware)
        found = []
        reduction = Reduction(group, params, Blocks(4, 2 * number, 2 * number + 2), fixed=fixed)
        for scale in (1.0, 2.0):  # a second update uses the same memory
            for place in range(2):
                own = grads[2 * number + place]
                for name in ("0.bias", "0.weight"):
                    reduction.add(place, {name: host.asarray(scale * own[name])})
            found.append({n: host.asnumpy(a).copy() for n, a in reduction.result().items()})
        return found

    with ThreadPoolExecutor(2) as pool:
        both = [*pool.map(rank, range(2))]
    for name in params:
        wanted = (grads[0][name] + grads[1][name]) + (grads[2][name] + grads[3][name])
        for found in both:
            assert np.array_equal(found[0][name], wanted)
            assert np.array_equal(found[1][name], 2 * wanted)
    assert set(kinds) == {host.ndarray if cuda_aware else np.ndarray}


@pytest.mark.parametrize("blocks", [1, 4])
def test_blocks_on_a_device_are_those_of_the_host(host, blocks):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((20, 6)), rng.integers(0, 3, 20)
    models = []
    for device in ("cpu", "cuda"):
        model = Sequential(
            [ConcreteDropout(Dense(5), data_points=20.0), BatchNorm(), Dropout(0.5), Dense(3)]
        )
        model.build((6,), key=0, dtype=np.float64)
        model.to(device)
        model.fit(x, y, epochs=2, batch_size=8, optimizer=SGD(0.1), key=4, blocks=blocks,
                  loss="softmax_cross_entropy", metrics=["f1"], progress=False)  # fmt: skip
        models.append(model)
    one, other = (model.training_state.history for model in models)
    assert other["loss"] == pytest.approx(one["loss"], rel=1e-9)
    assert other["f1"] == one["f1"]
    for name, array in models[0].params.items():
        np.testing.assert_allclose(
            host.asnumpy(models[1].params[name]), array, rtol=1e-7, atol=1e-12
        )
