"""`dropcore.torch.LSTM` with noise at every step, beside PyTorch's LSTM and that of dropcore.nn."""

import copy
import io
import pickle

import numpy as np
import pytest

import dropcore
from dropcore import Key, nn

torch = pytest.importorskip("torch")
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence  # noqa: E402

import dropcore.torch as dt  # noqa: E402
from dropcore.torch import _functions  # noqa: E402

NOTHING = 1e-13
"""A rate that takes the path of noise and drops nothing."""

KINDS = ("zoneout", "zoneout_cell", "recurrent_dropout")


def tensor(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def flat(result):
    output, state = result
    return [getattr(output, "data", output), *state]


def assert_close(found, expected):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        assert torch.allclose(one, other, atol=1e-10)


@pytest.mark.parametrize("noise", KINDS)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"batch_first": True, "bias": False},
        {"num_layers": 3, "bidirectional": True},
        {"num_layers": 2, "proj_size": 2},
        {"bidirectional": True, "proj_size": 2, "bias": False, "batch_first": True},
    ],
    ids=str,
)
def test_without_noise_it_is_pytorchs(options, noise):
    layer = dt.LSTM(3, 4, dtype=torch.float64, **{noise: NOTHING}, **options)
    plain = torch.nn.LSTM(3, 4, dtype=torch.float64, **options)
    plain.load_state_dict(layer.state_dict())
    x = tensor(5, 5, 3)
    state = [s.detach()[:, :5] * 0.3 for s in plain(tensor(5, 5, 3, seed=1))[1]]
    first = bool(options.get("batch_first"))
    packed = [
        pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=sorted_)
        for lengths, sorted_ in (([5, 4, 4, 2, 1], True), ([2, 5, 3, 3, 1], False))
    ]
    for given in (x, *packed):
        for start in (None, tuple(state)):
            assert_close(flat(layer(given, start)), flat(plain(given, start)))
    assert_close(flat(layer(x[0])), flat(plain(x[0])))
    _, lengths = pad_packed_sequence(layer(packed[1])[0], batch_first=first)
    assert lengths.tolist() == [2, 5, 3, 3, 1]
    gradients = []
    for module in (layer, plain):
        module.zero_grad()
        sum((y**2).sum() for y in flat(module(x, tuple(state)))).backward()
        gradients.append([w.grad for w in module.parameters()])
    assert_close(*gradients)


def pair(noise, reverse=False):
    """A layer of ours for arrays and one for tensors, with the same weights."""
    ours = nn.LSTM(4, return_sequences=True, reverse=reverse, **noise)
    ours.build((None, 3), key=1, dtype=np.float64)
    layer = dt.LSTM(3, 4, batch_first=True, bidirectional=reverse, dtype=torch.float64, **noise)
    suffix = "_l0_reverse" if reverse else "_l0"
    with torch.no_grad():
        for name, own in (("weight_ih", "weight"), ("weight_hh", "recurrent_weight")):
            getattr(layer, name + suffix).copy_(torch.from_numpy(ours.params[own].T.copy()))
        getattr(layer, "bias_ih" + suffix).copy_(torch.from_numpy(ours.params["bias"]))
        getattr(layer, "bias_hh" + suffix).zero_()
    return ours, layer


NOISES = [
    {"zoneout": 0.3},
    {"zoneout_cell": 0.4},
    {"recurrent_dropout": 0.5},
    {"zoneout": 0.2, "zoneout_cell": 0.5, "recurrent_dropout": 0.25},
    {"zoneout": 1.0},
]


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_masks_have_the_meaning_that_they_have_in_dropcore(noise, reverse, monkeypatch):
    ours, layer = pair(noise, reverse)
    x = tensor(6, 7, 3).requires_grad_()
    streams = [stream for kind, stream in zip(KINDS, (3, 4, 1), strict=True) if noise.get(kind)]
    drawn = iter(streams * (2 if reverse else 1))
    drop = _functions.dropout

    def with_our_keys(x, p, training=True):
        return drop(x, p, training, key=Key(7, stream=next(drawn))) if p else x

    monkeypatch.setattr(_functions, "dropout", with_our_keys)
    y, (h, c) = layer(x)
    half = y[..., 4:] if reverse else y
    expected, state, back = ours.forward_from(x.detach().numpy(), key=7)
    assert np.allclose(half.detach().numpy(), expected, atol=1e-12)
    for own, wanted in zip((h[-1], c[-1]), state, strict=True):
        assert np.allclose(own.detach().numpy(), wanted, atol=1e-12)
    assert next(drawn, None) is None
    dy = tensor(6, 7, 4, seed=2)
    half.backward(dy)
    dx, gradients, _ = back(dy.numpy())
    assert np.allclose(x.grad.numpy(), dx, atol=1e-12)
    suffix = "_l0_reverse" if reverse else "_l0"
    found = getattr(layer, "weight_hh" + suffix).grad.numpy()
    assert np.allclose(found.T, gradients["recurrent_weight"], atol=1e-12)


@pytest.mark.parametrize("noise", NOISES, ids=str)
def test_evaluation_has_the_expectation(noise):
    ours, layer = pair(noise)
    x = tensor(6, 7, 3)
    y, (h, c) = layer.eval()(x)
    expected, state, _ = ours.forward_from(x.numpy())
    assert np.allclose(y.detach().numpy(), expected, atol=1e-12)
    for own, wanted in zip((h[0], c[0]), state, strict=True):
        assert np.allclose(own.detach().numpy(), wanted, atol=1e-12)
    assert torch.equal(layer(x)[0], y)


