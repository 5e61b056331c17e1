"""Losses and the training loop on CuPy arrays: see support/host_cupy.py."""

from __future__ import annotations

import copy
import itertools
import threading
from concurrent.futures import ThreadPoolExecutor

import ml_dtypes
import numpy as np
import pytest

from dropcore import training
from dropcore._backends.cuda import blas, graphs, kernels
from dropcore._backends.cuda.updates import hyperparameters_of
from dropcore._base.device import array_namespace
from dropcore.constraints import MaxNorm, MinMaxNorm, NonNeg, UnitNorm
from dropcore.losses import (
    BinaryCrossEntropy,
    GaussianNLL,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    SoftmaxCrossEntropy,
)
from dropcore.nn import (
    LSTM,
    ActivityRegularization,
    AlphaDropout,
    BatchNorm,
    ConcreteDropout,
    Dense,
    DropConnect,
    Dropout,
    GaussianDropout,
    GaussianNoise,
    LayerNorm,
    ReLU,
    Sequential,
    UnitDropout,
    VariationalDropout,
)
from dropcore.optim import SGD, Adadelta, Adagrad, AdamW, Clip, RMSprop
from dropcore.regularizers import L1, L2
from dropcore.schedules import Cosine, Linear
from dropcore.training import Callback
from support import host_cupy
from support.arrays import normal
from support.cublas import FakeBlas


def labels(n, classes=4):
    return np.random.default_rng(1).integers(0, classes, n)


LOSSES = [
    (SoftmaxCrossEntropy(), normal(9, 4, seed=2), labels(9)),
    (SoftmaxCrossEntropy(), normal(5, 3, 4, seed=2), labels(15).reshape(5, 3)),
    (SoftmaxCrossEntropy(), normal(9, 4, seed=2), np.eye(4)[labels(9)]),
    (SoftmaxCrossEntropy(label_smoothing=0.1), normal(9, 4, seed=2), labels(9)),
    (SoftmaxCrossEntropy(class_weights=(1, 0, 2, 0.5)), normal(9, 4, seed=2), labels(9)),
    (SoftmaxCrossEntropy(ignore_label=1), normal(9, 4, seed=2), labels(9)),
    (
        SoftmaxCrossEntropy(ignore_label=1, class_weights=(1, 3, 2, 0.5)),
        normal(9, 4, seed=2),
        labels(9),
    ),
    (SoftmaxCrossEntropy(ignore_label=-1), normal(3, 4, seed=2), np.full(3, -1)),
    (BinaryCrossEntropy(), normal(9, 4, seed=2), labels(36, 2).reshape(9, 4)),
    (BinaryCrossEntropy(), normal(9, 1, seed=2), labels(9, 2)),
    (MeanSquaredError(), normal(9, 4, seed=2), normal(9, 4, seed=2)[::-1].copy()),
    (MeanAbsoluteError(), normal(9, 1, seed=2), labels(9)),
    (Huber(0.3), normal(9, 4, seed=2), normal(9, 4, seed=2)[::-1].copy()),
    (GaussianNLL(), normal(9, 2, seed=2), normal(9, seed=2)),
]


@pytest.mark.parametrize(("loss", "outputs", "targets"), LOSSES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses(gpu, loss, outputs, targets, dtype):
    outputs = outputs.astype(dtype)
    if targets.dtype.kind == "f":
        targets = targets.astype(dtype)
    wanted, slope = loss(outputs, targets)
    before = host_cupy.waits
    value, gradient = loss(gpu.asarray(outputs), gpu.asarray(targets))
    count = loss.weight(gpu.asarray(loss.check(targets, outputs.shape)))
    assert host_cupy.waits == before
    close = 1e-6 if dtype == np.float32 else 1e-12
    assert float(value) == pytest.approx(wanted, rel=close, abs=1e-12)
    assert gradient.dtype == dtype
    np.testing.assert_allclose(gpu.asnumpy(gradient), slope, rtol=5 * close, atol=1e-3 * close)
    assert float(count) == loss.weight(loss.check(targets, outputs.shape))
    if loss.classifies:
        before = host_cupy.waits
        on = loss.fitted(gpu.asarray(targets), outputs.shape)
        n_correct = loss.n_correct(gpu.asarray(outputs), on)
        assert host_cupy.waits == before
        assert tuple(map(float, n_correct)) == loss.n_correct(
            outputs, loss.check(targets, outputs.shape)
        )


def classifier():
    return Sequential(
        [Dropout(0.2), Dense(24, activation="relu", constraint=MaxNorm(1.0)), Dropout(0.5),
         Dense(16, activation="tanh", ), Dropout(0.5, shared_axes=0),
         Dense(4)]
    )  # fmt: skip


def data(samples=50):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, 12)).astype(np.float32)
    return x, (x @ rng.normal(size=(12, 4))).argmax(axis=1)


