"""The training loop: repeats, goes on, goes back, and refuses what cannot be meant."""

from __future__ import annotations

import copy
import itertools
import math
import pickle

import numpy as np
import pytest

import dropcore
from dropcore import Key, _core, reference, training
from dropcore.constraints import MaxNorm
from dropcore.losses import softmax_cross_entropy
from dropcore.nn import (
    GRU,
    LSTM,
    BatchNorm,
    ConcreteDropout,
    Conv1D,
    Dense,
    Dropout,
    Embedding,
    EmbeddingDropout,
    Flatten,
    GlobalMaxPool1D,
    Layer,
    Sequential,
    SimpleRNN,
)
from dropcore.optim import SGD, Adam

OPTIMIZER = SGD(0.1, momentum=0.9)


def blobs(samples=150, features=6, classes=3, seed=0):
    """Three clouds, a classifier's simplest task."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, samples)
    centres = np.random.default_rng(99).normal(size=(classes, features))
    return (centres[y] + 0.3 * rng.normal(size=(samples, features))).astype(np.float32), y


def network(units=16):
    return Sequential(
        [Dropout(0.1), Dense(units, activation="relu"), Dropout(0.5), Dense(3)],
    )


def weights(model):
    return b"".join(array.tobytes() for array in model.params.values())


X, Y = blobs()


# --- repeats, and goes on ------------------------------------------------------------------------


def test_it_learns():
    model = network()
    history = model.fit(X, Y, epochs=20, optimizer=OPTIMIZER, key=1, validation_data=blobs(seed=1))
    assert history["loss"][-1] < 0.5 * history["loss"][0]
    assert history["val_accuracy"][-1] > 0.95
    assert model.evaluate(X, Y)["accuracy"] > 0.95


def test_the_same_seed_repeats_every_bit_for_any_number_of_threads():
    # Large enough for the products and the masks to be shared among threads.
    x, y = blobs(520, features=300)
    found = set()
    before = dropcore.get_num_threads()
    try:
        for threads in (1, 2, 3, 2):
            dropcore.set_num_threads(threads)
            dropcore.masked_matmul(x[:256], np.ones((300, 700), np.float32))
            assert _core.last_team_size() == (threads if dropcore.build_info()["openmp"] else 1)
            model = network(units=700)
            model.fit(x, y, epochs=2, batch_size=256, optimizer=OPTIMIZER, key=5)
            found.add(weights(model))
    finally:
        dropcore.set_num_threads(before)
    assert len(found) == 1


def test_another_seed_is_another_run():
    found = set()
    for key in (5, 6):
        model = network()
        model.build((6,), key=0)
        model.fit(X, Y, epochs=1, optimizer=OPTIMIZER, key=key)
        found.add(weights(model))
    assert len(found) == 2


@pytest.mark.parametrize(
    "between", [lambda m: m, copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))]
)
def test_a_second_fit_goes_on(between):
    once = network()
    history = once.fit(X, Y, epochs=5, optimizer=OPTIMIZER, key=2)
    twice = network()
    first = twice.fit(X, Y, epochs=2, optimizer=OPTIMIZER, key=2)
    twice = between(twice)
    second = twice.fit(X, Y, epochs=3, optimizer=OPTIMIZER, key=2)
    assert weights(once) == weights(twice)
    assert first.epochs + second.epochs == history.epochs == [1, 2, 3, 4, 5]
    assert first["loss"] + second["loss"] == history["loss"]


def test_another_learning_rate_keeps_the_velocity_and_another_momentum_starts_one():
    model = network()
    model.fit(X, Y, epochs=1, optimizer=OPTIMIZER, key=2)
    velocity = model.training_state.slots["velocity"]["1.weight"]
    model.fit(X, Y, epochs=1, optimizer=SGD(1e-3, momentum=0.5), key=2)
    assert model.training_state.slots["velocity"]["1.weight"] is velocity
    model.fit(X, Y, epochs=1, optimizer=SGD(1e-3), key=2)
    assert model.training_state.slots == {}
    model.fit(X, Y, epochs=1, optimizer=OPTIMIZER, key=2)
    assert model.training_state.slots["velocity"].keys() == model.params.keys()


class Witness(Layer):
    """Draws nothing, remembers the addresses it was given."""

    own_streams = 1

    def __init__(self):
        super().__init__()
        self.seen = []

    def output_shape(self, input_shape):
        return input_shape

    def forward(self, x, *, key=None, row_offset=0):
        self.seen.append((key, row_offset, len(x)))
        return x, lambda dy: (dy, {})


def test_masks_are_addressed_by_seed_site_update_and_row():
    witness = Witness()
    model = Sequential([Dropout(0.5), witness, Dense(3)])
    key = Key(7, stream=10, step=1000)
    for _ in range(2):
        model.fit(X, Y, epochs=1, batch_size=64, optimizer=OPTIMIZER, key=key)
    assert witness.seen == [
        (Key(7, stream=11, step=1000 + step), 0, size)
        for step, size in enumerate([64, 64, 22, 64, 64, 22])
    ]


def test_masks_go_on_with_another_optimiser():
    witness = Witness()
    model = Sequential([Dropout(0.5), witness, Dense(3)])
    for optimizer in (OPTIMIZER, Adam(0.01), SGD(0.1)):
        model.fit(X, Y, epochs=1, batch_size=64, optimizer=optimizer, key=7)
    assert [key.step for key, _, _ in witness.seen] == list(range(9))


def test_every_sample_is_seen_once_an_epoch_in_another_order():
    seen = []

    def loss(out, targets):
        seen.append(targets)
        return 0.0, np.zeros_like(out)

    Sequential([Dense(3)]).fit(
        X, np.arange(150), epochs=2, batch_size=40, optimizer=OPTIMIZER, loss=loss
    )
    first, second = np.concatenate(seen[:4]), np.concatenate(seen[4:])
    assert not np.array_equal(first, second)
    for order in (first, second):
        assert not np.array_equal(order, np.arange(150))
        np.testing.assert_array_equal(np.sort(order), np.arange(150))


def test_the_order_of_an_epoch_is_a_permutation_of_its_own():
    seen = []

    def loss(out, targets):
        seen.append(targets)
        return 0.0, np.zeros_like(out)

    key = Key(2**64 - 5, stream=3)
    model = Sequential([Dense(3)])
    fit(model, y=np.arange(150), epochs=3, batch_size=150, loss=loss, key=key)
    for epoch, order in enumerate(seen):
        wanted = reference.permutation(150, np.arange(150), seed=2**64 - 5, step=epoch)
        np.testing.assert_array_equal(order, wanted)


def test_a_callback_may_freeze_a_layer_for_some_epochs():
    model = network()
    after = []

    def freeze(epoch, metrics):
        model[1].trainable = epoch != 2  # the third epoch
        after.append(model.params["1.weight"].copy())

    fit(model, epochs=4, callbacks=[freeze])
    moved = [not np.array_equal(a, b) for a, b in itertools.pairwise(after)]
    assert moved == [True, False, True]


# --- what it returns -----------------------------------------------------------------------------


def test_history_is_weighted_by_the_samples():
    model = Sequential([Dense(3)])
    model.build((6,), key=0)
    still = SGD(1e-30)
    history = model.fit(
        X, Y, epochs=2, batch_size=64, optimizer=still, validation_data=(X[:70], Y[:70])
    )
    found = model.evaluate(X, Y)
    assert history["loss"] == pytest.approx([found["loss"]] * 2, rel=1e-6)
    assert history["accuracy"] == [found["accuracy"]] * 2
    validation = model.evaluate(X[:70], Y[:70])
    assert history["val_loss"] == [validation["loss"]] * 2
    assert history["val_accuracy"] == [validation["accuracy"]] * 2
    assert model.evaluate(X, Y, batch_size=64)["loss"] == pytest.approx(found["loss"], rel=1e-6)
    assert len(history["seconds"]) == 2
    assert repr(history).startswith(f"<History of 2 epochs; the last: loss={found['loss']:.3g}")
    with pytest.raises(KeyError, match="'val_accuracy', 'seconds', not 'acc'"):
        history["acc"]


def test_predict_is_the_model_without_noise():
    model = network()
    model.build((6,), key=0)
    out = model.predict(X, batch_size=64)
    assert out.shape == (150, 3)
    np.testing.assert_allclose(out, model(X), rtol=1e-5, atol=1e-6)
    found = model.evaluate(X, Y, loss="softmax_cross_entropy")
    assert np.mean(out.argmax(-1) == Y) == found["accuracy"]


def test_lengths_go_with_their_samples():
    model = Sequential([LSTM(3, return_sequences=True), GlobalMaxPool1D(), Dense(2)])
    x, y = np.random.default_rng(1).normal(size=(9, 4, 2)), np.arange(9) % 2
    lengths = np.array([4, 1, 0, 3, 2, 4, 1, 2, 3])
    history = model.fit(
        x, y, epochs=1, optimizer=SGD(1e-9), lengths=lengths, batch_size=4, progress=False,
        validation_data=(x, y, lengths),
    )  # fmt: skip
    out = model(x.astype(np.float32), lengths=lengths)
    wanted = softmax_cross_entropy(out, y)[0]
    np.testing.assert_allclose(model.predict(x, lengths=lengths, batch_size=5), out, 1e-5, 1e-6)
    found = model.evaluate(x, y, lengths=lengths, batch_size=5)["loss"]
    np.testing.assert_allclose([found, *history["loss"], *history["val_loss"]], wanted, 1e-5)
    assert abs(model.evaluate(x, y)["loss"] - wanted) > 1e-3


def test_a_loss_may_be_a_function():
    target = (X @ np.ones((6, 2))).astype(np.float32)

    def squares(out, y):
        return float(np.mean((out - y) ** 2)), 2 * (out - y).astype(np.float64) / out.size

    model = Sequential([Dense(2)])
    history = model.fit(X, target, epochs=300, optimizer=SGD(0.1), loss=squares)
    assert set(history.metrics) == {"loss", "seconds"}
    assert history["loss"][-1] < 1e-3
    np.testing.assert_allclose(model.params["0.weight"], np.ones((6, 2)), atol=0.05)


def test_no_epochs_builds_only():
    model = network()
    assert model.fit(X, Y, epochs=0, optimizer=OPTIMIZER, key=4).epochs == []
    built = network()
    built.build((6,), key=4)
    assert weights(model) == weights(built)


# --- what it takes -------------------------------------------------------------------------------


def memory_map(x, path):
    found = np.memmap(path / "x.bin", x.dtype, "w+", shape=x.shape)
    found[:] = x
    found.flush()
    return np.memmap(path / "x.bin", x.dtype, "r", shape=x.shape)


PIXELS = np.random.default_rng(0).integers(0, 4, (150, 6)).astype(np.uint8)


@pytest.mark.parametrize(
    "as_given",
    [
        lambda x, _: x.astype(np.float64),
        lambda x, _: np.asfortranarray(x),
        lambda x, _: np.repeat(x, 2, axis=1)[:, ::2],
        lambda x, _: x.astype(np.uint8),
        lambda x, _: x.astype(">i4"),
        lambda x, _: x.astype(np.float16),
        lambda x, _: x.tolist(),
        memory_map,
    ],
    ids=["float64", "fortran", "strided", "uint8", "big-endian", "float16", "list", "memmap"],
)
def test_data_may_come_in_any_form(as_given, tmp_path):
    plain = network()
    x = PIXELS.astype(np.float32)
    plain.fit(x, Y, epochs=2, optimizer=OPTIMIZER, key=3)
    model = network()
    given = as_given(x, tmp_path)
    if isinstance(given, np.ndarray):
        given.flags.writeable = False
    labels = Y.astype(np.uint8)
    labels.flags.writeable = False
    model.fit(given, labels, epochs=2, optimizer=OPTIMIZER, key=3)
    assert weights(model) == weights(plain)
    np.testing.assert_array_equal(model.predict(given), plain.predict(x))


def test_a_float64_model_stays_one():
    model = network()
    model.build((6,), key=0, dtype=np.float64)
    model.fit(X, Y, epochs=1, optimizer=OPTIMIZER, key=3)
    assert {array.dtype for array in model.params.values()} == {np.dtype(np.float64)}
    assert model.predict(X).dtype == np.float64


def fit(model=None, x=X, y=Y, **options):
    usual = {"epochs": 1, "optimizer": OPTIMIZER, "key": 0}
    return (model or network()).fit(x, y, **usual | options)


def spoiled(value, dtype=np.float32):
    x = X.astype(dtype)
    x[149, 4] = value
    return x


WRONG = [
    ({"key": "7"}, TypeError, "'7'"),
    ({"key": -1}, ValueError, "-1"),
    ({"epochs": -1}, ValueError, "at least 0, got -1"),
    ({"epochs": 1.5}, TypeError, "integer, got 1.5"),
    ({"batch_size": 0}, ValueError, "at least 1, got 0"),
    ({"batch_size": "32"}, TypeError, "integer, got '32'"),
    ({"shuffle": "yes"}, TypeError, "shuffle must be"),
    ({"cuda_graph": 1}, TypeError, "cuda_graph must be"),
    ({"optimizer": 0.1}, TypeError, r"as SGD\(0.1\) has, got 0.1"),
    ({"optimizer": SGD}, TypeError, "got <class"),
    ({"loss": "l2"}, ValueError, "'softmax_cross_entropy', .* or a callable, got 'l2'"),
    ({"x": X[:149]}, ValueError, "each of the 149 samples, got 150"),
    ({"y": np.int64(3)}, ValueError, r"150 samples, got shape \(\)"),
    ({"x": X[:0], "y": Y[:0]}, ValueError, r"not empty, got \(0, 6\)"),
    ({"x": X[:, :0]}, ValueError, r"not empty, got \(150, 0\)"),
    ({"x": X[:, 0]}, ValueError, r"layer 1, Dense\(16, .* got \(\)"),
    ({"x": X.astype(complex)}, TypeError, "real numbers, got dtype complex128"),
    ({"x": X.astype(str)}, TypeError, "real numbers, got dtype <U"),
    ({"x": spoiled(np.nan)}, ValueError, r"finite in float32, got nan at \(149, 4\)"),
    ({"x": spoiled(-np.inf)}, ValueError, r"finite in float32, got -inf at \(149, 4\)"),
    ({"x": spoiled(1e300, np.float64)}, ValueError, r"finite in float32, got 1e\+300 at"),
    ({"y": Y.astype(float)}, TypeError, r"integers in \[0, 3\), got dtype float64"),
    ({"y": Y % 2 + 2}, ValueError, r"y has "),
    ({"y": np.eye(4, dtype=int)[Y]}, ValueError, r"shape \(150, 3\), .* got \(150, 4\)"),
    ({"validation_data": (X[:, :5], Y)}, ValueError, r"shape \(6,\), as x has, got \(5,\)"),
    ({"validation_data": (spoiled(np.nan), Y)}, ValueError, "validation x must be finite"),
    ({"validation_data": (X, Y[1:])}, ValueError, "validation y must hold .* got 149"),
    ({"validation_data": 0.2}, TypeError, r"a pair of arrays \(x, y\), .* got float"),
    ({"validation_data": (X, Y + 1)}, ValueError, r"\[0, 3\), the network's outputs, got 3"),
    ({"validation_data": (X, Y - 1)}, ValueError, "got -1"),
]


@pytest.mark.parametrize(("options", "error", "message"), WRONG, ids=[row[2] for row in WRONG])
def test_bad_input_is_refused_before_anything_changes(options, error, message):
    fresh, trained = network(), network()
    fit(trained)
    # A model that was trained on 6 features names what it expects, a fresh one what it needs.
    before = weights(trained), copy.deepcopy(vars(trained.training_state))
    for model in (fresh, trained):
        with pytest.raises(error, match=message):
            fit(model, **options)
    assert not fresh.built
    assert fresh.training_state is None
    assert weights(trained) == before[0]
    assert trained.training_state.step == before[1]["step"]


def test_the_key_of_the_last_fit_is_used_again():
    given, remembered = network(), network()
    with pytest.raises(ValueError, match=r"layer 0, Dropout\(0.1\); layer 2, .* such as key=0"):
        fit(given, key=None)
    assert not given.built
    for _ in range(2):
        fit(given, key=5)
    fit(remembered, key=5)
    fit(remembered, key=None)
    assert weights(given) == weights(remembered)
    assert remembered.training_state.key == Key(5)


def test_the_place_of_a_bad_number_is_right_in_any_block(monkeypatch):
    from dropcore._base import blocks

    monkeypatch.setattr(blocks, "_BLOCK", 60)
    with pytest.raises(ValueError, match=r"got nan at \(149, 4\)"):
        fit(x=spoiled(np.nan))


def test_sparse_data_and_unbuilt_models_are_refused():
    from scipy.sparse import csr_array

    with pytest.raises(TypeError, match=r"dense array, got csr_array; use \.toarray"):
        fit(x=csr_array(X))
    with pytest.raises(ValueError, match=r"layer 1, .* has no weights yet"):
        network().predict(X)
    with pytest.raises(ValueError, match=r"layer 1, .* has no weights yet"):
        network().evaluate(X, Y, loss="softmax_cross_entropy")


def test_a_model_without_dropout_needs_no_key():
    given, default = Sequential([Dense(3)]), Sequential([Dense(3)])
    fit(given, key=0)
    fit(default, key=None)
    assert weights(given) == weights(default)


def test_a_recurrent_layer_needs_a_key_where_it_draws():
    x, y = np.ones((4, 5, 3)), np.arange(4) % 2
    Sequential([LSTM(2)]).fit(x, y, epochs=1, optimizer=SGD(0.1), progress=False)
    for layer in (LSTM(2, zoneout=0.1), GRU(2, dropout=lambda step: 0.1)):
        with pytest.raises(ValueError, match=rf"draws masks \(layer 0, {type(layer).__name__}"):
            Sequential([layer]).fit(x, y, epochs=1, optimizer=SGD(0.1), progress=False)


def test_layers_that_hold_others_need_a_key_where_they_draw():
    words, x, y = np.zeros((4, 3), np.int64), np.ones((4, 3)), np.arange(4) % 2
    concrete = Sequential([ConcreteDropout(Dense(2), data_points=4)])
    with pytest.raises(ValueError, match=r"draws masks \(layer 0, ConcreteDropout\("):
        concrete.fit(x, y, epochs=1, optimizer=SGD(0.1), progress=False)
    forgetting = Sequential([EmbeddingDropout(Embedding(5, 2), 0.5), Flatten(), Dense(2)])
    with pytest.raises(ValueError, match=r"draws masks \(layer 0, EmbeddingDropout\("):
        forgetting.fit(words, y, epochs=1, optimizer=SGD(0.1), progress=False)


# --- constraints, failures, interrupts -----------------------------------------------------------


def bounded(bound):
    return Sequential(
        [
            Dense(20, activation="relu", constraint=MaxNorm(bound)),
            Dropout(0.5),
            Sequential([Dense(3, constraint=MaxNorm(bound / 2))]),
        ]
    )


def test_weights_end_inside_the_ball():
    model = bounded(0.5)
    fit(model, epochs=3)
    for name, bound in [("0.weight", 0.5), ("2.0.weight", 0.25)]:
        norms = np.linalg.norm(model.params[name].astype(np.float64), axis=0)
        assert (norms <= bound).all()
        assert norms.max() > 0.999 * bound
    free = bounded(math.inf)
    fit(free, epochs=3)
    assert np.linalg.norm(free.params["0.weight"], axis=0).max() > 0.6


def stop_at(step, action):
    """Cross-entropy that does something else at one update."""
    calls = iter(range(10**6))

    def loss(out, labels):
        return action(out, labels) if next(calls) == step else softmax_cross_entropy(out, labels)

    return loss


def test_a_loss_that_is_not_finite_goes_back_to_the_start_of_the_epoch():
    good = network()
    fit(good, epochs=2, key=8)
    model = network()
    loss = stop_at(13, lambda out, labels: (math.nan, out))
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 13, in epoch 3: .* itself"):
        fit(model, epochs=5, key=8, loss=loss)
    assert weights(model) == weights(good)
    assert (model.training_state.step, model.training_state.epoch) == (10, 2)
    # The optimiser's state is back too, else the next epochs would differ.
    for each in (model, good):
        fit(each, epochs=1, key=8)
    assert weights(model) == weights(good)


def test_running_means_go_back_too():
    model = Sequential([BatchNorm(), Dense(3)])
    model.fit(X, Y, epochs=1, optimizer=SGD(0.1), progress=False)
    before = {name: array.copy() for name, array in model.buffers.items()}
    held, calls = model.buffers, []

    def loss(out, labels):
        calls.append(any((held[name] != before[name]).any() for name in held))
        value, gradient = softmax_cross_entropy(out, labels)
        return (math.nan if len(calls) == 3 else value), gradient

    with pytest.raises(FloatingPointError):
        model.fit(X, Y, epochs=1, optimizer=SGD(0.1), loss=loss, progress=False)
    assert calls == [False, True, True]
    for name, array in before.items():
        np.testing.assert_array_equal(held[name], array)


def test_padding_is_not_to_blame_for_a_loss_that_is_not_finite():
    model = Sequential(
        [Conv1D(2, 1, stride=2), SimpleRNN(4, activation="relu", return_sequences=True),
         GlobalMaxPool1D(), Dense(2)]
    )  # fmt: skip
    x, lengths = np.ones((3, 7, 2), np.float32), np.array([7, 3, 1])
    x[1:, 3:] = 1e37
    model.build((7, 2), key=0)
    model.params["0.weight"][:] = model.params["1.weight"][:] = 4

    def loss(out, labels):
        assert np.isfinite(out).all()
        return math.nan, out

    with pytest.raises(FloatingPointError, match="it is the loss itself that is not"):
        model.fit(x, np.zeros(3), epochs=1, optimizer=SGD(0.1), loss=loss, lengths=lengths)


def test_a_rate_that_is_learned_is_among_the_weights_that_are_checked():
    model = Sequential([ConcreteDropout(Dense(2), data_points=math.inf)])
    model.build((3,), key=0)
    model.params["0.logit"][:] = np.nan
    with pytest.raises(FloatingPointError, match="in the logit of layer 0, ConcreteDropout"):
        model.fit(np.ones((4, 3)), np.arange(4) % 2, epochs=1, optimizer=SGD(0.1), key=1)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("path", "layer"), [("1", r"Dense\(16, "), ("3", r"Dense\(3\)")])
def test_weights_that_are_not_finite_are_named(path, layer, value):
    model = network()
    fit(model)
    model.params[f"{path}.weight"][2, 1] = value
    before, step = weights(model), model.training_state.step
    with pytest.raises(
        FloatingPointError, match=rf"weight of layer {path}, {layer}.*smaller learn"
    ):
        fit(model)
    assert weights(model) == before
    assert model.training_state.step == step


def test_a_learning_rate_that_is_too_large():
    model = network()
    with pytest.raises(FloatingPointError, match=r"at step \d+, in epoch 1: .* layer [13], Dense"):
        fit(model, optimizer=SGD(1e30), epochs=3)
    fresh = network()
    fresh.build((6,), key=0)
    assert weights(model) == weights(fresh)
    fit(model, epochs=20)
    assert model.evaluate(X, Y)["accuracy"] > 0.9


def test_weights_spoiled_by_the_last_update_are_noticed():
    def infinite(out, labels):
        return 1.0, np.full_like(out, np.inf)

    model = network()
    with pytest.raises(FloatingPointError, match=r"are not finite at step 5, .*layer 1, Dense"):
        fit(model, loss=stop_at(4, infinite))
    assert np.isfinite(np.frombuffer(weights(model), np.float32)).all()


def test_finite_weights_may_have_an_infinite_sum():
    model = Sequential([Dense(3)])
    model.build((6,), key=0)
    model.params["0.weight"][:] = 1e38
    model.params["0.weight"][0] = 0

    def still(out, labels):
        return 0.0, np.zeros_like(out)

    fit(model, loss=still)
    assert model.training_state.epoch == 1
    model.params["0.weight"][0, :2] = np.inf, -np.inf
    with pytest.raises(FloatingPointError, match="2 of the 18 values in the weight"):
        fit(model, loss=still)


class Interrupted(SGD):
    """The user presses Ctrl-C in the middle of an update."""

    def apply(self, params, grads, state, step, constraints):
        super().apply(params, grads, state, step, constraints)
        if step == 7:
            for array in params.values():
                array *= 3
            raise KeyboardInterrupt


def test_an_interrupt_leaves_a_usable_model():
    model = bounded(0.5)
    with pytest.raises(KeyboardInterrupt):
        fit(model, epochs=5, optimizer=Interrupted(0.1))
    assert model.training_state.step == 7
    assert (np.linalg.norm(model.params["0.weight"].astype(float), axis=0) <= 0.5).all()
    assert np.isfinite(model.predict(X)).all()
    fit(model, epochs=20)
    assert model.evaluate(X, Y)["accuracy"] > 0.9


def test_an_optimiser_of_another_kind_begins_at_its_first_step():
    x, y = np.random.default_rng(0).standard_normal((32, 4), dtype=np.float32), np.arange(32) % 2
    model = Sequential([Dense(2)])
    model.fit(x, y, epochs=500, optimizer=SGD(1e-6), progress=False)
    before = model.params["0.weight"].copy()
    steps = []

    def rate(step):
        steps.append(step)
        return 0.01

    model.fit(x, y, epochs=1, optimizer=Adam(rate), progress=False)
    assert steps == [0]
    # The first step of Adam is learning_rate * sign(gradient).
    np.testing.assert_allclose(abs(model.params["0.weight"] - before), 0.01, rtol=1e-3)
    model.fit(x, y, epochs=2, optimizer=Adam(rate), progress=False)
    assert steps == [0, 1, 2]
    assert model.training_state.step == 503


def test_what_fails_before_an_update_leaves_the_training_state_as_it_was():
    def broken(outputs, targets):
        raise ZeroDivisionError

    x, y = np.eye(6, dtype=np.float32), np.arange(6) % 2
    options = {"epochs": 1, "progress": False}
    for train in (
        lambda model: model.fit(x, y, loss=broken, optimizer="sgd", key=3, **options),
        lambda model: training.step(model, "sgd", broken, x, y, key=3),
    ):
        model = Sequential([Dense(2)])
        with pytest.raises(ZeroDivisionError):
            train(model)
        assert model.training_state is None
        model.fit(x, y, **options)
        state = model.training_state
        before = dict(vars(state))
        with pytest.raises(ZeroDivisionError):
            train(model)
        assert model.training_state is state
        assert vars(state) == before
        assert model.evaluate(x, y)["accuracy"] >= 0


def test_what_fails_after_an_update_leaves_the_loss_of_the_update():
    calls = []

    def breaks(outputs, targets):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError
        return 1.0, np.ones_like(outputs)

    model = Sequential([Dense(2)])
    with pytest.raises(ZeroDivisionError):
        model.fit(np.eye(6), np.arange(6), loss=breaks, batch_size=3, epochs=1, progress=False)
    assert model.training_state.loss is breaks
    assert model.training_state.step == 1
