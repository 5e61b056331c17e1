"""Common networks with dropout, built from widths and rates.

=================  ==============================================================
`mlp`              tables: dense hidden layers
`cnn`              images: convolutions, pooling, dense layers
`lstm`             sequences of feature vectors or of words
`transformer`      the same by attention: classifiers of text, language models
`autoencoder`      the reconstruction of its own input
=================  ==============================================================

Each returns a `Sequential` that is not built yet; its layers can be changed or reused. The last
layer has no activation: the losses of `dropcore.losses` take logits.

**Rates.** ``rate=0.5`` applies to all hidden layers, ``rate=(0.2, 0.5)`` has one for each; `keep`
works the same way. A hidden layer has a dropout even if its rate is 0, so that the names of the
parameters and the masks of the other layers do not depend on the rate. There is an input dropout if
`input_rate` or `input_keep` is given.

**Max-norm.** ``max_norm=2.0`` is ``MaxNorm(2.0)``, which bounds the weights as they are stored. For
the bound c of a paper that trains without the factor 1/keep, write
``max_norm=MaxNorm.paper(3.0, keep=0.5)``. It applies to hidden units. The last layer has no bound,
as the targets of a regression may be large.

**Learning rate.** "adam", which is ``Adam(1e-3)``, suits standardised data with all of these
networks. "sgd" is ``SGD(0.01, momentum=0.9)``. Gradients under dropout are noisy: training takes
two to three times as many epochs as without. A larger learning rate, with momentum 0.95, needs
max-norm, which keeps the weights from growing.
"""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np

from dropcore._base.checks import check_bool, check_integer, check_number, shown
from dropcore.constraints import Constraint, MaxNorm
from dropcore.nn.activations import activation_of
from dropcore.nn.attention import MultiHeadAttention
from dropcore.nn.branches import Residual
from dropcore.nn.convolution import Conv2D
from dropcore.nn.dense import Dense
from dropcore.nn.dropout import Dropout, DropPath
from dropcore.nn.embedding import Embedding
from dropcore.nn.initializers import Normal
from dropcore.nn.layer import Layer
from dropcore.nn.normalization import LayerNorm
from dropcore.nn.pooling import GlobalAveragePool1D, MaxPool2D
from dropcore.nn.positions import LearnedPositions, SinusoidalPositions
from dropcore.nn.rates import Rate, Schedule, rates_over_depth
from dropcore.nn.recurrent import LSTM
from dropcore.nn.reshape import Flatten, Reshape
from dropcore.nn.sequential import Sequential

__all__ = ["autoencoder", "cnn", "lstm", "mlp", "transformer"]

Rates = float | Schedule | Sequence[float | Schedule]
"""One rate, or one for each layer; a rate is a number or a function of the step."""


def mlp(
    units: int | Sequence[int],
    n_outputs: int,
    *,
    rate: Rates | None = None,
    keep: Rates | None = None,
    input_rate: float | Schedule | None = None,
    input_keep: float | Schedule | None = None,
    max_norm: float | Constraint | None = None,
    activation: str = "relu",
) -> Sequential:
    """A multi-layer perceptron: dense hidden layers, each with dropout, and an output layer.

    Parameters
    ----------
    units : int or sequence of int
        Width of each hidden layer; ``()`` gives a linear model. With dropout a layer needs to be
        wider: see `dropcore.nn.width_for`.
    n_outputs : int
        Number of classes, 1 for yes or no, or the number of targets of a regression.
    rate, keep : float, callable, or a sequence of them, optional
        Fraction of each hidden layer that is dropped, or kept. By default ``rate=0.5``.
    input_rate, input_keep : float or callable, optional
        Of the inputs; by default no input is dropped. 0.2 suits many redundant inputs, such as
        pixels; with few columns each one counts, and 0 to 0.1 is enough.
    max_norm : float or callable, optional
        Bound on the norm of each hidden unit's incoming weights, or another constraint. 1.5 to 2
        corresponds to the papers' 3 to 4 at keep = 0.5.
    activation : str, default "relu"
        Of the hidden layers: a name of `dropcore.nn.activations.ACTIVATIONS`.

    Returns
    -------
    Sequential
        It takes (batch, features). Images and other shapes need a `Flatten` in front:
        ``Sequential([Flatten(), *mlp(256, 10).layers])``.

    Raises
    ------
    TypeError, ValueError
        If a width is not a positive integer, a rate is not in [0, 1], both `rate` and `keep` are
        given, they are not one or as many as hidden layers, or an option has no effect.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout: a simple way to
    prevent neural networks from overfitting", appendix A: rates, widths, learning rates.

    Examples
    --------
    >>> mlp(64, 10, rate=0.5)
    Sequential([Dense(64, activation='relu'), Dropout(0.5), Dense(10)])
    >>> mlp((256, 128), 10, keep=(0.5, 0.8), input_keep=0.8).layers[-2]
    Dropout(keep=0.8)
    """
    widths = _widths("mlp: units", units)
    outputs = check_integer("mlp: n_outputs", n_outputs, 1)
    noise = _rates("mlp", "hidden layer", rate, keep, len(widths), 0.5)
    inputs = _input_rate("mlp", input_rate, input_keep)
    bound = _bound("mlp", max_norm, bool(widths), "the hidden layers, and there are none")
    _check_activation("mlp", activation)
    return Sequential(
        [*_dropped(inputs), *_hidden(widths, noise, activation, bound), Dense(outputs)]
    )


