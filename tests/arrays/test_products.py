"""Masked products against the reference in float64, for every kind of mask."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.sparse

import dropcore
from dropcore import Key, Mask, masked_matmul, masked_matmul_backward, products, reference
from support.arrays import assert_same_bits, close

KEY = Key(5, step=3)
B, K, N = 37, 70, 53


def arrays(dtype=np.float32, x_shape=(B, K), n=N, seed=0):
    rng = np.random.default_rng(seed)
    k = x_shape[-1]
    x = rng.normal(size=x_shape).astype(dtype)
    w = rng.normal(size=(k, n)).astype(dtype)
    bias = rng.normal(size=n).astype(dtype)
    dy = rng.normal(size=(*x_shape[:-1], n)).astype(dtype)
    return x, w, bias, dy


def given(mask, seed=0):
    """The same mask, handed over as a boolean array."""
    return Mask.given(mask.to_bool(), keep=np.where(mask.scale > 0, 1 / mask.scale, 0))


def pair(mask, shape=None):
    if mask is None:
        return None
    scale = mask.element_scale()
    if shape is not None and len(mask.shape) != 3:
        return np.broadcast_to(mask.to_bool(), shape), np.broadcast_to(scale, shape)
    return mask.to_bool(), scale


def check(x, w, bias, dy, activation, x_mask=None, w_mask=None, y_mask=None):
    dtype = w.dtype
    dense = x.toarray() if scipy.sparse.issparse(x) else x
    masks = {"x_mask": x_mask, "w_mask": w_mask, "y_mask": y_mask}
    pairs = {
        "x_mask": pair(x_mask, dense.shape),
        "w_mask": pair(w_mask, w.shape),
        "y_mask": pair(y_mask, dy.shape),
    }
    y = masked_matmul(x, w, bias, activation=activation, **masks)
    expected = reference.masked_matmul(dense, w, bias, activation=activation, **pairs)
    assert y.dtype == dtype
    close(y, expected)
    out = np.full((*y.shape, 2), np.nan, dtype)[..., 0]
    assert masked_matmul(x, w, bias, activation=activation, out=out, **masks) is out
    assert out.tobytes() == y.tobytes()
    dx, dw, dbias = masked_matmul_backward(dy, x, w, y, activation=activation, **masks)
    rx, rw, rb = reference.masked_matmul_backward(dy, dense, w, y, activation=activation, **pairs)
    if scipy.sparse.issparse(x):
        assert (dx.indptr == x.indptr).all()
        assert (dx.indices == x.indices).all()
        rows = np.repeat(np.arange(x.shape[0]), np.diff(x.indptr))
        close(dx.data, rx[rows, x.indices])
    else:
        assert dx.dtype == dtype
        close(dx, rx)
    close(dw, rw)
    close(dbias, rb)
    return y, dx, dw


X_MASKS = {
    "none": lambda keep: None,
    "element": lambda keep: Mask((B, K), keep=keep, key=KEY, offset=1234567),
    "unit": lambda keep: Mask((1, K), keep=keep, key=KEY.at(stream=1)),
    "unit 1-D": lambda keep: Mask((K,), keep=keep, key=KEY.at(stream=2)),
    "runs": lambda keep: Mask((1, K), keep=keep, key=KEY.at(stream=3), run=8),
    "element runs": lambda keep: Mask((B, K), keep=keep, key=KEY.at(stream=3), run=8),
    "sample": lambda keep: Mask((B, 1), keep=keep, key=KEY.at(stream=4)),
    "rates by unit": lambda keep: Mask((B, K), keep=np.linspace(0, 1, K), key=KEY.at(stream=5)),
    "given": lambda keep: given(Mask((B, K), keep=keep, key=KEY.at(stream=6))),
    "given unit": lambda keep: given(Mask((K,), keep=keep, key=KEY.at(stream=7))),
}
Y_MASKS = {
    "none": lambda keep: None,
    "element": lambda keep: Mask((B, N), keep=keep, key=KEY.at(stream=10), offset=99),
    "unit": lambda keep: Mask((1, N), keep=keep, key=KEY.at(stream=11)),
    "sample": lambda keep: Mask((B, 1), keep=keep, key=KEY.at(stream=12)),
    "rates by sample": lambda keep: Mask(
        (B, N), keep=np.linspace(0, 1, B)[:, None], key=KEY.at(stream=13)
    ),
}
W_MASKS = {
    "none": lambda keep: None,
    "weight": lambda keep: Mask((K, N), keep=keep, key=KEY.at(stream=20), offset=3),
    "row": lambda keep: Mask((K, 1), keep=keep, key=KEY.at(stream=21)),
    "given": lambda keep: given(Mask((K, N), keep=keep, key=KEY.at(stream=22))),
    "per sample": lambda keep: Mask((B, K, N), keep=keep, key=KEY.at(stream=23), offset=777),
    "given per sample": lambda keep: given(Mask((B, K, N), keep=keep, key=KEY.at(stream=24))),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x_kind", X_MASKS)
def test_every_pair_of_masks(isa, x_kind, dtype):
    x, w, bias, dy = arrays(dtype)
    for (y_kind, w_kind), activation in zip(
        itertools.product(Y_MASKS, W_MASKS), itertools.cycle((None, "relu")), strict=False
    ):
        check(
            x, w, bias, dy, activation,
            X_MASKS[x_kind](0.4), W_MASKS[w_kind](0.75), Y_MASKS[y_kind](0.5),
        )  # fmt: skip


@pytest.mark.parametrize("keep", [0.0, 1.0])
def test_nothing_and_everything_kept(isa, keep):
    x, w, bias, dy = arrays()
    for x_kind, y_kind, w_kind in [("element", "unit", "none"), ("unit", "element", "none"),
                                   ("unit", "unit", "weight"), ("none", "none", "per sample"),
                                   ("none", "none", "weight")]:  # fmt: skip
        check(
            x, w, bias, dy, "relu",
            X_MASKS[x_kind](keep), W_MASKS[w_kind](keep), Y_MASKS[y_kind](keep),
        )  # fmt: skip


@pytest.mark.parametrize("shape", [
    (1, 1, 1), (1, 5, 1), (0, 4, 3), (4, 0, 3), (4, 3, 0), (7, 17, 16), (16, 256, 33), (5, 257, 31),
    (13, 600, 65), (1000, 3, 5), (3, 5, 1000), (97, 520, 140),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_at_and_off_the_blocks(isa, shape, dtype):
    b, k, n = shape
    x, w, bias, dy = arrays(dtype, (b, k), n)
    check(x, w, bias, dy, None)
    check(
        x, w, bias, dy, "relu", Mask((b, k), 0.5, key=1), Mask((k, n), 0.5, key=2),
        Mask((b, n), 0.5, key=3),
    )  # fmt: skip
    check(x, w, None, dy, "relu", Mask((k,), 0.5, key=1), None, Mask((n,), 0.5, key=3))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_more_rows_and_columns_than_a_packed_block(isa, dtype):
    x, w, bias, dy = arrays(dtype, (2000, 9), 3200)
    check(x, w, bias, dy, "relu", Mask((2000, 9), 0.5, key=1), None, Mask((2000, 3200), 0.5, key=2))


def test_groups_of_rows(isa):
    g, r = 5, 11
    x, w, bias, dy = arrays(x_shape=(g, r, K))
    for x_mask, y_mask in itertools.product(
        (
            None,
            Mask((g, 1, K), 0.5, key=1),
            Mask((1, 1, K), 0.5, key=2),
            Mask((g, r, K), 0.5, key=3),
        ),
        (None, Mask((g, 1, N), 0.5, key=4), Mask((N,), 0.5, key=5), Mask((g, r, N), 0.5, key=6)),
    ):
        check(x, w, bias, dy, "relu", x_mask, Mask((K, N), 0.5, key=7), y_mask)
    per_sample = Mask((g, K, N), 0.5, key=8)
    check(x, w, bias, dy, "relu", Mask((g, 1, K), 0.5, key=1), per_sample, None)


def test_one_row_and_many_axes(isa):
    for shape in [(K,), (2, 3, 4, K)]:
        x, w, bias, dy = arrays(x_shape=shape)
        check(x, w, bias, dy, "relu", Mask(shape, 0.5, key=1), None, Mask((N,), 0.5, key=2))


def test_dead_units_have_exactly_zero_gradient(isa):
    x, w, bias, dy = arrays()
    x_mask, y_mask = Mask((1, K), 0.5, key=1), Mask((1, N), 0.5, key=2)
    x[:, ~x_mask.to_bool()[0]] = np.nan  # a dead unit is not looked at
    y = masked_matmul(x, w, bias, x_mask=x_mask, y_mask=y_mask)
    dx, dw, dbias = masked_matmul_backward(dy, x, w, y, x_mask=x_mask, y_mask=y_mask)
    dead_x, dead_y = ~x_mask.to_bool()[0], ~y_mask.to_bool()[0]
    for array in (y[:, dead_y], dx[:, dead_x], dw[dead_x], dw[:, dead_y], dbias[dead_y]):
        assert array.size
        assert (array == 0).all()
    for array in (y, dx, dw, dbias):
        assert np.isfinite(array).all()


def test_dropped_nan_is_gone(isa):
    x, w, _, _ = arrays()
    mask = Mask((B, K), 0.5, key=1)
    x[~mask.to_bool()] = np.nan
    assert np.isfinite(masked_matmul(x, w, x_mask=mask)).all()
    weights = Mask((K, N), 0.5, key=1)
    w[~weights.to_bool()] = np.inf
    assert np.isfinite(masked_matmul(np.nan_to_num(x), w, w_mask=weights)).all()


def test_what_a_sparse_x_drops_is_gone_whatever_it_was():
    _, w, bias, dy = arrays()
    x = scipy.sparse.random_array((B, K), density=0.3, dtype=np.float32, rng=1).tocsr()
    mask = Mask((B, K), 0.5, key=3)
    rows = np.repeat(np.arange(B), np.diff(x.indptr))
    kept = mask.to_bool()[rows, x.indices]
    wanted = masked_matmul(x, w, bias, x_mask=mask)
    dx, dw, _ = masked_matmul_backward(dy, x, w, wanted, x_mask=mask)
    x.data[~kept] = np.resize([np.nan, np.inf, -np.inf], (~kept).sum())
    with np.errstate(invalid="ignore"):
        y = masked_matmul(x, w, bias, x_mask=mask)
        assert_same_bits(y, wanted)
        found = masked_matmul_backward(dy, x, w, y, x_mask=mask)
        assert_same_bits(found[0].data, dx.data)
        assert_same_bits(found[1], dw)
        w[:, 0] = np.inf  # behind a dropped element there is no gradient, not even an infinite one
        dx = masked_matmul_backward(dy, x, w, y, x_mask=mask)[0]
    assert not dx.data[~kept].any()
    assert not np.isfinite(dx.data[kept]).any()


def test_masks_of_more_than_2_32_weights():
    """A mask of the weights for each of so many samples that decisions have 33-bit numbers."""
    samples, k, n = 1026, 2048, 2048
    mask = Mask((samples, k, n), 0.5, key=KEY, offset=5)
    rng = np.random.default_rng(0)
    x, w = np.zeros((samples, k), np.float32), rng.normal(size=(k, n)).astype(np.float32)
    dy = np.zeros((samples, n), np.float32)
    x[-1], dy[-1] = rng.normal(size=k), rng.normal(size=n)
    kept = Mask((k, n), 0.5, key=KEY, offset=5 + (samples - 1) * k * n).to_bool()
    thinned = np.where(kept, 2 * w, np.float32(0))
    y = masked_matmul(x, w, w_mask=mask)
    assert not y[:-1].any()
    np.testing.assert_allclose(y[-1], x[-1] @ thinned, rtol=0, atol=1e-3)
    dx, dw, _ = masked_matmul_backward(dy, x, w, y, w_mask=mask)
    np.testing.assert_allclose(dx[-1], thinned @ dy[-1], rtol=0, atol=1e-3)
    np.testing.assert_allclose(dw, np.where(kept, 2 * np.outer(x[-1], dy[-1]), 0), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_sparse_x(dtype):
    _, w, bias, dy = arrays(dtype)
    x = scipy.sparse.random_array((B, K), density=0.1, dtype=dtype, rng=1).tocsr()
    for x_kind, w_kind, y_kind in itertools.product(X_MASKS, W_MASKS, ("none", "element", "unit")):
        if "per sample" in w_kind:
            continue
        check(x, w, bias, dy, "relu", X_MASKS[x_kind](0.5), W_MASKS[w_kind](0.5),
              Y_MASKS[y_kind](0.5))  # fmt: skip
    per_sample = Mask((B, K, N), 0.5, key=1)
    y = masked_matmul(x, w, bias, w_mask=per_sample)
    close(y, masked_matmul(x.toarray(), w, bias, w_mask=per_sample))
    old = scipy.sparse.csr_matrix(x)
    assert (masked_matmul(old, w, bias) == masked_matmul(x, w, bias)).all()


@pytest.mark.parametrize("w_kind", W_MASKS)
@pytest.mark.parametrize("sparse", [False, True])
def test_the_gradient_of_x_can_be_left_out(w_kind, sparse):
    x, w, bias, dy = arrays()
    x = scipy.sparse.csr_array(x) if sparse else x
    for x_kind in X_MASKS:
        masks = {"x_mask": X_MASKS[x_kind](0.5), "w_mask": W_MASKS[w_kind](0.5)}
        y = masked_matmul(x, w, bias, activation="relu", **masks)
        whole = masked_matmul_backward(dy, x, w, y, activation="relu", **masks)
        dx, *rest = masked_matmul_backward(
            dy, x, w, y, activation="relu", input_gradient=False, **masks
        )
        assert dx is None
        assert all(np.array_equal(a, b) for a, b in zip(rest, whole[1:], strict=True))
    with pytest.raises(TypeError, match="input_gradient must be True or False, got 0"):
        masked_matmul_backward(dy, x, w, y, input_gradient=0, activation="relu")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("x_kind", X_MASKS)
def test_sparse_x_with_a_weight_mask_for_every_sample(x_kind, dtype):
    """check() compares the gradient with what x stores, and its places."""
    _, w, bias, dy = arrays(dtype)
    x = scipy.sparse.random_array((B, K), density=0.1, dtype=dtype, rng=1).tocsr()
    for w_kind in ("per sample", "given per sample"):
        _, dx, _ = check(x, w, bias, dy, "relu", X_MASKS[x_kind](0.5), W_MASKS[w_kind](0.75))
        assert scipy.sparse.issparse(dx)
        assert dx.format == "csr"
        assert dx.nnz == x.nnz


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("w_kind", ["none", "weight", "per sample"])
def test_what_is_dropped_of_a_sparse_x_is_selected_away(w_kind, bad):
    _, w, bias, dy = arrays()
    x = scipy.sparse.random_array((B, K), density=0.3, dtype=np.float32, rng=1).tocsr()
    rows = np.repeat(np.arange(B), np.diff(x.indptr))
    for x_mask in (Mask((B, K), 0.5, key=1), Mask((1, K), 0.5, key=1), Mask((B, 1), 0.5, key=1),
                   given(Mask((B, K), 0.5, key=1)),
                   Mask((B, K), np.full(K, 0.5), key=1)):  # fmt: skip
        dropped = ~np.broadcast_to(x_mask.to_bool(), (B, K))[rows, x.indices]
        assert 0 < dropped.sum() < dropped.size
        hurt, clean = x.copy(), x.copy()
        hurt.data[dropped], clean.data[dropped] = bad, 0
        masks = {"x_mask": x_mask, "w_mask": W_MASKS[w_kind](0.75)}
        with np.errstate(all="raise"):
            y = masked_matmul(hurt, w, bias, **masks)
            dx, dw, _ = masked_matmul_backward(dy, hurt, w, **masks)
        assert_same_bits(y, masked_matmul(clean, w, bias, **masks))
        assert_same_bits(dw, masked_matmul_backward(dy, clean, w, **masks)[1])
        assert np.isfinite(y).all()
        assert (dx.data[dropped] == 0).all()


@pytest.mark.parametrize("w_kind", ["weight", "per sample"])
def test_dropped_weights_are_selected_away(isa, w_kind):
    """Behind a sparse x too, and a dropped weight reaches no gradient of x."""
    x, w, bias, dy = arrays()
    w_mask = W_MASKS[w_kind](0.5)
    kept = w_mask.to_bool()
    everywhere = ~(kept.any(axis=0) if kept.ndim == 3 else kept)
    if kept.ndim == 3:
        w_mask = Mask.given(np.broadcast_to(kept[0], kept.shape), keep=0.5)
        everywhere = ~kept[0]
    hurt, clean = w.copy(), w.copy()
    hurt[everywhere], clean[everywhere] = np.nan, 0
    for left in (x, scipy.sparse.csr_array(x)):
        found = [masked_matmul(left, a, bias, w_mask=w_mask) for a in (hurt, clean)]
        assert_same_bits(*found)
        (dx, dw, _), (wanted, _, _) = (
            masked_matmul_backward(dy, left, a, w_mask=w_mask) for a in (hurt, clean)
        )
        assert_same_bits(*(a.data if scipy.sparse.issparse(a) else a for a in (dx, wanted)))
        assert (dw[everywhere] == 0).all()


@pytest.mark.parametrize("offset", [2**32 - 3 * 7 * 5, 2**32, 2**40 + 77, 2**62])
def test_offsets_beyond_32_bits(isa, offset):
    """y, dx and dw of each sample with a mask that is drawn there."""
    x, w, bias, dy = arrays(np.float64, (6, 7), 5)
    check(x, w, bias, dy, "relu", w_mask=Mask((6, 7, 5), 0.5, key=KEY, offset=offset))
    check(
        x,
        w,
        bias,
        dy,
        "relu",
        Mask((6, 7), 0.5, key=KEY, offset=offset),
        Mask((7, 5), 0.4, key=KEY, offset=offset),
        Mask((6, 5), 0.3, key=KEY, offset=offset),
    )
    sparse = scipy.sparse.csr_array(x)
    check(sparse, w, bias, dy, "relu", Mask((6, 7), 0.5, key=KEY, offset=offset))
    far = Mask((6, 7, 5), 0.5, key=KEY, offset=offset)
    near = Mask((6, 7, 5), 0.5, key=KEY, offset=offset % 2**32 if offset > 2**32 else 0)
    assert (far.to_bool() != near.to_bool()).any()


def test_a_large_sparse_gradient_is_made_in_parts(monkeypatch):
    _, w, _, dy = arrays()
    x = scipy.sparse.random_array((B, K), density=0.3, dtype=np.float32, rng=1).tocsr()
    whole = masked_matmul_backward(dy, x, w)[0]
    for chunk in (1, 7 * N, 100 * N):
        monkeypatch.setattr(products, "SPARSE_CHUNK", chunk)
        assert_same_bits(masked_matmul_backward(dy, x, w)[0].data, whole.data)


def test_layouts(isa):
    x, w, bias, dy = arrays()
    y = masked_matmul(x, w, bias)
    dx, dw, _ = masked_matmul_backward(dy, x, w)
    for x_view, w_view, dy_view in [
        (np.asfortranarray(x), np.asfortranarray(w), np.asfortranarray(dy)),
        (np.repeat(x, 2, 0)[::2], np.repeat(w, 3, 1)[:, ::3], np.repeat(dy, 2, 1)[:, ::2]),
        (x[::-1][::-1], w[:, ::-1][:, ::-1], dy[::-1][::-1]),
    ]:
        for array in (x_view, w_view, dy_view):
            array.flags.writeable = False
        assert (masked_matmul(x_view, w_view, bias) == y).all()
        x_mask = Mask((B, K), 0.5, key=1)
        w_mask = Mask((K, N), 0.5, key=2)
        assert (
            masked_matmul(x_view, w_view, x_mask=x_mask, w_mask=w_mask)
            == masked_matmul(x, w, x_mask=x_mask, w_mask=w_mask)
        ).all()
        dx_view, dw_view, _ = masked_matmul_backward(dy_view, x_view, w_view)
        assert (dx_view == dx).all()
        assert (dw_view == dw).all()


def test_same_bits_for_any_number_of_threads(isa):
    rng = np.random.default_rng(3)
    x = rng.normal(size=(190, 700)).astype(np.float32)
    w = rng.normal(size=(700, 900)).astype(np.float32)
    dy = rng.normal(size=(190, 900)).astype(np.float32)
    masks = {
        "element": {"x_mask": Mask(x.shape, 0.3, key=1), "y_mask": Mask(dy.shape, 0.3, key=2)},
        "unit": {"x_mask": Mask((700,), 0.5, key=1), "y_mask": Mask((900,), 0.5, key=2)},
        "weight": {"w_mask": Mask(w.shape, 0.5, key=3)},
        "per sample": {"w_mask": Mask((190, *w.shape), 0.5, key=4)},
    }
    before = dropcore.get_num_threads()
    try:
        for kind, kwargs in masks.items():
            if kind == "per sample" and isa == "scalar":
                continue  # minutes
            results = []
            for n in (1, 2, 3, 7):
                dropcore.set_num_threads(n)
                y = masked_matmul(x, w, **kwargs)
                team = dropcore._core.last_team_size()
                openmp = dropcore.build_info()["openmp"]
                assert (1 < team <= n) if n > 1 and openmp else team == 1, kind
                dx, dw, db = masked_matmul_backward(dy, x, w, y, **kwargs)
                results.append(y.tobytes() + dx.tobytes() + dw.tobytes() + db.tobytes())
            assert len(set(results)) == 1, kind
    finally:
        dropcore.set_num_threads(before)


def test_gradients_are_those_of_the_function(isa):
    """Central differences in float64, masks held."""
    rng = np.random.default_rng(4)
    b, k, n = 3, 5, 4
    for x_mask, w_mask, y_mask in [
        (Mask((b, k), 0.4, key=1), Mask((k, n), 0.3, key=2), Mask((b, n), 0.4, key=3)),
        (Mask((1, k), 0.4, key=4), None, Mask((1, n), 0.4, key=5)),
        (None, Mask((b, k, n), 0.5, key=6), None),
    ]:
        masks = {"x_mask": x_mask, "w_mask": w_mask, "y_mask": y_mask}
        x, w, bias, dy = (rng.normal(size=s) for s in ((b, k), (k, n), (n,), (b, n)))

        def loss(x, w, bias, dy=dy, masks=masks):
            return (masked_matmul(x, w, bias, activation="relu", **masks) * dy).sum()

        y = masked_matmul(x, w, bias, activation="relu", **masks)
        grads = masked_matmul_backward(dy, x, w, y, activation="relu", **masks)
        for which, grad in enumerate(grads):
            for at in np.ndindex(grad.shape):
                values = []
                for step in (1e-6, -1e-6):
                    args = [x.copy(), w.copy(), bias.copy()]
                    args[which][at] += step
                    values.append(loss(*args))
                assert abs((values[0] - values[1]) / 2e-6 - grad[at]) < 1e-6


BAD = {
    "K": (ValueError, r"K = 70", lambda x, w: masked_matmul(x[:, 1:], w)),
    "w 1-D": (ValueError, r"\(K, N\)", lambda x, w: masked_matmul(x, w[0])),
    "x 0-d": (ValueError, "x", lambda x, w: masked_matmul(np.float32(1), w)),
    "dtypes differ": (TypeError, "one dtype", lambda x, w: masked_matmul(x, w.astype(float))),
    "half": (TypeError, "float64", lambda x, w: masked_matmul(x.astype("f2"), w)),
    "int": (TypeError, "float64", lambda x, w: masked_matmul(x, w.astype(int))),
    "activation": (ValueError, "relu", lambda x, w: masked_matmul(x, w, activation="tanh")),
    "bias": (ValueError, "bias", lambda x, w: masked_matmul(x, w, np.zeros(3, np.float32))),
    "bias dtype": (ValueError, "bias", lambda x, w: masked_matmul(x, w, np.zeros(N))),
    "mask array": (TypeError, "x_mask", lambda x, w: masked_matmul(x, w, x_mask=x > 0)),
    "x_mask": (ValueError, "broadcast",
               lambda x, w: masked_matmul(x, w, x_mask=Mask((B, N), 0.5, key=1))),
    "y_mask": (ValueError, "broadcast",
               lambda x, w: masked_matmul(x, w, y_mask=Mask((B, K), 0.5, key=1))),
    "w_mask": (ValueError, "broadcast",
               lambda x, w: masked_matmul(x, w, w_mask=Mask((N, K), 0.5, key=1))),
    "per sample": (ValueError, r"\(B, K, N\)",
                   lambda x, w: masked_matmul(x, w, w_mask=Mask((2, K, N), 0.5, key=1))),
    "per sample rates": (ValueError, "one rate",
                         lambda x, w: masked_matmul(x, w, w_mask=Mask(
                             (B, K, N), np.full((B, 1, 1), 0.5), key=1))),
    "coo": (TypeError, "tocsr", lambda x, w: masked_matmul(scipy.sparse.coo_array(x), w)),
    "out shape": (ValueError, "out", lambda x, w: masked_matmul(x, w, out=np.empty((2, 2)))),
    "no y": (TypeError, "needs y",
             lambda x, w: masked_matmul_backward(x @ w, x, w, activation="relu")),
    "masked x": (TypeError, "x is a numpy.ma.MaskedArray",
                 lambda x, w: masked_matmul(np.ma.array(x), w)),
    "masked w": (TypeError, "w is a numpy.ma.MaskedArray",
                 lambda x, w: masked_matmul(x, np.ma.array(w))),
    "masked bias": (TypeError, "bias is a numpy.ma.MaskedArray",
                    lambda x, w: masked_matmul(x, w, np.ma.array(w[0]))),
    "masked dy": (TypeError, "dy is a numpy.ma.MaskedArray",
                  lambda x, w: masked_matmul_backward(np.ma.array(x @ w), x, w)),
    "masked out": (TypeError, "out is a numpy.ma.MaskedArray",
                   lambda x, w: masked_matmul(x, w, out=np.ma.array(x @ w))),
    "dy shape": (ValueError, "dy", lambda x, w: masked_matmul_backward(x, x, w)),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_says_what_is_allowed(name):
    error, text, call = BAD[name]
    x, w, _, _ = arrays()
    with pytest.raises(error, match=text):
        call(x, w)


def test_out_must_not_overlap_an_input():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 8)).astype(np.float32)
    with pytest.raises(ValueError, match="overlaps x"):
        masked_matmul(x, x.copy(), out=x)
    with pytest.raises(ValueError, match="overlaps w"):
        masked_matmul(x.copy(), x, out=x.T)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_keeps_nan(isa, dtype):
    x = np.ones((3, 4), dtype)
    x[1, 2] = np.nan
    for columns in (5, 32, 75):
        y = masked_matmul(x, np.ones((4, columns), dtype), activation="relu")
        assert np.isnan(y[1]).all()
        assert np.array_equal(y[[0, 2]], np.full((2, columns), 4, dtype))


def test_denormal_numbers_are_numbers_again_after_a_product(isa):
    x = np.ones((8, 8), np.float32)
    masked_matmul(x, x)
    tiny = np.full(64, 1e-40, np.float32)
    assert (tiny * np.float32(1) == tiny).all()
    assert (tiny * np.float32(1) > 0).all()
