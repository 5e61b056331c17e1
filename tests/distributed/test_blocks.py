"""A batch that is cut into blocks has the update of the whole."""

import copy
import pickle

import numpy as np
import pytest

from dropcore import Key
from dropcore.distributed._blocks import Blocks, checked_blocks, computed, tree
from dropcore.distributed._group import ALONE, RankError
from dropcore.nn import (
    ActivityRegularization,
    BatchNorm,
    ConcreteDropout,
    Dense,
    Dropout,
    Residual,
    Sequential,
    Sigmoid,
    VariationalDropout,
)
from dropcore.optim import SGD, Clip
from dropcore.regularizers import L2, KLSparsity
from dropcore.training import EarlyStopping
from support.layers import EXAMPLES, KEY, built

pytest.importorskip("greenlet")

COUPLED = [
    # Layers whose result for a row depends on the other rows, and penalties that count once.
    (Sequential([Dense(6), BatchNorm(), Dense(5), BatchNorm(), Dense(2)]), (7,)),
    (Sequential([Dense(6), Residual([BatchNorm(), Dense(6)]), Dense(2)]), (7,)),
    (Sequential([BatchNorm(scale=False)]), (3, 7)),
    (Sequential([Dense(6), Sigmoid(), ActivityRegularization(KLSparsity(0.5)), Dense(2)]), (7,)),
    (Sequential([Dense(6), ActivityRegularization(L2(0.5)), Dense(2)]), (7,)),
    (Sequential([ConcreteDropout(Dense(6), data_points=3.0, length_scale=1.0), Dense(2)]), (7,)),
    (Sequential([Dense(5), VariationalDropout(0.3, data_points=2.0), Dense(2)]), (7,)),
    (Sequential([Dense(5, regularizer=L2(0.3)), Dropout(0.5), Dense(2)]), (7,)),
]


def data_for(model, sample, rows, dtype=np.float64):
    rng = np.random.default_rng(5)
    x = rng.standard_normal((rows, *sample)).astype(dtype)
    if model.integer_input:
        x = rng.integers(0, 5, (rows, *sample))
    return x, rng.standard_normal((rows, *model.output_shape(sample)))


def trained(model, sample, rows=11, **options):
    """Weights and buffers after three updates of 11, 11 and 5 rows."""
    model = built(copy.deepcopy(model), *sample)
    model = model if isinstance(model, Sequential) else Sequential([model])
    if not model.params:
        model = Sequential([*model, built(Dense(2), *model.output_shape(sample))])
    x, y = data_for(model, sample, 2 * rows + 5)
    settings = {"optimizer": SGD(0.1, momentum=0.5), "loss": "mse", "epochs": 1} | options
    history = model.fit(x, y, batch_size=rows, key=KEY, progress=False, **settings)
    return {**model.params, **model.buffers}, history


@pytest.mark.parametrize("blocks", [2, 4, 8])
@pytest.mark.parametrize(("layer", "sample"), EXAMPLES + COUPLED, ids=lambda v: repr(v)[:60])
def test_every_layer_learns_the_same_in_blocks(layer, sample, blocks):
    whole, history = trained(layer, sample)
    parts, shared = trained(layer, sample, blocks=blocks)
    assert shared["loss"] == pytest.approx(history["loss"], rel=1e-12)
    for path, array in whole.items():
        np.testing.assert_allclose(parts[path], array, rtol=1e-9, atol=1e-12, err_msg=path)


def test_one_block_is_the_batch():
    for (whole, one) in zip(trained(*COUPLED[0])[0].values(),
                            trained(*COUPLED[0], blocks=1)[0].values(), strict=True):  # fmt: skip
        np.testing.assert_allclose(one, whole, rtol=1e-14)


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize("rows", [0, 1, 7, 8, 127, 128, 129])
def test_blocks_have_each_row_once(count, rows):
    found = [row for s in range(count) for block in Blocks(count, s, s + 1).rows(rows)
             for row in block]  # fmt: skip
    assert found == list(range(rows))
    assert [r for block in Blocks(count, 0, count).rows(rows) for r in block] == found


def test_the_tree_is_binary():
    assert tree("abcdefgh", "({}{})".format) == "(((ab)(cd))((ef)(gh)))"
    assert tree("a", "({}{})".format) == "a"


def test_blocks_take_turns_and_share_numbers():
    blocks, order = Blocks(4, 0, 4), []

    def task(block):
        order.append(("begin", block.place))
        found = block.combined(np.array([2.0**block.place]), np.add)
        order.append(("end", block.place))
        again = block.combined(np.array([f"{block.place}"], object), np.add)
        return float(found[0]), again[0], block.adds_penalties, block.moves_buffers

    assert computed(blocks, ALONE, 9, task) == [
        (15.0, "0123", place == 0, place == 0) for place in range(4)
    ]
    assert order == [(what, place) for what in ("begin", "end") for place in range(4)]


def test_an_error_in_a_block_is_raised():
    def task(block):
        block.combined(np.zeros(1), np.add)
        if block.place == 2:
            raise KeyError("here")

    with pytest.raises(KeyError, match="here"):
        computed(Blocks(4, 0, 4), ALONE, 9, task)


class Ranks(type(ALONE)):
    def __init__(self, rank, size):
        self.rank, self.size = rank, size