def cnn(
    filters: int | Sequence[int],
    n_outputs: int,
    *,
    units: int | Sequence[int] = (128,),
    kernel_size: int = 3,
    pool_size: int = 2,
    rate: Rates | None = None,
    keep: Rates | None = None,
    conv_rate: Rates | None = None,
    conv_keep: Rates | None = None,
    input_rate: float | Schedule | None = None,
    input_keep: float | Schedule | None = None,
    max_norm: float | Constraint | None = None,
    activation: str = "relu",
    input_shape: Sequence[int] | None = None,
) -> Sequential:
    """A convolutional network: convolutions with pooling, then dense layers.

    Each of `filters` is a ``Conv2D`` of the same height and width, a ``MaxPool2D`` and a dropout of
    elements. Then follow the dense hidden layers of an `mlp`.

    Parameters
    ----------
    filters : int or sequence of int
        Of each convolution. Every one divides height and width by `pool_size`.
    n_outputs : int
        As for `mlp`.
    units : int or sequence of int, default (128,)
        Widths of the dense hidden layers, ``()`` for none.
    kernel_size : int, default 3
    pool_size : int, default 2
        1 for no pooling.
    rate, keep : float, callable, or a sequence of them, optional
        Of the dense hidden layers. By default ``rate=0.5``.
    conv_rate, conv_keep : float, callable, or a sequence of them, optional
        Of the outputs of the convolutions, after pooling. By default ``conv_rate=0.25``.
    input_rate, input_keep : float or callable, optional
        Of the pixels; by default none is dropped. The paper has 0.1.
    max_norm : float or callable, optional
        For the convolutions and the dense hidden layers: of a filter's weights, or a unit's.
    activation : str, default "relu"
    input_shape : (height, width, channels), optional
        Of one image, for data whose rows are flat. A first layer then reshapes them.

    Returns
    -------
    Sequential
        It takes (batch, height, width, channels), or (batch, pixels) with `input_shape`.

    Raises
    ------
    TypeError, ValueError
        As `mlp`.

    References
    ----------
    Srivastava et al. 2014, section 6.1.2: dropout helps in convolutional layers as well, at smaller
    rates (0.1 of the input, 0.25 twice, 0.5).

    Examples
    --------
    >>> cnn(16, 10, units=()).layers[1:]
    [MaxPool2D(), Dropout(0.25), Flatten(), Dense(10)]
    """
    channels = _widths("cnn: filters", filters)
    if not channels:
        raise ValueError("cnn: filters must have at least one number; a network without is mlp")
    widths = _widths("cnn: units", units)
    outputs = check_integer("cnn: n_outputs", n_outputs, 1)
    kernel_size = check_integer("cnn: kernel_size", kernel_size, 1)
    pool_size = check_integer("cnn: pool_size", pool_size, 1)
    inputs = _input_rate("cnn", input_rate, input_keep)
    of_maps = _rates(
        "cnn", "convolution", conv_rate, conv_keep, len(channels), 0.25, prefix="conv_"
    )
    noise = _rates("cnn", "dense hidden layer", rate, keep, len(widths), 0.5)
    bound = _bound("cnn", max_norm)
    _check_activation("cnn", activation)
    layers: list[Layer] = []
    if input_shape is not None:
        if len(tuple(input_shape)) != 3:
            raise ValueError(
                f"cnn: input_shape must be (height, width, channels), got {input_shape!r}"
            )
        layers.append(Reshape(input_shape))
    layers += _dropped(inputs)
    for count, given in zip(channels, of_maps, strict=True):
        layers.append(
            Conv2D(count, kernel_size, padding="same", activation=activation, constraint=bound)
        )
        if pool_size > 1:
            layers.append(MaxPool2D(pool_size))
        layers.append(Dropout(**given))
    return Sequential(
        [*layers, Flatten(), *_hidden(widths, noise, activation, bound), Dense(outputs)]
    )


