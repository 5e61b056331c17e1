"""Every layer with random settings, inputs and gradients."""

from __future__ import annotations

import copy
import json
import math

import numpy as np

from dropcore import Key, nn
from dropcore.constraints import MaxNorm
from dropcore.nn.layer import Layer
from dropcore.regularizers import L1, L2
from support import fuzz
from support.fuzz import plain

LAYERS = {}
"""By name of the class: draws arguments, the shape of a sample, and wrong arguments."""

ACTIVATIONS = (None, "relu", "tanh", "gelu", "sigmoid", "silu", "elu", "softplus")
NO_COUNTS = (*fuzz.NO_INTEGERS, 0, -1)
NO_WORDS = (3, "no such", True, fuzz.Hidden(), b"relu", ["relu"])
NO_POSITIVE = (*fuzz.NO_POSITIVE, math.inf, 10**400)


def layer(*names):
    def register(function):
        LAYERS.update(dict.fromkeys(names, function))
        return function

    return register


def rate_of(draw, rates=(0.0, 0, 0.25, 0.4, 0.5, 0.9)):
    """rate or keep, and what is wrong for it."""
    rate = draw.choose(rates)
    name = draw.choose(("rate", "keep"))
    given = {name: rate if name == "rate" else 1 - rate}
    wrong = {name: [w for w in fuzz.NO_RATES if np.ndim(w) == 0 or isinstance(w, np.ndarray)]}
    wrong[name] += [None, "half"]
    wrong["keep" if name == "rate" else "rate"] = (0.5,)
    return given, wrong


def some(draw, **options):
    """Some of the options, each with one of its values."""
    return {name: draw.choose(values) for name, values in options.items() if draw.flag()}


def weighted(draw, **more):
    found = some(
        draw,
        use_bias=(True, False),
        constraint=(MaxNorm(1.0), None),
        regularizer=(L2(0.1), None),
        **more,
    )
    wrong = {
        "use_bias": fuzz.NO_BOOLS,
        "constraint": (MaxNorm, 3, "max_norm"),
        "regularizer": (L2, 3, "l2"),
    }
    return found, {name: wrong[name] for name in found if name in wrong}


# Every layer with its own arguments. A sample has few numbers, so that gradients are cheap.


@layer("ReLU", "SELU", "SiLU", "Sigmoid", "Softplus", "Tanh", "Flatten", "Softmax")
def without_arguments(draw, name):
    return {}, draw.choose(((5,), (3, 4), (2, 3, 2))), {}


@layer("ELU", "LeakyReLU", "GELU")
def activation(draw, name):
    if name == "GELU":
        options = some(draw, approximate=(None, "tanh"))
        wrong = {"approximate": NO_WORDS}
    elif name == "ELU":
        options, wrong = (
            some(draw, alpha=(1.0, 0.5, 2)),
            {"alpha": (*fuzz.NO_NUMBERS, None, math.nan)},
        )
    else:
        options, wrong = (
            some(draw, slope=(0.01, 0, 0.5)),
            {"slope": (*fuzz.NO_NUMBERS, None, math.nan)},
        )
    return options, draw.choose(((5,), (3, 4))), wrong


@layer("Dropout")
def dropout(draw, name):
    sample = draw.choose(((5,), (3, 4), (129,)))
    if draw.integer(0, 4) == 0:
        mask = draw.rng().random(sample) < 0.5
        return {"mask": mask}, sample, {"mask": ("a", 3, [[1, 2]]), "rate": fuzz.NO_RATES}
    given, wrong = rate_of(draw, (0.0, 0.5, 0.9, 1.0))
    given |= some(draw, scaling=("inverted", "test"), shared_axes=((), 0, (0,)))
    wrong |= {"scaling": NO_WORDS, "shared_axes": ("a", 0.5, [None])}
    return given, sample, wrong


@layer("AlphaDropout", "GaussianDropout", "FeatureAlphaDropout", "DropPath", "UnitDropout",
       "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "BlockDropout",
       "VariationalDropout")  # fmt: skip
