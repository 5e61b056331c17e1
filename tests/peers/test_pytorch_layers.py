"""PyTorch's layers: the same weights, the same numbers forward and backward."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from dropcore.nn import (
    LSTM,
    AlphaDropout,
    AveragePool1D,
    AveragePool2D,
    BatchNorm,
    Bidirectional,
    Conv1D,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    FeatureAlphaDropout,
    GlobalAveragePool1D,
    GlobalAveragePool2D,
    GlobalMaxPool1D,
    GlobalMaxPool2D,
    LayerNorm,
    MaxPool1D,
    MaxPool2D,
    Sequential,
    SpatialDropout1D,
    SpatialDropout2D,
    SpatialDropout3D,
    load_state_dict,
    transformer,
)
from dropcore.nn.activations import ACTIVATIONS
from support.arrays import close, normal, normal32
from support.layers import ACTIVATION_LAYERS, build, built, leaves
from support.peers import KEY, by_torch, each_dtype, fed
from support.recurrent import CELLS, layer_of, some_state

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages


@each_dtype
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_dense_is_that_of_pytorch(torch, activation, dtype):
    x = 2 * normal(9, 13, dtype=dtype)
    ours = build(Dense(17, activation=activation), *x.shape[1:], dtype=dtype)
    function = torch.nn.functional
    y, backward = ours.forward(x)
    dy = normal(*y.shape, dtype=dtype, seed=3)
    dx, grads = backward(dy)

    def theirs(x, weight, bias):
        z = function.linear(x, weight.T, bias)
        if activation is None:
            return z
        return z.softmax(-1) if activation == "softmax" else getattr(function, activation)(z)

    wanted, gradients = by_torch(torch, theirs, [x, *ours.params.values()], dy)
    close(y, wanted, "y")
    for a, b in zip([dx, grads["weight"], grads["bias"]], gradients, strict=True):
        close(a, b)


@pytest.mark.parametrize("layer", ACTIVATION_LAYERS, ids=repr)
def test_activations_are_those_of_pytorch(torch, layer):
    nn = torch.nn
    theirs = {
        "ReLU": lambda: nn.ReLU(),
        "LeakyReLU": lambda: nn.LeakyReLU(layer.slope),
        "ELU": lambda: nn.ELU(layer.alpha),
        "SELU": lambda: nn.SELU(),
        "GELU": lambda: nn.GELU(approximate=layer.approximate or "none"),
        "SiLU": lambda: nn.SiLU(),
        "Tanh": lambda: nn.Tanh(),
        "Sigmoid": lambda: nn.Sigmoid(),
        "Softplus": lambda: nn.Softplus(),
        "Softmax": lambda: nn.Softmax(dim=-1),
    }[type(layer).__name__]()
    rng = np.random.default_rng(8)
    # In float64: PyTorch's GELU loses digits of float32 in the tails.
    x, dy = 3 * rng.normal(size=(64, 33)), rng.normal(size=(64, 33))
    given = torch.tensor(x, requires_grad=True)
    expected = theirs(given)
    expected.backward(torch.tensor(dy))
    y, backward = layer.forward(x)
    np.testing.assert_allclose(y, expected.detach().numpy(), rtol=1e-10, atol=1e-13)
    np.testing.assert_allclose(backward(dy)[0], given.grad.numpy(), rtol=1e-10, atol=1e-13)


def test_embedding_is_that_of_pytorch(torch):
    layer = built(Embedding(20, 6, padding_index=3), 7, dtype=np.float32)
    ids = np.random.default_rng(1).integers(0, 20, (5, 7))
    peer = torch.nn.Embedding(20, 6, padding_idx=3)
    with torch.no_grad():
        peer.weight.copy_(torch.from_numpy(layer.params["weight"]))
    y, backward = layer.forward(ids)
    theirs = peer(torch.from_numpy(ids))
    np.testing.assert_array_equal(y, theirs.detach().numpy())
    dy = normal(5, 7, 6, dtype=np.float32)
    theirs.backward(torch.from_numpy(dy))
    _, grads = backward(dy)
    np.testing.assert_allclose(grads["weight"], peer.weight.grad.numpy(), 1e-6, 1e-6)


# --- convolution and pooling ---------------------------------------------------------------------


IMAGES = [(1, 5), (4, 3), (8, 9)]


@pytest.mark.filterwarnings("ignore:TF32")
@pytest.mark.parametrize("channels", [1, 3, 5, 16, 17])
def test_conv2d_is_that_of_pytorch(torch, channels):
    functional = torch.nn.functional
    compared = 0
    for image, kernel, stride, dilation, padding, groups in itertools.product(
        IMAGES, [(1, 1), (3, 2), (5, 5)], [1, (3, 2)], [1, 2], [0, (2, 3)], [1, channels]
    ):
        sides = (padding,) * 2 if isinstance(padding, int) else padding
        maps = 2 * channels
        if any(
            n + 2 * p < dilation * (k - 1) + 1 for n, k, p in zip(image, kernel, sides, strict=True)
        ):
            continue
        x = normal32(2, *image, channels)
        layer = Conv2D(
            maps, kernel, stride=stride, dilation=dilation, padding=padding, groups=groups
        )
        layer.build(x.shape[1:], key=1)
        layer.params["bias"][:] = normal32(maps, seed=1)
        y, backward = layer.forward(x)
        dy = normal32(*y.shape, seed=2)
        dx, grads = backward(dy)
        there = [
            torch.tensor(array, requires_grad=True)
            for array in (
                x.transpose(0, 3, 1, 2),
                layer.params["weight"].transpose(3, 2, 0, 1),
                layer.params["bias"],
            )
        ]
        # oneDNN in PyTorch 2.13 crashes on some 1 x 1 kernels with stride and padding.
        with torch.backends.mkldnn.flags(enabled=False):
            z = functional.conv2d(
                *there, stride=stride, padding=sides, dilation=dilation, groups=groups
            )
            z.backward(torch.tensor(dy.transpose(0, 3, 1, 2)))
        close(y, z.detach().numpy().transpose(0, 2, 3, 1))
        close(dx, there[0].grad.numpy().transpose(0, 2, 3, 1))
        close(grads["weight"], there[1].grad.numpy().transpose(2, 3, 1, 0))
        close(grads["bias"], there[2].grad.numpy())
        compared += 1
    assert compared > 40


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("padding", ["same", "valid"])
def test_conv1d_is_that_of_pytorch(torch, padding):
    for time, kernel, dilation, channels in itertools.product([9, 30], [1, 2, 5], [1, 2], [1, 17]):
        x = normal32(3, time, channels)
        layer = Conv1D(6, kernel, padding=padding, dilation=dilation, activation="relu")
        layer.build(x.shape[1:], key=1)
        y, backward = layer.forward(x)
        dy = normal32(*y.shape, seed=2)
        dx, grads = backward(dy)
        there = [
            torch.tensor(array, requires_grad=True)
            for array in (x.transpose(0, 2, 1), layer.params["weight"].transpose(2, 1, 0))
        ]
        z = torch.nn.functional.conv1d(*there, padding=padding, dilation=dilation).relu()
        z.backward(torch.tensor(dy.transpose(0, 2, 1)))
        close(y, z.detach().numpy().transpose(0, 2, 1))
        close(dx, there[0].grad.numpy().transpose(0, 2, 1))
        close(grads["weight"], there[1].grad.numpy().transpose(2, 1, 0))


@pytest.mark.parametrize("channels", [1, 3, 16, 33])
def test_windows_are_those_of_pytorch(torch, channels):
    functional = torch.nn.functional
    for image, size, stride, padding in itertools.product(
        [(5, 7), (8, 8)], [2, 3, (2, 5)], [None, 1, 3], [0, 1]
    ):
        x = normal32(2, *image, channels)
        x[0] = np.round(x[0])
        x[1, 2, 3] = np.nan
        there = torch.tensor(x.transpose(0, 3, 1, 2), requires_grad=True)
        for layer, wanted in (
            (
                MaxPool2D(size, stride=stride, padding=padding),
                functional.max_pool2d(there, size, stride, padding),
            ),
            (
                AveragePool2D(size, stride=stride, padding=padding),
                functional.avg_pool2d(there, size, stride, padding, count_include_pad=False),
            ),
            (
                AveragePool2D(size, stride=stride, padding=padding, count_include_pad=True),
                functional.avg_pool2d(there, size, stride, padding, count_include_pad=True),
            ),
        ):
            y, backward = layer.forward(x)
            close(y, wanted.detach().numpy().transpose(0, 2, 3, 1))
            assert y.shape[1:] == layer.output_shape(x.shape[1:])
            dy = normal32(*y.shape, seed=1)
            (gradient,) = torch.autograd.grad(wanted, there, torch.tensor(dy.transpose(0, 3, 1, 2)))
            close(backward(dy)[0], gradient.numpy().transpose(0, 2, 3, 1))


@each_dtype
@pytest.mark.parametrize("axes", [1, 2])
def test_pooling_is_that_of_pytorch(torch, axes, dtype):
    """Sequences and whole maps; windows of images are in test_pooling.py."""
    functional = torch.nn.functional
    x = normal(3, *((9,), (5, 6))[axes - 1], 4, dtype=dtype)
    last = tuple(range(2, axes + 2))
    cases = [
        ((GlobalMaxPool1D, GlobalMaxPool2D)[axes - 1](), lambda t: t.amax(last)),
        ((GlobalAveragePool1D, GlobalAveragePool2D)[axes - 1](), lambda t: t.mean(last)),
    ]
    if axes == 1:
        cases += [
            (MaxPool1D(3, stride=2, padding=1), lambda t: functional.max_pool1d(t, 3, 2, 1)),
            (AveragePool1D(3, stride=2, padding=1),
             lambda t: functional.avg_pool1d(t, 3, 2, 1, count_include_pad=False)),
            (AveragePool1D(3, stride=2, padding=1, count_include_pad=True),
             lambda t: functional.avg_pool1d(t, 3, 2, 1)),
        ]  # fmt: skip
    for ours, theirs in cases:
        y, backward = ours.forward(x)
        dy = normal(*y.shape, dtype=dtype, seed=3)

        def channels_last(t, theirs=theirs):
            return theirs(t.movedim(-1, 1)).movedim(1, -1)

        wanted, gradients = by_torch(torch, channels_last, [x], dy)
        close(y, wanted, repr(ours))
        close(backward(dy)[0], gradients[0], repr(ours))


# --- normalisation -------------------------------------------------------------------------------


def torch_normalization(torch, ours, x, dy, *, training=True):
    """y, dx, dgamma, dbeta and the running moments of torch.nn's layer with the same numbers."""
    features = x.shape[-1]
    if isinstance(ours, BatchNorm):
        theirs = torch.nn.BatchNorm1d(features, eps=ours.epsilon, momentum=1 - ours.momentum)
        theirs.running_mean[:] = torch.tensor(ours.buffers["mean"])
        theirs.running_var[:] = torch.tensor(ours.buffers["variance"])
    else:
        theirs = torch.nn.LayerNorm(features, eps=ours.epsilon)
    with torch.no_grad():
        theirs.weight[:] = torch.tensor(ours.params["gamma"])
        theirs.bias[:] = torch.tensor(ours.params["beta"])
    theirs.train(training)
    given = torch.tensor(x.reshape(-1, features), requires_grad=True)
    y = theirs(given)
    y.backward(torch.tensor(dy.reshape(-1, features)))
    found = [y.detach(), given.grad, theirs.weight.grad, theirs.bias.grad]
    if isinstance(ours, BatchNorm):
        found += [theirs.running_mean, theirs.running_var]
    return [a.numpy() for a in found]