def lstm(
    units: int | Sequence[int],
    n_outputs: int,
    *,
    vocabulary: int | None = None,
    embedding: int | None = None,
    padding_index: int | None = None,
    rate: Rates | None = None,
    keep: Rates | None = None,
    input_rate: float | Schedule | None = None,
    input_keep: float | Schedule | None = None,
    recurrent_rate: float | Schedule = 0.0,
    max_norm: float | Constraint | None = None,
    return_sequences: bool = False,
) -> Sequential:
    """LSTM layers with one mask for each sequence, and an output layer.

    All masks are the same at every step of a sequence. `rate` applies to the connections from a
    layer to the next and to the output. Only `recurrent_rate` applies to the state of a layer.

    Parameters
    ----------
    units : int or sequence of int
        Width of the LSTM layer, or of each.
    n_outputs : int
        As for `mlp`; the size of the vocabulary to predict the next word.
    vocabulary : int, optional
        Number of words, for data of integers (batch, time). Without it the data is feature vectors
        (batch, time, features).
    embedding : int, default 64
        Length of the vectors of words.
    padding_index : int, optional
        The integer that pads sequences. Give their `lengths` to `fit` as well.
    rate, keep : float, callable, or a sequence of them, optional
        Of the output of each LSTM layer. By default ``rate=0.25``.
    input_rate, input_keep : float or callable, optional
        Of the input of the first layer: features, or elements of the vectors of words. By default
        none is dropped.
    recurrent_rate : float or callable, default 0.0
        Of the recurrent state, for all layers. 0.1 to 0.25 suits small data.
    max_norm : float or callable, optional
        For both weights of each LSTM layer.
    return_sequences : bool, default False
        Whether there is an output for every step, or one for the sequence.

    Returns
    -------
    Sequential

    Raises
    ------
    TypeError, ValueError
        As `mlp`.

    Notes
    -----
    Dropout makes an LSTM worse if it is too small for the rate. Zaremba et al. 2014 use no
    dropout with 200 units, 0.5 with 650, and 0.65 with 1500. `dropcore.tuning.sensitivity` shows
    which rate suits the data.

    References
    ----------
    Zaremba, Sutskever and Vinyals 2014, "Recurrent neural network regularization"; Gal and
    Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural networks".

    Examples
    --------
    >>> lstm((64, 32), 2, rate=0.5).layers[1]
    LSTM(32, dropout=0.5)
    """
    widths = _widths("lstm: units", units)
    if not widths:
        raise ValueError("lstm: units must have at least one width")
    outputs = check_integer("lstm: n_outputs", n_outputs, 1)
    return_sequences = check_bool("lstm: return_sequences", return_sequences)
    if vocabulary is None and (embedding is not None or padding_index is not None):
        name = "embedding" if embedding is not None else "padding_index"
        raise ValueError(f"lstm: {name} is for data of words: give vocabulary, or leave {name} out")
    noise = _rates("lstm", "LSTM layer", rate, keep, len(widths), 0.25)
    inputs = _input_rate("lstm", input_rate, input_keep)
    # Checked as a rate of the architecture, so that its name is in the message.
    Rate("lstm: recurrent_rate", recurrent_rate, None, arrays=False)
    bound = _bound("lstm", max_norm)
    layers: list[Layer] = []
    if vocabulary is not None:
        length = 64 if embedding is None else embedding
        layers.append(Embedding(vocabulary, length, padding_index=padding_index))
    # An LSTM takes only rates.
    upwards = [
        Rate("lstm", given.get("rate"), given.get("keep"), arrays=False).rate
        for given in ({"rate": 0.0} if inputs is None else inputs, *noise)
    ]
    for index, width in enumerate(widths):
        layers.append(
            LSTM(
                width,
                return_sequences=return_sequences or index + 1 < len(widths),
                dropout=upwards[index],
                recurrent_dropout=recurrent_rate,
                constraint=bound,
                recurrent_constraint=bound,
            )
        )
    shared = 1 if return_sequences else ()
    return Sequential([*layers, Dropout(**noise[-1], shared_axes=shared), Dense(outputs)])


