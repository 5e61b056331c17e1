"""Python threads: models, tables and imports give in many threads what they give in one.

On a free-threaded Python the threads run at the same time; with the GIL they take turns, and the
promise is the same. Functions of arrays are in tests/arrays/test_threads.py.
"""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import sysconfig
import textwrap
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import numpy as np
import pytest

import dropcore
from dropcore import Key, _core
from dropcore.constraints import MaxNorm
from dropcore.nn import (
    LSTM,
    BatchNorm,
    Conv1D,
    Dense,
    Dropout,
    GlobalMaxPool1D,
    Residual,
    Sequential,
)
from dropcore.optim import Adam
from dropcore.training._warnings import constant_columns_expected
from dropcore.uncertainty import sample

THREADS = 6
FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
OPENMP = _core.has_openmp()


@pytest.fixture(params=[1, 3], ids=["team of 1", "team of 3"])
def team(request):
    """The number of OpenMP threads of a large job, while the test runs."""
    before = dropcore.get_num_threads()
    dropcore.set_num_threads(request.param)
    yield request.param if OPENMP else 1
    dropcore.set_num_threads(before)


def together(work, n=THREADS):
    """Results of work(0), ..., work(n - 1), started at once in n threads."""
    start = threading.Barrier(n)

    def one(i):
        start.wait(timeout=60)
        return work(i)

    # An extension module of another package could have switched it on.
    assert not FREE_THREADED or not sys._is_gil_enabled()
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(one, range(n), timeout=120))


