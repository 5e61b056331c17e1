"""A script: mixed calls for a while, which must neither take more memory nor change their results.

    python soak.py SECONDS [--plant leak|drift]

Each round makes all calls in an order of its own, on other numbers of threads, with one of a few
sets of sizes and seeds. A call gives the bytes that it gave in the first round of its set. When
these rounds are over, which import, plan and fill the pool, the resident memory may no longer grow
with the rounds. `--plant` adds a call that keeps memory, or one that does not repeat itself, which
has to be found. The exit status is 1 if something was.
"""

from __future__ import annotations

import argparse
import copy
import gc
import hashlib
import os
import pickle
import resource
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import dropcore
from dropcore import Key, Mask, _core, noise
from dropcore.attending import attention
from dropcore.constraints import MaxNorm
from dropcore.nn import LSTM, BatchNorm, Conv1D, Dense, Dropout, GlobalMaxPool1D, Sequential
from dropcore.optim import SGD, Adam, RMSprop
from support.layers import EXAMPLES, KEY, batches, build

ALLOWED = 4 << 20
"""Bytes by which the memory may grow over all rounds after the first ones, by a straight line."""

kept = []


def normal(rng, *shape):
    return rng.normal(size=shape).astype(np.float32)


# --- calls: the result of each depends on its generator alone -------------------------------------


def functions(rng):
    x, key = normal(rng, *rng.integers(1, 900, 2)), Key(int(rng.integers(1 << 40)))
    rows, columns = x.shape
    w = normal(rng, columns, int(rng.integers(1, 300)))
    q = normal(rng, 2, 2, int(rng.integers(1, 90)), 16)
    return [
        dropcore.dropout(x, 0.3, key=key),
        dropcore.dropout(x.T[::2], 0.5, key=key, shared_axes=0),
        Mask(x.shape, keep=0.7, key=key).packed(),
        dropcore.masked_matmul(x, w, x_mask=Mask((1, columns), 0.5, key=key)),
        dropcore.masked_matmul(x, w, w_mask=Mask(w.shape, 0.5, key=key)),
        dropcore.max_norm_(w.copy(), 1.0, axis=int(rng.integers(2))),
        attention(q, q, q, 0.2, key=key, causal=True),
        noise.normal((rows, 7), key=key),
    ]


def layers(rng):
    """Both passes of a third of all kinds."""
    found = []
    for layer, sample in EXAMPLES[int(rng.integers(3)) :: 3]:
        own = build(copy.deepcopy(layer), *sample, dtype=np.float32)
        x = batches(own, sample, int(rng.integers(2, 40)), np.float32)
        out, backward = own.forward(x, key=KEY)
        dx, grads = backward(out)
        found += [out, dx, *grads.values(), own(x)]
    return found


def networks(rng):
    """Three networks are trained in threads, and used."""
    x, y = normal(rng, int(rng.integers(40, 400)), 12, 6), rng.integers(0, 3, 500)
    kinds = [
        ([Dense(40, activation="relu", constraint=MaxNorm(1.0)), BatchNorm(), Dropout(0.5)],
         x[:, 0], Adam(0.01)),
        ([LSTM(12, dropout=0.2)], x, RMSprop(0.01)),
        ([Conv1D(9, 3, activation="relu"), Dropout(0.3), GlobalMaxPool1D()], x,
         SGD(0.1, momentum=0.9)),
    ]  # fmt: skip

    def one(kind):
        parts, data, optimizer = kind
        model = Sequential([*copy.deepcopy(parts), Dense(3)])
        model.fit(data, y[: len(data)], epochs=2, optimizer=optimizer, key=int(y[0]),
                  loss="softmax_cross_entropy", validation_split=0.2, progress=False)  # fmt: skip
        return [
            list(model.params.values()),
            model.predict(data),
            model.predict(data, key=1, samples=3),
            list(model.evaluate(data, y[: len(data)]).values()),
            copied(model).predict(data),
        ]

    with ThreadPoolExecutor(3) as pool:
        return list(pool.map(one, kinds))


def copied(model):
    """By a pickle, and by a file where safetensors is installed."""
    model = pickle.loads(pickle.dumps(model))
    try:
        import safetensors  # noqa: F401
    except ImportError:
        return model
    with tempfile.TemporaryDirectory() as folder:
        model.save(Path(folder) / "model")
        return dropcore.load(Path(folder) / "model")


def child(rng):
    """What a forked process gives."""
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.write(write, digest(functions(rng)).encode())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    with open(read, "rb") as answer:
        found = answer.read()
    assert os.waitpid(process, 0)[1] == 0, "the forked process failed"
    return np.frombuffer(found, np.uint8)


def leak(rng):
    kept.append(np.ones(1 << 17))
    return []


def drift(rng):
    kept.append(None)
    return [np.float64(len(kept) > 6)]


CALLS = [functions, layers, networks, child]


# --- rounds ---------------------------------------------------------------------------------------


def digest(found):
    """Of the bytes of arrays, however they are nested."""
    digest = hashlib.sha256()

    def add(each):
        if isinstance(each, list | tuple):
            for inner in each:
                add(inner)
        elif each is not None:
            digest.update(np.asarray(each).tobytes())

    add(found)
    return digest.hexdigest()


def resident():
    """Bytes of memory that the process has, without what waits for arrays."""
    gc.collect()
    _core.release_pool()
    _core.release_scratch()
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def soak(seconds, sets, calls):
    """The calls whose results have changed, and the memory after each round."""
    expected, changed, memory = {}, [], []
    order = np.random.default_rng(1)
    until = time.monotonic() + seconds
    while len(memory) < 5 * sets or time.monotonic() < until:
        which = len(memory) % sets
        for place in order.permutation(len(calls)):
            call = calls[place]
            dropcore.set_num_threads(int(order.integers(1, 5)))
            found = digest(call(np.random.default_rng([which, place])))
            if expected.setdefault((place, which), found) != found:
                changed.append(f"{call.__name__} in round {len(memory)}")
        memory.append(resident())
    return changed, np.array(memory)


def growth(memory, sets):
    """Bytes by which a straight line through the rounds after the first ones rises."""
    after = memory[max(2 * sets, len(memory) // 5) :]
    return float(np.polyfit(np.arange(len(after)), after, 1)[0] * len(after))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("--plant", choices=["leak", "drift"])
    options = parser.parse_args()
    planted = {None: [], "leak": [leak], "drift": [drift]}[options.plant]
    sets = 3 if options.seconds < 60 else 20
    changed, memory = soak(options.seconds, sets, CALLS + planted)
    more = growth(memory, sets)
    quarters = " ".join(f"{part.mean() / 2**20:.1f}" for part in np.array_split(memory, 4))
    print(f"{len(memory)} rounds, in quarters {quarters} MiB, {more / 2**20:+.2f} MiB by the line")
    for each in changed[:5]:
        print(f"another result: {each}")
    if more > ALLOWED:
        print(f"the memory grows: {more / 2**20:.2f} MiB, and {ALLOWED / 2**20:.0f} are allowed")
    return bool(changed) or more > ALLOWED


if __name__ == "__main__":
    sys.exit(main())