def test_evaluation_drops_nothing_between_layers():
    layer = dt.LSTM(3, 4, 2, dropout=0.5, zoneout=0.3, recurrent_dropout=0.5).eval()
    x = tensor(5, 6, 3).float()
    y = layer(x)[0]
    assert torch.equal(layer(x)[0], y)
    layer.dropout = layer.recurrent_dropout = 0.0
    assert torch.equal(layer(x)[0], y)
    layer.zoneout = 0.0
    layer.recurrent_dropout = 0.5
    plain = torch.nn.LSTM(3, 4, 2).eval()
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], plain(x)[0])  # the fused layer


def test_a_state_that_is_always_kept():
    layer = dt.LSTM(3, 4, zoneout=1.0, zoneout_cell=1.0)
    h, c = tensor(2, 1, 6, 4).float()
    for module in (layer, layer.eval()):
        y, (last_h, last_c) = module(tensor(5, 6, 3).float(), (h, c))
        assert torch.equal(y, h.expand(5, 6, 4))
        assert torch.equal(last_h, h)
        assert torch.equal(last_c, c)


def test_every_step_and_sequence_is_decided_for_itself():
    layer = dt.LSTM(3, 50, zoneout=0.3)
    torch.manual_seed(0)
    y, _ = layer(tensor(40, 20, 3).float())
    same = (y[1:] == y[:-1]).float()
    assert abs(same.mean() - 0.3) < 0.02
    assert same.flatten(1).unique(dim=0).shape[0] == 39
    assert same.transpose(0, 1).flatten(1).unique(dim=0).shape[0] == 20


@pytest.mark.parametrize("noise", NOISES[:4], ids=str)
def test_gradients_are_those_of_differences(noise):
    layer = dt.LSTM(2, 3, num_layers=2, dropout=0.4, dtype=torch.float64, **noise)

    def call(x, h, c):
        torch.manual_seed(3)
        return flat(layer(x, (h, c)))

    inputs = (tensor(4, 2, 2), tensor(2, 2, 3, seed=1), tensor(2, 2, 3, seed=2))
    assert torch.autograd.gradcheck(call, [x.requires_grad_() for x in inputs])


def test_seeds_checkpoints_and_compilers_repeat_the_masks():
    layer = dt.LSTM(3, 4, 2, dropout=0.5, zoneout=0.3, recurrent_dropout=0.2)
    x = tensor(5, 6, 3).float().requires_grad_()
    torch.compiler.reset()
    calls = {
        "plain": lambda: layer(x)[0],
        "checkpoint": lambda: torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False)[0],
        "compiled": lambda: torch.compile(layer, backend="aot_eager")(x)[0],
    }
    results = {}
    for name, call in calls.items():
        torch.manual_seed(0)
        layer.zero_grad()
        y = call()
        y.square().sum().backward()
        results[name] = [y.detach(), layer.weight_hh_l0.grad.clone()]
    for found in results.values():
        assert_close(found, results["plain"])
    assert not torch.equal(layer(x)[0], results["plain"][0])


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_compiled_with_dropout_between_layers(kind):
    layer = getattr(torch.nn, kind)(3, 4, 2, dropout=0.5)
    dt.replace_dropout(layer)
    x = tensor(5, 6, 3).float()
    torch.compiler.reset()
    graph = torch.compile(layer, backend="aot_eager")
    torch.manual_seed(0)
    expected = layer(x)[0]
    torch.manual_seed(0)
    y = graph(x)[0]
    assert torch.allclose(y, expected, atol=1e-6)
    y.sum().backward()


def test_a_layer_is_saved_and_copied():
    layer = dt.LSTM(3, 4, zoneout=0.3, zoneout_cell=0.2)
    plain = torch.nn.LSTM(3, 4)
    assert list(layer.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(layer.state_dict())
    layer.load_state_dict(plain.state_dict())
    assert repr(layer) == "LSTM(3, 4, zoneout=0.3, zoneout_cell=0.2)"
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    x = tensor(5, 6, 3).float()
    torch.manual_seed(0)
    expected = layer(x)[0]
    for twin in (
        copy.deepcopy(layer),
        pickle.loads(pickle.dumps(layer)),
        torch.load(file, weights_only=False),
    ):
        torch.manual_seed(0)
        assert torch.equal(twin(x)[0], expected)
    dt.replace_dropout(deeper := torch.nn.LSTM(3, 4, 2, dropout=0.5))
    assert type(deeper) is dt.LSTM
    assert repr(deeper) == repr(torch.nn.LSTM(3, 4, 2, dropout=0.5))


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("rate", [-0.1, 1.5, float("nan")])
def test_rates_are_checked(name, rate):
    with pytest.raises(ValueError, match=rf"LSTM: {name} must be in \[0, 1\]"):
        dt.LSTM(3, 4, **{name: rate})


def test_arguments_are_pytorchs():
    layer = dt.LSTM(3, 4, zoneout=0.5)
    with pytest.raises(RuntimeError, match=r"input\.size\(-1\) must be equal to input_size"):
        layer(torch.ones(5, 6, 2))
    with pytest.raises(TypeError, match="unexpected keyword argument 'zone'"):
        dt.LSTM(3, 4, zone=0.5)
    assert dropcore.torch.LSTM is dt.LSTM
