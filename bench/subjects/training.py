"""One training step of a whole network, from a batch to changed weights.

784-1024-1024-1024-10 with ReLU and softmax cross-entropy, momentum SGD; with dropout on the input
and on all hidden layers and max-norm on all weights, or, under a name that ends in _plain, without
both. Everybody gets the same few batches in turn and the first weights of their own initialiser.

Unit masks are another estimator than element masks: compare accuracy before their speed.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

import dropcore

from .common import TINY, Absent, Builder, Call, Case, Kernel, module, named, ready, torch_compiled

LAYERS = (32, 16, 16, 16, 10) if TINY else (784, 1024, 1024, 1024, 10)
BATCHES = 8
INPUT_RATE, HIDDEN_RATE = 0.2, 0.5
# Small, so that the networks stay far from fitting the batches: vanishing gradients would be
# denormal numbers, which are slow to compute with.
LEARNING_RATE, MOMENTUM = 1e-4, 0.95
# About what the units' norms are at first, so that some are clipped at every step.
MAX_NORM = 1.4


def batches(size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Inputs in [0, 1) and labels that do not depend on them."""
    rng = np.random.default_rng(0)
    return [
        (
            rng.random((size, LAYERS[0]), dtype=np.float32),
            rng.integers(LAYERS[-1], size=size, dtype=np.int64),
        )
        for _ in range(BATCHES)
    ]


# ---- dropcore ------------------------------------------------------------------------------------


def training(size: int, regularised: bool = True, **dropout: Any) -> Call:
    """A model's forward and backward pass and the optimiser's step, as `fit` does for a batch."""
    from dropcore.constraints import MaxNorm
    from dropcore.losses import softmax_cross_entropy
    from dropcore.nn import Dense, Dropout, Sequential
    from dropcore.optim import SGD

    constraint = MaxNorm(MAX_NORM) if regularised else None
    layers = [Dropout(INPUT_RATE, **dropout)] if regularised else []
    for units in LAYERS[1:-1]:
        layers.append(Dense(units, activation="relu", constraint=constraint))
        if regularised:
            layers.append(Dropout(HIDDEN_RATE, **dropout))
    model = Sequential([*layers, Dense(LAYERS[-1], constraint=constraint)])
    model.build((LAYERS[0],), key=0)
    optimizer = SGD(LEARNING_RATE, momentum=MOMENTUM)
    state = optimizer.init(model.params)
    data, steps = itertools.cycle(batches(size)), itertools.count()

    def call():
        (x, y), step = next(data), next(steps)
        outputs, backward = model.forward(x, key=dropcore.Key(7, step=step))
        value, gradient = softmax_cross_entropy(outputs, y)
        _, grads = backward(gradient, input_gradient=False, for_update=True)
        optimizer.apply(model.params, grads, state, step, model.constraints)
        return value

    return call


# ---- PyTorch -------------------------------------------------------------------------------------


def training_torch(size: int, regularised: bool = True, compiled: bool = False) -> Call:
    """PyTorch with its fused SGD; renorm_ without autograd."""
    torch = module("torch")
    torch.manual_seed(0)
    layers = [torch.nn.Dropout(INPUT_RATE)] if regularised else []
    for inputs, units in itertools.pairwise(LAYERS[:-1]):
        layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU()]
        if regularised:
            layers.append(torch.nn.Dropout(HIDDEN_RATE))
    network = torch.nn.Sequential(*layers, torch.nn.Linear(*LAYERS[-2:]))
    weights = [parameter for parameter in network.parameters() if parameter.ndim == 2]
    optimizer = torch.optim.SGD(
        network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True
    )
    data = itertools.cycle([tuple(map(torch.from_numpy, batch)) for batch in batches(size)])

    def loss_of(x, y):
        return torch.nn.functional.cross_entropy(network(x), y)

    loss = torch_compiled(loss_of) if compiled else loss_of

    def call():
        optimizer.zero_grad(set_to_none=True)
        value = loss(*next(data))
        value.backward()
        optimizer.step()
        if regularised:
            with torch.no_grad():
                for weight in weights:
                    weight.renorm_(2, 0, MAX_NORM)
        return value

    return ready(call) if compiled else call


# ---- JAX -----------------------------------------------------------------------------------------