def noisy(draw, name):
    sample = draw.choose(((5,), (3, 4)))
    given, wrong = rate_of(draw)
    if name == "FeatureAlphaDropout":
        sample = draw.choose(((3, 4), (2, 2, 3)))
    elif name.startswith("Spatial"):
        sample = (2,) * int(name[-2]) + (3,)
        given |= some(
            draw, scaling=("inverted", "test"), data_format=("channels_last", "channels_first")
        )
        wrong |= {"scaling": NO_WORDS, "data_format": NO_WORDS}
    elif name == "BlockDropout":
        sample = draw.choose(((6, 5), (5, 7, 2)))
        given |= some(draw, block_size=(1, 2, 3))
        given.setdefault("block_size", 2)
        wrong |= {"block_size": NO_COUNTS}
    elif name == "DropPath":
        given |= some(draw, mode=("row", "batch"), scaling=("inverted", "test"))
        wrong |= {"mode": NO_WORDS, "scaling": NO_WORDS}
    elif name == "UnitDropout":
        given |= some(draw, group=(None, 1, 2, 100), scaling=("inverted", "test"))
        wrong |= {"group": (*(n for n in NO_COUNTS if n is not None),), "scaling": NO_WORDS}
    elif name == "VariationalDropout":
        given, wrong = rate_of(draw, (0.25, 0.4))
        given |= {"data_points": math.inf} | some(draw, per_unit=(True, False))
        wrong = {key: [w for w in values if w is not None] for key, values in wrong.items()}
        wrong |= {"data_points": fuzz.NO_POSITIVE, "per_unit": fuzz.NO_BOOLS}
    return given, sample, wrong


@layer("GaussianNoise")
def gaussian_noise(draw, name):
    numbers = (*fuzz.NO_NUMBERS, None, -0.1, math.nan, math.inf)
    return {"stddev": draw.choose((0.0, 0.3, 1))}, draw.choose(((5,), (3, 4))), {"stddev": numbers}


@layer("ActivityRegularization")
def activity(draw, name):
    return {"regularizer": L1(1e-12)}, (5,), {"regularizer": (None, 3, "l1", L1)}


@layer("Dense", "Maxout", "DropConnect")
def dense(draw, name):
    options, wrong = weighted(draw)
    if name == "Dense":
        options |= some(draw, activation=ACTIVATIONS)
        wrong["activation"] = NO_WORDS
    elif name == "Maxout":
        options |= some(draw, pieces=(1, 2, 3))
        wrong["pieces"] = NO_COUNTS
    else:
        given, more = rate_of(draw, (0.0, 0.25, 0.5))
        options |= given | some(
            draw, mode=("row", "batch"), inference=("mean", "gaussian"), activation=(None, "relu")
        )
        wrong |= more | {"mode": NO_WORDS, "inference": NO_WORDS, "activation": NO_WORDS}
    options["units"] = draw.choose((1, 3, 17))
    wrong["units"] = NO_COUNTS
    return options, draw.choose(((4,), (3, 4), (1,))), wrong


@layer("Conv1D", "Conv2D")
def convolution(draw, name):
    axes = int(name[-2])
    options, wrong = weighted(draw, stride=(1, 2), dilation=(1, 2), padding=("valid", "same", 1))
    if options.get("stride", 1) != 1 and options.get("padding") == "same":
        del options["padding"]
    options |= {"filters": draw.choose((2, 4)), "kernel_size": draw.choose((1, 2))}
    options |= some(draw, activation=(None, "relu", "tanh"), groups=(1, 2))
    for key in ("filters", "kernel_size", "stride", "dilation", "groups"):
        wrong[key] = (*(n for n in NO_COUNTS if not np.ndim(n)), "no")
    wrong |= {"padding": (None, "no such", -1, 0.5, fuzz.Hidden()), "activation": NO_WORDS}
    return options, (*(draw.choose((5, 6)) for _ in range(axes)), 2), wrong