OPTIONS = {
    "epochs": 2, "batch_size": 16, "key": 5, "progress": False,
}  # fmt: skip


@pytest.mark.parametrize("where", ["cpu", "cuda"])
def test_fit_is_that_of_the_cpu(gpu, where):
    """Data is on the device, or copied there batch by batch."""
    x, y = data()
    held = data(20)
    optimizer = SGD(Cosine(0.1, 8), momentum=0.9)
    put = gpu.asarray if where == "cuda" else lambda a: a
    model, other = classifier(), classifier().to("cuda")
    wanted = model.fit(x, y, optimizer=optimizer, validation_data=held, **OPTIONS)
    found = other.fit(
        put(x), put(y), optimizer=optimizer, validation_data=tuple(map(put, held)), **OPTIONS
    )
    for metric in ("loss", "accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(found[metric], wanted[metric], rtol=1e-4)
    for name, weight in model.params.items():
        np.testing.assert_allclose(
            gpu.asnumpy(other.params[name]), weight, rtol=1e-3, atol=1e-5, err_msg=name
        )
    out = other.predict(put(x), batch_size=7)
    assert isinstance(out, gpu.ndarray if where == "cuda" else np.ndarray)
    out = gpu.asnumpy(out) if where == "cuda" else out
    np.testing.assert_allclose(out, model.predict(x), rtol=1e-3, atol=1e-4)
    scores = other.evaluate(put(x), put(y))
    assert scores == pytest.approx(model.evaluate(x, y), rel=1e-3)
    # Training goes on on the other device, with the same state.
    other.to("cpu")
    model.fit(x, y, optimizer=optimizer, **OPTIONS)
    other.fit(x, y, optimizer=optimizer, **OPTIONS)
    assert other.training_state.step == model.training_state.step == 16
    for name, weight in model.params.items():
        np.testing.assert_allclose(other.params[name], weight, rtol=2e-3, atol=2e-5)


CLASS_METRICS = ["f1", "top_2", "log_loss", "roc_auc"]


@pytest.mark.parametrize("names", [CLASS_METRICS, CLASS_METRICS[:3]])
def test_metrics_and_callbacks_are_those_of_the_cpu(gpu, names):
    """What a metric keeps of each batch is labels, or outputs."""
    pytest.importorskip("sklearn")
    (x, y), held = data(), data(20)
    model, other = classifier(), classifier().to("cuda")
    count = itertools.count()
    worse = training.Metric("epochs", lambda outputs, targets: next(count), False)
    results = []
    for trained, put in ((model, np.asarray), (other, gpu.asarray)):
        stopping = training.EarlyStopping("epochs", patience=2)
        history = trained.fit(
            put(x), put(y), optimizer=SGD(0.1), validation_data=tuple(map(put, held)),
            metrics=[*names, worse], callbacks=[stopping, training.ReduceOnPlateau("epochs")],
            **OPTIONS | {"epochs": 9},
        )  # fmt: skip
        assert history.epochs == [1, 2, 3]
        assert history.best_epoch == 1
        results.append({n: v for n, v in history.items() if "epochs" not in n and n != "seconds"})
    for name, wanted in results[0].items():
        np.testing.assert_allclose(results[1][name], wanted, rtol=1e-3, err_msg=name)
    for name, weight in model.params.items():
        assert isinstance(other.params[name], gpu.ndarray)
        np.testing.assert_allclose(
            gpu.asnumpy(other.params[name]), weight, rtol=1e-3, atol=1e-5, err_msg=name
        )
    scores = other.evaluate(gpu.asarray(x), gpu.asarray(y), metrics=names)
    assert scores == pytest.approx(model.evaluate(x, y, metrics=names), rel=1e-3)


@pytest.mark.parametrize(("units", "loss"), [(1, "mse"), (2, "gaussian_nll"), (1, "huber")])
def test_metrics_of_numbers_are_those_of_the_cpu(gpu, units, loss):
    pytest.importorskip("sklearn")
    x, y = data()
    weight = np.random.default_rng(1).uniform(0, 2, len(x))
    model = Sequential([Dense(units)])
    model.build((12,), key=1)
    other = copy.deepcopy(model).to("cuda")
    options = {"loss": loss, "metrics": ["r2", "rmse", "mae", "mse"], "sample_weight": weight}
    wanted = model.evaluate(x, y, **options)
    found = other.evaluate(gpu.asarray(x), gpu.asarray(y), batch_size=7, **options)
    assert found == pytest.approx(wanted, rel=1e-4)


@pytest.mark.usefixtures("products_in_graphs")
def test_metrics_of_a_graph_are_of_all_batches(gpu):
    """Its arrays are overwritten by each batch."""
    pytest.importorskip("sklearn")
    x, y = map(gpu.asarray, data(64))
    plain, replayed = classifier().to("cuda"), classifier().to("cuda")
    options = OPTIONS | {"optimizer": SGD(0.1), "metrics": CLASS_METRICS}
    wanted = plain.fit(x, y, **options)
    found = replayed.fit(x, y, cuda_graph=True, **options)
    for name in CLASS_METRICS:
        np.testing.assert_allclose(found[name], wanted[name], rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("metrics", [[], CLASS_METRICS, CLASS_METRICS[:3]])
def test_a_step_waits_for_nothing(host, metrics):
    x, y = data(64)
    model, options = classifier().to("cuda"), OPTIONS | {"metrics": metrics}
    model.fit(host.asarray(x), host.asarray(y), optimizer=SGD(0.1), **options)  # compiles
    each = []
    for samples in (32, 64):
        before = host_cupy.waits
        some = host.asarray(x[:samples]), host.asarray(y[:samples])
        model.fit(*some, optimizer=SGD(0.1), **options)
        each.append(host_cupy.waits - before)
    assert each[0] == each[1] > 0  # however many steps an epoch has


GRAPHS = {
    "schedule": SGD(Cosine(0.1, 8), momentum=Linear(0.5, 0.9, 6), nesterov=True),
    "adam": AdamW(3e-2, weight_decay=0.1),
    "rmsprop": RMSprop(1e-2, momentum=0.5),
}


@pytest.mark.usefixtures("products_in_graphs")
@pytest.mark.parametrize("optimizer", GRAPHS.values(), ids=GRAPHS)
def test_graphs_make_the_same_updates(gpu, optimizer):
    """Masks, rates and batches change from launch to launch as they do without a graph."""
    x, y = map(gpu.asarray, data(70))
    plain, replayed = classifier().to("cuda"), classifier().to("cuda")
    wanted = plain.fit(x, y, optimizer=optimizer, **OPTIONS)
    found = replayed.fit(x, y, optimizer=optimizer, cuda_graph=True, **OPTIONS)
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-4)
    assert replayed.training_state.step == plain.training_state.step == 10
    for name, weight in plain.params.items():
        np.testing.assert_allclose(
            gpu.asnumpy(replayed.params[name]), gpu.asnumpy(weight), rtol=1e-3, atol=1e-5
        )


@pytest.mark.usefixtures("products_in_graphs")
def test_a_graph_takes_another_learning_rate(gpu):
    class Slower(Callback):
        def on_update_end(self, run):
            run.learning_rate_factor = 1e-6 if run.state.step > 4 else 1.0

    x, y = map(gpu.asarray, data(70))
    found = []
    for cuda_graph in (False, True):
        model = classifier().to("cuda")
        model.fit(x, y, optimizer=SGD(0.1), cuda_graph=cuda_graph, callbacks=[Slower()],
                  **OPTIONS)  # fmt: skip
        found.append(gpu.asnumpy(model.params["1.weight"]))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)


