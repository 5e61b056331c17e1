"""`dropcore.torch` beside PyTorch's dropout, in one process, the candidates taking turns.

    python bench/torch_dropout.py [--only dropout overhead mlp gpt curves] [--rounds 15]
                                  [--threads N] [--clock cpu]

- dropout: forward and backward on 1 Mi and 16 Mi float32 against `F.dropout`.
- overhead: a call on 1 Ki elements, with and without a gradient, against `F.dropout`.
- mlp: an update of a 784-1024-1024-1024-10 network, 128 samples, with dropout 0.2 and 0.5: before
  and after `replace_dropout`, and without dropout.
- gpt: an update of a small GPT (4 layers, 384 wide, 6 heads, 8 sequences of 256, dropout 0.1 behind
  attention, MLP and embedding), before and after; and with the dropout of attention weights, too.
- curves: the loss of both networks, before and after, over the same data.

Medians over the rounds and, in brackets, minima. With DROPCORE_BENCH_TINY=1 all sizes are small.
"""

from __future__ import annotations

import argparse
import copy
import os
from collections.abc import Callable
from statistics import median
from time import perf_counter_ns, process_time_ns, sleep
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

import dropcore
import dropcore.torch as dt

TINY = os.environ.get("DROPCORE_BENCH_TINY") == "1"
PAUSE = 0.002 if TINY else 0.01  # seconds in which the threads of the last candidate fall asleep
CLOCKS = {"wall": perf_counter_ns, "cpu": process_time_ns}
now = perf_counter_ns
Calls = dict[str, Callable[[], Any]]


def times(calls: Calls, rounds: int, repeats: int = 1) -> dict[str, list[float]]:
    """Microseconds of each call in each round, all taking turns there and back."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
        call()
    for turn in range(rounds):
        for name in list(calls) if turn % 2 else list(calls)[::-1]:
            sleep(PAUSE)
            calls[name]()
            start = now()
            for _ in range(repeats):
                calls[name]()
            found[name].append((now() - start) / repeats / 1000)
    return found


def report(title: str, calls: Calls, rounds: int, repeats: int = 1) -> None:
    """Prints the times, and their ratios to the first call."""
    found = times(calls, rounds, repeats)
    first = next(iter(found.values()))
    print(title)
    for name, each in found.items():
        ratio, least = median(first) / median(each), min(first) / min(each)
        print(
            f"    {name:36} {median(each):12.1f} us  ({min(each):12.1f})"
            f"   {ratio:7.2f} x faster ({least:.2f})"
        )


def forward_and_backward(call: Callable[..., Any], x: Any, dy: Any) -> Callable[[], Any]:
    def run() -> None:
        torch.autograd.grad(call(x, 0.5), x, dy)

    return run


def dropout(rounds: int) -> None:
    for size in (1 << 12, 1 << 14) if TINY else (1 << 20, 1 << 24):
        x = torch.randn(size, requires_grad=True)
        dy = torch.randn(size)
        calls = {
            "F.dropout": forward_and_backward(F.dropout, x, dy),
            "dropcore.torch.dropout": forward_and_backward(dt.dropout, x, dy),
            "two copies": lambda x=x, dy=dy: (x.detach().clone(), dy.clone()),
        }
        report(f"forward and backward, {size} elements", calls, rounds)


def overhead(rounds: int) -> None:
    x = torch.randn(1024)
    y = torch.randn(1024, requires_grad=True)
    dy = torch.randn(1024)
    repeats = 10 if TINY else 300
    calls: Calls = {
        "F.dropout": lambda: F.dropout(x, 0.5),
        "dropcore.torch.dropout": lambda: dt.dropout(x, 0.5),
    }
    report("1 Ki elements", calls, rounds, repeats)
    calls = {
        "F.dropout": lambda: F.dropout(y, 0.5),
        "dropcore.torch.dropout": lambda: dt.dropout(y, 0.5),
    }
    report("1 Ki elements that require a gradient", calls, rounds, repeats)
    calls = {
        "F.dropout": forward_and_backward(F.dropout, y, dy),
        "dropcore.torch.dropout": forward_and_backward(dt.dropout, y, dy),
    }
    report("forward and backward, 1 Ki elements", calls, rounds, repeats)


def mlp(rates: tuple[float, float]) -> Any:
    width = 32 if TINY else 1024
    layers: list[Any] = [nn.Dropout(rates[0])]
    for inputs in (784, width, width):
        layers += [nn.Linear(inputs, width), nn.ReLU(), nn.Dropout(rates[1])]
    return nn.Sequential(*layers, nn.Linear(width, 10))


class Block(nn.Module):
    """A block of a GPT."""

    def __init__(self, width: int, heads: int, attention: float) -> None:
        super().__init__()
        self.heads, self.attention = heads, attention
        self.one, self.two = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(0.1)
        )
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Any) -> Any:
        n, t, width = x.shape
        q, k, v = self.qkv(self.one(x)).view(n, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=self.attention, is_causal=True)
        x = x + self.dropout(self.out(y.transpose(1, 2).reshape(n, t, width)))
        return x + self.mlp(self.two(x))


class GPT(nn.Module):
    """A small language model of characters."""

    def __init__(self, attention: float = 0.0) -> None:
        super().__init__()
        width, heads, layers, self.length = (16, 2, 1, 8) if TINY else (384, 6, 4, 256)
        self.words, self.places = nn.Embedding(65, width), nn.Embedding(self.length, width)
        self.dropout = nn.Dropout(0.1)
        self.blocks = nn.Sequential(*(Block(width, heads, attention) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 65)

    def forward(self, tokens: Any) -> Any:
        x = self.words(tokens) + self.places.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(self.dropout(x))))


def update(model: Any, batch: Callable[[], tuple[Any, Any]], lr: float) -> Callable[[], float]:
    """One step of AdamW, which returns the loss."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)

    def step() -> float:
        x, y = batch()
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x).flatten(0, -2), y.flatten())
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def within_block(step: Callable[[], float]) -> Callable[[], float]:
    """The step in which functions are dropcore's, too."""

    def run() -> float:
        with dt.fast_dropout():
            return step()

    return run