@pytest.mark.parametrize("layer", [BatchNorm(momentum=0.7), LayerNorm(epsilon=1e-3)], ids=repr)
@pytest.mark.parametrize("shape", [(64, 20), (6, 7, 13)])
def test_normalization_is_that_of_pytorch(torch, layer, shape):
    ours = built(layer, *shape[1:], dtype=np.float32)
    x, dy = 1.5 + 2 * normal32(*shape), normal32(*shape, seed=1)
    wanted = torch_normalization(torch, ours, x, dy)
    y, backward = ours.forward(x)
    dx, grads = backward(dy, for_update=True)
    found = [y, dx, grads["gamma"], grads["beta"], *ours.buffers.values()]
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a.reshape(b.shape), b, rtol=1e-5, atol=1e-5)
    inference = torch_normalization(torch, ours, x, dy, training=False)[0]
    np.testing.assert_allclose(ours(x).reshape(inference.shape), inference, rtol=1e-5, atol=1e-5)


@each_dtype
def test_batch_norm_is_that_of_pytorch_over_several_steps(torch, dtype):
    """PyTorch's momentum is the part that is new, ours the part that stays."""
    shape = (4, 5, 6, 3)
    ours = build(BatchNorm(momentum=0.8), *shape[1:], dtype=dtype)
    theirs = torch.nn.BatchNorm2d(3, momentum=0.2, dtype=getattr(torch, np.dtype(dtype).name))
    with torch.no_grad():
        theirs.weight[:] = torch.tensor(ours.params["gamma"])
        theirs.bias[:] = torch.tensor(ours.params["beta"])
        theirs.running_mean[:] = torch.tensor(ours.buffers["mean"])
        theirs.running_var[:] = torch.tensor(ours.buffers["variance"])
    for step in range(6):
        x = (1 + 2 * normal(*shape, seed=10 + step)).astype(dtype)
        dy = normal(*shape, dtype=dtype, seed=20 + step)
        y, backward = ours.forward(x)
        dx, _ = backward(dy, for_update=True)
        wanted, gradients = by_torch(
            torch, lambda t: theirs(t.movedim(-1, 1)).movedim(1, -1), [x], dy
        )
        close(y, wanted)
        close(dx, gradients[0])
    close(ours.buffers["mean"].astype(dtype), theirs.running_mean.numpy())
    close(ours.buffers["variance"].astype(dtype), theirs.running_var.numpy())
    theirs.eval()
    close(ours(x), by_torch(torch, lambda t: theirs(t.movedim(-1, 1)).movedim(1, -1), [x], None)[0])