@layer("AveragePool1D", "AveragePool2D", "MaxPool1D", "MaxPool2D")
def pooling(draw, name):
    axes = int(name[-2])
    options = some(draw, pool_size=(1, 2, 3), stride=(None, 1, 2), padding=("valid", 0, 1))
    if options.get("padding") == 1 and options.get("pool_size", 2) == 1:
        del options["padding"]
    wrong = {"pool_size": (0, -1, 1.5, "a"), "stride": (0, -1, 1.5, "a"),
             "padding": ("no such", -1, 0.5, fuzz.Hidden())}  # fmt: skip
    if name.startswith("Average"):
        options |= some(draw, count_include_pad=(True, False))
        wrong["count_include_pad"] = fuzz.NO_BOOLS
    return options, (*(draw.choose((4, 5)) for _ in range(axes)), 2), wrong


@layer("GlobalAveragePool1D", "GlobalMaxPool1D", "GlobalAveragePool2D", "GlobalMaxPool2D")
def global_pooling(draw, name):
    return {}, (3,) * int(name[-2]) + (2,), {}


@layer("BatchNorm", "LayerNorm")
def normalization(draw, name):
    options = some(draw, epsilon=(1e-3, 0.1), scale=(True, False), center=(True, False))
    wrong = {"epsilon": NO_POSITIVE, "scale": fuzz.NO_BOOLS, "center": fuzz.NO_BOOLS}
    if name == "BatchNorm":
        options |= some(draw, momentum=(0.0, 0.5, 0.9))
        wrong["momentum"] = (*fuzz.NO_NUMBERS, None, -0.1, 1.5, math.nan)
    return options, draw.choose(((5,), (3, 4))), wrong


@layer("Embedding", "EmbeddingDropout", "LearnedPositions", "SinusoidalPositions")
def words(draw, name):
    if name == "LearnedPositions":
        return {"max_length": draw.choose((5, 9))}, (5, 4), {"max_length": (*NO_COUNTS, 0)}
    if name == "SinusoidalPositions":
        return some(draw, max_wavelength=(30.0, 10_000)), (5, 4), {"max_wavelength": NO_POSITIVE}
    table = {"input_dim": 11, "output_dim": 4} | some(draw, padding_index=(None, 0, 10))
    if name == "Embedding":
        integers = (*(n for n in fuzz.NO_INTEGERS if n is not None), -1, 11)
        wrong = {"input_dim": NO_COUNTS, "output_dim": NO_COUNTS, "padding_index": integers}
        return table, (3,), wrong
    given, wrong = rate_of(draw)
    given |= {"embedding": nn.Embedding(**table)} | some(draw, mode=("row", "batch"))
    return given, (3,), wrong | {"embedding": (None, 3, nn.Embedding), "mode": NO_WORDS}


@layer("LSTM", "GRU", "SimpleRNN")
def recurrent(draw, name):
    rates = ("dropout", "recurrent_dropout", "weight_dropout", "zoneout")
    options, wrong = weighted(draw, **dict.fromkeys(rates, (0.0, 0.3)))
    if options.get("recurrent_dropout") and options.get("weight_dropout"):
        del options["weight_dropout"]
    options |= {"units": draw.choose((1, 4))}
    options |= some(draw, return_sequences=(True, False), reverse=(True, False))
    no_rates = (*(n for n in fuzz.NO_RATES if not isinstance(n, np.ndarray | tuple | list)),)
    wrong |= {"units": NO_COUNTS, "return_sequences": fuzz.NO_BOOLS, "reverse": fuzz.NO_BOOLS}
    wrong |= {rate: (*no_rates, None) for rate in rates if rate in options}
    return options, (draw.choose((1, 4)), 3), wrong


