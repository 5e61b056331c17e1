"""What the experiments with dense networks on MNIST share."""

import numpy as np

from dropcore.constraints import MaxNorm
from dropcore.datasets import load_mnist
from dropcore.nn import ActivityRegularization, Dense, Dropout, Sequential
from dropcore.optim import SGD
from dropcore.reproduction import draw_curves

from ._schedules import falling

LOSS = "softmax_cross_entropy"


def digits(run):
    """Images (n, 784) and their labels: those to train on, and those to measure on."""
    data = load_mnist()
    x, x_test = (images.reshape(len(images), -1) for images in (data.x_train, data.x_test))
    return run.split(x, data.y_train, x_test, data.y_test, samples=run.settings.samples)


def network(
    units, *, input_keep=1.0, keep=1.0, c=None, activation="relu", classes=10, dropout=Dropout,
    regularizer=None, sparsity=None, **dense,
):  # fmt: skip
    """Hidden layers of these widths, and the logits of the classes.

    The incoming weights of hidden units have at most the norm c, in the paper's meaning: c is
    that of weights that are trained without the factor 1/keep. `regularizer` is that of all weights
    and `sparsity` that of the activations of hidden units. `dense` goes to the hidden layers.
    """
    layers, before = [], input_keep
    for width in units:
        bound = None if c is None else MaxNorm.paper(c, keep=before)
        layers += [
            dropout(keep=before),
            Dense(width, activation=activation, constraint=bound, regularizer=regularizer, **dense),
        ]
        if sparsity is not None:
            layers.append(ActivityRegularization(sparsity))
        before = keep
    return Sequential([*layers, dropout(keep=before), Dense(classes, regularizer=regularizer)])


def train(run, model, data=None, *, name="model", curve="test error", **arguments):
    """Train with momentum and a learning rate that falls to 0; return the model and its error.

    The settings are those of the run: epochs, batch, learning_rate and momentum. Without `data`
    it is `digits`. `curve` is the name of the errors against updates, None to leave them out.
    `arguments` go to `run.fit`.
    """
    settings = run.settings
    x, y, x_test, y_test = data or digits(run)
    model = run.fit(
        model, x, y, name=name, epochs=settings.epochs, batch_size=settings.batch, loss=LOSS,
        optimizer=SGD(falling(settings, len(x)), momentum=settings.momentum),
        validation_data=(x_test, y_test), **arguments,
    )  # fmt: skip
    if curve is not None:
        run.add_errors(model, curve)
    return model, error(model, x_test, y_test)


def measured(run, units, data=None, **given):
    """Train the `network` of the run's settings, and return what most experiments measure."""
    settings = run.settings
    model = network(
        units, input_keep=settings.input_keep, keep=settings.keep, c=settings.c, **given
    )  # fmt: skip
    return {"test error": train(run, model, data)[1]}


def error(model, x, y):
    """The fraction of wrong labels, in %."""
    return 100 * float(np.mean(model.predict_labels(x) != y))


def errors_within(low, high):
    """Draws the test errors of all rows against updates, between these bounds in %."""

    def draw(figure, results):
        ax = figure.subplots()
        draw_curves(ax, results, "test error")
        ax.set(xlabel="updates", ylabel="test error, %", ylim=(low, high))

    return draw
