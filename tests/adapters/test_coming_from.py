"""docs/coming_from.md: its blocks run, section by section, and its tables say what is so."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import softmax

from dropcore import Mask, constraints, losses, max_norm_, nn, optim, training
from dropcore.regularizers import L2

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "coming_from.md"

SECTIONS = dict(re.findall(r"^## (.*)\n((?:(?!^## ).*\n)*)", DOCUMENT.read_text("utf-8"), re.M))

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.M | re.S)

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages


def run(section):
    """The names that are there when all blocks of a section have run."""
    namespace = {}
    blocks = BLOCK.findall(SECTIONS[section])
    assert blocks
    for number, text in enumerate(blocks):
        exec(compile(text, f"{DOCUMENT.name}, {section}, block {number}", "exec"), namespace)
    return namespace


def rows(section):
    """The cells of the tables of a section, by their first column."""
    found = re.findall(r"^\| (.*) \|$", SECTIONS[section], re.M)
    return {cells[0]: cells[1:] for cells in (line.split(" | ") for line in found)}


@pytest.fixture(scope="module")
def keras():
    pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_BACKEND", "torch")
        return pytest.importorskip("keras")


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


def numpy_of(keras, tensor):
    return keras.ops.convert_to_numpy(tensor)


# --- the blocks ----------------------------------------------------------------------------------


def test_from_keras(keras):
    found = run("From Keras")
    x, labels, ours, theirs = (found[name] for name in ("x", "labels", "ours", "theirs"))
    assert ours.evaluate(x, labels)["accuracy"] > 0.8
    np.testing.assert_allclose(theirs.predict(x, verbose=0), ours.predict(x), atol=1e-4)
    kernel = numpy_of(keras, theirs.layers[0].kernel)
    assert np.linalg.norm(kernel, axis=0).max() < 2 + 1e-4


def test_from_pytorch(torch):
    found = run("From PyTorch")
    x, labels, ours, theirs = (found[name] for name in ("x", "labels", "ours", "theirs"))
    assert ours.evaluate(x, labels)["accuracy"] > 0.8
    with torch.no_grad():
        np.testing.assert_allclose(theirs(torch.from_numpy(x)).numpy(), ours.predict(x), atol=1e-4)


def test_from_scikit_learn():
    pytest.importorskip("sklearn")
    found = run("From scikit-learn")
    x, labels = found["x"], found["labels"]
    assert min(found["ours"].score(x, labels), found["theirs"].score(x, labels)) > 0.9
    wanted = found["theirs"].predict_proba(x)
    np.testing.assert_allclose(softmax(found["model"].predict(x), axis=1), wanted, atol=1e-5)
    assert [w.shape for w in found["ours"].coefs_] == [w.shape for w in found["theirs"].coefs_]


def test_from_jax_flax_and_thinc():
    pytest.importorskip("jax")
    pytest.importorskip("thinc")
    found = run("From JAX, Flax and thinc")
    y = found["model"](found["x"])
    w, hidden = found["w"], found["hidden"]
    np.testing.assert_allclose(hidden @ w["2.weight"] + w["2.bias"], y, atol=1e-5)
    np.testing.assert_allclose(found["theirs"].predict(found["x"]), y, atol=1e-5)
    dropped = found["theirs"].layers[1](np.ones((4, 32), "f"), is_train=True)[0]
    assert set(np.unique(dropped)) == {0.0, 2.0}


def test_every_block_is_tested():
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_from")}
    with_blocks = {name for name, text in SECTIONS.items() if BLOCK.search(text)}
    assert {re.sub(r"\W+", "_", name).lower() for name in with_blocks} == tested


# --- dropout -------------------------------------------------------------------------------------


def test_kept_elements_are_divided_by_keep(keras, torch):
    x = np.ones((64, 16), np.float32)
    y = numpy_of(keras, keras.layers.Dropout(0.75, seed=0)(x, training=True))
    assert set(np.unique(y)) == {0.0, 4.0}
    assert (numpy_of(keras, keras.layers.Dropout(0.75)(x)) == x).all()
    y = torch.nn.functional.dropout(torch.from_numpy(x), 0.75)
    assert set(np.unique(y)) == {0.0, 4.0}
    assert set(np.unique(nn.Dropout(0.75)(x, 7))) == {0.0, 4.0}


def test_decisions_that_are_shared(keras):
    x = np.ones((8, 5, 16), np.float32)
    theirs = keras.layers.Dropout(0.5, noise_shape=(None, 1, 16), seed=0)(x, training=True)
    for y in (numpy_of(keras, theirs), nn.Dropout(0.5, shared_axes=1)(x, 7)):
        assert (y == y[:, :1]).all()
        assert (y != y[:1]).any()


def test_feature_maps_are_dropped(keras, torch):
    x = np.ones((8, 5, 16), np.float32)
    theirs = numpy_of(keras, keras.layers.SpatialDropout1D(0.5, seed=0)(x, training=True))
    first = torch.nn.functional.dropout1d(torch.from_numpy(x.transpose(0, 2, 1).copy()), 0.5)
    for y in (theirs, first.numpy().transpose(0, 2, 1), nn.SpatialDropout1D(0.5)(x, 7)):
        assert (y == y[:, :1]).all()
        assert 0 < (y == 0).mean() < 1


def test_another_draw_in_each_call_and_the_same_key_the_same_mask(keras, torch):
    x = np.ones((8, 16), np.float32)
    layer = keras.layers.Dropout(0.5, seed=0)
    first, second = (numpy_of(keras, layer(x, training=True)) for _ in range(2))
    assert (first != second).any()
    ours = nn.Dropout(0.5)
    assert (ours(x, 7) == ours(x, 7)).all()
    assert (ours(x, 7) != 0).tolist() == Mask((8, 16), 0.5, key=7).to_bool().tolist()


def test_a_dropped_nan_stays_in_pytorch_only(torch):
    x = np.full(1000, np.nan, np.float32)
    assert torch.isnan(torch.nn.functional.dropout(torch.from_numpy(x), 0.5)).all()
    assert 0.4 < np.isnan(nn.Dropout(0.5)(x[None], 7)).mean() < 0.6


def test_scaling_of_papers():
    x = np.ones((4, 8), np.float32)
    layer = nn.Dropout(keep=0.25, scaling="test")
    assert set(np.unique(layer(x, 7))) <= {0.0, 1.0}
    assert (layer(x) == 0.25).all()


# --- layers --------------------------------------------------------------------------------------


def test_shapes_of_weights(keras, torch):
    conv = nn.Conv2D(6, (2, 3))
    conv.build((8, 9, 4), key=0)
    assert conv.params["weight"].shape == (2, 3, 4, 6)
    theirs = keras.layers.Conv2D(6, (2, 3))
    theirs.build((None, 8, 9, 4))
    assert tuple(theirs.kernel.shape) == (2, 3, 4, 6)
    assert theirs.data_format == "channels_last"
    assert torch.nn.Conv2d(4, 6, (2, 3)).weight.shape == (6, 4, 2, 3)
    assert torch.nn.Linear(4, 6).weight.shape == (6, 4)


def test_defaults_of_layers(keras, torch):
    table = rows("Layers and layouts")

    def shown(*numbers):
        return [f"{number:g}".replace("e-0", "e-") for number in numbers]

    of_keras = keras.layers.BatchNormalization().get_config()
    of_torch = torch.nn.BatchNorm1d(3)
    found = shown(nn.BatchNorm().momentum, of_keras["momentum"])
    assert table["momentum of BatchNorm"][:2] == found
    assert table["momentum of BatchNorm"][2] == f"{of_torch.momentum}: 1 minus ours"
    assert of_torch.momentum == pytest.approx(1 - nn.BatchNorm().momentum)
    for ours, theirs, other in (
        (nn.BatchNorm(), of_keras, of_torch),
        (nn.LayerNorm(), keras.layers.LayerNormalization().get_config(), torch.nn.LayerNorm(3)),
    ):
        wanted = ["1e-5", "1e-3", "1e-5"]
        assert table["epsilon of BatchNorm and LayerNorm"] == wanted
        found = [ours.epsilon, theirs["epsilon"], other.eps]
        assert found == [float(text) for text in wanted]


def test_initial_weights(keras, torch):
    dense = nn.Dense(2000)
    dense.build((100,), key=0)
    bound = np.sqrt(6 / 100)  # He's, uniform
    assert np.abs(dense.params["weight"]).max() == pytest.approx(bound, rel=1e-3)
    assert not dense.params["bias"].any()

    theirs = keras.layers.Dense(2000)
    theirs.build((None, 100))
    glorot = np.sqrt(6 / 2100)
    assert np.abs(numpy_of(keras, theirs.kernel)).max() == pytest.approx(glorot, rel=1e-3)
    assert not numpy_of(keras, theirs.bias).any()

    linear = torch.nn.Linear(100, 2000)
    like = nn.Dense(2000, initializer=nn.initializers.VarianceScaling(1 / 3))
    like.build((100,), key=0)
    for array in (linear.weight.detach(), linear.bias.detach(), like.params["weight"]):
        assert float(abs(array).max()) == pytest.approx(1 / np.sqrt(100), rel=5e-3)

    words = nn.Embedding(500, 20)
    words.build((3,), key=0)
    theirs = keras.layers.Embedding(500, 20)
    theirs.build((None, 3))
    for array in (words.params["weight"], numpy_of(keras, theirs.embeddings)):
        assert np.abs(array).max() == pytest.approx(0.05, rel=1e-2)
    assert float(torch.nn.Embedding(500, 20).weight.std()) == pytest.approx(1, rel=0.05)


def test_dropout_between_stacked_lstm_draws_for_each_step(torch):
    """The second layer is made to forget, and to give back the sign of what it gets."""
    layers = torch.nn.LSTM(1, 200, num_layers=2, dropout=0.5, batch_first=True)
    with torch.no_grad():
        for name, weight in layers.named_parameters():
            weight.zero_()
            if name == "bias_ih_l0":
                weight[:] = 5.0  # all gates open: a first layer without zeros
            if name == "weight_ih_l1":
                weight[400:600] = 5 * torch.eye(200)
            if name == "bias_ih_l1":
                weight[:200], weight[200:400], weight[600:] = 9.0, -99.0, 9.0
        y = layers(torch.ones(1, 6, 1))[0][0]
    dropped = abs(y) < 1e-3
    assert 0.3 < dropped.float().mean() < 0.7
    assert (dropped != dropped[0]).any()


# --- training ------------------------------------------------------------------------------------


def test_reductions_with_weights_of_samples(keras, torch):
    y, t = np.array([[1.0], [2.0], [3.0], [4.0]], np.float32), np.zeros((4, 1), np.float32)
    weight = np.array([1.0, 0.0, 0.0, 1.0], np.float32)
    total = float((weight * y[:, 0] ** 2).sum())
    assert losses.MeanSquaredError()(y, t, weight)[0] == pytest.approx(total / 2)
    theirs = keras.losses.MeanSquaredError()(t, y, sample_weight=weight)
    assert float(theirs) == pytest.approx(total / 4)

    z, labels = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    by_class = torch.tensor([1.0, 2.0, 5.0])
    each = torch.nn.functional.cross_entropy(z, labels, reduction="none") * by_class[labels]
    mean = torch.nn.CrossEntropyLoss(weight=by_class)(z, labels)
    assert float(mean) == pytest.approx(float(each.sum() / by_class[labels].sum()), rel=1e-5)
    ours = losses.SoftmaxCrossEntropy(class_weights=(1.0, 2.0, 5.0))
    assert ours(z.numpy(), labels.numpy())[0] == pytest.approx(float(mean), rel=1e-5)


def test_the_loss_of_keras_has_the_penalties_and_ours_has_not(keras):
    x = np.ones((4, 1), np.float32)
    dense = keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L2(1.0))
    theirs = keras.Sequential([keras.layers.Input((1,)), dense])
    theirs.compile("sgd", "mse")
    squares = float(np.mean((theirs.predict(x, verbose=0) - x) ** 2))
    penalty = float(numpy_of(keras, dense.kernel)[0, 0]) ** 2
    assert theirs.evaluate(x, x, verbose=0) == pytest.approx(squares + penalty, rel=1e-5)
    ours = nn.Sequential([nn.Dense(1, regularizer=L2(1.0))])
    ours.build((1,), key=0)
    squares = float(np.mean((ours.predict(x) - x) ** 2))
    assert training.evaluate(ours, x, x, loss="mse")["loss"] == pytest.approx(squares, rel=1e-5)


def test_keras_validates_with_the_last_rows(keras):
    x, y = np.ones((10, 1), np.float32), np.ones((10, 1), np.float32)
    y[8:] = np.nan
    theirs = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
    theirs.compile("sgd", "mse")
    history = theirs.fit(x, y, validation_split=0.2, verbose=0).history
    assert np.isfinite(history["loss"]).all()
    assert np.isnan(history["val_loss"]).all()


def test_defaults_of_training(keras, torch):
    assert not keras.callbacks.EarlyStopping().restore_best_weights
    assert keras.losses.SparseCategoricalCrossentropy().get_config()["from_logits"] is False
    assert torch.utils.data.DataLoader([1, 2]).batch_size == 1
    sgd = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))]).defaults
    assert (sgd["lr"], sgd["momentum"], sgd["dampening"]) == (0.001, 0, 0)
    config = keras.optimizers.SGD().get_config()
    assert (round(config["learning_rate"], 6), config["momentum"]) == (0.01, 0.0)
    assert keras.optimizers.Adam().epsilon == 1e-7
    assert keras.optimizers.AdamW().weight_decay == 0.004
    assert optim.AdamW().weight_decay == 0.01
    assert torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))]).defaults["weight_decay"] == 0.01


def test_defaults_of_scikit_learn():
    neural = pytest.importorskip("sklearn.neural_network")
    from dropcore.sklearn import DropoutClassifier

    theirs, ours = neural.MLPClassifier().get_params(), DropoutClassifier().get_params()
    added = {"rate", "input_rate", "max_norm", "class_weight"}
    assert ours.keys() - theirs.keys() == added
    assert theirs.keys() - ours.keys() == {"max_fun"}
    assert all(ours[name] == theirs[name] for name in ours.keys() - added)
    assert (theirs["learning_rate_init"], theirs["momentum"]) == (0.001, 0.9)
    assert theirs["nesterovs_momentum"]


def test_alpha_of_scikit_learn_is_an_l2_penalty():
    """A step of SGD from the same weights; the loss of a regression is half the square."""
    neural = pytest.importorskip("sklearn.neural_network")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    alpha, rate = 0.5, 0.1
    theirs = neural.MLPRegressor(
        hidden_layer_sizes=(4,), solver="sgd", alpha=alpha, batch_size=20, random_state=0,
        learning_rate_init=rate, momentum=0, nesterovs_momentum=False,
    )  # fmt: skip
    theirs.partial_fit(x[:1], y[:1])  # draws the weights, and changes them
    penalty = L2(alpha / (2 * 20) * 2)  # twice: half the learning rate for twice the loss
    ours = nn.Sequential(
        [nn.Dense(4, activation="relu", regularizer=penalty), nn.Dense(1, regularizer=penalty)]
    )
    ours.build((3,), key=0, dtype=np.float64)
    ours.load_params(
        {
            f"{layer}.{name}": arrays[layer]
            for name, arrays in (("weight", theirs.coefs_), ("bias", theirs.intercepts_))
            for layer in (0, 1)
        }
    )
    theirs.partial_fit(x, y)
    training.step(ours, optim.SGD(rate / 2), "mse", x, y[:, None], key=0)
    for layer in (0, 1):
        np.testing.assert_allclose(
            ours.params[f"{layer}.weight"], theirs.coefs_[layer], rtol=1e-12, atol=1e-14
        )


def test_momentum_of_scikit_learn_is_ours():
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    for nesterov in (False, True):
        w = np.array([1.0])
        theirs = optimizers.SGDOptimizer([w], 0.1, momentum=0.9, nesterov=nesterov)
        ours = optim.SGD(0.1, momentum=0.9, nesterov=nesterov)
        params = {"w": np.array([1.0])}
        state = ours.init(params)
        for step, g in enumerate((1.0, -0.5, 2.0, 0.25)):
            theirs.update_params([w], [np.array([g])])
            ours.apply(params, {"w": np.array([g])}, state, step)
        np.testing.assert_allclose(params["w"], w, rtol=1e-14)


def test_momentum_of_hinton():
    m, a, w, v = 0.9, 0.5, 1.0, 0.0
    ours, params = optim.SGD((1 - m) * a, momentum=m), {"w": np.array([1.0])}
    state = ours.init(params)
    for step, g in enumerate((1.0, -0.5, 2.0, 0.25)):
        v = m * v - (1 - m) * a * g
        w += v
        ours.apply(params, {"w": np.array([g])}, state, step)
    np.testing.assert_allclose(params["w"], w, rtol=1e-12)


def test_bounds_of_norms(keras, torch):
    w = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    ours = max_norm_(w.copy(), 1.5, axis=0)
    constraint = keras.constraints.MaxNorm(1.5)
    assert constraint.get_config()["axis"] == 0
    theirs = numpy_of(keras, constraint(keras.ops.convert_to_tensor(w)))
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    theirs = torch.renorm(torch.from_numpy(w.T.copy()), 2, 0, 1.5).numpy().T
    np.testing.assert_allclose(theirs, ours, rtol=1e-5)
    np.testing.assert_array_equal(constraints.MaxNorm(1.5)(w.copy()), ours)
    assert constraints.MaxNorm.paper(4.0, keep=0.5) == constraints.MaxNorm(2.0)

    kernel = np.random.default_rng(0).normal(size=(3, 3, 2, 4)).astype(np.float32)
    of_images = keras.constraints.MaxNorm(1.5, axis=[0, 1, 2])
    theirs = numpy_of(keras, of_images(keras.ops.convert_to_tensor(kernel)))
    np.testing.assert_allclose(theirs, constraints.MaxNorm(1.5)(kernel.copy()), rtol=1e-5)


def test_epsilon_of_scikit_learn_is_epsilon_hat():
    optimizers = pytest.importorskip("sklearn.neural_network._stochastic_optimizers")
    w, params, g = np.array([1.0]), {"w": np.array([1.0])}, np.array([0.5])
    optimizers.AdamOptimizer([w], 0.1, epsilon=0.1 * np.sqrt(1 - 0.999)).update_params([w], [g])
    ours = optim.Adam(0.1, epsilon=0.1)
    ours.apply(params, {"w": g}, ours.init(params), 0)
    np.testing.assert_allclose(params["w"], w, rtol=1e-9)


@pytest.mark.parametrize(("alpha", "weighted"), [(0.0, True), (0.5, False)])
def test_losses_of_scikit_learn(alpha, weighted):
    """Half the squares, divided by the sum of the weights; with the penalty."""
    neural = pytest.importorskip("sklearn.neural_network")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=20)
    weight = rng.uniform(0, 3, 20) if weighted else None
    theirs = neural.MLPRegressor(
        hidden_layer_sizes=(4,), solver="sgd", alpha=alpha, batch_size=20, random_state=0,
        learning_rate_init=1e-300,
    )  # fmt: skip
    theirs.partial_fit(x, y, sample_weight=weight)
    squares = np.average((theirs.predict(x) - y) ** 2, weights=weight) / 2
    penalty = alpha / (2 * 20) * sum((w**2).sum() for w in theirs.coefs_)
    assert theirs.loss_ == pytest.approx(squares + penalty, rel=1e-9)