@layer("MultiHeadAttention", "CrossAttention")
def attention(draw, name):
    options, wrong = weighted(draw, head_size=(None, 3))
    options["heads"], wrong["heads"] = draw.choose((1, 2)), NO_COUNTS
    if draw.flag():
        given, more = rate_of(draw)
        options |= given
        wrong |= {next(iter(given)): [w for w in more[next(iter(given))] if w is not None]}
    if name == "MultiHeadAttention":
        options |= some(draw, causal=(True, False))
        wrong["causal"] = fuzz.NO_BOOLS
    return options, (3, 4), wrong


@layer("Bidirectional", "ConcreteDropout")
def wrappers(draw, name):
    if name == "Bidirectional":
        inner, wrong = draw.choose((nn.GRU(2), nn.LSTM(2, return_sequences=True, dropout=0.3))), {}
        options = some(draw, merge=("concat", "sum", "mean"))
        return (
            options | {"layer": inner},
            (3, 2),
            {"merge": NO_WORDS, "layer": (None, nn.Dense(3), 3)},
        )
    given, wrong = rate_of(draw, (0.25, 0.4))
    wrong = {key: [w for w in values if w is not None] for key, values in wrong.items()}
    given |= {"layer": nn.Dense(3), "data_points": math.inf} | some(draw, temperature=(0.5, 1))
    wrong |= {
        "layer": (None, 3, nn.Dense),
        "data_points": fuzz.NO_POSITIVE,
        "temperature": NO_POSITIVE,
    }
    return given, (4,), wrong


@layer("Reshape")
def reshape(draw, name):
    wrong = {"target_shape": (None, "a", (-1, -1), (0.5,), 3.5, (-2, 3))}
    return {"target_shape": draw.choose(((2, 6), (-1,), (3, -1, 2)))}, (3, 4), wrong


@layer("Sequential", "Parallel", "Residual")
def containers(draw, name):
    parts = [
        lambda: nn.Dense(4, activation="relu"),
        lambda: nn.Dropout(0.4),
        lambda: nn.UnitDropout(0.5),
        lambda: nn.LayerNorm(),
        lambda: nn.Tanh(),
        lambda: nn.AlphaDropout(0.2),
        lambda: nn.Dense(4),
        lambda: nn.Sequential([nn.Dropout(0.2), nn.Dense(4)]),
    ]
    chosen = [draw.choose(parts)() for _ in range(draw.integer(1, 4))]
    no_layers = (None, 3, "Dense", [None], [3], [nn.Dense], ["Dense"])
    if name == "Parallel":
        options = {"branches": chosen} | some(draw, merge=("concat", "sum", "mean"))
        return options, (4,), {"branches": (*no_layers, []), "merge": NO_WORDS}
    if name == "Residual":
        return {"layer": chosen}, (4,), {"layer": no_layers}
    return {"layers": chosen}, (4,), {"layers": no_layers}


# --- checks --------------------------------------------------------------------------------------


def built(draw, made, sample, dtype):
    seed = draw.integer(0, 2**64 - 1)
    wrong = {
        "input_shape": ("a", (1.5,), (-1,), (None, "a"), 2.5, [True]),
        "key": (*fuzz.NO_KEYS, None),
        "dtype": ("int32", "float16", "c8"),
    }
    draw.call(made.build, {"input_shape": sample, "key": seed, "dtype": dtype})
    twin = copy.deepcopy(made)
    if draw.integer(0, 4) == 0:
        name = draw.choose(sorted(wrong))
        arguments = {"input_shape": sample, "key": seed, "dtype": dtype}
        bad = draw.choose(wrong[name])
        if made.params or name == "input_shape":
            draw.refuse(lambda: twin.build(**(arguments | {name: bad})), f"{name}={bad!r}")
    return made


def inputs(draw, made, shape, dtype):
    if made.integer_input:
        kind = draw.choose((np.int64, np.int32, np.uint8))
        return draw.watch(draw.rng().integers(0, 11, shape).astype(kind))
    return draw.array(shape, dtype, swapped=False)


