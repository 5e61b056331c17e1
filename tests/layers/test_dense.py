"""Dense layers with the dropout behind them in one product: what the layers give one by one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask, _core, masked_matmul, masked_matmul_backward
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore._ops.dense import DenseOp
from dropcore._ops.epilogue import CompactActivation, is_unit_mask
from dropcore.constraints import MaxNorm
from dropcore.nn import Dense, Dropout, ReLU, Sequential
from dropcore.optim import SGD, Adam
from support.arrays import normal, normal32
from support.differences import differences
from support.layers import built

KEY = Key(11, stream=5, step=3)
A, L, P = np.ndarray, BlockGradient, ProductGradient
FEATURES = 20


def network_of(layers, *sample, dtype=np.float32):
    return built(Sequential(layers), *(sample or (FEATURES,)), dtype=dtype)


def alone(layer, x, key=None, row_offset=0):
    """Forward through the layers of every Sequential one by one, and the way back."""
    if not isinstance(layer, Sequential):
        return layer.forward(x, key=key, row_offset=row_offset)
    steps = []
    for name, child, own in layer.children_with_keys(key):
        x, step = alone(child, x, own, row_offset)
        steps.append((name, step))

    def backward(dy, **options):
        grads = {}
        for name, step in reversed(steps):
            dy, inner = step(dy, **options)
            grads |= {f"{name}.{path}": g for path, g in inner.items()}
        return dy, grads

    return x, backward


def arrays_of(forward, x, seed=9):
    """y, dx and the gradients, which are arrays, and the same in the forms for an update."""
    y, backward = forward(x)
    dy = normal(*y.shape, dtype=y.dtype, seed=seed)
    dx, grads = backward(dy)
    same_dx, forms = backward(dy, for_update=True)
    assert same_dx.tobytes() == dx.tobytes()
    assert forms.keys() == grads.keys()
    for path, g in grads.items():
        assert type(g) is np.ndarray
        assert forms[path].shape == g.shape
        assert forms[path].dtype == g.dtype
        assert np.asarray(forms[path]).tobytes() == g.tobytes()
    return {"y": y, "dx": dx} | {path: grads[path] for path in sorted(grads)}


def compare(found, expected, exact):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype
        assert found[name].shape == array.shape
        if exact:
            assert found[name].tobytes() == array.tobytes(), name
        else:
            tolerance = 2e-5 if array.dtype == np.float32 else 1e-12
            size = max(1.0, float(np.abs(array).max(initial=0)))
            np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance * size)
            # What is exactly zero stays so: nothing of a dropped unit is computed.
            np.testing.assert_array_equal(found[name] == 0, array == 0)


def check(model, x, *, exact, key=KEY, row_offset=0):
    found = arrays_of(partial(model.forward, key=key, row_offset=row_offset), x)
    compare(found, arrays_of(partial(alone, model, key=key, row_offset=row_offset), x), exact)
    return found


# --- one by one ----------------------------------------------------------------------------------

NETWORKS = {
    "dense": lambda drop: [Dense(9)],
    "dropout": lambda drop: [drop()],
    "dense, dropout": lambda drop: [Dense(9), drop()],
    "relu dense, dropout": lambda drop: [Dense(9, activation="relu"), drop()],
    "no bias": lambda drop: [Dense(9, activation="relu", use_bias=False), drop(), Dense(4)],
    "hidden": lambda drop: [Dense(9), drop(), Dense(4)],
    "relu hidden": lambda drop: [Dense(9, activation="relu"), drop(), Dense(4)],
    "input": lambda drop: [drop(), Dense(9, activation="relu")],
    "everywhere": lambda drop: [
        drop(), Dense(33, activation="relu"), drop(), Dense(17), drop(), Dense(4), drop()
    ],
    "twice": lambda drop: [drop(), drop(), Dense(17), drop(), drop(), Dense(4), drop(), drop()],
    "relu behind": lambda drop: [Dense(17), drop(), ReLU(), Dense(4)],
    "relu between": lambda drop: [Dense(17), ReLU(), drop(), Dense(4)],
    "dense, dense": lambda drop: [Dense(17), Dense(9, activation="relu"), drop(), Dense(4)],
    "nested": lambda drop: [
        drop(), Sequential([Dense(17, activation="relu"), drop()]),
        Sequential([drop(), Sequential([Dense(9), drop(), Dense(8)])]), drop(), Dense(4),
    ],
    "wide": lambda drop: [drop(), Dense(300, activation="relu"), drop(), Dense(270), drop()],
}  # fmt: skip
DROPS = {
    "element": lambda: Dropout(0.5),
    "unit": lambda: Dropout(0.5, shared_axes=0),
    "few": lambda: Dropout(0.05),
    "most": lambda: Dropout(0.95),
    "most units": lambda: Dropout(0.9, shared_axes=0),
    "sample": lambda: Dropout(0.5, shared_axes=-1),
    "nothing": lambda: Dropout(0.0),
    "no unit": lambda: Dropout(0.0, shared_axes=0),
    "all": lambda: Dropout(1.0),
    "all units": lambda: Dropout(1.0, shared_axes=0),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_is_its_layers_one_by_one(isa, network, dtype):
    for name, drop in DROPS.items():
        model = network_of(NETWORKS[network](drop), dtype=dtype)
        check(model, normal(37, FEATURES, dtype=dtype), exact="unit" not in name)


@pytest.mark.parametrize("shared", [(), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2)])
@pytest.mark.parametrize("network", ["relu hidden", "everywhere", "twice", "nested", "wide"])
def test_sequences(network, shared):
    model = network_of(NETWORKS[network](lambda: Dropout(0.4, shared_axes=shared)), 7, FEATURES)
    check(model, normal32(6, 7, FEATURES), exact=shared != (0, 1))


@pytest.mark.parametrize(
    "shape", [(0, FEATURES), (1, FEATURES), (1, 1, FEATURES), (3, 0, FEATURES)]
)
@pytest.mark.parametrize("kind", ["element", "unit", "all units"])
def test_batches_of_none_and_one(kind, shape):
    model = network_of(NETWORKS["everywhere"](DROPS[kind]))
    check(model, normal32(*shape), exact=False)


def test_layers_of_one_unit():
    for kind in ("element", "unit", "all units", "no unit"):
        drop = DROPS[kind]
        check(network_of([Dense(1), drop(), Dense(1), drop()]), normal32(37, FEATURES), exact=True)
        check(network_of([drop(), Dense(3), drop()], 1), normal32(37, 1), exact=False)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["element", "unit"])
def test_without_a_key_there_is_no_dropout(network, kind):
    model, x = network_of(NETWORKS[network](DROPS[kind])), normal32(37, FEATURES)
    found = check(model, x, exact=True, key=None)
    clean = Sequential([layer for _, layer in model.leaves() if not layer.n_streams])
    compare(
        dict(zip("ab", (found["y"], found["dx"]))),
        dict(zip("ab", list(arrays_of(clean.forward, x).values())[:2])),
        exact=True,
    )
    _, grads = model.forward(x)[1](found["y"], for_update=True)
    assert not any(isinstance(g, BlockGradient) for g in grads.values())


@pytest.mark.parametrize("layout", ["F", "strided", "read-only"])
@pytest.mark.parametrize("kind", ["element", "unit"])
def test_layouts_of_x_and_dy(kind, layout):
    def lay(array):
        if layout == "F":
            return np.asfortranarray(array)
        array = np.repeat(array, 2, axis=-1)[..., ::2] if layout == "strided" else array.copy()
        array.flags.writeable = False
        return array

    model, x = network_of(NETWORKS["everywhere"](DROPS[kind])), normal32(37, FEATURES)
    y, backward = model.forward(x, key=KEY)
    dx, _ = backward(np.ones_like(y))
    other, other_backward = model.forward(lay(x), key=KEY)
    other_dx, _ = other_backward(lay(np.ones_like(y)))
    assert other.tobytes() == y.tobytes()
    assert other_dx.tobytes() == dx.tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_goes_where_it_goes_one_by_one(bad):
    x = normal32(37, FEATURES)
    x[3, 4] = x[7] = bad
    for network in ("relu dense, dropout", "everywhere"):
        model = network_of(NETWORKS[network](DROPS["element"]))
        with np.errstate(invalid="ignore"):
            found = arrays_of(partial(model.forward, key=KEY), x)
            expected = arrays_of(partial(alone, model, key=KEY), x)
        assert not np.isfinite(expected["y"]).all()
        for name, array in expected.items():
            np.testing.assert_array_equal(found[name], array)


def test_dead_units_are_not_looked_at():
    model = network_of([Dropout(0.5, shared_axes=0), Dense(9, activation="relu"),
                   Dropout(0.5, shared_axes=0), Dense(4)])  # fmt: skip
    x = normal32(37, FEATURES)
    dead_in = ~model[0].mask(x.shape, KEY).to_bool()[0]
    dead = ~model[2].mask((37, 9), KEY.at(stream=KEY.stream + 1)).to_bool()[0]
    assert dead.any()
    expected = arrays_of(partial(model.forward, key=KEY), x)
    x[:, dead_in] = np.nan
    model.params["1.weight"][dead_in] = np.nan
    model.params["1.weight"][:, dead] = np.inf
    model.params["1.bias"][dead] = np.inf
    model.params["3.weight"][dead] = np.nan
    found = arrays_of(partial(model.forward, key=KEY), x)
    compare(found, expected, exact=True)
    zeros = (found["dx"][:, dead_in], found["1.weight"][dead_in], found["1.weight"][:, dead],
             found["1.bias"][dead], found["3.weight"][dead])  # fmt: skip
    for zero in zeros:
        assert (zero == 0).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(4, 7), (2, 3, 7)])
def test_dense_is_its_formula(dtype, shape):
    layer = Dense(5, activation="relu")
    layer.build(shape[1:], key=1, dtype=dtype)
    layer.params["bias"][:] = [0.5, -0.5, 0, 1, 2]
    x = normal(*shape, dtype=dtype)
    y = layer(x)
    z = x.astype(np.float64) @ layer.params["weight"] + layer.params["bias"]
    assert (z < 0).any()
    assert y.dtype == dtype
    np.testing.assert_allclose(y, np.maximum(z, 0), rtol=1e-5, atol=1e-6)


# --- gradients -----------------------------------------------------------------------------------


def test_gradients_for_an_update_are_blocks_and_products():
    x = normal32(37, FEATURES)
    expected = {
        "element": {"1.weight": P, "1.bias": A, "3.weight": P, "3.bias": A, "5.weight": P,
                    "5.bias": A},
        "unit": {"1.weight": L, "1.bias": L, "3.weight": L, "3.bias": L, "5.weight": L,
                 "5.bias": A},
    }  # fmt: skip
    for kind, types in expected.items():
        model = network_of(NETWORKS["everywhere"](DROPS[kind]))
        y, backward = model.forward(x, key=KEY)
        _, grads = backward(np.ones_like(y), for_update=True)
        assert {path: type(g) for path, g in grads.items()} == types
    hidden = model[2].mask((37, 33), KEY.at(stream=KEY.stream + 1)).indices()
    assert 0 < len(hidden) < 33
    np.testing.assert_array_equal(grads["1.weight"].columns, hidden)
    np.testing.assert_array_equal(grads["1.bias"].columns, hidden)
    np.testing.assert_array_equal(grads["3.weight"].rows, hidden)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("kind", ["element", "unit"])
def test_gradients_of_the_weights_alone(network, kind):
    model, x = network_of(NETWORKS[network](DROPS[kind])), normal32(37, FEATURES)
    for forward in (model.forward, Sequential([model]).forward):  # also one level down
        y, backward = forward(x, key=KEY)
        dy = normal32(*y.shape, seed=9)
        for for_update in (False, True):
            dx, grads = backward(dy, for_update=for_update)
            nothing, same = backward(dy, input_gradient=False, for_update=for_update)
            assert dx.shape == x.shape
            assert nothing is None
            assert same.keys() == grads.keys()
            for path, g in grads.items():
                assert type(same[path]) is type(g)
                assert np.asarray(same[path]).tobytes() == np.asarray(g).tobytes()


def test_backward_may_be_called_again_and_changes_nothing_it_was_given():
    for kind in ("element", "unit"):
        model, x = network_of(NETWORKS["everywhere"](DROPS[kind])), normal32(37, FEATURES)
        y, backward = model.forward(x, key=KEY)
        dy = normal32(*y.shape, seed=9)
        before = x.tobytes(), y.tobytes(), dy.tobytes()
        first, _ = backward(dy)
        again = first.copy()
        second, _ = backward(dy)
        assert first.tobytes() == again.tobytes() == second.tobytes()
        assert (x.tobytes(), y.tobytes(), dy.tobytes()) == before


@pytest.mark.parametrize("network", ["relu hidden", "everywhere", "twice", "relu behind", "nested"])
def test_gradients_equal_finite_differences_with_the_units_held(network):
    model = network_of(NETWORKS[network](lambda: Dropout(0.2, shared_axes=0)), 7, dtype=np.float64)
    x = normal(6, 7, dtype=np.float64)
    found = arrays_of(partial(model.forward, key=KEY), x)
    dy = normal(*found["y"].shape, dtype=np.float64, seed=9)

    def loss():
        return float((model.forward(x, key=KEY)[0] * dy).sum())

    for name, array in {"dx": x, **model.params}.items():
        np.testing.assert_allclose(found[name], differences(loss, array), rtol=1e-6, atol=1e-7)
    assert np.abs(found["dx"]).max() > 0.01


# --- shards --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["element", "unit", "sample"])
@pytest.mark.parametrize("shape", [(37, FEATURES), (37, 5, FEATURES)])
def test_pieces_of_a_batch_are_pieces_of_the_whole(shape, kind):
    model, x = network_of(NETWORKS["everywhere"](DROPS[kind])), normal32(*shape)
    y, backward = model.forward(x, key=KEY, row_offset=100)
    dy = normal32(*y.shape, seed=9)
    dx, grads = backward(dy)
    total = dict.fromkeys(grads, 0)
    for first, last in [(0, 10), (10, 11), (11, 37)]:
        piece, back = model.forward(x[first:last], key=KEY, row_offset=100 + first)
        piece_dx, piece_grads = back(dy[first:last])
        assert piece.tobytes() == y[first:last].tobytes()
        assert piece_dx.tobytes() == dx[first:last].tobytes()
        for path, g in piece_grads.items():
            total[path] = total[path] + np.asarray(g)
    for path, g in grads.items():
        np.testing.assert_allclose(total[path], np.asarray(g), rtol=1e-4, atol=1e-4)
    if kind != "unit":
        assert not np.array_equal(model.forward(x, key=KEY)[0] == 0, y == 0)


# --- layers of one's own -------------------------------------------------------------------------


class Doubled(Dense):
    """A Dense of twice its input."""

    def forward(self, x, *, key=None, row_offset=0):
        y, back = super().forward(2 * x, key=key, row_offset=row_offset)

        def backward(dy, *, input_gradient=True, **options):
            dx, grads = back(dy, **options)
            return 2 * dx, grads

        return y, backward


class Negated(Dropout):
    """A Dropout that turns the sign."""

    def forward(self, x, *, key=None, row_offset=0):
        y, back = super().forward(x, key=key, row_offset=row_offset)
        return -y, lambda dy, **options: back(-dy, **options)


@pytest.mark.parametrize("shared", [(), (0,)])
def test_subclasses_are_called_and_not_replaced(shared):
    def network(dense, drop):
        drop = partial(drop, 0.5, shared_axes=shared)
        return [
            drop(), dense(9, activation="relu"), drop(), Dense(8), drop(), dense(7), drop(),
            Dense(4),
        ]  # fmt: skip

    x = normal32(37, FEATURES)
    plain, _ = network_of(network(Dense, Dropout)).forward(x, key=KEY)
    for dense, drop in [(Doubled, Dropout), (Dense, Negated), (Doubled, Negated)]:
        # The last Dense is an ordinary one, and joined with an ordinary Dropout before it.
        found = check(network_of(network(dense, drop)), x, exact=not shared or drop is Negated)
        assert not np.allclose(found["y"], plain)


# --- masks that only the step itself can be given ------------------------------------------------

B, K, N = 37, 70, 53
MASKS = {
    "none": None,
    "element": Mask((B, N), 0.5, key=1, offset=99),
    "element runs": Mask((B, N), 0.5, key=1, run=8),
    "unit": Mask((1, N), 0.5, key=2),
    "unit 1-D": Mask((N,), 0.5, key=2),
    "unit runs": Mask((1, N), 0.5, key=3, run=8),
    "sample": Mask((B, 1), 0.5, key=4),
    "rates by unit": Mask((B, N), keep=np.linspace(0, 1, N), key=5),
    "rates by unit, shared": Mask((1, N), keep=np.linspace(0, 1, N), key=6),
    "given": Mask.given(np.arange(B * N).reshape(B, N) % 3 > 0, keep=0.7),
    "given unit": Mask.given(np.arange(N) % 3 > 0, keep=0.7),
    "one for all": Mask((1, 1), keep=0.5, key=8),
}


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", MASKS)
def test_step_is_the_masked_product(isa, name, dtype, relu):
    mask, activation = MASKS[name], "relu" if relu else None
    x, w = normal(B, K, dtype=dtype), normal(K, N, dtype=dtype, seed=1)
    bias, dy = normal(N, dtype=dtype, seed=2), normal(B, N, dtype=dtype, seed=3)
    x_mask = Mask((1, K), 0.5, key=9)
    y = masked_matmul(x, w, bias, y_mask=mask, activation=activation)
    expected = masked_matmul_backward(dy, x, w, y, y_mask=mask, activation=activation)
    live_y = masked_matmul(x, w, bias, x_mask=x_mask, y_mask=mask, activation=activation)
    live_expected = masked_matmul_backward(
        dy, x, w, live_y, x_mask=x_mask, y_mask=mask, activation=activation
    )
    for live in (False, True):
        for given, wanted, gradients in [
            (x, y, expected),
            (CompactActivation.of(x, x_mask), live_y, live_expected),
        ]:
            step = DenseOp(given, w, bias, relu=relu, mask=mask, compact=live)
            found, back = step.y, dy
            assert isinstance(found, CompactActivation) == (
                live and mask is not None and is_unit_mask(mask)
            )
            if isinstance(found, CompactActivation):
                assert found.shape == (B, N)
                assert (found.ndim, found.dtype) == (2, dtype)
                back = dy[:, found.units]
                found = whole(found)
            dx, dw, dbias = step.backward(back)
            assert step.backward(back, input_gradient=False)[0] is None
            for form, array in zip(step.backward(back, for_update=True)[1:], (dw, dbias)):
                assert type(array) is np.ndarray
                assert np.asarray(form).tobytes() == array.tobytes()
            if given is not x:
                dx = whole(CompactActivation(dx, given.units, K)) * dtype(x_mask.scale)
            names = ("y", "dx", "dw", "dbias")
            compare(
                dict(zip(names, (found, dx, dw, dbias))),
                dict(zip(names, (wanted, *gradients))),
                exact=False,
            )


def whole(live):
    """CompactActivation with the zeros."""
    array = np.zeros(live.shape, live.dtype)
    array[..., live.units] = live.values
    return array


def test_live_units_are_what_dropout_leaves():
    for mask in (Mask((1, K), 0.3, key=1), Mask((K,), keep=0.0, key=1), Mask((K,), 0.0, key=1)):
        x = normal32(B, 2, K)
        before = x.tobytes()
        live = CompactActivation.of(x, mask)
        assert (live.shape, live.ndim, live.dtype) == (x.shape, 3, x.dtype)
        assert whole(live).tobytes() == dropcore.dropout(x, mask=mask).tobytes()
        assert x.tobytes() == before


def test_which_masks_drop_units():
    found = {name for name, mask in MASKS.items() if mask is not None and is_unit_mask(mask)}
    assert found == {"unit", "unit 1-D", "unit runs", "given unit"}
    assert is_unit_mask(Mask((1, 1, 4), 0.5, key=1))
    assert not is_unit_mask(Mask((1, 3, 4), 0.5, key=1))


# --- errors --------------------------------------------------------------------------------------


def test_gradient_that_does_not_fit():
    x, w = normal32(B, K), normal32(K, N)
    step = DenseOp(x, w, None)
    with pytest.raises(ValueError, match=r"\(37, 53\) of float32, got \(37, 52\) of float32"):
        step.backward(normal32(B, N - 1))
    with pytest.raises(ValueError, match=r"of float32, got .* of float64"):
        step.backward(normal(B, N, dtype=np.float64))
    live = DenseOp(x, w, None, mask=MASKS["unit"], compact=True)
    with pytest.raises(ValueError, match=rf"\(37, {len(live.y.units)}\) of float32, got"):
        live.backward(normal32(B, N))


ZEROS = np.zeros((3, FEATURES), np.float32)
WRONG = {
    "1-D": (ZEROS[0], ValueError, r"0, Dense\(9\) expects x of shape .* got \(20,\)"),
    "features": (ZEROS[:, :8], ValueError, r"0, Dense\(9\) expects .* got \(3, 8\)"),
    "dtype": (ZEROS.astype(float), TypeError, r"0, Dense\(9\) has float32 weights"),
    "axis": (ZEROS, ValueError, r"1, Dropout\(.*\) shares axis 2, which .* with 2 axes"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_name_the_layer(name):
    x, error, message = WRONG[name]
    model = Sequential([Dense(9), Dropout(0.5, shared_axes=2 if name == "axis" else 0), Dense(4)])
    model.build((3, FEATURES), key=0)
    with pytest.raises(error, match=f"^layer {message}"):
        model.forward(x, key=KEY)
    with pytest.raises(error, match=f"^layer 0.{message}"):
        Sequential([model]).forward(x, key=KEY)


def test_a_list_is_refused_by_the_model_it_was_given_to():
    model = Sequential([Dense(9), Dense(4)])
    model.build((3, FEATURES), key=0)
    with pytest.raises(TypeError, match=r"^Sequential expects an array, got list; use np.asarray"):
        model.forward([[0.0] * FEATURES])
    with pytest.raises(TypeError, match=r"^Dense\(9\) expects an array, got list; use np.asarray"):
        model.layers[0].forward([[0.0] * FEATURES])


# --- threads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["element", "unit", "sample"])
def test_a_training_step_has_the_same_bits_for_any_number_of_threads(isa, kind):
    found, drop = set(), DROPS[kind]
    before, openmp = dropcore.get_num_threads(), dropcore.build_info()["openmp"]
    try:
        for threads in (1, 2, 3):
            dropcore.set_num_threads(threads)
            layers = [drop(), Dense(900, activation="relu", constraint=MaxNorm(1.0)), drop()]
            model = network_of([*layers, Dense(300), drop()], 300)
            optimizer = SGD(0.1, momentum=0.9)
            state, x = optimizer.init(model.params), normal32(256, 300)
            for step in range(2):
                y, backward = model.forward(x, key=KEY.at(step=step))
                dx, grads = backward(y / 256, for_update=True)
                backward(y, input_gradient=False)  # whose last parallel loop is a product
                assert _core.last_team_size() == (threads if openmp else 1)
                optimizer.apply(model.params, grads, state, step, model.constraints)
            arrays = [y, dx, *map(np.asarray, grads.values()), *model.params.values()]
            found.add(b"".join(array.tobytes() for array in arrays))
    finally:
        dropcore.set_num_threads(before)
    assert len(found) == 1


@pytest.mark.parametrize("team", [1, 3])
@pytest.mark.parametrize("kind", ["element", "unit"])
def test_many_callers_of_one_model_get_what_one_gets(kind, team):
    drop = DROPS[kind]
    model = network_of([drop(), Dense(300, activation="relu"), drop(), Dense(200), drop()])
    before = dropcore.get_num_threads()

    def work(seed):
        x = normal32(64, FEATURES, seed=seed)
        found = arrays_of(partial(model.forward, key=Key(seed)), x, seed)
        return [array.tobytes() for array in found.values()]

    try:
        dropcore.set_num_threads(team)
        expected = [work(seed) for seed in range(6)]
        start = Barrier(6)

        def together(seed):
            start.wait(timeout=60)
            return [work(seed) for _ in range(5)]

        with ThreadPoolExecutor(6) as pool:
            for seed, results in enumerate(pool.map(together, range(6), timeout=120)):
                assert results == [expected[seed]] * 5
    finally:
        dropcore.set_num_threads(before)


# --- training ------------------------------------------------------------------------------------


def clouds(samples=300, features=12, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, samples)
    centres = np.random.default_rng(99).normal(size=(classes, features))
    return (centres[y] + 0.5 * rng.normal(size=(samples, features))).astype(np.float32), y


OPTIMIZERS = {
    "SGD": SGD(0.05, momentum=0.9),
    "lazy": SGD(0.05, momentum=0.9, lazy=True),
    "Adam": Adam(0.01),
}


def units_dropped():
    return Sequential([
        Dropout(0.2, shared_axes=0), Dense(32, activation="relu", constraint=MaxNorm(2.0)),
        Dropout(0.5, shared_axes=0), Dense(16, activation="relu", constraint=MaxNorm(2.0)),
        Dropout(0.5, shared_axes=0), Dense(3),
    ])  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_fit_with_units_dropped(name):
    x, y = clouds()
    model = units_dropped()
    model.fit(x, y, epochs=25, batch_size=30, optimizer=OPTIMIZERS[name], key=1)
    assert model.evaluate(*clouds(seed=1))["accuracy"] > 0.9
    for path in ("1.weight", "3.weight"):
        weight = model.params[path].astype(np.float64)
        assert (np.sqrt((weight * weight).sum(0)) <= 2.0).all()


@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_training_on_blocks_is_training_on_whole_gradients(name):
    """Twenty updates of the same network, also by the layers one by one."""
    ways = {
        "blocks": (Sequential.forward, True),
        "whole": (Sequential.forward, False),
        "one by one": (alone, False),
    }
    x, found = normal32(40, 12), {}
    for way, (forward, for_update) in ways.items():
        model, optimizer = units_dropped(), OPTIMIZERS[name]
        model.build((12,), key=3)
        state = optimizer.init(model.params)
        for step in range(20):
            y, backward = forward(model, x, key=KEY.at(step=step))
            _, grads = backward((y - normal32(40, 3, seed=step)) / 40, for_update=for_update)
            optimizer.apply(model.params, grads, state, step, model.constraints)
        found[way] = np.concatenate([w.ravel() for w in model.params.values()])
    np.testing.assert_array_equal(found["blocks"], found["whole"])
    np.testing.assert_allclose(found["blocks"], found["one by one"], rtol=1e-3, atol=1e-4)
