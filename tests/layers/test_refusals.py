"""What every layer refuses: other inputs, gradients, row offsets and numbers than it can take."""

from __future__ import annotations

import copy
import inspect

import numpy as np
import pytest
import scipy.sparse

import dropcore
from dropcore import Key, Mask
from dropcore._ops.activation import Activation
from dropcore.nn import (
    GELU,
    GRU,
    LSTM,
    AlphaDropout,
    BlockDropout,
    Conv1D,
    Conv2D,
    Dense,
    DropConnect,
    Dropout,
    DropPath,
    Embedding,
    EmbeddingDropout,
    FeatureAlphaDropout,
    GaussianDropout,
    Layer,
    LayerNorm,
    MaxPool1D,
    Reshape,
    Sequential,
    SpatialDropout1D,
    UnitDropout,
    word_mask,
)
from support.layers import CARRYING, EXAMPLES, KEY, batches, built, every_layer

# --- what a backward pass needs ------------------------------------------------------------------


def gradients(layer, x, key, change):
    y, backward = layer.forward(x, key=key)
    dy = np.random.default_rng(1).normal(size=y.shape).astype(y.dtype)
    if change and y.flags.writeable:
        y -= 1
    dx, grads = backward(dy)
    return [dx, *(np.asarray(grads[name]) for name in sorted(grads))]


@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with a key"])
@every_layer
def test_a_changed_output_changes_no_gradient(layer, sample, key):
    layer = built(layer, *sample)
    x = batches(layer, sample)
    wanted = gradients(layer, x.copy(), key, change=False)
    for found, one in zip(gradients(layer, x.copy(), key, change=True), wanted):
        np.testing.assert_array_equal(found, one)


@every_layer
def test_an_output_of_inference_can_be_changed(layer, sample):
    layer = built(layer, *sample)
    for key in (None, KEY):
        y = layer(batches(layer, sample), key)
        y[...] = 1


def test_a_read_only_input_stays_read_only():
    x = np.ones((3, 4), np.float32)
    x.flags.writeable = False
    for layer in (Dropout(0.5), Reshape((2, 2)), Sequential([Dropout(0.5)])):
        with pytest.raises(ValueError, match="read-only"):
            layer(x)[...] = 0


# --- gradients -----------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [None, KEY], ids=["without a key", "with a key"])
@every_layer
def test_a_gradient_unlike_the_output_is_refused(layer, sample, key):
    layer = built(layer, *sample)
    y, backward = layer.forward(batches(layer, sample), key=key)
    other = np.float32 if y.dtype == np.float64 else np.float64
    for wrong in (y[:1], y[None], np.concatenate([y, y]), y[0], y.astype(other), np.ones(1)):
        with pytest.raises(ValueError, match="dy must have the shape of the output"):
            backward(wrong)
        with pytest.raises(ValueError, match="dy must have the shape of the output"):
            backward(wrong, input_gradient=False)
    for wrong in (y.tolist(), None, 1.0):
        with pytest.raises(TypeError, match="dy must be an array like the output, got"):
            backward(wrong)


# --- inputs --------------------------------------------------------------------------------------


@every_layer
def test_an_input_that_is_no_array_of_numbers_is_refused(layer, sample):
    layer = built(layer, *sample)
    x = batches(layer, sample)
    flat = x.reshape(len(x), -1)
    wrong = [
        (scipy.sparse.csr_array(flat), r"expects an array, got csr_array; use x\.toarray\(\)"),
        (x.astype(object), "got dtype object"),
        (x.astype(str), "got dtype"),
        (x.astype(complex), "got dtype complex128"),
        (np.ma.masked_array(x, x > 0), r"got MaskedArray; use x\.filled"),
        (x.tolist(), "expects an array, got list"),
        (None, "expects an array, got NoneType"),
    ]
    for given, message in wrong:
        for call in (layer, layer.forward):
            with pytest.raises(TypeError, match=message):
                call(given)
            with pytest.raises(TypeError, match=message):
                call(given, key=KEY)


def test_messages_say_what_to_do():
    dense = built(Dense(3), 4, dtype=np.float32)
    with pytest.raises(TypeError, match=r"x\.astype\(np\.float32\), or model\.predict\(x\)"):
        dense(np.ones((2, 4)))
    with pytest.raises(TypeError, match=r"x\.astype\(np\.float32\), or model\.predict\(x\)"):
        built(LayerNorm(), 4, dtype=np.float32)(np.ones((2, 4)))
    with pytest.raises(TypeError, match=r"got an array of shape \(5, 4\); use x\.shape\[1:\]"):
        Sequential([Dense(3)]).build(np.ones((5, 4)), key=0)
    with pytest.raises(ValueError, match=r"layer 1, LSTM\(2\) .* needs return_sequences=True"):
        Sequential([LSTM(2), LSTM(2)]).build((5, 3), key=0)
    for call, message in (
        (
            lambda: Conv2D(4),
            r"^Conv2D: missing a required argument: 'kernel_size'; .*stride=1, ",
        ),
        (lambda: LSTM(), r"^LSTM: missing a required argument: 'units'; "),
        (lambda: GRU(3, gates=2), r"^GRU: got an unexpected keyword argument 'gates'"),
        (lambda: MaxPool1D(2, 2), r"^MaxPool1D: too many positional arguments"),
    ):
        with pytest.raises(TypeError, match=message):
            call()