def in_new_process(code):
    """What code prints as JSON; a warning of the interpreter is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        env={name: value for name, value in os.environ.items() if name != "PYTHON_GIL"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


# ---- imports -------------------------------------------------------------------------------------

MODULES = [
    "constraints", "data", "datasets", "diagnosis", "distributed", "losses", "nn", "noise", "optim",
    "reference", "regularizers", "schedules", "training", "tuning", "uncertainty", "updates",
]  # fmt: skip


@pytest.mark.skipif(not FREE_THREADED, reason="this Python was built with the GIL")
def test_importing_dropcore_leaves_the_gil_off():
    found = in_new_process(
        f"""
        import importlib, json, sys
        before = sys._is_gil_enabled()
        import dropcore
        for name in {MODULES}:
            importlib.import_module("dropcore." + name)
        print(json.dumps([before, sys._is_gil_enabled()]))
        """
    )
    assert found == [False, False]


def test_modules_are_first_imported_by_many_threads():
    """In different orders, so that threads meet at modules that others are importing."""
    found = in_new_process(
        f"""
        import json, random, threading
        import dropcore
        names, n = {MODULES}, {THREADS}
        start, errors, modules = threading.Barrier(n), [], []

        def work(i):
            order = names[:]
            random.Random(i).shuffle(order)
            start.wait(timeout=60)
            try:
                for name in order:
                    module = getattr(dropcore, name)
                    for public in getattr(module, "__all__", ()):
                        getattr(module, public)
                    modules.append((name, id(module)))
            except BaseException as error:
                errors.append(repr(error))

        threads = [threading.Thread(target=work, args=(i,)) for i in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        print(json.dumps([errors, len(modules), len(set(modules))]))
        """
    )
    assert found == [[], THREADS * len(MODULES), len(MODULES)]


def test_instruction_sets_are_listed_by_many_threads():
    expected = _core.isas()
    for lists in together(lambda i: [_core.isas() for _ in range(200)]):
        assert all(found == expected for found in lists)


# ---- models --------------------------------------------------------------------------------------


def dense():
    return Sequential(
        [
            Dropout(0.2),
            Dense(96, activation="relu", constraint=MaxNorm(2.0)),
            Dropout(0.5),
            Residual([Dense(96, activation="tanh"), Dropout(0.5)]),
            BatchNorm(),
            Dense(3),
        ]
    )


def recurrent():
    return Sequential([LSTM(24, dropout=0.3, recurrent_dropout=0.2), Dropout(0.5), Dense(3)])


def convolutional():
    hidden = Conv1D(16, 3, activation="relu", padding="same")
    return Sequential([hidden, Dropout(0.3), GlobalMaxPool1D(), Dense(3)])


KINDS = {
    "dense": (dense, (60,)),
    "recurrent": (recurrent, (9, 7)),
    "convolutional": (convolutional, (20, 8)),
}


def data_of(kind, n=300):
    rng = np.random.default_rng(3)
    return rng.standard_normal((n, *KINDS[kind][1]), dtype=np.float32), rng.integers(0, 3, n)


def fitted(kind, seed, optimizer="adam", epochs=2):
    x, y = data_of(kind)
    model = KINDS[kind][0]()
    model.fit(x, y, epochs=epochs, batch_size=100, key=seed, optimizer=optimizer,
              loss="softmax_cross_entropy", validation_split=0.2, progress=False)  # fmt: skip
    return model


def bits(model):
    """Everything that a fit has decided."""
    arrays = {**model.params, **model.buffers}
    metrics = {name: values for name, values in model.training_state.history.items()
               if name != "seconds"}  # fmt: skip
    return (
        {name: array.tobytes() for name, array in arrays.items()},
        metrics,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_models_are_fitted_side_by_side(team, kind):
    """Each model has its own key; the optimiser, the loss and the data are shared."""
    optimizer = Adam(1e-2)
    alone = [bits(fitted(kind, seed, optimizer)) for seed in range(THREADS)]
    assert len({str(result) for result in alone}) == THREADS
    assert together(lambda seed: bits(fitted(kind, seed, optimizer))) == alone


@pytest.mark.parametrize("kind", KINDS)
def test_one_model_answers_many_threads(team, kind):
    trained = fitted(kind, 0)
    x, y = data_of(kind)
    other = Key(5, step=2)

    def work(model, i):
        rows = slice(10 * i, 200 + 10 * i)
        out, backward = model.forward(x[rows], key=Key(i))
        dx, grads = backward(np.ones_like(out))
        return [
            model.predict(x[rows], batch_size=64).tobytes(),
            model.predict(x[rows], key=i, samples=3).tobytes(),
            model.predict_proba(x[rows]).tobytes(),
            model.predict_labels(x[rows]).tobytes(),
            model.evaluate(x[rows], y[rows]),
            model(x[rows], other).tobytes(),
            sample(model, x[rows], samples=4, key=i).mean.tobytes(),
            dx.tobytes(),
            {name: np.asarray(grad).tobytes() for name, grad in grads.items()},
        ]

    alone = [work(trained, i) for i in range(THREADS)]
    assert len({str(result) for result in alone}) == THREADS
    for _ in range(2):
        fresh = pickle.loads(pickle.dumps(trained))  # which has planned nothing yet
        assert together(lambda i, model=fresh: work(model, i)) == alone


def test_a_fit_and_predictions_of_another_model(team):
    """Half of the threads fit, the others predict with a model of which all have the same."""
    shared = fitted("dense", 0)
    x, _ = data_of("dense")

    def work(i):
        if i % 2:
            return [shared.predict(x, key=i, samples=2).tobytes() for _ in range(5)]
        return bits(fitted("dense", i, epochs=1))

    alone = [work(i) for i in range(THREADS)]
    before = bits(shared)
    assert together(work) == alone
    assert bits(shared) == before


def test_numbers_of_threads_change_while_models_are_fitted():
    before = dropcore.get_num_threads()
    alone = [bits(fitted("dense", seed)) for seed in range(THREADS)]

    def work(seed):
        for n in (1, 4, 2, 3):
            dropcore.set_num_threads(n)
            result = bits(fitted("dense", seed))
        return result

    try:
        assert together(work) == alone
        dropcore.set_num_threads(2)
        assert dropcore.get_num_threads() == (2 if OPENMP else 1)
    finally:
        dropcore.set_num_threads(before)


def test_a_limit_holds_in_its_own_thread_alone(team):
    """threadpoolctl limits the thread that asks; the others keep their number."""
    threadpoolctl = pytest.importorskip("threadpoolctl")
    expected = bits(fitted("dense", 0))
    controller = threadpoolctl.ThreadpoolController()
    limited = threading.Barrier(THREADS)

    def work(i):
        if i % 2:
            limited.wait(timeout=60)
            found, number = bits(fitted("dense", 0)), dropcore.get_num_threads()
            limited.wait(timeout=60)
            return found, number
        with controller.limit(limits=1, user_api="openmp"):
            limited.wait(timeout=60)
            found, number = bits(fitted("dense", 0)), dropcore.get_num_threads()
            limited.wait(timeout=60)
        return found, number

    found = together(work)
    assert [number for _, number in found] == [1, team] * (THREADS // 2)
    assert all(result == expected for result, _ in found)


# ---- warnings: their filters belong to the process -----------------------------------------------


@pytest.fixture
def filters():
    """A function that says whether the filters of warnings are those of before."""
    before = list(warnings.filters)
    return lambda: list(warnings.filters) == before


def test_tables_are_read_by_many_threads(tmp_path, filters):
    """A line that is too long is an error in each of them: pandas itself only warns."""
    pytest.importorskip("pandas")
    from dropcore.data import read_table

    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("a,b\n" + "1,2\n" * 5_000)
    bad.write_text("a,b\n" + "1,2,3\n" * 5_000)

    def work(i):
        shapes, errors = [], []
        for _ in range(5):
            shapes.append(read_table(good).shape)
            with pytest.raises(ValueError, match="more values than there are names of columns"):
                read_table(bad)
            errors.append(1)
        return shapes, len(errors)

    assert together(work) == [([(5_000, 2)] * 5, 5)] * THREADS
    assert filters()


def test_pictures_are_written_by_many_threads():
    """Settings of matplotlib belong to the process, too."""
    matplotlib = pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    from dropcore.plotting._style import new_figure
    from dropcore.report._svg import inline_svg

    def drawn(i):
        ax = new_figure(2, 1).subplots()
        ax.fill_between([0, 1, 2], [i, 1, 2], label=f"line {i}")
        ax.set_clip_path(ax.patch)
        return ax

    before = dict(matplotlib.rcParams)
    alone = [inline_svg(drawn(i), f"picture {i}", i) for i in range(THREADS)]
    axes = [[drawn(i) for _ in range(3)] for i in range(THREADS)]
    found = together(lambda i: [inline_svg(ax, f"picture {i}", i) for ax in axes[i]])
    assert found == [[picture] * 3 for picture in alone]
    assert dict(matplotlib.rcParams) == before


def test_a_thread_that_expects_constant_columns_is_not_warned_of_them(filters):
    """As scikit-learn's estimators do; the threads beside it are."""
    x, y = data_of("dense")
    x[:, 4] = 1.0
    inside = threading.Barrier(THREADS)

    def work(seed):
        with constant_columns_expected() if seed % 2 else nullcontext():
            inside.wait(timeout=60)
            model = Sequential([Dense(3)])
            model.fit(x, y, epochs=1, key=seed, loss="softmax_cross_entropy", progress=False)
            inside.wait(timeout=60)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        together(work)
    assert ["column 4 of x is 1.0" in str(w.message) for w in seen] == [True] * (THREADS // 2)
    assert filters()


def test_estimators_are_fitted_by_many_threads():
    pytest.importorskip("sklearn")
    from dropcore.sklearn import DropoutClassifier

    x, y = data_of("dense")

    def work(seed):
        model = DropoutClassifier((16,), 0.5, random_state=seed)
        for _ in range(2):
            model.partial_fit(x, y, classes=[0, 1, 2])
        return model.predict_proba(x).tobytes()

    alone = [work(seed) for seed in range(THREADS)]
    assert together(work) == alone


def test_preprocessing_is_fitted_by_many_threads():
    """Numbers whose squares overflow are found there, without a warning."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("sklearn")
    from dropcore.data import Preprocessing

    rng = np.random.default_rng(0)
    table = pandas.DataFrame({"a": rng.normal(size=200), "b": rng.choice(["x", "y", "z"], 200)})
    large = pandas.DataFrame({"a": [1e308, -1e308] * 8})
    shared = Preprocessing().fit(table)
    expected = shared.transform(table).tobytes()

    def work(i):
        with pytest.raises(ValueError, match="too large for float64"):
            Preprocessing().fit(large)
        own = Preprocessing().fit(table)
        return [own.transform(table).tobytes(), shared.transform(table).tobytes()]

    assert together(work) == [[expected, expected]] * THREADS