def check_layer(draw, target):
    name = target.__name__
    options, sample, wrong = LAYERS[name](draw, name)
    wrong = {
        key: values for key, values in wrong.items() if key in options or key in ("rate", "keep")
    }
    made = draw.call(target, options, wrong)
    if made is None:
        return
    dtype = draw.dtype(fuzz.REAL)
    made = built(draw, made, sample, dtype)
    rows = draw.choose((0, 1, 2, 5, 9))
    x = inputs(draw, made, (rows, *sample), dtype)
    extras = {}
    if name == "CrossAttention":
        extras["context"] = draw.array((rows, draw.choose((1, 5)), 4), dtype, swapped=False)
    elif made.takes_lengths and draw.flag():
        extras["lengths"] = draw.watch(draw.rng().integers(1, sample[0] + 1, rows))
    call = Call(draw, made, x, extras)
    call.check_output(sample)
    call.check_pieces()
    call.check_gradients()
    call.check_refusals()
    if not made.integer_input and rows:
        check_slopes(draw, made, sample, rows, extras)
        check_dtypes(made, sample, call, dtype)
    again = Layer.from_config(json.loads(json.dumps(made.to_config())))
    assert repr(again) == repr(made)
    draw.expect_unchanged()


class Call:
    """A layer, its input, and the address of its noise."""

    def __init__(self, draw, made, x, extras):
        self.draw, self.made, self.x, self.extras = draw, made, x, extras
        key, _ = draw.key()
        # Streams of the layers are added to that of the key.
        self.key = Key(key.seed, min(key.stream, 2**27), key.step) if isinstance(key, Key) else key
        self.row_offset = draw.choose((0, 1, 127, 10**6, 2**40))
        self.noise = draw.choose(({}, {"key": self.key, "row_offset": self.row_offset}))

    def check_output(self, sample):
        self.y, self.backward = self.made.forward(self.x, **self.noise, **self.extras)
        assert self.y.shape == (len(self.x), *self.made.output_shape(sample))
        assert np.isfinite(self.y).all()
        again, _ = self.made.forward(plain(self.x), **self.noise, **plain_of(self.extras))
        np.testing.assert_array_equal(again, self.y)  # for any layout, every time
        self.draw.expect_unchanged()

    def check_pieces(self):
        if self.noise == {} or isinstance(self.made, nn.BatchNorm):
            return
        cut = self.draw.integer(0, len(self.x))
        for rows in (slice(0, cut), slice(cut, None)):
            offset = self.row_offset + (rows.start or 0)
            own = {name: array[rows] for name, array in self.extras.items()}
            part, _ = self.made.forward(self.x[rows], key=self.key, row_offset=offset, **own)
            close(part, self.y[rows], 64)

    def check_gradients(self):
        dy = self.draw.array(self.y.shape, self.y.dtype, swapped=False)
        found = self.backward(dy)
        dx, grads = found[0], found[1]
        assert set(grads) == set(self.made.params)
        for name, gradient in grads.items():
            assert np.shape(gradient) == self.made.params[name].shape
            assert np.isfinite(np.asarray(gradient)).all()
        if dx is not None and not self.made.integer_input and isinstance(dx, np.ndarray):
            assert dx.shape == self.x.shape
            assert dx.dtype == self.x.dtype
        self.draw.expect_unchanged()
        value = plain(dy)
        other = np.float64 if value.dtype == np.float32 else np.float32
        wrong = (
            None,
            "a",
            value.tolist(),
            value[None],
            value.astype(other),
            value.astype(int),
            np.ma.array(value, mask=True),
            np.zeros((3, *value.shape), value.dtype),
        )
        for bad in wrong:
            self.draw.refuse(lambda bad=bad: self.backward(bad), f"dy={bad!r:.60}")

    def check_refusals(self):
        value = plain(self.x)
        wrong = [
            None,
            "a",
            value.tolist(),
            value.astype(complex),
            value.astype("O"),
            np.ma.array(value, mask=True),
            np.array(1.0),
            np.full(value.shape, "a"),
        ]
        if self.made.integer_input and value.size:
            wrong += [value.astype(np.int64) + 11, value.astype(np.int64) - 11, value + 0.5]
        for bad in wrong:
            self.draw.refuse(
                lambda bad=bad: self.made.forward(bad, **self.extras), f"x={bad!r:.60}"
            )
        if not self.made.n_streams:
            return
        key = self.draw.choose(fuzz.NO_KEYS)
        self.draw.refuse(lambda: self.made.forward(self.x, key=key, **self.extras), f"key={key!r}")
        offset = self.draw.choose((-1, 1.5, "a", None, -(2**70)))
        self.draw.refuse(
            lambda: self.made.forward(self.x, key=7, row_offset=offset, **self.extras),
            f"row_offset={offset!r}",
        )