def test_a_tensor_is_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"got torch\.Tensor; use x\.numpy\(\)"):
        built(Dense(3), 4)(torch.ones(2, 4))


# --- addresses -----------------------------------------------------------------------------------


def drawing():
    return [(layer, sample) for layer, sample in EXAMPLES + CARRYING if layer.n_streams]


@pytest.mark.parametrize(("layer", "sample"), drawing(), ids=repr)
def test_a_row_offset_out_of_range_is_refused(layer, sample):
    layer = built(layer, *sample)
    x = batches(layer, sample)
    for wrong, error in ((-1, ValueError), (1.5, TypeError), ("1", TypeError), (True, TypeError),
                         (None, TypeError)):  # fmt: skip
        for call in (layer, layer.forward):
            with pytest.raises(error, match=f"row_offset must be an integer >= 0, got {wrong!r}"):
                call(x, key=KEY, row_offset=wrong)
    np.testing.assert_array_equal(
        layer(x, KEY, row_offset=np.int64(3)), layer(x, KEY, row_offset=3)
    )


def test_rows_beyond_the_decisions_of_a_stream_are_refused():
    words = np.array([[1, 2]])
    layer = built(EmbeddingDropout(Embedding(9, 2), 0.5), 2)
    for call in (
        lambda: layer(words, KEY, row_offset=2**60),
        lambda: word_mask(words, 9, 0.5, key=1, row_offset=2**60),
        lambda: Dropout(0.5)(np.ones((2, 9)), KEY, row_offset=2**60),
        lambda: GaussianDropout(0.5)(np.ones((2, 9)), KEY, row_offset=2**60),
    ):
        with pytest.raises(ValueError, match=r"row_offset must be an integer in \[0, \d+\], got"):
            call()


# --- rates ---------------------------------------------------------------------------------------

RATED = [
    AlphaDropout, BlockDropout, Dropout, DropPath, FeatureAlphaDropout, GaussianDropout,
    SpatialDropout1D, UnitDropout, lambda *a, **k: DropConnect(3, *a, **k),
    lambda *a, **k: EmbeddingDropout(Embedding(3, 2), *a, **k),
    lambda *a, **k: word_mask(np.array([[1]]), 3, *a, key=1, **k),
]  # fmt: skip


@pytest.mark.parametrize("kind", RATED)
def test_a_rate_is_asked_for(kind):
    with pytest.raises(TypeError, match="give rate, the fraction dropped, or keep, the"):
        kind()
    for one in (1, np.int64(1)):
        with pytest.raises(ValueError, match=r"rate=1 drops everything: write 1\.0 if"):
            kind(one)
    for wrong in (True, np.True_):
        with pytest.raises(TypeError, match="must be a number"):
            kind(wrong)


def test_a_rate_of_one_drops_everything():
    assert not Dropout(1.0)(np.ones((3, 4)), KEY).any()
    assert Dropout(keep=1)(np.ones((3, 4)), KEY).all()
    with pytest.raises(ValueError, match="LSTM: dropout: rate=1 drops everything"):
        LSTM(3, dropout=1)


@pytest.mark.parametrize("value", [None, True, "a", [0.5, 0.5]], ids=repr)
def test_a_schedule_must_return_a_number(value):
    def schedule(step):
        return value

    for layer, x in (
        (Dropout(schedule), np.ones((2, 3))),
        (Dropout(keep=schedule), np.ones((2, 3))),
        (built(LSTM(2, dropout=schedule), 4, 3), np.ones((2, 4, 3))),
        (built(LSTM(2, zoneout_cell=schedule), 4, 3), np.ones((2, 4, 3))),
        (built(DropConnect(2, schedule), 3), np.ones((2, 3))),
    ):
        with pytest.raises(TypeError, match=r"must (return|be) a number"):
            layer.forward(x, key=KEY)


# --- numbers and flags ---------------------------------------------------------------------------

NUMBERS = {
    "units", "filters", "kernel_size", "stride", "dilation", "padding", "groups", "pieces",
    "input_dim", "output_dim", "padding_index", "pool_size", "block_size", "group", "rate", "keep",
    "dropout", "recurrent_dropout", "weight_dropout", "zoneout", "zoneout_cell", "momentum",
    "epsilon", "temperature", "length_scale", "data_points", "stddev", "slope", "alpha",
    "shared_axes",
}  # fmt: skip
FLAGS = {
    "use_bias", "return_sequences", "reverse", "unit_forget_bias", "per_unit", "scale", "center",
    "count_include_pad",
}  # fmt: skip


