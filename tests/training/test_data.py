"""What is refused as data, and what the messages say; data frames, padding, weights of samples."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import Key
from dropcore.losses import softmax_cross_entropy
from dropcore.nn import (
    LSTM,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalMaxPool2D,
    Sequential,
)
from dropcore.optim import SGD
from dropcore.training import Callback

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype(np.float32)
Y = np.arange(12) % 3


class Frame:
    """As much of a data frame as is looked at."""

    def __init__(self, values, columns, dtypes=None):
        self.values, self.columns = np.asarray(values), columns
        self.dtypes = dtypes or [self.values.dtype] * len(columns)

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __len__(self):
        return len(self.values)

    def __getitem__(self, columns):
        return Frame(self.values[:, [self.columns.index(c) for c in columns]], columns)


class Nullable:
    """A dtype that is not NumPy's."""

    kind = "f"

    def __str__(self):
        return "Float64"


class Loader:
    """Yields batches."""

    def __iter__(self):
        return iter([(X, Y)])


def objects(*values):
    return np.array([[*values]] * 12, object)


NOT_DATA = [
    ({"x": None}, TypeError, "x must be an array, got None"),
    ({"y": None}, TypeError, "y must be an array, got None"),
    ({"x": {"a": X}}, TypeError, "x must be an array, got dict"),
    ({"y": {1, 2}}, TypeError, "y must be an array, got set"),
    ({"x": "data.csv"}, TypeError, "x must be an array, got str"),
    ({"x": (row for row in X)}, TypeError, r"got generator: concatenate .* yields batches \(x, y"),
    ({"x": Loader()}, TypeError, r"got Loader: concatenate .* leave y out"),
    ({"y": iter(Y)}, TypeError, "y must be an array with all samples, got .*iterator"),
    ({"x": np.ma.masked_array(X)}, TypeError, r"x must .* got a masked array: use \.filled"),
    ({"y": np.ma.masked_array(Y)}, TypeError, r"y must .* got a masked array: use \.filled"),
    ({"x": objects("red", 1.0)}, TypeError, "dtype object that holds float, str: encode text"),
    ({"x": objects(None, 1.0)}, TypeError, "holds NoneType, float: .* fill what is missing"),
    ({"x": X.astype(str)}, TypeError, "x must be .* real numbers, got dtype <U.*encode text"),
    ({"x": X.astype("M8[s]")}, TypeError, "convert times to numbers"),
    ({"x": Frame(objects("red", 1.0), ["colour", "size"], ["object", np.dtype(float)])}, TypeError,
     r"the columns 'colour' \(object\) are not NumPy numbers: fit\(preprocessing=.* encodes text"),
    ({"x": Frame(objects(1.0, 1.0), ["a", "b"], [Nullable(), np.dtype(float)])}, TypeError,
     r"the columns 'a' \(Float64\) .*: fit\(preprocessing=dropcore\.data\.Preprocessing\(\)\)"),
    ({"x": X[:, 0]}, ValueError, r"x must be of shape \(samples, features\), got \(12,\): x\["),
    ({"x": Y, "y": X}, ValueError, "are x and y swapped"),
    ({"y": Y.astype(float)}, TypeError, r"^y: labels must be integers .*\.astype\(np\.int64\)"),
    ({"y": np.where(Y > 1, np.nan, 0.0)}, TypeError, "^y: .* float64: NaN is no label: leave out"),
    ({"y": Y > 1}, ValueError, "^y has 2 classes, False, True, and the model 3 outputs: the last"),
    ({"y": Y * 2 % 5 + 1}, None, ""),
    ({"y": np.arange(12) % 4}, ValueError, r"^y has 4 classes, 0, 1, 2, 3, .* 3 outputs: the last "
     r"layer must have 4 units, or labels must be in \[0, 3\)"),
    ({"y": np.full(12, 7)}, ValueError, "^y has 1 class, 7, .* there is nothing to learn"),
    ({"y": ["a"] * 12}, ValueError, "^y has 1 class, 'a', .* there is nothing to learn$"),
    ({"y": ["a", "b"] * 6}, ValueError, "^y has 2 classes, 'a', 'b', .* must have 2 units$"),
    ({"y": [1, "b"] * 6}, ValueError, "^y has 2 classes, '1', 'b'"),
    ({"y": np.array([1, "b"] * 6, object)}, TypeError, "^y must .* objects of type int, str"),
    ({"y": np.array(["a", "b", None] * 4, object)}, ValueError,
     "^y must have a target for each sample, got None at 2: leave out"),
    ({"y": np.array([[1.0, np.nan]] * 12, object)}, ValueError, r"got nan at \(0, 1\)"),
    ({"validation_data": (X, Y + 1)}, ValueError, r"^validation y: labels must be in \[0, 3\)"),
    ({"y": Y + 1, "validation_data": (X, Y)}, ValueError, "^validation y has the label 0 at 0, .* "
     "none of the classes that the model was fitted to, 1, 2, 3$"),
    ({"y": (Y + 1).astype(str), "validation_data": (X, Y + 1)}, ValueError,
     "^validation y has the label 1 at 0, .* fitted to, '1', '2', '3'$"),
    ({"validation_data": (X, Y.astype(float))}, TypeError, "^validation y: labels must be int"),
    ({"validation_data": (X[:, 0], Y)}, ValueError, r"validation x must .* got \(12,\)"),
    ({"validation_data": (None, Y)}, TypeError, "validation x must be an array, got None"),
    ({"validation_data": (X, Y, Y)}, ValueError, "third part of a tuple are lengths .* no layer"),
    ({"validation_data": {"x": X, "y": Y, "lengths": Y}}, ValueError,
     "validation lengths: no layer of the model"),
    ({"validation_data": {"x": X, "weights": Y}}, ValueError,
     r"a dict must have x and y, and may .* got \['weights', 'x'\]"),
    ({"validation_data": {"x": X, "y": Y, "sample_weight": -1.0 * Y}}, ValueError,
     "^validation sample_weight must be finite and not negative"),
    ({"validation_data": (X,)}, TypeError, r"a pair of arrays \(x, y\), .* got an object of type"),
    ({"sample_weight": Y}, None, ""),
    ({"sample_weight": -1.0 * Y}, ValueError, "sample_weight must be finite and not negative"),
    ({"sample_weight": np.ma.masked_array(Y)}, TypeError, "sample_weight .* masked array"),
    ({"sample_weight": Y, "loss": lambda out, y: (0.0, out)}, TypeError, "sample_weight needs a"),
    ({"callbacks": 3}, TypeError, "callbacks must be a list of callbacks and functions .* got 3$"),
    ({"callbacks": print}, TypeError, "got <built-in function print>; put it into a list"),
    ({"callbacks": [3]}, TypeError, r"objects such as EarlyStopping\(\), or functions .* got 3$"),
    ({"callbacks": [Callback]}, TypeError, r"callbacks must hold objects .* got <class"),
    ({"resume": 1}, TypeError, "resume must be True or False, got 1"),
    ({"epochs": True}, TypeError, "epochs must be an integer, got True"),
    ({"optimizer": "adm"}, ValueError, "'adam' or 'sgd'"),
    ({"cuda_graph": True}, ValueError, r"use model\.to\('cuda'\)"),
    ({"key": Key(1, stream=2**28 - 1)}, ValueError, "from 2 streams, .* at most 268435454"),
    ({"key": Key(1, step=2**32 - 1)}, ValueError, r"2 steps from step 4294967295 .* 2\*\*32"),
]  # fmt: skip