def digits(seed: int) -> Callable[[], tuple[Any, Any]]:
    """Batches of two hundred noisy patterns in ten classes: no data set is needed."""
    patterns = torch.rand(200, 784, generator=torch.Generator().manual_seed(0)).gt(0.8).float()
    generator = torch.Generator().manual_seed(seed)

    def batch() -> tuple[Any, Any]:
        rows = torch.randint(200, (128,), generator=generator)
        noise = torch.rand(128, 784, generator=generator)
        return (patterns[rows] + noise).sub_(0.7), rows % 10

    return batch


def text(model: GPT, seed: int) -> Callable[[], tuple[Any, Any]]:
    """Sequences in which a character follows from the two before."""
    generator = torch.Generator().manual_seed(seed)
    n = 2 if TINY else 8

    def batch() -> tuple[Any, Any]:
        tokens = torch.randint(65, (n, model.length + 1), generator=generator)
        for t in range(2, model.length + 1):
            tokens[:, t] = (3 * tokens[:, t - 1] + tokens[:, t - 2] + t % 2) % 65
        return tokens[:, :-1], tokens[:, 1:]

    return batch


def replaced(model: Any) -> Any:
    twin = copy.deepcopy(model)
    dt.replace_dropout(twin)
    return twin


def mlp_steps(rounds: int) -> None:
    before, without = mlp((0.2, 0.5)), mlp((0.0, 0.0))
    fixed = digits(0)()
    calls: Calls = {
        name: update(model, lambda: fixed, 1e-3)
        for name, model in (
            ("without dropout", without),
            ("before replace_dropout", before),
            ("after replace_dropout", replaced(before)),
        )
    }
    report("update of an MLP", calls, rounds, 1 if TINY else 5)


def gpt_steps(rounds: int) -> None:
    for attention in (0.0, 0.1):
        before = GPT(attention)
        fixed = text(before, 0)()
        after = update(replaced(before), lambda fixed=fixed: fixed, 1e-3)
        calls: Calls = {
            "before replace_dropout": update(before, lambda fixed=fixed: fixed, 1e-3),
            "after replace_dropout": after,
        }
        if attention:
            calls["after, in fast_dropout"] = within_block(after)
        report(f"update of a GPT, dropout of attention weights {attention}", calls, rounds)


def curves(rounds: int) -> None:
    """The loss, averaged over a tenth of the updates each."""
    updates = 100 if TINY else 60 * rounds
    pairs: list[tuple[str, Any, Callable[..., Any], float, int]] = [
        ("MLP", mlp((0.2, 0.5)), lambda model: digits(1), 1e-3, updates),
        ("GPT", GPT(), lambda model: text(model, 1), 1e-3, updates // 10),
    ]
    for title, before, data, lr, count in pairs:
        print(f"loss of the {title}, {count} updates")
        for name, model in (("before", before), ("after", replaced(before))):
            torch.manual_seed(0)
            step = update(model, data(model), lr)
            losses = [step() for _ in range(count)]
            tenth = max(1, count // 10)
            means = [sum(losses[i : i + tenth]) / tenth for i in range(0, tenth * 10, tenth)]
            print(f"    {name:8}" + " ".join(f"{mean:7.3f}" for mean in means))


PARTS = {
    "dropout": dropout,
    "overhead": overhead,
    "mlp": mlp_steps,
    "gpt": gpt_steps,
    "curves": curves,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--rounds", type=int, default=2 if TINY else 15)
    parser.add_argument("--threads", type=int, default=0, help="of both libraries")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: for a busy machine, with --threads 1"
    )
    options = parser.parse_args()
    global now
    now = CLOCKS[options.clock]
    if options.threads:
        torch.set_num_threads(options.threads)
        dropcore.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        f"PyTorch {torch.__version__}, {torch.get_num_threads()} threads; dropcore "
        f"{dropcore.build_info()['isa']}, {dropcore.get_num_threads()} threads"
    )
    for name in options.only:
        PARTS[name](options.rounds)


if __name__ == "__main__":
    main()