def everything():
    """Layers with arrays of their own, noise, moments and learned rates."""
    return Sequential(
        [Dropout(np.linspace(0.1, 0.9, 12)), BatchNorm(), GaussianNoise(0.1),
         Dense(10, activation="relu", constraint=UnitNorm()), Dropout(mask=np.arange(10) % 4 > 0),
         VariationalDropout(0.3, data_points=70.0), UnitDropout(0.3, group=4), LayerNorm(),
         ConcreteDropout(Dense(8, activation="selu"), data_points=70.0, length_scale=0.1),
         AlphaDropout(0.1), GaussianDropout([0.1] * 8), ActivityRegularization(L1(1e-3)),
         DropConnect(6, 0.2, regularizer=L2(1e-3), constraint=MinMaxNorm(0.5, 2.0)),
         Dense(4, activation="softmax"), Dense(4, constraint=NonNeg())]
    )  # fmt: skip


@pytest.mark.usefixtures("products_in_graphs")
@pytest.mark.parametrize("clip", [{"norm": 0.5}, {"value": 0.1, "norm": 1.0}])
def test_graphs_of_everything(gpu, clip):
    x, y = map(gpu.asarray, data(70))
    plain, replayed = everything().to("cuda"), everything().to("cuda")
    optimizer = Clip(SGD(0.1, momentum=0.5), **clip)
    wanted = plain.fit(x, y, optimizer=optimizer, **OPTIONS)
    found = replayed.fit(x, y, optimizer=optimizer, cuda_graph=True, **OPTIONS)
    np.testing.assert_allclose(found["loss"], wanted["loss"], rtol=1e-4)
    wanted = plain.params | plain.buffers
    for name, array in (replayed.params | replayed.buffers).items():
        np.testing.assert_allclose(
            gpu.asnumpy(array), gpu.asnumpy(wanted[name]), rtol=1e-3, atol=1e-5
        )