@pytest.mark.parametrize(
    "make",
    [
        lambda n: Conv1D(2, 3, stride=n),
        lambda n: Conv2D(2, 3, stride=(1, n)),
        lambda n: Conv2D(2, 3, dilation=n),
        lambda n: Conv2D(2, n),
        lambda n: Conv2D(2, 3, padding=n),
        lambda n: Conv1D(2, 3, padding=(0, n)),
        lambda n: MaxPool1D(n),
        lambda n: MaxPool1D(2, stride=n),
        lambda n: UnitDropout(0.5, group=n),
    ],
)
def test_numbers_that_the_core_cannot_hold(make):
    make(2**62)
    for n in (2**62 + 1, 2**63, 2**70):
        with pytest.raises(ValueError, match=rf"(at most |, ){2**62}\]?, got {n}"):
            make(n)


def test_the_largest_strides_and_too_much_padding():
    x = np.ones((2, 8, 3), np.float32)
    y, backward = built(Conv1D(2, 3, stride=2**62), 8, 3, dtype=np.float32).forward(x)
    assert y.shape == (2, 1, 2)
    assert not backward(y)[0][:, 3:].any()
    for padding in (2**61, 2**62):
        layer = built(Conv1D(2, 3, padding=padding), 8, 3, dtype=np.float32)
        with pytest.raises(MemoryError):
            layer.forward(x)


@every_layer
def test_masked_arrays_are_no_gradients(layer, sample):
    layer = built(layer, *sample)
    y, backward = layer.forward(batches(layer, sample), key=KEY)
    with pytest.raises(TypeError, match=r"numpy\.ma\.MaskedArray"):
        backward(np.ma.array(np.ones_like(y)))


@pytest.mark.parametrize("layer", [GRU(3), LSTM(3)], ids=repr)
def test_masked_arrays_are_no_lengths_and_no_states(layer):
    layer = built(layer, 4, 2)
    x = np.ones((5, 4, 2))
    with pytest.raises(TypeError, match=r"lengths is a numpy\.ma\.MaskedArray"):
        layer.forward(x, lengths=np.ma.array([1, 2, 3, 4, 4]))
    _, state, _ = layer.forward_from(x)
    masked = tuple(map(np.ma.array, state)) if isinstance(state, tuple) else np.ma.array(state)
    with pytest.raises(TypeError, match=r"state h is a numpy\.ma\.MaskedArray"):
        layer.forward_from(x, masked)


def test_a_layer_of_ones_own_names_what_it_lacks():
    class Own(Layer):
        pass

    with pytest.raises(NotImplementedError, match=r"^Own does not define forward$"):
        Own()(np.ones((2, 3)))
    with pytest.raises(NotImplementedError, match=r"^Own does not define output_shape$"):
        Own().output_shape((3,))


@every_layer
def test_a_bool_is_no_number_and_a_number_no_bool(layer, sample):
    arguments = dict(copy.deepcopy(layer).config())
    for name in inspect.signature(type(layer)).parameters:
        if name in NUMBERS:
            own = {k: v for k, v in arguments.items() if {k, name} != {"rate", "keep"}}
            with pytest.raises(TypeError, match=r"must be|shared_axes"):
                type(layer)(**own | {name: True})
        if name in FLAGS:
            for wrong in (1, "yes", None):
                with pytest.raises(TypeError, match=f"{name} must be True or False, got {wrong!r}"):
                    type(layer)(**arguments | {name: wrong})
    assert Conv1D(2, 3, padding=(0, 1)).padding == (0, 1)
    for wrong in ((True, 1), (False, False)):
        with pytest.raises(TypeError):
            Conv1D(2, 3, padding=wrong)
        with pytest.raises(TypeError):
            Reshape(wrong)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match=r"Activation: name must be one of 'elu', .*, got 'rleu'"):
        Activation("rleu")
    for wrong in ("rleu", 3, ["relu"], GELU()):
        with pytest.raises(ValueError, match="Dense: activation must be None, 'relu'"):
            Dense(3, activation=wrong)
    with pytest.raises(ValueError, match="Dense: initializer must be"):
        Dense(3, initializer=["ones"])


def test_a_key_is_no_bool():
    with pytest.raises(TypeError):
        Dropout(0.5)(np.ones((2, 3)), True)
    assert Key(1) == Key(1)


class Size(tuple):
    """A tuple of another library, such as torch.Size."""


def test_a_mask_has_a_plain_shape():
    for mask in (Dropout(0.5).mask(Size((2, np.int64(3))), 1), Mask(Size((2, 3)), 0.5, key=1)):
        assert type(mask.shape) is type(mask.drawn_shape) is tuple
        assert [type(n) for n in mask.shape] == [int, int]


def test_bytes_are_no_numbers_of_axes_or_lengths():
    x = np.ones((2, 3), np.float32)
    for call in (
        lambda: Conv2D(2, b"\2\3"),
        lambda: Conv2D(2, 3, padding=b"\1\1"),
        lambda: Dropout(0.5, shared_axes=b"\1"),
        lambda: Reshape(b"\2\3"),
        lambda: Dense(3).build(b"\2", key=1),
        lambda: dropcore.Mask(b"\2", 0.5, key=1),
        lambda: dropcore.dropout(x, 0.5, key=1, shared_axes=b"\1"),
        lambda: dropcore.max_norm_(x, 0.5, axis=b"\1"),
    ):
        with pytest.raises(TypeError, match="got b'"):
            call()
    assert (x == 1).all()
