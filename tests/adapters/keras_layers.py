"""The adapter for Keras on one backend; test_keras.py runs this file on each of them."""

import json

import keras
import numpy as np
import pytest

import dropcore
import dropcore.keras as own
from dropcore import Key

BACKEND = keras.backend.backend()
X = np.random.default_rng(0).normal(size=(6, 4, 5, 3)).astype("float32")
SOME_OF_THREE = 1  # keeps some of the first three elements and drops some
C = -1.7580993408473766

trains = pytest.mark.skipif(BACKEND == "numpy", reason="Keras does not train on NumPy")
in_tensorflow = pytest.mark.skipif(BACKEND != "tensorflow", reason="of TensorFlow alone")


def array(tensor):
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = keras.ops.cast(tensor, "float32")
    return keras.ops.convert_to_numpy(tensor)


def input_of(layer):
    """X with the number of axes that the layer takes, and the axes that share decisions."""
    name = type(layer).__name__
    if not name.startswith("Spatial"):
        return X, ()
    x = {"1": X[0], "2": X, "3": X[None]}[name[-2]]
    first = getattr(layer, "data_format", "channels_last") == "channels_first"
    return x, tuple(range(2, x.ndim) if first else range(1, x.ndim - 1))


LAYERS = [
    lambda rate, **more: own.Dropout(rate, **more),
    lambda rate, **more: own.SpatialDropout1D(rate, **more),
    lambda rate, **more: own.SpatialDropout2D(rate, data_format="channels_last", **more),
    lambda rate, **more: own.SpatialDropout2D(rate, data_format="channels_first", **more),
    lambda rate, **more: own.SpatialDropout3D(rate, data_format="channels_last", **more),
    lambda rate, **more: own.SpatialDropout3D(rate, data_format="channels_first", **more),
]
each_layer = pytest.mark.parametrize("make", LAYERS)


@each_layer
@pytest.mark.parametrize("rate", [0.3, 1.0])
def test_masks_are_those_of_the_generators_states(make, rate):
    layer = make(rate, seed=11 if BACKEND == "torch" else 2**31 + 5)  # of which torch takes 31 bits
    seed = layer.seed
    x, shared = input_of(layer)
    for n in range(3):
        want = dropcore.dropout(x, rate, key=Key.from_words(seed, n), shared_axes=shared)
        np.testing.assert_array_equal(array(layer(x, training=True)), want)
    np.testing.assert_array_equal(array(layer(x)), x)
    np.testing.assert_array_equal(array(make(0.0)(x, training=True)), x)


@pytest.mark.skipif(BACKEND != "torch", reason="other backends have seeds without a sign")
def test_a_seed_below_zero_is_read_as_its_bits():
    want = dropcore.dropout(X, 0.3, key=Key.from_words(2**32 - 5, 0))
    np.testing.assert_array_equal(array(own.Dropout(0.3, seed=-5)(X, training=True)), want)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_dtypes(dtype):
    layer = own.Dropout(0.3, seed=1, dtype=dtype)
    x = keras.ops.cast(X, dtype)
    y = layer(x, training=True)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    want = dropcore.dropout(array(x), 0.3, key=1)
    if dtype == "bfloat16":
        want = array(keras.ops.cast(want, dtype))
    np.testing.assert_array_equal(array(y), want)


