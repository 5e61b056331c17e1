"""Attention with and without dropout, and one training step of a small GPT, beside PyTorch.

`attention` and `attention_backward` (forward and backward): q, k and v of (batch, heads, length,
size), float32. PyTorch's is its `scaled_dot_product_attention`, which has a fused kernel on the CPU
for a rate of 0 only.

`gpt`: 4 blocks of 384 features and 6 heads on 8 sequences of 256 characters out of 65, with AdamW.
With dropout: 0.1 on the embeddings, the weights of attention and the end of each branch. Names that
end in _plain are without dropout.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np

import dropcore

from .common import TINY, Builder, Call, Case, Kernel, as_torch, module, named, normal, touched

RATE = 0.1
SHAPES = ((1, 2, 5, 4),) if TINY else ((8, 8, 256, 64), (2, 8, 1024, 64))
WORDS, LEARNING_RATE = 65, 1e-3
SEQUENCES, STEPS, WIDTH, HEADS, BLOCKS = (2, 6, 8, 2, 1) if TINY else (8, 256, 384, 6, 4)

Shape = tuple[int, int, int, int]


def operands(shape: Shape) -> list[np.ndarray]:
    """q, k, v and the gradient of the result."""
    return [normal(*shape, seed=seed) for seed in range(4)]


# ---- dropcore ------------------------------------------------------------------------------------


def attention(shape: Shape, causal: bool, backward: bool = False, rate: float = 0.0) -> Call:
    """Into existing arrays forward; with the gradients of q, k and v if `backward`."""
    q, k, v, dout = operands(shape)
    out = touched(*shape)
    options: dict[str, Any] = {"causal": causal}
    if rate:
        options |= {"rate": rate, "key": 7}

    def call():
        return dropcore.attention(q, k, v, out=out, **options)

    def both():
        _, sums = dropcore.attention(q, k, v, out=out, return_logsumexp=True, **options)
        return dropcore.attention_backward(dout, q, k, v, out, sums, **options)

    return both if backward else call


def gpt(rate: float = RATE) -> Call:
    from dropcore.losses import softmax_cross_entropy
    from dropcore.nn import (
        Dense,
        Dropout,
        Embedding,
        LayerNorm,
        LearnedPositions,
        MultiHeadAttention,
        Residual,
        Sequential,
    )
    from dropcore.optim import AdamW

    def end():
        return [Dropout(rate)] if rate else []

    layers: list[Any] = [Embedding(WORDS, WIDTH), LearnedPositions(STEPS), *end()]
    for _ in range(BLOCKS):
        layers += [
            Residual([LayerNorm(), MultiHeadAttention(HEADS, rate, causal=True), *end()]),
            Residual([LayerNorm(), Dense(4 * WIDTH, activation="gelu"), Dense(WIDTH), *end()]),
        ]
    model = Sequential([*layers, LayerNorm(), Dense(WORDS)])
    x, y = characters()
    model.build(x.shape[1:], key=0)
    optimizer, steps = AdamW(LEARNING_RATE), itertools.count()
    state = optimizer.init(model.params)

    def call():
        step = next(steps)
        outputs, backward = model.forward(x, key=dropcore.Key(7, step=step))
        value, gradient = softmax_cross_entropy(outputs, y)
        _, grads = backward(gradient, input_gradient=False, for_update=True)
        optimizer.apply(model.params, grads, state, step, model.constraints)
        return value

    return call


def characters() -> tuple[np.ndarray, np.ndarray]:
    """Sequences, and what follows each of their characters."""
    tokens = np.random.default_rng(0).integers(WORDS, size=(SEQUENCES, STEPS + 1))
    return tokens[:, :-1].copy(), tokens[:, 1:].copy()


# ---- PyTorch -------------------------------------------------------------------------------------


def attention_torch(shape: Shape, causal: bool, backward: bool = False, rate: float = 0.0) -> Call:
    torch = module("torch")
    q, k, v, dout = map(as_torch, operands(shape))
    function = torch.nn.functional.scaled_dot_product_attention

    def call():
        with torch.no_grad():
            return function(q, k, v, dropout_p=rate, is_causal=causal)

    def both():
        function(q, k, v, dropout_p=rate, is_causal=causal).backward(dout)
        for x in (q, k, v):
            x.grad = None

    if not backward:
        return call
    for x in (q, k, v):
        x.requires_grad_()
    return both


def gpt_torch(rate: float = RATE) -> Call:
    torch = module("torch")
    nn, functional = torch.nn, torch.nn.functional

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
            self.dense = nn.Sequential(
                nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH)
            )
            self.drop = nn.Dropout(rate)

        def forward(self, x):
            n, t, _ = x.shape
            q, k, v = self.qkv(self.one(x)).view(n, t, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            y = functional.scaled_dot_product_attention(q, k, v, dropout_p=rate, is_causal=True)
            x = x + self.drop(self.out(y.transpose(1, 2).reshape(n, t, WIDTH)))
            return x + self.drop(self.dense(self.two(x)))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(STEPS, WIDTH)
            self.drop = nn.Dropout(rate)
            self.blocks = nn.Sequential(*(Block() for _ in range(BLOCKS)))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WORDS)

        def forward(self, tokens):
            x = self.drop(self.words(tokens) + self.places.weight)
            return self.head(self.norm(self.blocks(x)))

    model = GPT()
    x, y = map(torch.from_numpy, characters())
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)

    def call():
        optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x).flatten(0, -2), y.flatten()).backward()
        optimizer.step()

    return call


# ---- the table -----------------------------------------------------------------------------------


def dropped(builder: Builder) -> Builder:
    return named(builder, f"{builder.__name__}_dropped", rate=RATE)


def plain(builder: Builder) -> Builder:
    return named(builder, f"{builder.__name__}_plain", rate=0.0)


def with_backward(builder: Callable[..., Call]) -> Builder:
    return named(builder, builder.__name__.replace("attention", "attention_backward"),
                 backward=True)  # fmt: skip


def attention_cases(products: int) -> list[Case]:
    """Of so many products of queries and keys; a causal one needs half of each."""
    cases = []
    for shape in SHAPES:
        for causal in (False, True):
            pairs = shape[0] * shape[1] * shape[2] ** 2
            name = f"{shape}{' causal' if causal else ''}"
            operations = 2 * products * pairs * shape[3] // (2 if causal else 1)
            cases.append(Case(name, (shape, causal), pairs, operations=operations))
    return cases


def gpt_case() -> Case:
    """Products of 2 operations, three times: of the layers, and of attention, which is causal."""
    rows = SEQUENCES * STEPS
    layers = rows * WIDTH * (12 * WIDTH * BLOCKS + WORDS)
    pairs = BLOCKS * SEQUENCES * STEPS**2 * WIDTH
    return Case(f"{SEQUENCES} x {STEPS}", (), rows, operations=6 * (layers + pairs))


KERNELS = {
    "attention": Kernel(
        reference=attention,
        own=dropped(attention),
        others=[attention_torch, dropped(attention_torch)],
        cases=attention_cases(2),
    ),
    "attention_backward": Kernel(
        reference=with_backward(attention),
        own=dropped(with_backward(attention)),
        others=[with_backward(attention_torch), dropped(with_backward(attention_torch))],
        cases=attention_cases(7),
    ),
    "gpt": Kernel(
        reference=plain(gpt),
        own=gpt,
        others=[gpt_torch, plain(gpt_torch)],
        cases=[gpt_case()],
    ),
}