def network():
    return Sequential([Dropout(0.1), Dense(8), Dropout(0.5), Dense(3)])


@pytest.mark.parametrize(("options", "error", "text"), NOT_DATA, ids=[row[2] for row in NOT_DATA])
def test_what_is_refused_before_anything_changes(options, error, text):
    model = network()
    usual = {"x": X, "y": Y, "epochs": 1, "batch_size": 6, "loss": "softmax_cross_entropy",
             "key": 1, "progress": False}  # fmt: skip
    if error is None:
        model.fit(**usual | options)
        return
    with pytest.raises(error, match=text):
        model.fit(**usual | options)
    assert not model.built
    assert model.training_state is None


@pytest.mark.parametrize("x", [None, np.ma.masked_array(X), X[:, 0], objects("a"), Loader()])
def test_predict_and_evaluate_refuse_them_too(x):
    model = network()
    model.build((6,), key=1)
    for call in (model.predict, lambda x: model.evaluate(x, Y, loss="mse")):
        with pytest.raises((TypeError, ValueError), match=r"^x must be"):
            call(x)


@pytest.mark.parametrize(
    ("found", "text"),
    [
        ((np.zeros((12, 3)), 1.0), r"an array of shape \(12, 3\), 1\.0\); is the order \(gradient"),
        (np.zeros((12, 3)), r"got an array of shape \(12, 3\)$"),
        ((1.0, np.zeros(3), None), r"got \(1\.0, an array of shape \(3,\), None\)$"),
    ],
)
def test_what_a_loss_returned_is_described_without_its_numbers(found, text):
    with pytest.raises(TypeError, match=text):
        Sequential([Dense(3)]).fit(X, Y, epochs=1, loss=lambda out, y: found, progress=False)