def transformer(
    units: int,
    n_outputs: int,
    *,
    depth: int = 4,
    heads: int = 4,
    hidden: int | None = None,
    vocabulary: int | None = None,
    max_length: int | None = None,
    causal: bool = False,
    return_sequences: bool = False,
    rate: Rates | None = None,
    keep: Rates | None = None,
    attention_rate: Rates | None = None,
    attention_keep: Rates | None = None,
    path_rate: float | None = None,
    input_rate: float | Schedule | None = None,
    input_keep: float | Schedule | None = None,
    activation: str = "gelu",
) -> Sequential:
    """A transformer: positions, blocks of attention and dense layers, and an output layer.

    Each block is two `Residual`, ``[LayerNorm, MultiHeadAttention, Dropout]`` and ``[LayerNorm,
    Dense, Dense, Dropout]``. The normalisation comes first in each, and once more after the last
    block. A classifier takes the mean of the steps; a language model has ``causal=True,
    return_sequences=True`` and as many outputs as words.

    Parameters
    ----------
    units : int
        Features of a step between the layers.
    n_outputs : int
        As for `mlp`; the size of the vocabulary to predict the next word.
    depth : int, default 4
        Number of blocks.
    heads : int, default 4
        Of each attention. They divide `units`.
    hidden : int, optional
        Width of the dense layer inside of a block. By default ``4 * units``.
    vocabulary : int, optional
        Number of words, for data of integers (batch, time). Without it the data is feature vectors
        (batch, time, features), and a dense layer maps them to `units`.
    max_length : int, optional
        The longest sequence, for positions that are learned. By default they are sinusoidal, and
        sequences may have any length.
    causal : bool, default False
        Whether a step sees earlier steps only.
    return_sequences : bool, default False
        Whether there is an output for every step, or one for the sequence.
    rate, keep : float, callable, or a sequence of them, optional
        Of what each block adds, twice: the outputs of its attention and of its dense layers. By
        default ``rate=0.1``.
    attention_rate, attention_keep : float, callable, or a sequence of them, optional
        Of the attention weights of each block. By default as `rate` or `keep`.
    path_rate : float, optional
        Of the last block as a whole (stochastic depth); those before it are dropped less, linearly,
        as `dropcore.nn.rates_over_depth` gives the rates. By default no block is dropped.
    input_rate, input_keep : float or callable, optional
        Of the vectors with their positions. By default none is dropped.
    activation : str, default "gelu"
        Between the dense layers of a block.

    Returns
    -------
    Sequential
        Give the `lengths` of padded sequences to `fit` and `predict`.

    Raises
    ------
    TypeError, ValueError
        As `mlp`, or if `heads` does not divide `units`.

    References
    ----------
    Vaswani et al. 2017, "Attention is all you need"; Xiong et al. 2020, "On layer normalization in
    the transformer architecture" (normalisation first); Radford et al. 2018, "Improving language
    understanding by generative pre-training".

    Examples
    --------
    >>> classifier = transformer(64, 2, depth=2, vocabulary=10000, path_rate=0.1)
    >>> gpt = transformer(64, 5000, vocabulary=5000, max_length=256, causal=True,
    ...                   return_sequences=True)
    """
    what = "transformer"
    units = check_integer(f"{what}: units", units, 1)
    outputs = check_integer(f"{what}: n_outputs", n_outputs, 1)
    depth = check_integer(f"{what}: depth", depth, 1)
    heads = check_integer(f"{what}: heads", heads, 1)
    if units % heads:
        raise ValueError(f"{what}: heads must divide the {units} units, got {heads}")
    hidden = 4 * units if hidden is None else check_integer(f"{what}: hidden", hidden, 1)
    causal = check_bool(f"{what}: causal", causal)
    return_sequences = check_bool(f"{what}: return_sequences", return_sequences)
    noise = _rates(what, "block", rate, keep, depth, 0.1)
    of_weights = noise
    if attention_rate is not None or attention_keep is not None:
        of_weights = _rates(
            what, "block", attention_rate, attention_keep, depth, 0.1, prefix="attention_"
        )
    paths: list[float | None] = [None] * depth
    if path_rate is not None:
        last = check_number(f"{what}: path_rate", path_rate, "[0, 1]")
        paths = [*rates_over_depth(depth, last)]
    inputs = _input_rate(what, input_rate, input_keep)
    _check_activation(what, activation)
    layers: list[Layer] = []
    if vocabulary is None:
        layers.append(Dense(units))
    elif max_length is None:  # as large as the sinusoids
        layers.append(Embedding(vocabulary, units, initializer=Normal(1.0)))
    else:
        layers.append(Embedding(vocabulary, units))
    layers.append(SinusoidalPositions() if max_length is None else LearnedPositions(max_length))
    layers += _dropped(inputs)
    how: dict[str, Any] = {"initializer": "glorot_uniform"}
    for given, weights, path in zip(noise, of_weights, paths, strict=True):
        attention = MultiHeadAttention(heads, causal=causal, **weights)
        inside = [Dense(hidden, activation=activation, **how), Dense(units, **how)]
        for part in ([attention], inside):
            dropped = [Dropout(**given)] if path is None else [Dropout(**given), DropPath(path)]
            layers.append(Residual([LayerNorm(), *part, *dropped]))
    pooled = [] if return_sequences else [GlobalAveragePool1D()]
    return Sequential([*layers, LayerNorm(), *pooled, Dense(outputs, **how)])


