"""Training and evaluating on iterables of batches."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from dropcore.data import Preprocessing, prefetch
from dropcore.nn import LSTM, BatchNorm, Dense, Dropout, Sequential
from dropcore.training import Callback

RNG = np.random.default_rng(0)
X = RNG.normal(size=(70, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 70)
WEIGHT = RNG.random(70)
OPTIONS = {"loss": "softmax_cross_entropy", "progress": False, "key": 1}
STARTS = range(0, 70, 16)


def network():
    return Sequential([Dense(12, activation="relu"), BatchNorm(), Dropout(0.5), Dense(3)])


def weights(model):
    return b"".join(array.tobytes() for array in [*model.params.values(), *model.buffers.values()])


def batches(*arrays):
    return [tuple(a[start : start + 16] for a in arrays) for start in STARTS]


class Tensor:
    """As much of a PyTorch tensor as is used."""

    def __init__(self, values):
        self.values = values

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.values, dtype)

    def __len__(self):
        return len(self.values)


class Loader:
    """Begins anew each time, without a length; yields lists, as a DataLoader does."""

    runs = 0

    def __iter__(self):
        self.runs += 1
        for x, y in batches(X, Y):
            yield [Tensor(x), Tensor(y)]


class Sized(Loader):
    def __len__(self):
        return len(STARTS)


def numbers(history):
    return {name: values for name, values in history.items() if name != "seconds"}


@pytest.fixture(scope="module")
def wanted():
    model = network()
    history = model.fit(X, Y, epochs=3, batch_size=16, shuffle=False, validation_data=(X, Y),
                        metrics=["log_loss"], **OPTIONS)  # fmt: skip
    return model, numbers(history)


@pytest.mark.parametrize(
    "make",
    [
        lambda: batches(X, Y),
        lambda: [{"x": x, "y": y} for x, y in batches(X, Y)],
        lambda: [[x.tolist(), y.tolist()] for x, y in batches(X, Y)],
        Loader,
        Sized,
        lambda: prefetch(Loader()),
    ],
)
def test_batches_train_as_arrays_in_their_order_do(wanted, make):
    model, given = network(), make()
    history = model.fit(given, epochs=3, validation_data=(X, Y), metrics=["log_loss"], **OPTIONS)
    assert weights(model) == weights(wanted[0])
    assert numbers(history) == wanted[1]
    found, own = model.evaluate(make()), model.evaluate(X, Y)
    assert found == pytest.approx(own, rel=1e-6)
    if isinstance(given, Loader):
        assert given.runs == 3  # the batch that was checked first is used


def test_validation_on_batches(wanted):
    for held_out in (batches(X, Y), Loader()):
        model = network()
        history = model.fit(X, Y, epochs=3, batch_size=16, shuffle=False, metrics=["log_loss"],
                            validation_data=held_out, **OPTIONS)  # fmt: skip
        assert weights(model) == weights(wanted[0])
        for name, values in wanted[1].items():
            np.testing.assert_allclose(history[name], values, rtol=1e-6)


def test_lists_of_two_arrays_are_a_pair(wanted):
    for held_out in ([X, Y], [X.tolist(), Y.tolist()], (list(X), list(Y))):
        history = network().fit(X, Y, epochs=3, batch_size=16, shuffle=False, metrics=["log_loss"],
                                validation_data=held_out, **OPTIONS)  # fmt: skip
        assert numbers(history) == wanted[1]


def test_weights_of_samples_come_with_the_batches():
    options = {"epochs": 2, "class_weight": {0: 1, 1: 2, 2: 3}, **OPTIONS}
    model, arrays = network(), network()
    model.fit(batches(X, Y, WEIGHT), **options)
    arrays.fit(X, Y, batch_size=16, shuffle=False, sample_weight=WEIGHT, **options)
    assert weights(model) == weights(arrays)


def test_lengths_come_with_the_batches_which_may_differ_in_steps():
    parts = []
    for steps in (5, 3, 4):
        x, lengths = RNG.normal(size=(6, steps, 2)), RNG.integers(1, steps + 1, 6)
        parts.append({"x": x, "y": RNG.integers(0, 3, (6, steps)), "lengths": lengths})
    model, own = (Sequential([LSTM(4, return_sequences=True), Dense(3)]) for _ in range(2))
    found = model.fit(parts, epochs=2, **OPTIONS)
    for _ in range(2):
        for part in parts:
            own.fit(**part, epochs=1, batch_size=6, shuffle=False, **OPTIONS)
    assert weights(model) == weights(own)
    assert len(found["loss"]) == 2


def test_a_generator_suits_one_epoch():
    once, anew = network(), network()
    for _ in range(2):
        once.fit(iter(Loader()), epochs=1, **OPTIONS)
    anew.fit(Loader(), epochs=2, **OPTIONS)
    assert weights(once) == weights(anew)
    fresh = network()
    with pytest.raises(TypeError, match=r"x is generator, which yields its batches once, and there "
                       r"are 2 epochs: give a list, .* epochs=1 for each generator"):  # fmt: skip
        fresh.fit(iter(Loader()), epochs=2, **OPTIONS)
    with pytest.raises(TypeError, match=r"validation_data is generator, .* there are 2 epochs"):
        fresh.fit(X, Y, epochs=2, validation_data=iter(Loader()), **OPTIONS)
    assert not fresh.built


def test_what_does_not_begin_anew_is_noticed():
    class Once:
        def __init__(self):
            self.items = iter(batches(X, Y))

        def __iter__(self):
            return self.items

    model = network()
    with pytest.raises(ValueError, match=r"x yields no batches in epoch 2: each iteration"):
        model.fit(Once(), epochs=2, **OPTIONS)
    assert model.training_state.epoch == 1


class Copies(Callback):
    last = True

    def __init__(self):
        self.copies = []

    def on_update_end(self, run):
        self.copies.append(pickle.dumps(run.model))


def test_an_epoch_of_batches_is_finished():
    copies, whole = Copies(), network()
    whole.fit(Loader(), epochs=2, callbacks=[copies], resume=True, **OPTIONS)
    for saved in copies.copies:
        model = pickle.loads(saved)
        history = model.fit(Loader(), epochs=2, resume=True, **OPTIONS)
        assert weights(model) == weights(whole)
        assert numbers(history) == numbers(whole.training_state.history)
    model = pickle.loads(copies.copies[3])
    with pytest.raises(ValueError, match=r"x yields 2 batches in epoch 1, of which 4 are done"):
        model.fit(batches(X, Y)[:2], epochs=2, resume=True, **OPTIONS)
    with pytest.raises(ValueError, match="the same batch_size as before, None, got 32"):
        model.fit(X, Y, epochs=2, resume=True, **OPTIONS)


def test_progress_of_batches(capsys):
    for loader in (Loader(), Sized()):
        network().fit(loader, epochs=2, **OPTIONS | {"progress": True})
        assert "epoch 2/2: loss" in capsys.readouterr().err


# --- what is refused -----------------------------------------------------------------------------

GOOD = batches(X, Y)
BAD = np.where(np.arange(6) == 4, np.nan, X[:9])
WRONG = [
    ({"x": []}, ValueError, "x yields no batch$"),
    ({"x": 7}, TypeError, r"x must be an array with y, or .* batches \(x, y\), got 7"),
    ({"x": {"x": X}}, TypeError, "x must be an array with y, or without it an iterable"),
    ({"x": Loader}, TypeError, "or without it an iterable .* got <class"),
    ({"x": lambda: batches(X, Y)}, TypeError, "<function .*>; call it$"),
    ({"x": X}, TypeError, "y must be an array, got None"),
    ({"x": X.tolist()}, TypeError, r"x: batch 1 must be \(x, y\) .* a list of 6 numbers: if x h"),
    ({"x": X[:, :2].tolist()}, TypeError,
     r"^x: batch 1 must be \(x, y\) or .*, got a list of 2 numbers: if x holds samples, give y$"),
    ({"x": [tuple(X[0, :3])]}, TypeError, "got a tuple of 3 numbers: if x holds samples, give y$"),
    ({"x": [X[:16]]}, TypeError, r"x: batch 1 must be .* of shape \(16, 6\): if x holds samples"),
    ({"x": [{"x": X}]}, ValueError, r"x: batch 1 as a dict must have x and y, .* got \['x'\]"),
    ({"x": [(BAD, Y[:9])]}, ValueError, r"x: batch 1: x must be finite in float32, got nan at \("),
    ({"x": [*GOOD, (X[:9], Y[:9] + 1)]}, ValueError, r"x: batch 6: y: labels must be in \[0, 3\)"),
    ({"x": [*GOOD, (X[:9], Y[:8])]}, ValueError, "x: batch 6: y must hold one target for each of"),
    ({"x": [*GOOD, (X[:9, :5], Y[:9])]}, ValueError, r"batch 6: x must have samples of shape \(6,"),
    ({"x": [*GOOD, (X[:9], Y[:9], -Y[:9] - 1)]}, ValueError, "batch 6: sample_weight must be fin"),
    ({"x": [(x, np.array(["a", "b", "c"])[y]) for x, y in GOOD]}, TypeError,
     r"x: batch 1: y: labels must be integers .* np\.unique"),
    ({"batch_size": 16}, ValueError, "batch_size is for arrays, and .*: the batches are taken as"),
    ({"shuffle": True}, ValueError, "shuffle is for arrays"),
    ({"lengths": Y}, ValueError, "lengths is for arrays, .*: batches may be dicts of x, y and"),
    ({"sample_weight": Y}, ValueError, r"sample_weight is .*: batches may be \(x, y, sample_weig"),
    ({"validation_split": 0.2}, ValueError, "validation_split is for arrays, .* hold some batch"),
    ({"class_weight": "balanced"}, ValueError, "class_weight='balanced' is for arrays, .* a dict"),
    ({"preprocessing": Preprocessing()}, ValueError, "preprocessing is for arrays, .* transform"),
    ({"scale_targets": True}, ValueError, r"scale_targets is for arrays, .*\.TargetScaling"),
    ({"validation_data": [(X, Y), (X, Y + 9)]}, ValueError, "validation_data: batch 2: y: labels"),
    ({"validation_data": []}, TypeError, "a pair of arrays .* or an iterable of batches, got"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "error", "text"), WRONG, ids=[row[2] for row in WRONG])
def test_batches_that_are_refused(options, error, text):
    model = network()
    usual = {"x": GOOD, "epochs": 2} | OPTIONS
    with pytest.raises(error, match=text):
        model.fit(**usual | options)
    # Later batches are checked when they come.
    assert model.built is ("batch 6" in text or "batch 2" in text)


def test_evaluate_refuses_arrays_beside_batches():
    model = network()
    model.fit(GOOD, epochs=1, **OPTIONS)
    for name in ("lengths", "sample_weight"):
        with pytest.raises(ValueError, match=f"^{name} is for arrays, .* dicts of x, y, lengths"):
            model.evaluate(GOOD, **{name: Y})


def test_batches_are_not_recorded(monkeypatch):
    model = network()
    monkeypatch.setattr("dropcore.training._fit._check_graph", lambda *args, **options: None)
    with pytest.raises(ValueError, match="cuda_graph is for arrays"):
        model.fit(GOOD, epochs=1, cuda_graph=True, **OPTIONS)
