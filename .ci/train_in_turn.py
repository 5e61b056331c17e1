"""Trains networks of several libraries in one process, in turn.

train_in_turn.py ORDER RESULTS: ORDER is the order of the imports, such as torch,dropcore,sklearn.
The file RESULTS is written by the first run; later runs must find the same numbers. dropcore is
a wheel that brings its own OpenMP. Where it is imported after torch, or through dropcore.torch, the
two must share their threads; otherwise the threads of dropcore are its own.
"""

import importlib
import multiprocessing
import statistics
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

THREADS, ROUNDS = 2, 4
rng = np.random.default_rng(0)
X = rng.normal(size=(512, 64)).astype(np.float32)
Y = (X[:, :8].sum(axis=1) > 0).astype(np.int64)
LARGE = np.ones(1 << 20, np.float32)


class Dropcore:
    """A perceptron of dropcore."""

    def __init__(self):
        import dropcore
        from dropcore import nn

        dropcore.set_num_threads(THREADS)
        self.model = nn.mlp((128,), 2)

    def train(self):
        self.model.fit(
            X, Y, epochs=4, batch_size=64, optimizer="adam", loss="softmax_cross_entropy",
            key=7, progress=False,
        )  # fmt: skip

    def outputs(self):
        return self.model.predict(X)

    def call(self):
        import dropcore

        dropcore.dropout(LARGE, 0.3, key=7)


class Torch:
    """The same network in PyTorch."""

    def __init__(self):
        import torch

        torch.manual_seed(0)
        torch.set_num_threads(THREADS)
        self.model = torch.nn.Sequential(
            torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 2)
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), 0.003)
        self.x, self.y, self.large = map(torch.from_numpy, (X, Y, LARGE))

    def train(self):
        import torch

        for _ in range(20):
            self.optimizer.zero_grad()
            torch.nn.functional.cross_entropy(self.model(self.x), self.y).backward()
            self.optimizer.step()

    def outputs(self):
        return self.model(self.x).detach().numpy()

    def call(self):
        self.large.exp()


class Sklearn:
    """Boosted trees, whose loops are parallel by OpenMP; those of MLPClassifier are not."""

    def __init__(self):
        from sklearn.ensemble import HistGradientBoostingClassifier

        self.model = HistGradientBoostingClassifier(
            max_iter=5, min_samples_leaf=5, warm_start=True, random_state=0
        )

    def train(self):
        self.model.fit(X, Y)
        self.model.max_iter += 5

    def outputs(self):
        p = self.model.predict_proba(X)
        return np.log(np.clip(p, 1e-12, None))

    def call(self):
        self.model.predict(X)


class Jax:
    """The same network in JAX, which has threads without OpenMP."""

    def __init__(self):
        import jax
        import jax.numpy as jnp

        keys = jax.random.split(jax.random.key(0), 2)
        self.weights = [
            0.1 * jax.random.normal(key, shape)
            for key, shape in zip(keys, [(64, 128), (128, 2)], strict=True)
        ]
        self.apply = jax.jit(lambda w: jax.nn.relu(X @ w[0]) @ w[1])

        def loss(w):
            scores = jax.nn.log_softmax(self.apply(w))
            return -jnp.mean(scores[jnp.arange(len(Y)), Y])

        self.step = jax.jit(
            lambda w: [w - 0.5 * g for w, g in zip(w, jax.grad(loss)(w), strict=True)]
        )

    def train(self):
        for _ in range(20):
            self.weights = self.step(self.weights)

    def outputs(self):
        return np.asarray(self.apply(self.weights))

    def call(self):
        self.step(self.weights)[0].block_until_ready()


def milliseconds(function):
    """The time of a call."""
    start = time.perf_counter()
    function()
    return 1e3 * (time.perf_counter() - start)