def autoencoder(
    units: int | Sequence[int],
    n_inputs: int,
    *,
    rate: Rates | None = None,
    keep: Rates | None = None,
    input_rate: float | Schedule | None = None,
    input_keep: float | Schedule | None = None,
    max_norm: float | Constraint | None = None,
    activation: str = "relu",
) -> Sequential:
    """A network that learns to reconstruct its input: ``fit(x, x, loss="mse")``.

    ``units=(256, 64)`` is an encoder of 256 and 64 units, followed by a decoder of 256 units and
    the output.

    Parameters
    ----------
    units : int or sequence of int
        Widths of the encoder; the last one is the code. The decoder has the others in reverse.
    n_inputs : int
        Number of features, which is that of the outputs.
    rate, keep : float, callable, or a sequence of them, optional
        Of the layers of the encoder; those of the decoder have the rates of their counterparts. By
        default ``rate=0.5``, which needs a wide code: give a narrow one none, as in
        ``rate=(0.5, 0.0)``.
    input_rate, input_keep : float or callable, optional
        Of the inputs, which makes it a denoising autoencoder. By default none is dropped.
    max_norm : float or callable, optional
        For the hidden layers.
    activation : str, default "relu"

    Returns
    -------
    Sequential

    Raises
    ------
    TypeError, ValueError
        As `mlp`.

    References
    ----------
    Srivastava et al. 2014, section 7.1: an autoencoder of 256 units at keep = 0.5, whose units
    learn features of their own. Vincent et al. 2008, "Extracting and composing robust features with
    denoising autoencoders".

    Examples
    --------
    >>> autoencoder(256, 64)
    Sequential([Dense(256, activation='relu'), Dropout(0.5), Dense(64)])
    """
    widths = _widths("autoencoder: units", units)
    if not widths:
        raise ValueError("autoencoder: units must have at least one width, that of the code")
    outputs = check_integer("autoencoder: n_inputs", n_inputs, 1)
    noise = _rates("autoencoder", "layer of the encoder", rate, keep, len(widths), 0.5)
    inputs = _input_rate("autoencoder", input_rate, input_keep)
    bound = _bound("autoencoder", max_norm)
    _check_activation("autoencoder", activation)
    there_and_back = [*widths, *widths[-2::-1]], [*noise, *noise[-2::-1]]
    return Sequential(
        [*_dropped(inputs), *_hidden(*there_and_back, activation, bound), Dense(outputs)]
    )


