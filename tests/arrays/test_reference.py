"""The slow reference's dropout, products, attention and max-norm: by hand, and derivatives."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dropcore import reference
from support.arrays import FLOATS, bits_of, norms
from support.differences import differences


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_dropout_selects(dtype):
    x = np.array([1, -1, -0.0, np.nan, np.inf, -np.inf, np.nan, np.inf, -2], dtype=dtype)
    kept = np.array([1, 1, 1, 0, 0, 0, 1, 1, 0], dtype=bool)
    y = reference.dropout(x, kept, 2.0)
    assert y.dtype == dtype
    expected = np.array([2, -2, -0.0, 0, 0, 0, np.nan, np.inf, 0], dtype=dtype)
    assert np.isnan(y[6])
    # How a NaN's payload travels is no promise.
    numbers = np.arange(9) != 6
    np.testing.assert_array_equal(bits_of(y)[numbers], bits_of(expected)[numbers])


def test_alpha_dropout_by_hand():
    # keep = 0.5, c**2 = 3.0909132: a = (0.5 * (1 + 0.5 * c**2))**-0.5, b = -a * 0.5 * c.
    y = reference.alpha_dropout(np.array([1.0, 1.0, np.nan]), [True, False, False], 0.5)
    a, c = 0.8864053, -1.7580993
    np.testing.assert_allclose(y, [a - a * 0.5 * c, *[a * 0.5 * c] * 2], rtol=1e-6)
    np.testing.assert_array_equal(reference.alpha_dropout(np.array([3.0, np.nan]), True, 0), 0)
    np.testing.assert_array_equal(reference.alpha_dropout(np.array([3.0]), True, 1), 3)


def test_dropout_rounds_the_scale_once_to_float32():
    # 1 / 0.3 is nearest to 13981013 / 2**22 in float32. Five times that, 69905065 / 2**22, needs
    # 27 bits and is nearest to a multiple of 2**-19.
    s = 1 / 0.3
    y = reference.dropout(np.array([1, 5], dtype=np.float32), True, s)
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y, [13981013 / 2**22, round(69905065 / 8) / 2**19])
    y = reference.dropout(np.array([1.0, 5.0]), True, s)
    np.testing.assert_array_equal(y, [s, 5 * s])


def test_dropout_of_float32_rounds_to_nearest_even():
    # 1 + 2**-23 times 1.5 is 1.5 + 1.5 * 2**-23: a tie between mantissas ...0001 and ...0010.
    one_up = np.nextafter(np.float32(1), np.float32(2))
    assert reference.dropout(one_up, True, 1.5) == np.float32(1.5 + 2.0**-22)
    # And subnormals are not flushed.
    tiny = np.array([1, 3], dtype=np.uint32).view(np.float32)
    np.testing.assert_array_equal(reference.dropout(tiny, True, 1.5).view(np.uint32), [2, 4])


def test_dropout_of_16_bits_multiplies_in_float32():
    x = np.arange(2**16, dtype=np.uint16).view(np.float16)
    s = 1 / 0.9
    with np.errstate(all="ignore"):
        product = x.astype(np.float64) * float(np.float32(s))  # 11 + 24 bits: exact
        expected = product.astype(np.float32).astype(np.float16)
    y = reference.dropout(x, True, s)
    finite = ~np.isnan(x)
    np.testing.assert_array_equal(bits_of(y)[finite], bits_of(expected)[finite])
    assert np.isnan(y[~finite]).all()


def test_dropout_broadcasts_mask_and_scale_but_never_x():
    x = np.arange(1, 7, dtype=np.float64).reshape(2, 3)
    y = reference.dropout(x, np.array([[True], [False]]), np.array([1.0, 2.0, 4.0]))
    np.testing.assert_array_equal(y, [[1, 4, 12], [0, 0, 0]])
    with pytest.raises(ValueError, match="broadcast"):
        reference.dropout(x[:1], np.ones((2, 3), dtype=bool), 1.0)
    assert reference.dropout(np.float32(3), True, 2.0).shape == ()
    assert reference.dropout(np.zeros((0, 3)), True, 2.0).shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.int32, bool, np.complex64, object])
def test_dropout_takes_floats_only(dtype):
    with pytest.raises(TypeError, match="float16, bfloat16, float32 or float64"):
        reference.dropout(np.zeros(3, dtype=dtype), True, 1.0)


def test_masked_matmul_by_hand():
    x = np.array([[1.0, 2.0], [3.0, np.nan]])
    w = np.array([[1.0, -1.0, np.inf], [10.0, 0.0, 1.0]])
    bias = [0.5, 0.0, -100.0]
    x_mask = ([[True, True], [True, False]], 2.0)
    w_mask = ([[True, True, False], [True, True, True]], 4.0)
    y_mask = ([[True, True, True], [False, True, True]], 3.0)
    # X = [[2, 4], [6, 0]], W = [[4, -4, 0], [40, 0, 4]]: X @ W = [[168, -8, 16], [24, -24, 0]].
    y = reference.masked_matmul(x, w, bias, x_mask=x_mask, w_mask=w_mask, y_mask=y_mask)
    np.testing.assert_array_equal(y, [[505.5, -24, -252], [0, -72, -300]])
    y = reference.masked_matmul(
        x, w, bias, x_mask=x_mask, w_mask=w_mask, y_mask=y_mask, activation="relu"
    )
    np.testing.assert_array_equal(y, [[505.5, 0, 0], [0, 0, 0]])


def test_masked_matmul_with_a_mask_of_the_weights_for_each_sample():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(3, 4)), rng.normal(size=(4, 5))
    kept = rng.random((3, 4, 5)) < 0.5
    y = reference.masked_matmul(x, w, w_mask=(kept, 2.0))
    for b in range(3):
        np.testing.assert_allclose(y[b], x[b] @ np.where(kept[b], 2 * w, 0), rtol=1e-13)
    with pytest.raises(ValueError, match="3 masks of the weights for 2 samples"):
        reference.masked_matmul(x[:2], w, w_mask=(kept, 2.0))


@pytest.mark.parametrize("function", [reference.masked_matmul, reference.masked_matmul_backward])
def test_masked_matmul_activation(function):
    x, w = np.ones((2, 3)), np.ones((3, 4))
    arguments = (x, w) if function is reference.masked_matmul else (np.ones((2, 4)), x, w, x @ w)
    with pytest.raises(ValueError, match="activation must be None or 'relu', got 'gelu'"):
        function(*arguments, activation="gelu")


CASES = {
    "plain": ((6, 4), None, None, None),
    "element": ((6, 4), (6, 4), None, (6, 5)),
    "unit": ((6, 4), (1, 4), None, (1, 5)),
    "groups": ((2, 3, 4), (2, 1, 4), None, (2, 1, 5)),
    "weight": ((6, 4), None, (4, 5), None),
    "weight row": ((6, 4), None, (4, 1), (6, 1)),
    "weight per sample": ((6, 4), (6, 4), (6, 4, 5), (6, 5)),
    "weight per group": ((2, 3, 4), None, (2, 4, 5), (1, 5)),
    "three axes": ((2, 3, 4), (2, 3, 4), (4, 5), (2, 3, 5)),
    "vector": ((4,), (4,), (4, 5), (5,)),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("activation", [None, "relu"])
def test_masked_matmul_backward_is_the_derivative(case, activation):
    x_shape, *mask_shapes = CASES[case]
    rng = np.random.default_rng(7)
    masks = dict.fromkeys(("x_mask", "w_mask", "y_mask"))
    for name, shape in zip(masks, mask_shapes, strict=True):
        if shape is not None:
            # A scale of its own for each unit of the last axis, as arrays of keep give.
            masks[name] = (rng.random(shape) < 0.6, rng.uniform(1, 3, size=shape[-1:]))
    x, w, bias = rng.normal(size=x_shape), rng.normal(size=(4, 5)), rng.normal(size=5)

    def loss(x, w, bias):
        return float(np.sum(dy * reference.masked_matmul(x, w, bias, **masks, **act)))

    act = {"activation": activation}
    y = reference.masked_matmul(x, w, bias, **masks, **act)
    dy = rng.normal(size=y.shape)
    gradients = reference.masked_matmul_backward(dy, x, w, y, **masks, **act)
    for which, (value, gradient) in enumerate(zip((x, w, bias), gradients, strict=True)):
        assert gradient.shape == value.shape
        numeric = np.empty_like(value)
        for place in np.ndindex(value.shape):
            shifted = [[x, w, bias], [x, w, bias]]
            for side, h in zip(shifted, (1e-6, -1e-6), strict=True):
                side[which] = value.copy()
                side[which][place] += h
            numeric[place] = (loss(*shifted[0]) - loss(*shifted[1])) / 2e-6
        np.testing.assert_allclose(gradient, numeric, rtol=2e-7, atol=2e-7)


def test_masked_matmul_backward_by_selection():
    """A NaN or an infinity in what was dropped reaches no gradient."""
    x = np.array([[1.0, np.nan], [2.0, 3.0]])
    w = np.array([[1.0, np.inf], [2.0, 4.0]])
    dy = np.array([[1.0, np.nan], [1.0, 1.0]])
    masks = {
        "x_mask": ([[True, False], [True, True]], 2.0),
        "w_mask": ([[True, False], [True, True]], 2.0),
        "y_mask": ([[True, False], [True, True]], 2.0),
    }
    y = reference.masked_matmul(x, w, **masks)
    dx, dw, dbias = reference.masked_matmul_backward(dy, x, w, y, **masks)
    # dz = [[2, 0], [2, 2]], X = [[2, 0], [4, 6]], W = [[2, 0], [4, 8]].
    np.testing.assert_array_equal(dx, [[8, 0], [8, 48]])
    np.testing.assert_array_equal(dw, [[24, 0], [24, 24]])
    np.testing.assert_array_equal(dbias, [4, 2])


def test_attention_by_hand():
    # Scores log 1 and log 3: weights 1/4 and 3/4. A second query sees the first key alone.
    q, k = np.array([[1.0], [1.0]])[None, None], np.log([[1.0], [3.0]])[None, None]
    v = np.array([[8.0, 0.0], [0.0, 16.0]])[None, None]
    hidden = np.array([[0.0, 0.0], [0.0, -np.inf]])
    out, logsumexp = reference.attention(q, k, v, bias=hidden, scale=1.0)
    np.testing.assert_allclose(out[0, 0], [[2, 12], [8, 0]], rtol=1e-15)
    np.testing.assert_allclose(logsumexp[0, 0], np.log([4, 1]), rtol=1e-15)
    out, again = reference.attention(
        q, k, v, bias=hidden, scale=1.0, mask=([[True, False], [True, True]], 2.0)
    )
    np.testing.assert_allclose(out[0, 0], [[4, 0], [16, 0]], rtol=1e-15)
    np.testing.assert_array_equal(again, logsumexp)
    # The first of two queries sees one key, and nothing is seen of a sample without keys.
    out, _ = reference.attention(q, k, v, causal=True, scale=1.0)
    np.testing.assert_allclose(out[0, 0], [[8, 0], [2, 12]], rtol=1e-15)
    out, logsumexp = reference.attention(q, k, v * np.nan, lengths=[0])
    np.testing.assert_array_equal(out, 0)
    np.testing.assert_array_equal(logsumexp, -np.inf)
    # The scale is size ** -0.5: four times the size, twice the score.
    out, _ = reference.attention(np.repeat(q, 4, 3), np.repeat(k, 4, 3), v)
    np.testing.assert_allclose(out[0, 0, 0], [0.8, 14.4], rtol=1e-15)


def test_attention_of_grouped_heads_is_that_of_repeated_ones():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 6, 5, 3))
    k, v = rng.normal(size=(2, 2, 7, 3)), rng.normal(size=(2, 2, 7, 4))
    dout, bias = rng.normal(size=(2, 6, 5, 4)), rng.normal(size=(6, 1, 7))
    for options in ({}, {"bias": bias, "lengths": [3, 7], "mask": (bias > 0, 1.5)}):
        grouped = reference.attention(q, k, v, **options)
        repeated = reference.attention(q, k.repeat(3, 1), v.repeat(3, 1), **options)
        for found, wanted in zip(grouped, repeated, strict=True):
            np.testing.assert_allclose(found, wanted, rtol=1e-13)
        dq, dk, dv = reference.attention_backward(dout, q, k, v, **options)
        parts = reference.attention_backward(dout, q, k.repeat(3, 1), v.repeat(3, 1), **options)
        np.testing.assert_allclose(dq, parts[0], rtol=1e-12)
        for found, part in ((dk, parts[1]), (dv, parts[2])):
            wanted = part.reshape(2, 2, 3, 7, -1).sum(2)
            np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("causal", [False, True])
def test_attention_backward_is_the_derivative(causal):
    rng = np.random.default_rng(7)
    q = rng.normal(size=(2, 4, 5, 3))
    k, v = rng.normal(size=(2, 2, 5, 3)), rng.normal(size=(2, 2, 5, 4))
    bias = rng.normal(size=(2, 1, 5, 5))
    bias[0, 0, 2] = bias[1, 0, :, 1] = -np.inf
    options = {
        "mask": (rng.random((2, 4, 5, 5)) < 0.7, rng.uniform(1, 2, size=(5, 1))),
        "causal": causal, "bias": bias, "lengths": [5, 3], "scale": 0.7,
    }  # fmt: skip
    dout = rng.normal(size=(2, 4, 5, 4))
    found = reference.attention_backward(dout, q, k, v, **options)
    for array, gradient in zip((q, k, v), found, strict=True):
        wanted = differences(
            lambda: float(np.sum(dout * reference.attention(q, k, v, **options)[0])), array
        )
        np.testing.assert_allclose(gradient, wanted, rtol=1e-7, atol=1e-8)


def test_max_norm_by_hand():
    w = np.array([[3.0, 0.0, 0.6], [4.0, 0.0, 0.8]], dtype=np.float32)
    got = reference.max_norm(w, 2.5, axis=0)
    np.testing.assert_allclose(got[:, 0], [1.5, 2.0], rtol=1e-7)
    np.testing.assert_array_equal(got[:, 1:], w[:, 1:])
    np.testing.assert_array_equal(w[:, 0], [3, 4])  # a copy
    assert got.dtype == np.float32


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2, -1, (0, 1), (2, 0), (0, 1, 2)])
def test_max_norm_holds_and_is_idempotent(dtype, axis):
    rng = np.random.default_rng(2)
    w = (rng.normal(size=(7, 5, 6)) * rng.uniform(0, 1, (7, 1, 1))).astype(dtype)
    # Some vectors are inside, unless there is only one.
    bound = 0.9 * float(np.median(norms(w, axis, keepdims=True)))
    got = reference.max_norm(w, bound, axis)
    assert got.dtype == dtype
    assert got.shape == w.shape
    assert (norms(got, axis, keepdims=True) <= bound * (1 + 1e-15)).all()
    inside = np.broadcast_to(norms(w, axis, keepdims=True) <= bound, w.shape)
    assert not inside.all()
    np.testing.assert_array_equal(bits_of(got)[inside], bits_of(w)[inside])
    # What was outside comes to rest next to the bound, in its own direction.
    eps = 2.0 ** {"bfloat16": -7, "float16": -10, "float32": -23, "float64": -52}[dtype.name]
    wide = w.astype(np.float64)
    nearest = wide * np.minimum(1, bound / norms(w, axis, keepdims=True))
    np.testing.assert_allclose(got.astype(np.float64), nearest, rtol=4 * eps, atol=1e-6)
    again = reference.max_norm(got, bound, axis)
    np.testing.assert_array_equal(bits_of(again), bits_of(got))


def test_max_norm_does_not_overflow_or_vanish():
    for dtype, big in [(np.float16, 60000), (np.float32, 3e38), (np.float64, 1.7e308)]:
        w = np.full((4, 2), big, dtype=dtype)
        got = reference.max_norm(w, 1.0, axis=0)
        np.testing.assert_allclose(got.astype(np.float64), 0.5, rtol=1e-3)
    tiny = np.full((4, 1), 5e-324)
    np.testing.assert_array_equal(reference.max_norm(tiny, 3.0, axis=0), tiny)
    np.testing.assert_array_equal(reference.max_norm(tiny, 0.0, axis=0), np.zeros((4, 1)))


def test_max_norm_leaves_what_is_not_finite():
    w = np.array([[np.nan, np.inf, 30.0], [30.0, 30.0, 40.0]])
    got = reference.max_norm(w, 5.0, axis=0)
    np.testing.assert_array_equal(got[:, :2], w[:, :2])
    np.testing.assert_allclose(got[:, 2], [3, 4])


def test_max_norm_of_the_corners():
    assert reference.max_norm(np.zeros((0, 3)), 1.0, axis=0).shape == (0, 3)
    np.testing.assert_array_equal(reference.max_norm(np.zeros((2, 2)), 0.0, axis=1), 0)
    w = np.full((2, 2), 1e300)
    np.testing.assert_array_equal(reference.max_norm(w, math.inf, axis=1), w)
    for bad in (-1.0, math.nan):
        with pytest.raises(ValueError, match="max_norm must be at least 0"):
            reference.max_norm(w, bad, axis=1)