class FromTheHost(ReLU):
    """A layer that multiplies by numbers in NumPy's memory."""

    def forward(self, x, *, key=None, row_offset=0):
        return super().forward(x * array_namespace(x).asarray(np.ones(x.shape[-1], x.dtype)))


@pytest.mark.usefixtures("products_in_graphs")
def test_graphs_launch_no_python(host):
    """After two updates the host only says what changes, and launches."""
    x, y = map(host.asarray, data(96))
    model = classifier().to("cuda")
    calls = []

    class Spy(Dropout):
        def forward(self, x, *, key=None, row_offset=0):
            calls.append(key.step)
            return super().forward(x, key=key, row_offset=row_offset)

    model = Sequential([Spy(0.3), *model.layers]).to("cuda")
    model.fit(x, y, optimizer=SGD(0.1), cuda_graph=True, **OPTIONS)
    assert calls == [0, 1]


@pytest.mark.usefixtures("products_in_graphs")
def test_what_a_graph_cannot_do(gpu):
    x, y = map(gpu.asarray, data(70))

    def fit(*layers, **options):
        model = Sequential([*layers, Dense(4)]).to("cuda")
        with np.errstate(invalid="ignore"):
            model.fit(x, y, **{"optimizer": SGD(0.1)} | OPTIONS | {"cuda_graph": True} | options)

    with pytest.raises(ValueError, match="a rate that changes with the step cannot be recorded"):
        fit(Dropout(lambda step: 0.5))
    with pytest.raises(ValueError, match="a stddev that changes with the step cannot be recorded"):
        fit(GaussianNoise(lambda step: 0.5))
    with pytest.raises(ValueError, match="copies numbers from the host"):
        fit(FromTheHost())
    with pytest.raises(ValueError, match=r"use model\.to"):
        Sequential([Dense(4)]).fit(*data(), optimizer=SGD(0.1), **OPTIONS | {"cuda_graph": True})


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, ml_dtypes.bfloat16])
def test_direct_products(host, monkeypatch, dtype):
    fake = FakeBlas()
    monkeypatch.setattr(blas, "loaded", lambda: fake)
    handle = blas.Handle()
    rng = np.random.default_rng(0)
    for m, k, n in itertools.product((1, 3, 8), (1, 4, 9), (1, 5, 7)):
        a, b = rng.normal(size=(m, k)).astype(dtype), rng.normal(size=(k, n)).astype(dtype)
        wide = rng.normal(size=(m, k + 3)).astype(dtype)
        wanted = (a.astype(float) @ b.astype(float)).astype(dtype).astype(float)
        for left in (host.asarray(a), host.asarray(a.T.copy()).T, host.asarray(wide)[:, :k]):
            if left.strides[0] == wide.strides[0]:
                left[...] = host.asarray(a)
            for right in (host.asarray(b), host.asarray(b.T.copy()).T):
                out = host.empty((m, n), dtype)
                handle.multiply(left, right, out)
                np.testing.assert_allclose(host.asnumpy(out).astype(float), wanted, rtol=1e-14)
    assert set(fake.calls) == {70 if dtype == np.float64 else 68}
    if dtype == np.float32:
        monkeypatch.setenv("CUPY_TF32", "1")
        handle.multiply(left, right, out)
        assert fake.calls[-1] == 77
    del handle
    assert fake.destroyed == [1]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_direct_products_of_stacks(host, monkeypatch, dtype):
    """By CuPy's own handle where no graph is recorded; factors may be transposed or parts."""
    fake = FakeBlas()
    monkeypatch.setattr(blas, "loaded", lambda: fake)
    rng = np.random.default_rng(0)
    for count, m, k, n in itertools.product((1, 3), (1, 4), (1, 5), (1, 6)):
        a, b = (rng.normal(size=(count, *own)).astype(dtype) for own in ((m, k), (k, n)))
        c = rng.normal(size=(count, m, n)).astype(dtype)
        wide = host.asarray(np.concatenate([a, 9 * np.ones((count, 2, k), dtype)], axis=1))
        many = host.asarray(np.concatenate([np.zeros_like(b), b]))
        lefts = host.asarray(a), host.asarray(a.swapaxes(1, 2).copy()).swapaxes(1, 2), wide[:, :m]
        rights = host.asarray(b.swapaxes(1, 2).copy()).swapaxes(1, 2), many[count:]
        for left, right, more in itertools.product(lefts, rights, (False, True)):
            out = host.asarray(c)
            blas.multiply_stack(left, right, out, accumulate=more)
            np.testing.assert_allclose(
                host.asnumpy(out), a @ b + (c if more else 0), rtol=2e-5, atol=1e-6
            )
    assert {handle for handle, _ in fake.on} == {host_cupy._Device.cublas_handle}
    assert set(fake.calls) == {70 if dtype == np.float64 else 68}
    assert not fake.workspaces  # CuPy's handle keeps its own
    calls = len(fake.calls)
    blas.multiply_stack(left[..., :0], right[:, :0], out, accumulate=True)
    np.testing.assert_allclose(host.asnumpy(out), a @ b + c, rtol=2e-5, atol=1e-6)
    blas.multiply_stack(left[..., :0], right[:, :0], out)
    assert not host.asnumpy(out).any()
    blas.multiply_stack(left[:0], right[:0], out[:0])
    assert len(fake.calls) == calls
    handle = blas.Handle()
    with host.cuda.Stream(non_blocking=True) as stream, blas.products_by(handle):
        blas.multiply_stack(left, right, out)
    assert fake.on[-1] == (1, stream.ptr)
    assert fake.workspaces[1] == handle._workspace.data.ptr
    np.testing.assert_allclose(host.asnumpy(out), a @ b, rtol=2e-5, atol=1e-6)
    if dtype == np.float32:
        monkeypatch.setenv("CUPY_TF32", "1")
        blas.multiply_stack(left, right, out)
        assert fake.calls[-1] == 77