# --- what they share -----------------------------------------------------------------------------


def _widths(what: str, units: Any) -> list[int]:
    """One width or several as a list."""
    if isinstance(units, str | bytes) or not isinstance(units, Iterable):
        return [check_integer(what, units, 1)]
    return [check_integer(what, width, 1) for width in units]


def _rates(
    architecture: str,
    where: str,
    rate: Any,
    keep: Any,
    count: int,
    default: float,
    *,
    prefix: str = "",
) -> list[dict[str, Any]]:
    """The arguments `rate` or `keep` of `count` dropouts, as they were given."""
    if rate is not None and keep is not None:
        raise ValueError(
            f"{architecture}: give {prefix}rate or {prefix}keep, not both (got {rate!r}, {keep!r})"
        )
    if rate is None and keep is None:
        return [{"rate": default}] * count
    name, given = ("keep", keep) if rate is None else ("rate", rate)
    if not count:
        raise ValueError(
            f"{architecture}: {prefix}{name} has no effect, as there is no {where}: leave it out"
        )
    if isinstance(given, numbers.Real) or callable(given):
        each = [given] * count
    elif isinstance(given, str | bytes) or np.ndim(cast(Any, given)) != 1:
        raise TypeError(
            f"{architecture}: {prefix}{name} must be a number, or one for each {where}, got "
            f"{shown(given)}"
        )
    else:
        each = list(given)
    if len(each) != count:
        raise ValueError(
            f"{architecture}: {prefix}{name} must be a number, or one for each {where}: {count}, "
            f"got {len(each)}"
        )
    for one in each:
        Rate(f"{architecture}: {where}", **{"rate": None, "keep": None, name: one}, arrays=False)
    return [{name: one if callable(one) else float(one)} for one in each]


def _input_rate(architecture: str, rate: Any, keep: Any) -> dict[str, Any] | None:
    """The arguments of the dropout of the inputs; None for no such layer."""
    if rate is None and keep is None:
        return None
    if rate is not None and keep is not None:
        raise ValueError(
            f"{architecture}: give input_rate or input_keep, not both (got {rate!r}, {keep!r})"
        )
    Rate(f"{architecture}: input", rate, keep, arrays=False)
    name, given = ("keep", keep) if rate is None else ("rate", rate)
    return {name: given if callable(given) else float(given)}


def _bound(
    architecture: str, max_norm: Any, has_effect: bool = True, holds_for: str = ""
) -> Constraint | None:
    """The constraint of hidden units."""
    if max_norm is None:
        return None
    if not has_effect:
        raise ValueError(f"{architecture}: max_norm holds for {holds_for}: leave it out")
    if isinstance(max_norm, numbers.Real) and not isinstance(max_norm, bool):
        return MaxNorm(float(max_norm))
    if isinstance(max_norm, type) or not callable(max_norm):
        raise TypeError(
            f"{architecture}: max_norm must be a number, or a constraint such as "
            f"MaxNorm.paper(3.0, keep=0.5), got {shown(max_norm)}"
        )
    return cast(Callable[[Any], object], max_norm)


def _check_activation(architecture: str, activation: Any) -> None:
    if activation is None:
        raise ValueError(
            f"{architecture}: activation=None would make the hidden layers one linear map: name "
            "one, such as 'relu'"
        )
    activation_of(architecture, activation)


def _dropped(given: dict[str, Any] | None) -> list[Layer]:
    return [] if given is None else [Dropout(**given)]


def _hidden(
    widths: Sequence[int],
    noise: Sequence[dict[str, Any]],
    activation: str,
    constraint: Constraint | None,
) -> list[Layer]:
    """Dense layers, each with its dropout."""
    return [
        layer
        for width, given in zip(widths, noise, strict=True)
        for layer in (
            Dense(width, activation=activation, constraint=constraint),
            Dropout(**given),
        )
    ]
