"""Models and data that are probably not meant: each is named, with what to do."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from dropcore.data import Preprocessing
from dropcore.nn import Dense, Dropout, Embedding, Flatten, Sequential

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 40)
OPTIONS = {"loss": "softmax_cross_entropy", "progress": False, "key": 1, "epochs": 1}


def fitted(x=X, y=Y, layers=None, **options):
    model = Sequential(layers or [Dense(3)])
    model.fit(x, y, **OPTIONS | options)
    return model


# --- constant columns ----------------------------------------------------------------------------


def constant(columns, value, x=X, rows=slice(None)):
    x = x.copy()
    x[rows, columns] = value
    return x


WIDE = RNG.normal(size=(40, 60))
CONSTANT = [
    (constant(2, 5.0), {}, r"column 2 of x is 5\.0 in all samples, so it holds no information:"),
    (constant([0, 5], 0.0), {}, "columns 0, 5 of x are the same in all samples, so they hold"),
    (constant(slice(0, 9), 7.0, WIDE), {}, "columns 0, 1, 2, 3, 4, 5 and 3 others of x are"),
    (constant(3, 2, RNG.integers(3, 9, (40, 6))), {}, "column 3 of x is 2 in all samples"),
]


@pytest.mark.parametrize(("x", "options", "text"), CONSTANT)
def test_a_constant_column_is_named(x, options, text):
    with pytest.warns(UserWarning, match=text) as caught:
        fitted(x, **options)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="the same|in all samples"):
        fitted(np.concatenate([x] * 200), np.tile(Y, 200))


def test_a_constant_column_of_a_table_is_called_by_its_name():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(constant(1, 0.0, WIDE), columns=[f"c{number}" for number in range(60)])
    with pytest.warns(UserWarning, match=r"column 'c1' of x is 0\.0 in all samples"):
        fitted(frame)


def test_a_column_that_is_constant_in_the_training_part_only():
    from dropcore.key import Key
    from dropcore.losses import SoftmaxCrossEntropy
    from dropcore.training._sets import sets_of

    usual = dict.fromkeys(("batch_size", "shuffle", "validation_data", "class_weight", "lengths",
                           "sample_weight", "preprocessing"))  # fmt: skip
    sets = sets_of(Sequential([Dense(3)]), X, Y, loss=SoftmaxCrossEntropy(), key=Key(1), epochs=1,
                   validation_split=0.3, scale_targets=False, **usual)  # fmt: skip
    x = constant(4, 1.5, rows=sets.training.data.rows)
    with pytest.warns(UserWarning, match=r"column 4 of x is 1\.5 in all samples"):
        fitted(x, validation_split=0.3)
    fitted(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda: fitted(constant([3, 7], 0.0, WIDE)),  # as pixels at an edge
        lambda: fitted(constant(2, 5.0)[:15], Y[:15]),  # by chance
        lambda: fitted(constant(2, 5.0, rows=slice(0, 39))),
        lambda: fitted(np.ones((40, 6), int), layers=[Embedding(3, 2), Flatten(), Dense(3)]),
        lambda: fitted(constant(2, 5.0)[:, None], layers=[Flatten(), Dense(3)]),
    ],
    ids=["zeros in a wide array", "few samples", "one differs", "indices", "no columns"],
)
def test_columns_that_may_be_constant(call):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


def test_preprocessing_names_them_itself():
    pytest.importorskip("sklearn")
    with pytest.warns(UserWarning, match="x2") as caught:
        fitted(constant(2, 5.0), preprocessing=Preprocessing())
    assert len(caught) == 1


# --- targets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("y", [X[:, 0], X[:, :1], X[:, 0].astype(np.float64).tolist()])
def test_one_number_for_several_outputs(y):
    model = Sequential([Dense(2)])
    with pytest.raises(ValueError, match=rf"^y: there is one number, such as {X[0, 0]:.4g}, .* of "
                       r"2 outputs: .* one unit, as Dense\(1\) has"):  # fmt: skip
        model.fit(X, y, epochs=1, progress=False)
    assert not model.built


@pytest.mark.parametrize(
    ("y", "units", "options", "text"),
    [
        (X[:, :2], 3, {"loss": "mse"}, r"targets must have shape \(40, 3\), .* got \(40, 2\)"),
        (X[:, 0], 3, {"loss": "mse"}, r"targets must have shape \(40, 3\), .* got \(40,\)"),
        (X[:, :2], 1, {"loss": "mse"}, r"targets must have shape \(40, 1\), .* got \(40, 2\)"),
        (Y, 1, {}, "needs an output for each of at least 2 classes"),
        (np.eye(4)[Y], 3, {}, r"targets must have shape \(40, 3\), .* got \(40, 4\)"),
    ],
)
def test_targets_of_another_shape(y, units, options, text):
    model = Sequential([Dense(units)])
    with pytest.raises(ValueError, match=f"^y: .*{text}"):
        model.fit(X, y, **OPTIONS | options)
    assert not model.built


# --- the last layer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "text"),
    [
        (
            [Dense(3, activation="softmax")],
            r"takes logits and applies the softmax itself, and",
        ),
        ([Dense(3), Dropout(0.5)], r"the model ends with layer 1, Dropout\(0\.5\), so that noise"),
    ],
)
def test_last_layers_are_warned_of_at_the_users_line(layers, text):
    with pytest.warns(UserWarning, match=text) as caught:
        fitted(layers=layers)
    assert caught[0].filename == __file__