def test_two_threads_record_at_once(host, monkeypatch):
    """Each graph has a stream, a cuBLAS handle and a workspace of its own."""
    fake = FakeBlas()
    monkeypatch.setattr(blas, "loaded", lambda: fake)
    both = threading.Barrier(2)
    x = host.asarray(np.eye(3, dtype=np.float32))

    def record(graph):
        out = graph.empty((3, 3), np.float32)

        def work():
            for _ in range(20):
                both.wait()
                blas.multiply(x, x, out)
            return out

        graph.rehearse(work)
        return graph.record(work)

    made = [graphs.Graph() for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(record, made))
    assert len(fake.on) == 80
    pairs = set(fake.on)
    assert len(pairs) == len({handle for handle, _ in pairs}) == 2
    assert len({stream for _, stream in pairs} | {0}) == 3
    assert len(set(fake.workspaces.values())) == 2


def test_other_threads_copy_while_a_graph_is_recorded(host_graphs):
    """Only copies of the thread that records are refused; nothing of the process is replaced."""
    inside, copied = threading.Event(), threading.Event()

    def copy_elsewhere():
        assert inside.wait(10)
        found = host_graphs.asnumpy(host_graphs.asarray(np.arange(5.0)))
        copied.set()
        return found

    def work():
        inside.set()
        assert copied.wait(10)
        x.fill(2)
        return x

    x = host_graphs.empty((4,), np.float32)
    graph = graphs.Graph()
    graph.rehearse(lambda: x.fill(1))
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(copy_elsewhere)
        graph.record(work)
        np.testing.assert_array_equal(other.result(), np.arange(5.0))
    np.testing.assert_array_equal(host_graphs.asnumpy(x), 1)
    graph.launch()
    np.testing.assert_array_equal(host_graphs.asnumpy(x), 2)
    with pytest.raises(ValueError, match="copies numbers from the host"):
        graph.record(lambda: host_graphs.asarray(np.arange(5.0)))