@pytest.mark.parametrize(
    ("noise_shape", "shared"),
    [(None, ()), ((None, 1, None, 3), (1,)), ((6, 1, 1, 3), (1, 2)), ((1, 1, 1, 1), (0, 1, 2, 3))],
)
@pytest.mark.parametrize("kind", ["Dropout", "AlphaDropout"])
def test_noise_shape(kind, noise_shape, shared):
    layer = getattr(own, kind)(0.4, noise_shape=noise_shape, seed=3)
    kept = dropcore.dropout(np.ones_like(X), 0.4, key=3, shared_axes=shared) != 0
    if kind == "Dropout":
        want = np.where(kept, X / np.float32(0.6), 0)
    else:
        a = (0.6 * (1 + 0.4 * C**2)) ** -0.5
        want = a * np.where(kept, X, C) - a * 0.4 * C
    np.testing.assert_allclose(array(layer(X, training=True)), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_alpha_dropout_keeps_mean_and_deviation(dtype):
    x = np.random.default_rng(1).normal(size=(400, 500))
    y = own.AlphaDropout(0.3, seed=1, dtype=dtype)(keras.ops.cast(x, dtype), training=True)
    assert keras.backend.standardize_dtype(y.dtype) == dtype
    y = array(y).astype("float64")
    assert abs(y.mean()) < 0.01
    assert abs(y.std() - 1) < 0.01
    assert (array(own.AlphaDropout(1.0)(X, training=True)) == 0).all()
    np.testing.assert_array_equal(array(own.AlphaDropout(0.3)(X)), X)


def gradient_of(layer, compiled):
    """A function of x: y, and the gradient of the sum of its squares; it may be called again."""
    return {"jax": in_jax, "torch": in_torch, "tensorflow": in_tf}[BACKEND](layer, compiled)


def in_torch(layer, compiled):
    import torch

    def call(x):
        return layer(x, training=True)

    # fit(jit_compile=True) generates code besides, for a minute, and calls the same operator.
    run = torch.compile(call, backend="aot_eager") if compiled else call

    def gradient(x):
        t = torch.tensor(x, requires_grad=True)
        y = run(t)
        (y**2).sum().backward()
        return array(y), t.grad.numpy()

    return gradient


def in_jax(layer, compiled):
    import jax

    layer.build(X.shape)
    state = [v.value for v in layer.non_trainable_variables]

    def f(x, state):
        y, state = layer.stateless_call([], state, x, training=True)
        return (y**2).sum(), (y, state)

    run = jax.value_and_grad(f, has_aux=True)
    run = jax.jit(run) if compiled else run

    def gradient(x):
        nonlocal state
        (_, (y, state)), dx = run(x, state)
        return np.asarray(y), np.asarray(dx)

    return gradient


def in_tf(layer, compiled):
    import tensorflow as tf

    def call(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
            loss = tf.reduce_sum(y**2)
        return y, tape.gradient(loss, x)

    run = tf.function(call) if compiled else call
    return lambda x: tuple(t.numpy() for t in run(tf.constant(x)))


@trains
@each_layer
@pytest.mark.parametrize("compiled", [False, True])
def test_the_gradient_has_the_same_mask(make, compiled):
    layer = make(0.5, seed=SOME_OF_THREE)
    x, _ = input_of(layer)
    y, dx = gradient_of(layer, compiled)(x)
    np.testing.assert_array_equal(y != 0, dx != 0)
    assert 0 < (dx != 0).mean() < 1
    np.testing.assert_array_equal(dx, 4 * y)


@trains
@pytest.mark.parametrize("kind", ["Dropout", "AlphaDropout"])
def test_compiled_layers_draw_the_masks_of_eager_ones(kind):
    layer, twin = (getattr(own, kind)(0.3, seed=1) for _ in range(2))
    eager, compiled = gradient_of(layer, False), gradient_of(twin, True)
    masks = []
    for _ in range(3):
        (y, dx), (z, dz) = eager(X), compiled(X)
        np.testing.assert_allclose(z, y, rtol=2e-6, atol=1e-6)
        np.testing.assert_allclose(dz, dx, rtol=2e-6, atol=1e-6)
        masks.append(dx != 0)
    assert (masks[0] != masks[1]).any()
    assert (masks[1] != masks[2]).any()


def network():
    keras.utils.set_random_seed(0)
    bounded = own.MaxNorm(1.0)
    return keras.Sequential([
        keras.layers.Input((20,)),
        keras.layers.Dense(16, "relu", kernel_constraint=bounded, kernel_initializer="ones"),
        own.Dropout(0.3),
        keras.layers.Reshape((16, 1)),
        own.SpatialDropout1D(0.1, seed=1),
        keras.layers.Flatten(),
        own.AlphaDropout(0.1, noise_shape=(None, 16)),
        keras.layers.Dense(1),
    ])  # fmt: skip


def fitted(model, **options):
    model.compile("sgd", "mse", **options)
    x = np.random.default_rng(0).normal(size=(64, 20)).astype("float32")
    return model.fit(x, 2 * x[:, :1], epochs=3, batch_size=32, verbose=0).history["loss"]


@trains
@pytest.mark.skipif(BACKEND == "torch", reason="takes a minute on PyTorch")
def test_compiled_runs_draw_the_masks_of_eager_ones():
    losses = fitted(network(), run_eagerly=True, jit_compile=False)
    np.testing.assert_allclose(fitted(network(), jit_compile=BACKEND == "jax"), losses, rtol=1e-4)


@in_tensorflow
def test_keras_compiles_without_xla_where_it_is_asked_for():
    losses, model = fitted(network()), network()
    with pytest.warns(UserWarning, match=r"doesn't support `jit_compile=True`.*jit_compile=False"):
        assert fitted(model, jit_compile=True) == losses
    assert not model.jit_compile


@in_tensorflow
def test_xla_names_what_it_lacks():
    import tensorflow as tf

    layer = own.Dropout(0.3, seed=1)
    run = tf.function(lambda x: layer(x, training=True), jit_compile=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="dropcore_needs_jit_compile_False"):
        run(tf.constant(X))


@in_tensorflow
def test_graphs_of_any_batch_size_and_second_derivatives():
    import tensorflow as tf

    layer, twin = (own.Dropout(0.3, noise_shape=(None, 1), seed=1) for _ in range(2))

    @tf.function(input_signature=[tf.TensorSpec((None, 5))])
    def second(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = layer(x, training=True)
                assert y.shape.as_list() == [None, 5]
                loss = tf.reduce_sum(y**3)
            dx = inner.gradient(loss, x)
        return y, outer.gradient(dx, x)

    for rows in (8, 3):
        x = tf.ones((rows, 5))
        y, ddx = second(x)
        np.testing.assert_array_equal(y, twin(x, training=True))
        np.testing.assert_allclose(ddx, 6 * y.numpy() ** 3, rtol=1e-6)


@in_tensorflow
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_is_one_word(seed):
    with pytest.raises(Exception, match=r"low must be .*2\*\*32"):
        own.Dropout(0.3, seed=seed)(X, training=True)


@trains
def test_runs_repeat_and_weights_stay_within_the_bound():
    model = network()
    assert fitted(model) == fitted(network())
    norms = np.linalg.norm(array(model.layers[0].kernel).astype("float64"), axis=0)
    assert norms.max() <= 1
    assert norms.min() > 0.5  # all began outside


@trains
def test_a_saved_model_is_loaded_with_our_layers(tmp_path):
    model = network()
    fitted(model)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert [type(layer) for layer in again.layers] == [type(layer) for layer in model.layers]
    assert type(again.layers[0].kernel_constraint) is own.MaxNorm
    for one, other in zip(again.layers, model.layers, strict=True):
        if isinstance(other, keras.layers.Dropout | keras.layers.AlphaDropout):
            assert json.dumps(one.get_config()) == json.dumps(other.get_config())
    x = np.ones((8, 20), "float32")
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


@pytest.mark.parametrize("name", own.__all__)
def test_configs_are_those_of_keras(name):
    cls = getattr(own, name)
    host = getattr(keras.layers, name, None) or getattr(keras.constraints, name)
    assert issubclass(cls, host)
    assert keras.saving.get_registered_name(cls) == f"dropcore>{name}"
    options = {"name": "x"} if hasattr(keras.layers, name) else {}
    made = cls(0.25, **options)
    config = made.get_config()
    assert config == host(0.25, **options).get_config()
    assert cls.from_config(config).get_config() == config


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("axis", [0, 1, [0, 1], -1])
def test_max_norm_leaves_what_is_inside(dtype, axis):
    axes = tuple(axis) if isinstance(axis, list) else axis
    w = np.random.default_rng(1).normal(size=(60, 50)) * np.linspace(0, 0.3, 50)
    w = w * np.linspace(0, 1, 60)[:, None] if axis in (1, -1) else w
    w = keras.ops.cast(w, dtype)
    before = array(w).astype("float64")
    constraint = own.MaxNorm(1.0, axis=axis)
    shortened = constraint(w)
    assert keras.backend.standardize_dtype(shortened.dtype) == dtype
    after = array(shortened).astype("float64")
    old = np.sqrt((before**2).sum(axis=axes, keepdims=True))
    new = np.sqrt((after**2).sum(axis=axes, keepdims=True))
    assert axis == [0, 1] or 0.1 < (old <= 1).mean() < 0.9
    stays = np.broadcast_to(old <= 1 - 1e-6, before.shape)
    np.testing.assert_array_equal(after[stays], before[stays])
    assert new.max() <= 1
    room = {"float32": 2e-6, "float16": 2**-9, "bfloat16": 2**-6}[dtype]
    assert new[old > 1.01].min() >= 1 - room
    np.testing.assert_array_equal(array(constraint(shortened)), array(shortened))


def test_max_norm_of_keras_shrinks_and_ours_takes_any_numbers():
    inside = np.full((4, 1), 0.25, "float32")
    assert (array(keras.constraints.MaxNorm(1.0)(inside)) < inside).all()
    np.testing.assert_array_equal(array(own.MaxNorm(1.0)(inside)), inside)
    strange = [[np.nan, np.inf, 0.0, 3e30, 1e-30, 8e37], [2.0, 1.0, 0.0, 4e30, 0.0, 8e37]]
    strange = np.array(strange, "float32")
    with np.errstate(invalid="ignore"):
        found = array(own.MaxNorm(1.0)(strange))
    np.testing.assert_array_equal(found[:, [0, 1, 2, 4]], strange[:, [0, 1, 2, 4]])
    np.testing.assert_allclose(found[:, 3], [0.6, 0.8], rtol=1e-5)
    np.testing.assert_allclose(found[:, 5], [0.5**0.5] * 2, rtol=1e-5)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: own.Dropout(0.5, noise_shape=(6, 1))(X, training=True),
            ValueError,
            r"None, 1 or the length.*got \(6, 1\) for x of shape \(6, 4, 5, 3\)",
        ),
        (
            lambda: own.AlphaDropout(0.5, noise_shape=(6, 2, 1, 1))(X, training=True),
            ValueError,
            "noise_shape must have None",
        ),
        (lambda: own.Dropout(1.5), ValueError, "between 0 and 1"),
        (lambda: own.MaxNorm(0.0), ValueError, "max_value must be positive and finite"),
        (lambda: own.MaxNorm("2"), TypeError, "max_value must be"),
    ],
)
def test_mistakes(call, error, message):
    with pytest.raises(error, match=message):
        call()