def training_jax(size: int, regularised: bool = True, generator: str = "threefry2x32") -> Call:
    """One compiled function from weights to weights, in their memory."""
    jax = module("jax")
    rng = np.random.default_rng(0)
    params = [
        {
            "weight": jax.numpy.asarray(
                rng.standard_normal((inputs, units), dtype=np.float32) * (2 / inputs) ** 0.5
            ),
            "bias": jax.numpy.zeros(units),
        }
        for inputs, units in itertools.pairwise(LAYERS)
    ]
    velocity = jax.tree.map(jax.numpy.zeros_like, params)
    with jax.default_prng_impl(generator):
        key = jax.random.key(7)

    def dropped(key, rate, x):
        if not regularised:
            return x
        kept = jax.random.bernoulli(key, 1 - rate, x.shape)
        return jax.numpy.where(kept, x / (1 - rate), 0)

    def loss_of(params, key, x, y):
        keys = jax.random.split(key, len(params))
        x = dropped(keys[0], INPUT_RATE, x)
        for layer, own in zip(params[:-1], keys[1:], strict=True):
            x = jax.nn.relu(x @ layer["weight"] + layer["bias"])
            x = dropped(own, HIDDEN_RATE, x)
        logits = x @ params[-1]["weight"] + params[-1]["bias"]
        chosen = jax.numpy.take_along_axis(jax.nn.log_softmax(logits), y[:, None], axis=1)
        return -chosen.mean()

    def projected(weight):
        norms = jax.numpy.linalg.norm(weight, axis=0)
        return weight * (MAX_NORM / jax.numpy.maximum(norms, MAX_NORM))

    def update(params, velocity, step, x, y):
        loss, grads = jax.value_and_grad(loss_of)(params, jax.random.fold_in(key, step), x, y)
        velocity = jax.tree.map(lambda v, g: MOMENTUM * v - LEARNING_RATE * g, velocity, grads)
        params = jax.tree.map(lambda w, v: w + v, params, velocity)
        if regularised:
            params = [layer | {"weight": projected(layer["weight"])} for layer in params]
        return params, velocity, loss

    compiled = jax.jit(update, donate_argnums=(0, 1))
    data = itertools.cycle([tuple(map(jax.numpy.asarray, batch)) for batch in batches(size)])
    steps = itertools.count()

    def call():
        nonlocal params, velocity
        params, velocity, loss = compiled(params, velocity, next(steps), *next(data))
        return jax.block_until_ready((params, velocity, loss))

    return call


# ---- Keras and TensorFlow ------------------------------------------------------------------------