def test_a_graph_leaves_the_pinned_memory_of_the_process_alone(host_graphs):
    """The stand-in has no set_pinned_memory_allocator: CuPy's cannot be read, so not restored."""
    assert not hasattr(host_graphs.cuda, "set_pinned_memory_allocator")
    x = host_graphs.zeros((4,), np.float32)
    graph = graphs.Graph()
    assert graph.record(lambda: x * 2).shape == (4,)


def test_an_optimiser_without_a_rule_has_no_graph(host_graphs):
    class Own:
        def init(self, params):
            return {}

        def apply(self, params, grads, state, step, constraints=()):
            raise AssertionError("nothing is updated")

    x, y = map(host_graphs.asarray, data())
    for optimizer in (Own(), Clip(Own(), norm=1.0)):
        with pytest.raises(TypeError, match=r"optimiser .*rule\(step\).*use cuda_graph=False"):
            classifier().to("cuda").fit(x, y, optimizer=optimizer, cuda_graph=True, **OPTIONS)


def test_graphs_are_given_what_updates_compute_with():
    """rule(step) names the update that apply makes at that step, and its numbers."""
    for optimizer in (*GRAPHS.values(), Adagrad(0.1), Adadelta(), RMSprop(centered=True)):
        for step in (0, 5):
            rule, numbers = optimizer.rule(step)
            assert Clip(optimizer, norm=1.0).rule(step) == (rule, numbers)
            values = hyperparameters_of(rule, numbers)
            assert set(values) <= set(kernels.HYPERPARAMETERS)
            assert values["rate"] > 0


def test_what_is_not_finite_is_found_at_the_end_of_the_epoch(gpu):
    x, y = data()
    # Two products without an activation that saturates: their sizes overflow in the second update.
    model = Sequential([Dense(24), Dropout(0.5), Dense(4)]).to("cuda")
    model.build((12,), key=3)
    before = {name: gpu.asnumpy(weight) for name, weight in model.params.items()}
    with pytest.raises(FloatingPointError, match=r"in epoch 1: .*not finite.*back to the start"):
        model.fit(gpu.asarray(x), gpu.asarray(y), optimizer=SGD(1e30), **OPTIONS)
    for name, weight in model.params.items():
        np.testing.assert_array_equal(gpu.asnumpy(weight), before[name])


