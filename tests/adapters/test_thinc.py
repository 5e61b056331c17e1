"""thinc's layers with masks of dropcore."""

import importlib
import sys
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import Mask
from support.swapped import own_tests

thinc = pytest.importorskip("thinc.api")

from dropcore.thinc import DropcoreOps, DropoutOps  # noqa: E402


@pytest.fixture
def ops():
    thinc.fix_random_seed(0)
    with thinc.use_ops("dropcore"):
        found = thinc.get_current_ops()
        assert type(found) is DropcoreOps
        yield found
    assert type(thinc.get_current_ops()) is not DropcoreOps


def next_seed():
    """The seed that the next mask takes from `numpy.random`, and the state before it."""
    state = np.random.get_state()  # noqa: NPY002
    seed = int(np.random.randint(1 << 63, dtype=np.uint64))  # noqa: NPY002
    np.random.set_state(state)  # noqa: NPY002
    return seed


@pytest.mark.parametrize("drop", [0.2, 0.5, 0.9])
def test_masks_are_those_of_the_contract(ops, drop):
    seed = next_seed()
    mask = ops.get_dropout_mask((37, 5), drop)
    assert mask.dtype == np.float32
    np.testing.assert_array_equal(mask, Mask((37, 5), drop, key=seed).to_array())
    assert (ops.get_dropout_mask((37, 5), drop) != mask).any()


def test_masks_repeat_by_thincs_seed(ops):
    runs = []
    for _ in range(2):
        thinc.fix_random_seed(3)
        runs.append([ops.get_dropout_mask((40,), 0.5) for _ in range(3)])
    np.testing.assert_array_equal(*runs)
    assert (runs[0][0] != runs[0][1]).any()


@pytest.mark.parametrize("drop", [None, 0, 0.0, -0.5, 1, 1.0, 1.5])
def test_rates_at_and_beyond_the_ends_are_thincs(ops, drop):
    theirs = thinc.NumpyOps().get_dropout_mask((3, 4), drop)
    ours = ops.get_dropout_mask((3, 4), drop)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.dtype == theirs.dtype


def test_a_rate_that_is_no_number_is_refused(ops):
    with pytest.raises(ValueError, match=r"rate is the fraction dropped, in \[0, 1\], got nan"):
        ops.get_dropout_mask((3,), float("nan"))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_dropout_draws_the_mask_again(ops, dtype):
    x = np.random.default_rng(0).normal(size=(30, 7)).astype(dtype)
    seed = next_seed()
    y, backprop = ops.dropout(x, 0.4)
    np.testing.assert_array_equal(y, dropcore.dropout(x, 0.4, key=seed))
    dx = backprop(np.ones_like(x))
    assert dx.dtype == x.dtype
    np.testing.assert_array_equal(dx, dropcore.dropout(np.ones_like(x), 0.4, key=seed))
    np.testing.assert_array_equal(ops.dropout(x, None)[0], x)


def data(kind):
    x = np.ones((6, 8), np.float32)
    if kind == "ragged":
        return thinc.Ragged(x, np.array([2, 4], np.int32))
    if kind == "padded":
        return thinc.get_current_ops().list2padded([x, x[:3]])
    return [x, x[:3]] if kind == "list" else x


def numbers(x):
    if isinstance(x, list):
        return np.concatenate(x)
    return x if isinstance(x, np.ndarray) else x.data


@pytest.mark.parametrize("kind", ["array", "ragged", "padded", "list"])
def test_thincs_layer_uses_one_mask_in_both_directions(ops, kind):
    x = data(kind)
    model = thinc.Dropout(0.5)
    y, backprop = model(x, is_train=True)
    assert set(np.unique(numbers(y))) == {0.0, 2.0}
    np.testing.assert_array_equal(numbers(backprop(x)), numbers(y))
    np.testing.assert_array_equal(numbers(model.predict(x)), numbers(x))


def trained(name, seed=1):
    """The losses of a small network over epochs."""
    thinc.fix_random_seed(seed)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 10)).astype(np.float32)
    classes = (x[:, 0] * x[:, 1] > 0).astype(int)
    y = np.eye(2, dtype=np.float32)[classes]
    with thinc.use_ops(name):
        model = thinc.chain(thinc.Relu(32, dropout=0.2), thinc.Relu(32, dropout=0.2),
                            thinc.Softmax(2))  # fmt: skip
        model.initialize(x, y)
        optimizer, losses = thinc.Adam(0.01), []
        for _ in range(30):
            for a, b in model.ops.multibatch(64, x, y, shuffle=True):
                out, backprop = model.begin_update(a)
                backprop((out - b) / len(a))
                model.finish_update(optimizer)
            losses.append(float(((model.predict(x) - y) ** 2).mean()))
    return losses, (model.predict(x).argmax(1) == classes).mean()


def test_a_network_trains_and_its_run_repeats():
    losses, accuracy = trained("dropcore")
    assert accuracy > 0.9
    assert losses[-1] < losses[0] / 2
    assert trained("dropcore")[0] == losses
    assert trained("dropcore", seed=2)[0] != losses
    assert trained("numpy")[0] != losses


def test_the_mixin_goes_before_other_operations():
    class Own(DropoutOps, thinc.NumpyOps):
        name = "own"

    seed = next_seed()
    mask = Own().get_dropout_mask([4, 6], 0.5)
    np.testing.assert_array_equal(mask, Mask((4, 6), 0.5, key=seed).to_array())


def test_thincs_own_tests_of_dropout(tmp_path):
    pytest.importorskip("hypothesis")
    folder = Path(thinc.__file__).parent / "tests"
    swap = (
        "import sys, unittest.mock, thinc.api, dropcore.thinc\n"
        "sys.modules['mock'] = unittest.mock  # which the tests import from its old place\n"
        "thinc.api.NumpyOps.get_dropout_mask = dropcore.thinc.DropoutOps.get_dropout_mask\n"
    )
    files = [folder / "backends/test_ops.py", folder / "layers/test_linear.py",
             folder / "layers/test_layers_api.py"]  # fmt: skip
    assert own_tests(tmp_path, swap, files, "-k", "dropout") >= 8


def test_the_bench_script_runs(monkeypatch, capsys):
    monkeypatch.setenv("DROPCORE_BENCH_TINY", "1")
    monkeypatch.setattr(sys, "argv", ["adapters.py", "--rounds", "1", "--only", "thinc"])
    importlib.import_module("adapters").main()
    assert capsys.readouterr().out.count("NumpyOps") == 2