@pytest.mark.parametrize(
    ("blocks", "ranks", "batch_size", "message"),
    [
        (3, 1, 32, "must be a power of two, such as 4 or 8, got 3"),
        (0, 1, 32, "blocks must be a positive integer, got 0"),
        (4, 3, 32, r"blocks=4 is for 1, 2, 4 ranks, got 3"),
        (4, 8, 32, r"blocks=4 is for 1, 2, 4 ranks, got 8"),
        (64, 1, 32, "blocks=64 of batch_size=32 samples would leave blocks without any"),
        (None, 8, 7, "8 ranks need batches of at least as many samples, got batch_size=7"),
    ],
)
def test_blocks_that_do_not_fit(blocks, ranks, batch_size, message):
    with pytest.raises(ValueError, match=message):
        checked_blocks(blocks, Ranks(0, ranks), batch_size)


def test_each_rank_has_a_whole_subtree():
    assert checked_blocks(None, Ranks(0, 1), 32) is None
    assert checked_blocks(None, Ranks(2, 3), 32) == Blocks(3, 2, 3)
    assert checked_blocks(8, Ranks(1, 2), 32) == Blocks(8, 4, 8)
    assert checked_blocks(8, Ranks(0, 1), None) == Blocks(8, 0, 8)


def fitted(model=None, epochs=2, **options):
    rng = np.random.default_rng(1)
    x, y = rng.standard_normal((70, 4)).astype(np.float32), rng.integers(0, 3, 70)
    model = small_network() if model is None else model
    options = {"optimizer": SGD(0.1), "loss": "softmax_cross_entropy", "batch_size": 16,
               "key": 3, "progress": False} | options  # fmt: skip
    model.fit(x, y, epochs=epochs, **options)
    return model


def small_network():
    return Sequential([Dense(9, activation="relu"), Dropout(0.5), BatchNorm(), Dense(3)])


def same(a, b):
    arrays = [{**model.params, **model.buffers} for model in (a, b)]
    return all(np.array_equal(arrays[0][name], arrays[1][name]) for name in arrays[0])


def test_metrics_weights_and_validation_are_those_of_the_whole():
    options = {
        "metrics": ["f1", "top_2"], "validation_split": 0.3, "class_weight": "balanced",
        "sample_weight": np.arange(70) % 3, "optimizer": Clip(SGD(0.5), norm=0.01),
    }  # fmt: skip
    whole, parts = fitted(**options), fitted(**options, blocks=4)
    one, other = whole.training_state.history, parts.training_state.history
    for name in one:
        if name != "seconds":
            assert other[name] == pytest.approx(one[name], rel=1e-5), name


def test_a_run_in_blocks_repeats_and_resumes():
    once, twice = fitted(blocks=4, epochs=3), fitted(blocks=4, epochs=3)
    assert same(once, twice)
    halves = fitted(fitted(blocks=4, epochs=1), blocks=4, epochs=3, resume=True)
    assert same(once, halves)
    with pytest.raises(ValueError, match="the same blocks as before, 4, got 2"):
        fitted(fitted(blocks=4, epochs=1), blocks=2, resume=True, epochs=3)


def test_batches_are_cut_too():
    rng = np.random.default_rng(1)
    batches = [(rng.standard_normal((n, 4)).astype("f4"), rng.integers(0, 3, n)) for n in (9, 3)]
    models = []
    for blocks in (None, 4):
        model = small_network()
        model.fit(batches, epochs=2, loss="softmax_cross_entropy", key=1, blocks=blocks)
        models.append(model)
    for path, array in models[0].params.items():
        np.testing.assert_allclose(models[1].params[path], array, rtol=1e-3, atol=1e-5)


def test_a_loss_that_is_not_finite_leaves_the_model_as_it_was():
    with pytest.raises(
        FloatingPointError,
        match="the loss is nan at step 0, in epoch 1: 1 of the 36 values in the weight of layer 0",
    ):
        fitted(built_with_nan(), blocks=4)


def built_with_nan():
    model = small_network()
    model.build((4,), key=1)
    model.params["0.weight"][0, 0] = np.nan
    return model


def test_what_blocks_do_not_go_with():
    with pytest.raises(ValueError, match="leave out comm and blocks"):
        fitted(blocks=2, cuda_graph=True)
    with pytest.raises(TypeError, match="blocks must be a positive integer"):
        fitted(blocks=2.0)
    with pytest.raises(TypeError, match=r"comm must be a communicator of mpi4py, such as MPI"):
        fitted(comm=3)


def test_callbacks_and_frozen_layers():
    model = small_network()
    model[0].trainable = False
    stopping = EarlyStopping("loss", patience=1)
    fitted(model, blocks=4, callbacks=[stopping], epochs=4)
    before = fitted(small_network(), epochs=0, blocks=4)
    assert np.array_equal(model.params["0.weight"], before.params["0.weight"])
    assert not np.array_equal(model.params["3.weight"], before.params["3.weight"])


def test_a_key_is_an_address():
    assert same(fitted(key=Key(3), blocks=2), fitted(key=3, blocks=2))
    assert not same(fitted(key=4, blocks=2), fitted(key=3, blocks=2))


def test_an_error_of_a_rank_can_be_pickled():
    error = pickle.loads(pickle.dumps(RankError(2, "ValueError: no")))
    assert str(error) == "rank 2 cannot train, so none does: ValueError: no"
    assert error.rank == 2