def test_places_that_do_not_fit(gpu):
    x, y = data()
    model = classifier()
    with pytest.raises(
        TypeError, match=r"x is on a GPU and the model is not: use model.to\('cuda'"
    ):
        model.fit(gpu.asarray(x), y, optimizer=SGD(0.1), **OPTIONS)
    model.build((12,), key=3)
    with pytest.raises(TypeError, match=r"^Dense.*: the weights are not on a GPU and x is"):
        model.layers[1](gpu.asarray(normal(3, 12, seed=2).astype(np.float32)))
    model.to("cuda")
    with pytest.raises(TypeError, match=r"^Sequential: the weights are on a GPU and x is not"):
        model(x)
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda'"):
        model.to("gpu")
    twin = copy.deepcopy(model)
    assert twin.device == "cuda"
    assert all(isinstance(w, gpu.ndarray) for w in twin.params.values())


def test_weights_are_those_of_the_cpu_before_and_after(gpu):
    early, late = classifier().to("cuda"), classifier()
    early.build((12,), key=3)
    late.build((12,), key=3)
    late.to("cuda")
    for name, weight in early.params.items():
        assert isinstance(weight, gpu.ndarray)
        np.testing.assert_array_equal(gpu.asnumpy(weight), gpu.asnumpy(late.params[name]))


def test_weights_of_samples_and_samples_of_masks(gpu):
    x, y = data()
    weight = np.arange(50) % 3
    options = OPTIONS | {"optimizer": SGD(0.05), "loss": "softmax_cross_entropy"}
    model, other = classifier(), classifier().to("cuda")
    wanted = model.fit(x, y, sample_weight=weight, **options)
    found = other.fit(gpu.asarray(x), gpu.asarray(y), sample_weight=gpu.asarray(weight), **options)
    for metric in ("loss", "accuracy"):
        np.testing.assert_allclose(found[metric], wanted[metric], rtol=1e-4)
    scores = other.evaluate(x, y, sample_weight=weight)
    assert scores == pytest.approx(model.evaluate(x, y, sample_weight=weight), rel=1e-3)
    samples = other.predict(gpu.asarray(x), key=3, samples=3, batch_size=7)
    assert isinstance(samples, gpu.ndarray)
    np.testing.assert_allclose(
        gpu.asnumpy(samples), model.predict(x, key=3, samples=3), rtol=1e-3, atol=1e-4
    )
    result = training.step(other, SGD(0.05), None, gpu.asarray(x), gpu.asarray(y), 5)
    wanted = training.step(model, SGD(0.05), None, x, y, 5)
    assert float(result.loss) == pytest.approx(wanted.loss, rel=1e-3)


def test_padded_steps_do_not_count(gpu):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 5, 3)).astype(np.float32), rng.integers(0, 4, (6, 5))
    lengths = np.array([5, 0, 2, 4, 1, 3])
    y[np.arange(5) >= lengths[:, None]] = -100
    weight = np.array([1.0, 2.0, 0.5, 1.0, 3.0, 1.0])
    options = {"epochs": 2, "batch_size": 4, "optimizer": SGD(0.1), "progress": False,
               "loss": "softmax_cross_entropy", "lengths": lengths,
               "sample_weight": weight}  # fmt: skip
    model, other = (Sequential([LSTM(6, return_sequences=True), Dense(4)]) for _ in range(2))
    other.to("cuda")
    wanted = model.fit(x, y, **options)
    found = other.fit(gpu.asarray(x), gpu.asarray(y), **options)
    for metric in ("loss", "accuracy"):
        np.testing.assert_allclose(found[metric], wanted[metric], rtol=1e-4)
    for name, array in model.params.items():
        np.testing.assert_allclose(gpu.asnumpy(other.params[name]), array, rtol=1e-3, atol=1e-5)