# --- data frames ---------------------------------------------------------------------------------


def test_columns_must_keep_their_order():
    names = ["a", "b", "c", "d", "e", "f"]
    frame = Frame(X, names)
    model = Sequential([Dense(3)])
    options = {"epochs": 1, "loss": "softmax_cross_entropy", "progress": False}
    model.fit(frame, Y, validation_data=(frame, Y), **options)
    assert model.training_state.feature_names == names
    np.testing.assert_array_equal(model.predict(frame), model.predict(frame[names]))
    other = frame[names[::-1]]
    for call in (
        lambda: model.predict(other),
        lambda: model.evaluate(other, Y),
        lambda: model.fit(other, Y, **options),
        lambda: Sequential([Dense(3)]).fit(frame, Y, validation_data=(other, Y), **options),
    ):
        with pytest.raises(ValueError, match=r"x must have the columns .*: the same in another"):
            call()
    with pytest.raises(ValueError, match="missing 'b', 'c'; unknown 'z'"):
        model.predict(Frame(X[:, :5], ["a", "z", "d", "e", "f"]))
    with pytest.warns(UserWarning, match="x has no column names") as record:
        model.predict(X)
    assert record[0].filename == __file__
    for call in (
        lambda: model.fit(X, Y, **options),
        lambda: model.evaluate(X, Y),
    ):
        with pytest.warns(UserWarning, match="x has no column names, and the model was fitted to"):
            call()
    assert model.training_state.feature_names == names
    twin = Sequential([Dense(3)])
    twin.fit(X, Y, **options)
    twin.predict(frame)  # nothing is known of its columns


# --- padding -------------------------------------------------------------------------------------

LENGTHS = np.array([5, 2, 0, 4])
VALID = np.arange(5) < LENGTHS[:, None]


def tagger(units=1):
    model = Sequential([LSTM(4, return_sequences=True), Dense(units)])
    model.build((5, 3), key=1)
    return model


SEQUENCES = RNG.normal(size=(4, 5, 3)).astype(np.float32)


@pytest.mark.parametrize("rubbish", [0.0, 100.0, np.nan, np.inf])
def test_padded_targets_count_nowhere(rubbish):
    targets = RNG.normal(size=(4, 5))
    model = tagger()
    out = model.predict(SEQUENCES, lengths=LENGTHS)[..., 0]
    wanted = np.mean((out - targets)[VALID] ** 2)
    targets[~VALID] = rubbish
    for y in (targets, targets[..., None]):
        for size in (1, 2, 4):
            found = model.evaluate(SEQUENCES, y, lengths=LENGTHS, loss="mse", batch_size=size)
            assert found["loss"] == pytest.approx(wanted, rel=1e-5)
    trained = tagger()
    options = {"lengths": LENGTHS, "loss": "mse", "epochs": 3, "batch_size": 3, "progress": False}
    history = trained.fit(
        SEQUENCES, targets, validation_data=(SEQUENCES, targets, LENGTHS), **options
    )
    clean = tagger()
    again = clean.fit(SEQUENCES, np.where(VALID, targets, 7.0), **options)
    assert history["loss"] == again["loss"]
    assert np.isfinite(history["val_loss"]).all()
    for name, weight in trained.params.items():
        np.testing.assert_array_equal(weight, clean.params[name])