def training_keras(size: int, regularised: bool = True) -> Call:
    """train_on_batch of a compiled model, on the backend that is configured."""
    keras = module("keras")
    constraint = keras.constraints.MaxNorm(MAX_NORM, axis=0) if regularised else None
    layers = [keras.Input((LAYERS[0],))]
    if regularised:
        layers.append(keras.layers.Dropout(INPUT_RATE))
    for units in LAYERS[1:-1]:
        layers.append(keras.layers.Dense(units, activation="relu", kernel_constraint=constraint))
        if regularised:
            layers.append(keras.layers.Dropout(HIDDEN_RATE))
    layers.append(keras.layers.Dense(LAYERS[-1], kernel_constraint=constraint))
    model = keras.Sequential(layers)
    model.compile(
        optimizer=keras.optimizers.SGD(LEARNING_RATE, momentum=MOMENTUM),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    data = itertools.cycle(batches(size))
    return ready(lambda: model.train_on_batch(*next(data)))


def training_tensorflow(size: int, regularised: bool = True) -> Call:
    """One tf.function, with TensorFlow's fused momentum operation and clip_by_norm."""
    tensorflow = module("tensorflow")
    rng = np.random.default_rng(0)
    weights = [
        tensorflow.Variable(
            rng.standard_normal((inputs, units), dtype=np.float32) * np.float32((2 / inputs) ** 0.5)
        )
        for inputs, units in itertools.pairwise(LAYERS)
    ]
    biases = [tensorflow.Variable(np.zeros(units, np.float32)) for units in LAYERS[1:]]
    variables = weights + biases
    velocities = [tensorflow.Variable(tensorflow.zeros_like(v)) for v in variables]

    def dropped(x, rate):
        return tensorflow.nn.dropout(x, rate=rate) if regularised else x

    @tensorflow.function
    def update(x, y):
        with tensorflow.GradientTape() as tape:
            x = dropped(x, INPUT_RATE)
            for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
                x = dropped(tensorflow.nn.relu(x @ weight + bias), HIDDEN_RATE)
            losses = tensorflow.nn.sparse_softmax_cross_entropy_with_logits(
                labels=y, logits=x @ weights[-1] + biases[-1]
            )
            loss = tensorflow.reduce_mean(losses)
        grads = tape.gradient(loss, variables)
        for variable, velocity, grad in zip(variables, velocities, grads, strict=True):
            tensorflow.raw_ops.ResourceApplyKerasMomentum(
                var=variable.handle,
                accum=velocity.handle,
                lr=tensorflow.constant(LEARNING_RATE),
                grad=grad,
                momentum=tensorflow.constant(MOMENTUM),
            )
        if regularised:
            for weight in weights:
                weight.assign(tensorflow.clip_by_norm(weight, MAX_NORM, axes=[0]))
        return loss

    data = itertools.cycle([tuple(map(tensorflow.constant, batch)) for batch in batches(size)])
    return ready(lambda: update(*next(data)).numpy())


# ---- thinc and scikit-learn ----------------------------------------------------------------------


def training_thinc(size: int, regularised: bool = True) -> Call:
    """thinc on NumPy's BLAS; without momentum and max-norm, which it does not have."""
    thinc = module("thinc.api")
    # By default thinc multiplies with a BLAS of its own, on one thread.
    with thinc.use_ops("numpy", use_blis=False):
        layers = [thinc.Dropout(INPUT_RATE)] if regularised else []
        for inputs, units in itertools.pairwise(LAYERS[:-1]):
            layers.append(thinc.Relu(units, inputs, dropout=HIDDEN_RATE if regularised else None))
        model = thinc.chain(*layers, thinc.Softmax(LAYERS[-1], LAYERS[-2]))
        model.initialize()
    optimizer = thinc.SGD(LEARNING_RATE, grad_clip=0.0, use_averages=False)
    one_hot = np.eye(LAYERS[-1], dtype=np.float32)
    data = itertools.cycle([(x, one_hot[y]) for x, y in batches(size)])

    def call():
        x, targets = next(data)
        outputs, backprop = model.begin_update(x)
        backprop((outputs - targets) / np.float32(size))
        model.finish_update(optimizer)

    return call


def training_sklearn(size: int, regularised: bool = True) -> Call:
    """MLPClassifier.partial_fit with one batch."""
    if regularised:
        raise Absent("scikit-learn has neither dropout nor max-norm")
    network = module("sklearn.neural_network").MLPClassifier(
        hidden_layer_sizes=LAYERS[1:-1],
        solver="sgd",
        alpha=0.0,
        batch_size=size,
        learning_rate_init=LEARNING_RATE,
        momentum=MOMENTUM,
        nesterovs_momentum=False,
        shuffle=False,
        random_state=0,
    )
    classes = np.arange(LAYERS[-1])
    data = itertools.cycle(batches(size))
    return lambda: network.partial_fit(*next(data), classes=classes)


# ---- the table -----------------------------------------------------------------------------------


def plain(builder: Builder) -> Builder:
    """The step without dropout and max-norm."""
    return named(builder, f"{builder.__name__}_plain", regularised=False)


def parameters() -> int:
    """Weights and biases of the network."""
    return sum((inputs + 1) * units for inputs, units in itertools.pairwise(LAYERS))


def step_case(size: int) -> Case:
    """A batch of that size: products of 2 operations a weight and sample, three times."""
    products = sum(inputs * units for inputs, units in itertools.pairwise(LAYERS))
    # The gradient with respect to the input is not needed.
    operations = 2 * size * (3 * products - LAYERS[0] * LAYERS[1])
    return Case(f"batch {size}", (size,), parameters(), operations=operations)


training_torch_compiled = named(training_torch, "training_torch_compiled", compiled=True)
training_jax_rbg = named(training_jax, "training_jax_rbg", generator="rbg")

KERNELS = {
    "training": Kernel(
        reference=plain(training),
        own=training,
        others=[
            named(training, "training_unit", shared_axes=0),
            training_torch,
            plain(training_torch),
            training_torch_compiled,
            plain(training_torch_compiled),
            training_jax,
            training_jax_rbg,
            plain(training_jax),
            training_keras,
            plain(training_keras),
            training_tensorflow,
            plain(training_tensorflow),
            training_thinc,
            plain(training_thinc),
            plain(training_sklearn),
        ],
        cases=[step_case(8 if TINY else 128)],
    )
}
