"""alpha_dropout and alpha_dropout_backward as a user calls them."""

import numpy as np
import pytest

from dropcore import Key, Mask, alpha_dropout, alpha_dropout_backward, dropout, reference
from support.arrays import assert_same_bits

KEY = Key(11, stream=3, step=5)
X = np.random.default_rng(0).normal(size=(6, 40, 33)).astype(np.float32)
C = -1.7580993408473766

CLOSE = {"float32": 3e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 1.6e-2}


def typed(x, dtype):
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    return x.astype(dtype)


def assert_close(y, expected):
    close = CLOSE[y.dtype.name]
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=close, atol=close)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.5, 0.85, 1.0])
@pytest.mark.parametrize("dtype", CLOSE)
def test_the_numbers_of_every_dtype(dtype, keep):
    x = typed(X, dtype)
    x.flags.writeable = False
    mask = Mask(x.shape, keep=keep, key=KEY, offset=77)
    y = alpha_dropout(x, keep=keep, key=KEY, offset=77)
    assert y.dtype == x.dtype
    assert y.flags.c_contiguous
    assert_close(y, reference.alpha_dropout(x, mask.to_bool(), keep))
    rate = 1 - keep
    by_rate = alpha_dropout(x, rate, key=KEY, offset=77)
    assert_same_bits(by_rate, alpha_dropout(x, keep=1 - rate, key=KEY, offset=77))
    a = (keep * (1 + (1 - keep) * C**2)) ** -0.5 if keep else 0.0
    dx = alpha_dropout_backward(x, keep=keep, key=KEY, offset=77)
    assert dx.dtype == x.dtype
    assert_close(dx, np.where(mask.to_bool(), a * x.astype(np.float64), 0))
    if keep == 1.0:
        assert_same_bits(y, x)
    if x.dtype.itemsize == 2:  # rounded once
        wide = alpha_dropout(x.astype(np.float32), keep=keep, key=KEY, offset=77)
        assert_same_bits(y, wide.astype(x.dtype))


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_mean_and_variance_are_kept(rate):
    x = np.random.default_rng(1).normal(size=1_000_000)
    y = alpha_dropout(x, rate, key=KEY)
    assert abs(y.mean()) < 0.01
    assert abs(y.std() - 1) < 0.01


@pytest.mark.parametrize(
    "view", [lambda x: x.T, lambda x: x[:, ::2, ::-1], lambda x: x[:, :1], lambda x: x[0, 0, 0]]
)
@pytest.mark.parametrize("dtype", CLOSE)
def test_strides_and_out(dtype, view):
    x = view(typed(X, dtype))
    x = np.asarray(x)
    expected = alpha_dropout(np.ascontiguousarray(x).reshape(x.shape), 0.3, key=KEY)
    assert_same_bits(alpha_dropout(x, 0.3, key=KEY), expected)
    gradient = alpha_dropout_backward(x, 0.3, key=KEY)
    for call, wanted in ((alpha_dropout, expected), (alpha_dropout_backward, gradient)):
        for out in (np.full((*x.shape, 2), 7, x.dtype)[..., 0], x.copy()):
            assert call(x, 0.3, key=KEY, out=out) is out
            assert_same_bits(np.ascontiguousarray(out).reshape(x.shape), wanted)
        same = x.copy()
        assert call(same, 0.3, key=KEY, out=same) is same
        assert_same_bits(same, wanted)


@pytest.mark.parametrize("shape", [(0,), (3, 0), ()])
def test_small_shapes(shape):
    x = np.full(shape, 0.5, np.float32)
    assert alpha_dropout(x, 0.5, key=1).shape == shape
    assert alpha_dropout_backward(x, 0.5, key=1).shape == shape


def test_the_mask_is_that_of_dropout():
    ones = np.ones_like(X)
    for arguments in (
        {"key": KEY, "rate": 0.4},
        {"key": KEY, "rate": 0.4, "shared_axes": (0, 2)},
        {"mask": Mask((40, 1), 0.4, key=KEY)},
        {"mask": Mask(X.shape, 0.4, key=KEY, run=8)},
        {"mask": Mask.given(X > 0, keep=0.5)},
    ):
        y = alpha_dropout(ones, **arguments)
        dropped = dropout(ones, **arguments) == 0
        assert len(np.unique(y)) == 2
        np.testing.assert_array_equal(y == y.min(), dropped)
        dx = alpha_dropout_backward(ones, **arguments)
        np.testing.assert_array_equal(dx == 0, dropped)