def test_padded_labels_count_in_no_accuracy():
    labels = RNG.integers(0, 3, (4, 5))
    model = tagger(3)
    out = model.predict(SEQUENCES, lengths=LENGTHS)
    accuracy = (out.argmax(-1) == labels)[VALID].mean()
    loss = softmax_cross_entropy(out[VALID], labels[VALID])[0]
    labels[~VALID] = -100
    for size in (1, 3, 4):
        found = model.evaluate(SEQUENCES, labels, lengths=LENGTHS, batch_size=size,
                               loss="softmax_cross_entropy")  # fmt: skip
        assert found == pytest.approx({"loss": loss, "accuracy": accuracy})
    labels[0, 0] = -100  # a step that counts
    with pytest.raises(ValueError, match=r"^y: labels must be in \[0, 3\).*got -100"):
        model.evaluate(SEQUENCES, labels, lengths=LENGTHS, loss="softmax_cross_entropy")


def test_lengths_that_leave_no_step_are_refused():
    y, none = np.zeros((4, 5)), np.zeros(4, int)
    with pytest.raises(
        ValueError, match=r"^lengths leave no step of the outputs: none would count"
    ):
        tagger().evaluate(SEQUENCES, y, lengths=none, loss="mse")
    with pytest.raises(ValueError, match=r"^validation lengths leave no step"):
        tagger().fit(
            SEQUENCES,
            y,
            lengths=LENGTHS,
            loss="mse",
            epochs=1,
            validation_data=(SEQUENCES, y, none),
        )
    tagger().predict(SEQUENCES, lengths=none)


def test_the_gradient_of_padded_steps_is_zero():
    seen = []

    class Watched(Dense):
        def forward(self, x, **options):
            y, inner = super().forward(x, **options)

            def backward(dy, **wanted):
                seen.append(dy)
                return inner(dy, **wanted)

            return y, backward

    model = Sequential([LSTM(4, return_sequences=True), Watched(2)])
    targets = np.full((4, 5, 2), 1e6)
    targets[VALID] = 1
    model.fit(SEQUENCES, targets, lengths=LENGTHS, loss="mse", epochs=1, shuffle=False,
              progress=False)  # fmt: skip
    (dy,) = seen
    assert dy.shape == (4, 5, 2)
    assert not dy[~VALID].any()
    assert dy[VALID].all()


def test_a_function_as_loss_gets_the_valid_steps():
    shapes = []

    def loss(out, y):
        shapes.append((out.shape, y.shape))
        return float(np.mean((out - y) ** 2)), 2 * (out - y) / out.size

    y = np.zeros((4, 5, 1))
    tagger().fit(SEQUENCES, y, lengths=LENGTHS, loss=loss, epochs=1, progress=False)
    assert shapes == [((11, 1), (11, 1))]
    with pytest.raises(ValueError, match=r"y must be of shape \(4, 5\) or .* got \(4, 2\)"):
        tagger().fit(SEQUENCES, y[:, :2, 0], lengths=LENGTHS, loss=loss, epochs=1, progress=False)


def test_weights_of_samples_and_lengths():
    targets, weight = RNG.normal(size=(4, 5)), np.array([1.0, 3.0, 2.0, 0.0])
    model = tagger()
    out = model.predict(SEQUENCES, lengths=LENGTHS)[..., 0]
    each = np.broadcast_to(weight[:, None], (4, 5))[VALID]
    wanted = np.average((out - targets)[VALID] ** 2, weights=each)
    for size in (1, 3, 4):
        found = model.evaluate(SEQUENCES, targets, lengths=LENGTHS, loss="mse", batch_size=size,
                               sample_weight=weight)  # fmt: skip
        assert found["loss"] == pytest.approx(wanted, rel=1e-5)