def plain_of(arrays):
    return {name: plain(array) for name, array in arrays.items()}


def close(found, wanted, units):
    size = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(found, wanted, 0, units * np.finfo(wanted.dtype).eps * size)


def as_float64(made, sample):
    """The same layer in float64."""
    twin = Layer.from_config(made.to_config())
    twin.build(sample, key=0, dtype=np.float64)
    twin.load_params({name: w.astype(np.float64) for name, w in made.params.items()})
    for name, array in made.buffers.items():
        twin.buffers[name][...] = array
    return twin


def check_dtypes(made, sample, call, dtype):
    """float32 gives the numbers of float64, rounded: with the same masks, nearly."""
    if dtype == np.float64:
        return
    twin = as_float64(made, sample)
    extras = {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array
        for name, array in plain_of(call.extras).items()
    }
    wanted, _ = twin.forward(plain(call.x).astype(np.float64), **call.noise, **extras)
    size = max(1.0, float(np.abs(wanted).max(initial=0)))
    np.testing.assert_allclose(call.y, wanted, 0, 2e-3 * size)


def check_slopes(draw, made, sample, rows, extras):
    """The gradients along a random direction are differences."""
    twin, rng = as_float64(made, sample), draw.rng()
    extras = {
        name: array.astype(np.float64) if array.dtype.kind == "f" else array
        for name, array in plain_of(extras).items()
    }
    x = rng.normal(size=(rows, *sample))
    # Not at the corner of a ReLU, where biases of zero behind dead units are.
    params = {name: w + 0.1 * rng.normal(size=w.shape) for name, w in twin.params.items()}
    twin.load_params(params)
    noise = draw.choose(({}, {"key": 7, "row_offset": 3}))
    y, backward = twin.forward(x, **noise, **extras)
    dy = rng.normal(size=y.shape)
    dx, grads, *_ = backward(dy)
    if isinstance(dx, tuple):  # of an input and its context
        dx = dx[0]
    along = {name: rng.normal(size=w.shape) for name, w in params.items()}
    along_x = rng.normal(size=x.shape)
    exact = (0.0 if dx is None else (dx * along_x).sum()) + sum(
        float((np.asarray(grads[name]) * v).sum()) for name, v in along.items()
    )

    def at(step):
        twin.load_params({name: w + step * along[name] for name, w in params.items()})
        moved = x if dx is None else x + step * along_x
        return float((twin.forward(moved, **noise, **extras)[0] * dy).sum())

    # A step over a corner of a ReLU or a pooling shows at one of the sizes only.
    errors = [abs((at(step) - at(-step)) / (2 * step) - exact) for step in (1e-6, 1e-7, 1e-5, 3e-7)]
    size = max(1.0, abs(exact), float(np.abs(dy).sum()) * max(1.0, float(np.abs(y).max())))
    assert min(errors) <= 1e-5 * size, (errors, exact)


def layer_classes():
    """The public classes of layers."""
    for name in nn.__all__:
        value = getattr(nn, name)
        if isinstance(value, type) and issubclass(value, nn.Layer):
            yield name
