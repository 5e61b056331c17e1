"""Weights to and from PyTorch: the same outputs, with names in order or given."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore.nn import (
    GRU,
    LSTM,
    AveragePool1D,
    BatchNorm,
    Bidirectional,
    Conv1D,
    Conv2D,
    CrossAttention,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePool1D,
    LayerNorm,
    LearnedPositions,
    MaxPool2D,
    MultiHeadAttention,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    SimpleRNN,
    load_state_dict,
    to_state_dict,
)
from support.arrays import normal
from support.layers import build

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages


class Last:
    """The last output of a recurrent module, with torch's tensors."""

    @staticmethod
    def of(torch, module, features):
        class Wrapped(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.rnn, self.head = module, torch.nn.Linear(features, 3)

            def forward(self, x):
                return self.head(self.rnn(x)[0][:, -1])

        return Wrapped()


def permuted(torch, *axes):
    class Permute(torch.nn.Module):
        def forward(self, x):
            return x.permute(0, *axes)

    return Permute()


def mlp(torch):
    nn = torch.nn
    ours = Sequential([Dropout(0.2), Dense(9, activation="relu"), LayerNorm(), Dropout(0.5),
                       Dense(7, use_bias=False), BatchNorm(), ReLU(), Dense(3)])  # fmt: skip
    theirs = nn.Sequential(nn.Linear(5, 9), nn.ReLU(), nn.LayerNorm(9), nn.Dropout(0.5),
                           nn.Linear(9, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(),
                           nn.Linear(7, 3))  # fmt: skip
    return ours, theirs, (5,), None


def cnn(torch):
    nn = torch.nn
    ours = Sequential(
        [Conv2D(6, (3, 2), padding="same", activation="relu"), BatchNorm(), MaxPool2D(2),
         Conv2D(4, 3, groups=2), Flatten(), Dropout(0.5), BatchNorm(), Dense(8, activation="relu"),
         Dense(3)]
    )  # fmt: skip
    theirs = nn.Sequential(
        nn.Conv2d(2, 6, (3, 2), padding="same"), nn.ReLU(), nn.BatchNorm2d(6), nn.MaxPool2d(2),
        nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.BatchNorm1d(4 * 3 * 2), nn.Linear(24, 8),
        nn.ReLU(), nn.Linear(8, 3),
    )  # fmt: skip
    return ours, theirs, (10, 9, 2), lambda t: t.permute(0, 3, 1, 2)


def images_flattened(torch):
    nn = torch.nn
    ours = Sequential([Flatten(), LayerNorm(), Sequential([Dense(4)]), Dense(3)])
    theirs = nn.Sequential(nn.Flatten(), nn.LayerNorm(60), nn.Linear(60, 4), nn.Linear(4, 3))
    return ours, theirs, (5, 4, 3), lambda t: t.permute(0, 3, 1, 2)


def pixels_made_images(torch):
    nn = torch.nn
    ours = Sequential([Reshape((6, 6, 1)), Conv2D(4, 3), Flatten(), Dense(3)])
    theirs = nn.Sequential(nn.Unflatten(1, (1, 6, 6)), nn.Conv2d(1, 4, 3), nn.Flatten(),
                           nn.Linear(64, 3))  # fmt: skip
    return ours, theirs, (36,), None


def convolved_sequences(torch):
    nn = torch.nn
    ours = Sequential([Conv1D(6, 3, stride=2), BatchNorm(), AveragePool1D(2), Flatten(), Dense(3)])
    theirs = nn.Sequential(nn.Conv1d(4, 6, 3, stride=2), nn.BatchNorm1d(6), nn.AvgPool1d(2),
                           nn.Flatten(), nn.Linear(12, 3))  # fmt: skip
    return ours, theirs, (11, 4), lambda t: t.permute(0, 2, 1)


def features_flattened(torch):
    """Sequences that PyTorch has in our layout."""
    nn = torch.nn
    ours = Sequential([Dense(4), Flatten(), Dense(3)])
    theirs = nn.Sequential(nn.Linear(5, 4), nn.Flatten(), nn.Linear(28, 3))
    return ours, theirs, (7, 5), None


def words(torch):
    nn = torch.nn
    ours = Sequential([Embedding(11, 4), Flatten(), Dense(3)])
    theirs = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Linear(24, 3))
    return ours, theirs, (6,), None


def pooled_words(torch):
    nn = torch.nn
    ours = Sequential([Embedding(11, 4), Conv1D(5, 2), GlobalAveragePool1D(), Dense(3)])
    theirs = nn.Sequential(nn.Embedding(11, 4), permuted(torch, 2, 1), nn.Conv1d(4, 5, 2),
                           nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(5, 3))  # fmt: skip
    return ours, theirs, (6,), None


def recurrent(cell, theirs, **options):
    def make(torch):
        module = getattr(torch.nn, theirs)(5, 6, batch_first=True, **options)
        layer = cell(6, use_bias=options.get("bias", True))
        return Sequential([layer, Dense(3)]), Last.of(torch, module, 6), (7, 5), None

    make.__name__ = f"{theirs} {options}"
    return make


def stacked(torch):
    module = torch.nn.LSTM(5, 6, num_layers=2, batch_first=True)
    layers = [LSTM(6, return_sequences=True), Dropout(0.3), LSTM(6), Dense(3)]
    return Sequential(layers), Last.of(torch, module, 6), (7, 5), None


def both_directions(torch):
    module = torch.nn.GRU(5, 6, batch_first=True, bidirectional=True)
    ours = Sequential([Bidirectional(GRU(6, return_sequences=True)), Flatten(), Dense(3)])

    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = module, torch.nn.Linear(7 * 12, 3)

        def forward(self, x):
            return self.head(self.rnn(x)[0].flatten(1))

    return ours, Wrapped(), (7, 5), None


def attention(torch):
    nn = torch.nn

    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(11, 6), nn.Embedding(9, 6)
            self.first = nn.MultiheadAttention(6, 2, batch_first=True)
            self.second = nn.MultiheadAttention(6, 3, bias=False, batch_first=True)
            self.head = nn.Linear(6, 3)

        def forward(self, x):
            y = self.words(x) + self.places(torch.arange(x.shape[1]))
            later = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
            y = y + self.first(y, y, y, attn_mask=later, need_weights=False)[0]
            return self.head(self.second(y, y, y, need_weights=False)[0])

    ours = Sequential([Embedding(11, 6), LearnedPositions(9),
                       Residual(MultiHeadAttention(2, 0.3, causal=True)),
                       MultiHeadAttention(3, use_bias=False), Dense(3)])  # fmt: skip
    return ours, Wrapped(), (7,), None


MODELS = [
    mlp, cnn, images_flattened, pixels_made_images, convolved_sequences, features_flattened, words,
    pooled_words, recurrent(SimpleRNN, "RNN"), recurrent(LSTM, "LSTM"), recurrent(GRU, "GRU"),
    recurrent(LSTM, "LSTM", bias=False), recurrent(GRU, "GRU", bias=False), stacked,
    both_directions, attention,
]  # fmt: skip


def pair(torch, make, dtype):
    """Both models with numbers of their own, data, and a function that compares the outputs."""
    torch.manual_seed(1)
    ours, theirs, sample, to_theirs = make(torch)
    build(ours, *sample, dtype=dtype)
    theirs = theirs.to(getattr(torch, np.dtype(dtype).name)).eval()
    for buffer in theirs.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    if isinstance(ours[0], Embedding):
        x = np.random.default_rng(2).integers(0, 11, (8, *sample))
    else:
        x = normal(8, *sample, dtype=dtype, seed=2)

    def compare(equal):
        given = torch.from_numpy(x)
        with torch.no_grad():
            wanted = theirs(given if to_theirs is None else to_theirs(given)).numpy()
        tolerance = 1e-5 if dtype == np.float32 else 1e-12
        assert np.allclose(ours(x), wanted, rtol=tolerance, atol=tolerance) == equal

    return ours, theirs, compare


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_outputs_are_those_of_pytorch_with_its_weights(torch, make, dtype):
    ours, theirs, compare = pair(torch, make, dtype)
    compare(equal=False)
    load_state_dict(ours, theirs.state_dict())
    compare(equal=True)
    back = to_state_dict(ours, theirs.state_dict())
    for key, tensor in theirs.state_dict().items():
        assert back[key].dtype == tensor.dtype
        if "bias_" not in key and "num_batches" not in key:
            assert torch.equal(back[key], tensor), key


@pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)
def test_pytorch_with_our_weights_gives_our_outputs(torch, make):
    ours, theirs, compare = pair(torch, make, np.float32)
    theirs.load_state_dict(to_state_dict(ours, theirs.state_dict()))
    compare(equal=True)