def test_steps_that_a_convolution_shortens():
    model = Sequential([Conv1D(3, 2, stride=2), LSTM(4, return_sequences=True), Dense(1)])
    x = RNG.normal(size=(4, 6, 3)).astype(np.float32)
    model.build((6, 3), key=1)
    lengths = np.array([6, 3, 1, 4])
    valid = np.arange(3) < np.array([3, 1, 0, 2])[:, None]
    y = np.where(valid, 1.0, np.nan)
    out = model.predict(x, lengths=lengths)[..., 0]
    found = model.evaluate(x, y, lengths=lengths, loss="mse")["loss"]
    assert found == pytest.approx(np.mean((out[valid] - 1) ** 2), rel=1e-5)


# --- validation data of other sizes --------------------------------------------------------------


def test_validation_sequences_may_have_other_lengths():
    model = Sequential([LSTM(4), Dense(2)])
    longer = RNG.normal(size=(8, 9, 3))
    history = model.fit(SEQUENCES, [0, 1, 0, 1], epochs=1, loss="softmax_cross_entropy",
                        validation_data=(longer, np.arange(8) % 2), progress=False)  # fmt: skip
    wanted = model.evaluate(longer, np.arange(8) % 2)
    assert history["val_loss"] == [wanted["loss"]]
    lengths = np.arange(8)
    held_out = longer, np.arange(8) % 2, lengths
    history = model.fit(SEQUENCES, [0, 1, 0, 1], epochs=1, lengths=LENGTHS,
                        validation_data=held_out, progress=False)  # fmt: skip
    wanted = model.evaluate(longer, np.arange(8) % 2, lengths=lengths)
    assert history["val_loss"] == [wanted["loss"]]


def test_validation_images_and_words_may_have_other_sizes():
    images = [RNG.normal(size=(6, n, n, 1)) for n in (8, 11)]
    model = Sequential([Conv2D(3, 3), GlobalMaxPool2D(), Dense(2)])
    y = np.arange(6) % 2
    history = model.fit(images[0], y, epochs=1, loss="softmax_cross_entropy",
                        validation_data=(images[1], y), progress=False)  # fmt: skip
    assert np.isfinite(history["val_loss"]).all()
    flat = Sequential([Flatten(), Dense(2)])
    with pytest.raises(ValueError, match=r"validation x must .* \(8, 8, 1\), .* got \(11, 11, 1\)"):
        flat.fit(images[0], y, epochs=1, validation_data=(images[1], y), progress=False)
    words = [RNG.integers(0, 5, (6, n)) for n in (4, 7)]
    reader = Sequential([Embedding(5, 3), LSTM(4), Dense(2)])
    history = reader.fit(words[0], y, epochs=1, loss="softmax_cross_entropy",
                         validation_data=(words[1], y), progress=False)  # fmt: skip
    assert np.isfinite(history["val_loss"]).all()


# --- weights of samples --------------------------------------------------------------------------


def test_a_sample_of_weight_two_is_there_twice():
    weight = np.arange(12) % 3
    repeated = np.repeat(np.arange(12), weight)
    options = {"epochs": 5, "optimizer": SGD(0.1), "batch_size": 12, "progress": False,
               "loss": "softmax_cross_entropy"}  # fmt: skip
    weighted, twice = Sequential([Dense(3)]), Sequential([Dense(3)])
    history = weighted.fit(X, Y, sample_weight=weight, **options)
    wanted = twice.fit(X[repeated], Y[repeated], **options)
    for metric in ("loss", "accuracy"):
        np.testing.assert_allclose(history[metric], wanted[metric], rtol=1e-5)
    np.testing.assert_allclose(weighted.params["0.weight"], twice.params["0.weight"], 1e-4, 1e-6)
    found = weighted.evaluate(X, Y, sample_weight=weight, batch_size=5)
    assert found == pytest.approx(weighted.evaluate(X[repeated], Y[repeated]), rel=1e-5)