def compare_with_file(found, path):
    """The same numbers as in the first run: of dropcore every bit, of others up to rounding."""
    path = Path(path)
    if not path.exists():
        np.savez(path, **found)
    with np.load(path) as expected:
        for name in sorted(set(found) & set(expected.files)):
            if name == "dropcore":
                np.testing.assert_array_equal(found[name], expected[name], err_msg=name)
            else:
                np.testing.assert_allclose(
                    found[name], expected[name], rtol=1e-2, atol=1e-2, err_msg=name
                )


def uses_the_threads_of_torch():
    """Whether a limit that torch sets holds for dropcore, which asks OpenMP for it."""
    import torch

    import dropcore
    from dropcore import _core

    torch.set_num_threads(1)
    try:
        dropcore.dropout(LARGE, 0.3, key=7)
        return _core.last_team_size() == 1
    finally:
        torch.set_num_threads(THREADS)


def own_openmp():
    """The file of the OpenMP that came with the wheel, and the others in this process."""
    loaded = {
        line.split()[-1]
        for line in Path("/proc/self/maps").read_text().splitlines()
        if "libgomp" in line
    }
    own = {path for path in loaded if "dropcore.libs" in path}
    return own, loaded - own


def in_child(queue, model):
    """Predicts in a process that was forked."""
    queue.put(model.predict(X))


def main():
    """Trains in turn and compares, then calls in turn, in threads, in a child and with joblib."""
    order, results = sys.argv[1].split(","), sys.argv[2]
    for name in order:
        importlib.import_module({"sklearn": "sklearn.ensemble"}.get(name, name))
    names = dict.fromkeys(part for name in order for part in name.split("."))
    teams = {name: globals()[name.capitalize()]() for name in names}
    ours = teams["dropcore"]

    for team in teams.values():  # compile, allocate, start threads
        team.train()
    for _ in range(ROUNDS):
        for team in teams.values():
            team.train()
    found = {name: np.asarray(team.outputs(), np.float64) for name, team in teams.items()}
    for name, outputs in found.items():
        accuracy = np.mean(outputs.argmax(axis=1) == Y)
        assert accuracy > 0.9, f"{name} has learned nothing: accuracy {accuracy}"
    compare_with_file(found, results)

    own, others = own_openmp()
    assert len(own) == 1, f"this is not a wheel with its own OpenMP: {own | others}"
    if "torch" in names:
        shared = uses_the_threads_of_torch()
        expected = "dropcore.torch" in order or order.index("torch") < order.index("dropcore")
        assert shared == expected, f"threads are {'shared' if shared else 'separate'}"
        print("  threads shared with torch" if shared else "  threads of its own")

    # Calls that take turns. The times are for the reader: other processes may be running.
    for name, team in teams.items():
        if team is not ours:
            alone = statistics.median(milliseconds(ours.call) for _ in range(30))
            team.call()
            turns = [(milliseconds(ours.call), milliseconds(team.call)) for _ in range(30)]
            in_turn = statistics.median(turn[0] for turn in turns)
            print(f"  dropout of 1 Mi: {alone:.3f} ms alone, {in_turn:.3f} ms after {name}")

    # At the same time, in threads of Python.
    reference = ours.outputs()
    with ThreadPoolExecutor(len(teams)) as pool:
        list(pool.map(lambda team: [team.call() for _ in range(20)], teams.values()))
    np.testing.assert_array_equal(ours.outputs(), reference)

    # In a child: the threads have stayed in the parent.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of JAX and of Python, which warn of every fork
        queue = multiprocessing.get_context("fork").SimpleQueue()
        child = multiprocessing.get_context("fork").Process(
            target=in_child, args=(queue, ours.model)
        )
        child.start()
    np.testing.assert_array_equal(queue.get(), reference)
    child.join(60)
    assert child.exitcode == 0, f"the child ended with {child.exitcode}"

    if "sklearn" in names:
        from joblib import Parallel, delayed

        predictions = Parallel(2)(delayed(ours.model.predict)(X) for _ in range(4))
        for prediction in predictions:
            np.testing.assert_array_equal(prediction, reference)
    print(
        "  equal results in turn, in threads, in a child" + ", with joblib" * ("sklearn" in names)
    )


if __name__ == "__main__":
    main()