@pytest.mark.parametrize("features", [6, 5])
@pytest.mark.parametrize("use_bias", [True, False])
def test_attention_to_a_context(torch, features, use_bias):
    options = {} if features == 6 else {"kdim": features, "vdim": features}
    theirs = torch.nn.MultiheadAttention(6, 2, bias=use_bias, batch_first=True, **options)
    ours = CrossAttention(2, context_features=features, use_bias=use_bias)
    x, context = normal(4, 3, 6, dtype=np.float32), normal(4, 7, features, dtype=np.float32)
    both = torch.from_numpy(context)
    build(ours, 3, 6, dtype=np.float32)
    load_state_dict(ours, theirs.state_dict())
    wanted = theirs(torch.from_numpy(x), both, both)[0].detach().numpy()
    np.testing.assert_allclose(ours(x, context=context), wanted, 1e-5, 1e-5)
    for found in (to_state_dict(ours), to_state_dict(ours, theirs.state_dict())):
        assert found.keys() == theirs.state_dict().keys()
        for name, tensor in theirs.state_dict().items():
            np.testing.assert_array_equal(found[name], tensor)


def test_half_precision_is_converted(torch):
    ours, theirs, _ = pair(torch, mlp, np.float32)
    load_state_dict(ours, theirs.bfloat16().state_dict())
    wanted = theirs.state_dict()["0.weight"].float().numpy()
    np.testing.assert_array_equal(ours.params["1.weight"], wanted.T)