def test_a_mask_that_is_given_has_its_own_rate():
    mask = Mask(X.shape, keep=0.75, key=KEY)
    given = Mask.given(mask.to_bool(), keep=0.75)
    for call in (alpha_dropout, alpha_dropout_backward):
        y = call(X, keep=0.75, key=KEY)
        assert_same_bits(call(X, mask=mask), y)
        assert_same_bits(call(X, mask=given), y)
        nothing = call(X, mask=Mask.given(np.ones(X.shape, bool), keep=0.0))
        assert not nothing.any()


@pytest.mark.parametrize("run", [1, 4])
def test_arrays_of_rates(run):
    rates = np.linspace(0, 1, 9 if run == 4 else 33)
    mask = Mask(X.shape, rates, key=KEY, run=run)
    each = np.repeat(rates, run)[:33]
    y = alpha_dropout(X, mask=mask)
    assert_close(y, reference.alpha_dropout(X, mask.to_bool(), 1 - each))
    assert_same_bits(y[..., :run], X[..., :run])
    dx = alpha_dropout_backward(np.ones_like(X), mask=mask)
    with np.errstate(divide="ignore"):
        a = np.where(each < 1, ((1 - each) * (1 + each * C**2)) ** -0.5, 0)
    assert_close(dx, np.where(mask.to_bool(), a, 0))


def test_dropped_numbers_are_selected():
    x = np.array([np.nan, np.inf, -np.inf] * 50, np.float32)
    kept = Mask(x.shape, 0.5, key=4).to_bool()
    y, dx = alpha_dropout(x, 0.5, key=4), alpha_dropout_backward(x, 0.5, key=4)
    assert np.isfinite(y[~kept]).all()
    assert not np.isfinite(y[kept]).any()
    assert not dx[~kept].any()


def test_the_gradient_is_that_of_differences():
    x, v = np.random.default_rng(2).normal(size=(2, 50))
    step = 1e-6
    ends = (alpha_dropout(x + s * v, 0.4, key=3) for s in (step, -step))
    forward, backward = ends
    slope = (forward - backward) / (2 * step)
    np.testing.assert_allclose(alpha_dropout_backward(v, 0.4, key=3), slope, atol=1e-8)


@pytest.mark.parametrize(
    ("error", "text", "call"),
    [
        (TypeError, "alpha_dropout needs key=", lambda x: alpha_dropout(x, 0.5)),
        (TypeError, "alpha_dropout: give rate", lambda x: alpha_dropout(x, key=1)),
        (TypeError, "alpha_dropout_backward needs key=", lambda x: alpha_dropout_backward(x, 0.5)),
        (ValueError, r"rate .*1\.5", lambda x: alpha_dropout(x, 1.5, key=1)),
        (ValueError, "either mask or", lambda x: alpha_dropout(x, 0.5, mask=Mask(4, 0.5, key=1))),
        (TypeError, "x must be float32", lambda x: alpha_dropout(x.astype(int), 0.5, key=1)),
        (TypeError, "dy must be float32",
         lambda x: alpha_dropout_backward(x.astype(int), 0.5, key=1)),
        (TypeError, "x is a numpy.ma", lambda x: alpha_dropout(np.ma.array(x), 0.5, key=1)),
        (ValueError, "out must have the shape and dtype of x",
         lambda x: alpha_dropout(x, 0.5, key=1, out=np.empty((3, 4)))),
        (ValueError, "out must have the shape and dtype of x",
         lambda x: alpha_dropout(x.astype("f2"), 0.5, key=1, out=x)),
        (ValueError, "out must have the shape and dtype of dy",
         lambda x: alpha_dropout_backward(x, 0.5, key=1, out=np.empty((3, 4)))),
        (ValueError, "broadcast", lambda x: alpha_dropout(x, mask=Mask((2, 3, 4), 0.5, key=1))),
    ],
)  # fmt: skip
def test_bad_input_says_what_is_allowed(error, text, call):
    x = np.ones((3, 4), np.float32)
    with pytest.raises(error, match=text):
        call(x)
    assert (x == 1).all()


def test_out_may_be_x_and_may_not_overlap_it_in_another_way():
    memory = np.ones(20, np.float32)
    for function in (alpha_dropout, alpha_dropout_backward):
        with pytest.raises(ValueError, match="without being the same array"):
            function(memory[:10], 0.5, key=7, out=memory[3:13])
    assert (memory == 1).all()


def test_what_a_given_mask_drops_saturates_also_at_keep_1():
    kept = np.array([True, False, True])
    found = alpha_dropout(np.array([0.5, 3.0, -2.0]), mask=Mask.given(kept))
    np.testing.assert_allclose(found, [0.5, C, -2.0], rtol=1e-15)