# --- recurrent -----------------------------------------------------------------------------------


def torch_layer(torch, layer, features, *, both=False):
    """PyTorch's layer with the same weights: (gates * units, in), r before z, two biases."""
    directions = list(layer.children.values()) if both else [layer]
    own = directions[0]
    options = {"batch_first": True, "bidirectional": both}
    if own.cell in ("tanh", "relu"):
        other = torch.nn.RNN(features, own.units, nonlinearity=own.cell, **options)
    else:
        other = {"gru": torch.nn.GRU, "lstm": torch.nn.LSTM}[own.cell](
            features, own.units, **options
        )
    with torch.no_grad():
        for suffix, one in zip(("", "_reverse"), directions, strict=False):
            bias = one.params["bias"]
            biases = bias if own.cell == "gru" else (bias, np.zeros_like(bias))
            values = (one.params["weight"], one.params["recurrent_weight"], *biases)
            names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
            for name, value in zip(names, values, strict=True):
                getattr(other, name + suffix).copy_(torch.from_numpy(to_torch(own, value)))
    return other


def to_torch(layer, array):
    gates = np.split(array, layer.gates, axis=-1)
    if layer.cell == "gru":
        gates[0], gates[1] = gates[1], gates[0]
    return np.concatenate(gates, axis=-1).T.copy()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cells_are_those_of_pytorch(torch, cell, dtype):
    layer = built(layer_of(cell, 21, return_sequences=True), None, 13, dtype=dtype)
    other = torch_layer(torch, layer, 13)
    other = other.double() if dtype == np.float64 else other
    x, state = normal(8, 11, 13, dtype=dtype, seed=2), some_state(layer, 8, dtype)
    tx = torch.from_numpy(x.copy()).requires_grad_()
    first = [torch.from_numpy(part.copy())[None].requires_grad_() for part in leaves(state)]
    want, want_last = other(tx, tuple(first) if len(first) > 1 else first[0])
    y, last, backward = layer.forward_from(x, state)
    np.testing.assert_allclose(y, want.detach().numpy(), atol=1e-5)
    want_last = want_last if isinstance(want_last, tuple) else (want_last,)
    for part, want_part in zip(leaves(last), want_last, strict=True):
        np.testing.assert_allclose(part, want_part[0].detach().numpy(), atol=1e-5)
    dy = normal(*y.shape, dtype=dtype, seed=3)
    want.backward(torch.from_numpy(dy))
    dx, grads, dfirst = backward(dy)
    np.testing.assert_allclose(dx, tx.grad.numpy(), atol=1e-5)
    for part, want_part in zip(leaves(dfirst), first, strict=True):
        np.testing.assert_allclose(part, want_part.grad[0].numpy(), atol=1e-5)
    for name, theirs in (("weight", "weight_ih_l0"), ("recurrent_weight", "weight_hh_l0")):
        gradient = getattr(other, theirs).grad.numpy()
        np.testing.assert_allclose(to_torch(layer, grads[name]), gradient, rtol=1e-4, atol=1e-4)
    bias = grads["bias"][0] if cell == "gru" else grads["bias"]
    gradient = other.bias_ih_l0.grad.numpy()
    np.testing.assert_allclose(to_torch(layer, bias), gradient, rtol=1e-4, atol=1e-4)
    if cell == "gru":
        gradient = other.bias_hh_l0.grad.numpy()
        np.testing.assert_allclose(
            to_torch(layer, grads["bias"][1]), gradient, rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("both", [False, True], ids=["forward", "bidirectional"])
def test_lengths_are_pytorchs_packed_sequences(torch, cell, both):
    inner = layer_of(cell, 10, return_sequences=True)
    layer = built(Bidirectional(inner) if both else inner, None, 6, dtype=np.float32)
    other = torch_layer(torch, layer, 6, both=both)
    x = normal(5, 7, 6, dtype=np.float32, seed=2)
    lengths = np.array([7, 1, 4, 6, 2])
    utils = torch.nn.utils.rnn
    packed = utils.pack_padded_sequence(
        torch.from_numpy(x), torch.from_numpy(lengths), batch_first=True, enforce_sorted=False
    )
    want, want_last = other(packed)
    want = utils.pad_packed_sequence(want, batch_first=True, total_length=7)[0]
    x[np.arange(7) >= lengths[:, None]] = np.nan  # what lies behind the end does not matter
    y, last, backward = layer.forward_from(x, lengths=lengths)
    np.testing.assert_allclose(y, want.detach().numpy(), atol=1e-5)
    states = list(last.values()) if both else [last]
    found = np.stack([leaves(one)[0] for one in states])
    want_h = want_last[0] if cell == "lstm" else want_last
    np.testing.assert_allclose(found, want_h.detach().numpy(), atol=1e-5)
    dx, grads, _ = backward(np.ones_like(y))
    want.backward(torch.ones_like(want))
    kernels = grads["forward.weight"] if both else grads["weight"]
    gradient = other.weight_ih_l0.grad.numpy()
    np.testing.assert_allclose(to_torch(inner, kernels), gradient, rtol=1e-4, atol=1e-4)
    assert np.isfinite(dx).all()


def test_both_directions_equal_pytorch_without_lengths(torch):
    layer = built(Bidirectional(LSTM(9, return_sequences=True)), None, 6, dtype=np.float32)
    other = torch_layer(torch, layer, 6, both=True)
    x = normal(5, 7, 6, dtype=np.float32, seed=2)
    np.testing.assert_allclose(layer(x), other(torch.from_numpy(x))[0].detach(), atol=1e-5)
    last = Bidirectional(LSTM(9), "sum")
    last.build((7, 6), key=0)
    last.load_params(layer.params)
    want = other(torch.from_numpy(x))[1][0].detach().numpy().sum(0)
    np.testing.assert_allclose(last(x), want, atol=1e-5)


# --- attention ------------------------------------------------------------------------------------


@pytest.mark.parametrize("causal", [False, True])
def test_a_transformer_block_is_that_of_pytorch(torch, causal):
    module = torch.nn.TransformerEncoderLayer(
        8, 2, 12, 0.0, activation="gelu", batch_first=True, norm_first=True, dtype=torch.float64
    )
    block = Sequential(transformer(8, 1, depth=1, heads=2, hidden=12, causal=causal).layers[2:4])
    block.build((6, 8), key=1, dtype=np.float64)
    own = {name: value.detach() for name, value in module.state_dict().items()}
    load_state_dict(
        block,
        {
            f"{ours}.{name.removeprefix(theirs)}": value
            for theirs, ours in (("norm1.", "0.0.0"), ("self_attn.", "0.0.1"), ("norm2.", "1.0.0"),
                                 ("linear1.", "1.0.1"), ("linear2.", "1.0.2"))
            for name, value in own.items()
            if name.startswith(theirs)
        },
    )  # fmt: skip
    x, dy, lengths = normal(3, 6, 8), normal(3, 6, 8, seed=1), np.array([6, 2, 4])
    padded = np.arange(6) >= lengths[:, None]
    dy[padded] = 0
    given = torch.from_numpy(x).requires_grad_()
    later = torch.ones(6, 6, dtype=torch.bool).triu(1) if causal else None
    wanted = module(given, src_mask=later, src_key_padding_mask=torch.from_numpy(padded))
    wanted.backward(torch.from_numpy(dy))
    y, backward = block.forward(x, lengths=lengths)
    dx, grads = backward(dy)
    close(y[~padded], wanted.detach().numpy()[~padded], "y")
    close(dx, given.grad.numpy(), "dx")
    close(grads["0.0.1.weight"], module.self_attn.in_proj_weight.grad.numpy().T, "in_proj")
    close(grads["0.0.1.bias"], module.self_attn.in_proj_bias.grad.numpy(), "in_proj bias")
    close(grads["0.0.1.output_weight"], module.self_attn.out_proj.weight.grad.numpy().T, "out_proj")


# --- dropout -------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("p", [0.2, 0.5, 1.0])
def test_dropout_is_that_of_pytorch(torch, p, dtype):
    """Maps stand behind the batch there. With rate 1 all is zero, in both."""
    torch.manual_seed(0)
    nn = torch.nn
    for ours, theirs, shape in (
        (Dropout(p), nn.Dropout(p), (9, 20)),
        (SpatialDropout1D(p), nn.Dropout1d(p), (9, 4, 8)),
        (SpatialDropout2D(p), nn.Dropout2d(p), (9, 4, 3, 8)),
        (SpatialDropout3D(p), nn.Dropout3d(p), (9, 4, 3, 2, 8)),
        (AlphaDropout(p), nn.AlphaDropout(p), (9, 20)),
        (FeatureAlphaDropout(p), nn.FeatureAlphaDropout(p), (9, 4, 3, 8)),
    ):
        x, dy = normal(*shape, dtype=dtype), normal(*shape, dtype=dtype, seed=3)

        def run(t, theirs=theirs):
            return theirs(t.movedim(-1, 1)).movedim(1, -1)

        wanted, gradients = by_torch(torch, run, [x], dy)
        if p < 1:
            fed(ours, wanted)
        y, backward = ours.forward(x, key=KEY)
        close(y, wanted, repr(ours))
        close(backward(dy)[0], gradients[0], repr(ours))
        theirs.eval()
        close(ours(x), by_torch(torch, run, [x], None)[0], repr(ours))


def test_torchs_own_alpha_dropout_has_these_two_values(torch):
    torch.manual_seed(0)
    for p in (0.1, 0.5):
        theirs = torch.nn.functional.alpha_dropout(torch.zeros(1000).double(), p, training=True)
        ours = AlphaDropout(p)(np.zeros((1000, 1)), KEY)
        np.testing.assert_allclose(np.unique(theirs.numpy()), np.unique(ours), 1e-6)
