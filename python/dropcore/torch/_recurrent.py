"""Recurrent layers with dropout between them, and the LSTM with noise at every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from types import FunctionType, SimpleNamespace
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dropcore.torch import _functions as own
from dropcore.torch._namespace import in_namespace

__all__ = ["LAYER_BY_LAYER", "Noise", "forward_of"]


class Noise(NamedTuple):
    """The rates of the noise at every step of an LSTM."""

    zoneout: float = 0.0
    zoneout_cell: float = 0.0
    recurrent_dropout: float = 0.0


NO_NOISE: Final = Noise()


def layer_by_layer(func: Callable[..., Any], noise: Noise = NO_NOISE) -> Callable[..., Any]:
    """A recurrent function of PyTorch that runs each layer alone, with `dropout` between them."""

    def run(*args: Any) -> Any:
        # (input, hx, weights, has_biases, layers, dropout, train, bidirectional, batch_first), or
        # of packed sequences (data, batch_sizes, hx, weights, has_biases, layers, ...).
        at = 2 if isinstance(args[3], bool) else 3
        *inputs, hx, weights, biased, layers, p, train, both = args[: at + 6]
        noisy = noise.zoneout or noise.zoneout_cell or (train and noise.recurrent_dropout)
        if not noisy and (not train or not p or layers == 1):
            return func(*args)
        states = hx if isinstance(hx, tuple | list) else (hx,)
        of_layers = zip(*(state.chunk(layers) for state in states), strict=True)
        each = len(weights) // layers
        output, *sizes = inputs
        last = []
        for number, state in enumerate(of_layers):
            own_weights = weights[number * each : (number + 1) * each]
            if noisy:
                batch_first = bool(args[at + 6 :] and args[-1])
                output, *final = _noisy_layer(
                    noise, output, sizes, state, own_weights, biased, train, both, batch_first
                )
            else:
                own_state = state if isinstance(hx, tuple | list) else state[0]
                output, *final = func(
                    output, *sizes, own_state, own_weights, biased, 1, 0.0, train, both,
                    *args[at + 6 :],
                )  # fmt: skip
            last.append(final)
            if number < layers - 1:
                output = own.dropout(output, p, train)
        return output, *(torch.cat(parts) for parts in zip(*last, strict=True))

    outside: Any = torch.compiler.disable
    disabled: Callable[..., Any] = outside(run, reason="PyTorch does not compile recurrent layers")
    return disabled


def _noisy_layer(
    noise: Noise,
    x: Tensor,
    sizes: list[Tensor],
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    biased: bool,
    train: bool,
    both: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One layer of an LSTM, in one or both directions, with noise. x is packed if it has sizes."""
    if batch_first:
        x = x.transpose(0, 1)
    rows = sizes[0].tolist() if sizes else [x.shape[1]] * len(x)
    each = len(weights) // len(state[0])
    results = [
        _noisy_direction(
            noise, x, rows, h, c, weights[each * number : each * (number + 1)], biased, train,
            backwards=number == 1, packed=bool(sizes),
        )
        for number, (h, c) in enumerate(zip(*state, strict=True))
    ]  # fmt: skip
    outputs, last_h, last_c = zip(*results, strict=True)
    y = torch.cat(outputs, -1)
    return y.transpose(0, 1) if batch_first else y, torch.stack(last_h), torch.stack(last_c)


def _noisy_direction(
    noise: Noise,
    x: Tensor,
    rows: list[int],
    h: Tensor,
    c: Tensor,
    weights: Sequence[Tensor],
    biased: bool,
    train: bool,
    *,
    backwards: bool,
    packed: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """One direction of a layer. At step t the first rows[t] sequences have an input."""
    of_input, of_state, *others = weights
    biases = others[:2] if biased else (None, None)
    projection = others[-1] if len(others) == (3 if biased else 1) else None
    gates = F.linear(x, of_input, biases[0])
    inputs = torch.split(gates, rows) if packed else gates.unbind()
    new_h = _share_of_new(noise.zoneout, h, len(rows), train)
    new_c = _share_of_new(noise.zoneout_cell, c, len(rows), train)
    factor = own.dropout(torch.ones_like(h), noise.recurrent_dropout, train)
    outputs: list[Any] = [None] * len(rows)
    for t in reversed(range(len(rows))) if backwards else range(len(rows)):
        n = rows[t]
        before_h, before_c = h[:n], c[:n]
        i, f, g, o = (inputs[t] + F.linear(before_h * factor[:n], of_state, biases[1])).chunk(4, 1)
        cell = torch.sigmoid(f) * before_c + torch.sigmoid(i) * torch.tanh(g)
        output = torch.sigmoid(o) * torch.tanh(cell)
        if projection is not None:
            output = F.linear(output, projection)
        output, cell = _mixed(output, before_h, new_h, t), _mixed(cell, before_c, new_c, t)
        outputs[t] = output
        h, c = torch.cat((output, h[n:])), torch.cat((cell, c[n:]))
    return torch.cat(outputs) if packed else torch.stack(outputs), h, c


def _share_of_new(p: float, state: Tensor, steps: int, train: bool) -> Any:
    """What zoneout of a state takes from the new one: a mask (batch, steps, units), or a number."""
    if not train:
        return 1.0 - p
    if p == 0:
        return 1.0
    ones = torch.ones((len(state), steps, state.shape[1]), dtype=state.dtype, device=state.device)
    return own.dropout(ones, p) != 0


def _mixed(new: Tensor, old: Tensor, share: Any, t: int) -> Tensor:
    if isinstance(share, Tensor):
        return torch.where(share[: len(new), t], new, old)
    return new if share == 1.0 else torch.lerp(old, new, share)


LAYER_BY_LAYER = {
    name: layer_by_layer(getattr(torch, name)) for name in ("lstm", "gru", "rnn_tanh", "rnn_relu")
}
"""The recurrent functions of PyTorch, by name, whose dropout is dropcore's."""


@lru_cache
def forward_of(kind: type[nn.RNNBase], noise: Noise = NO_NOISE) -> FunctionType:
    """The method `forward` of a recurrent module, whose dropout is dropcore's."""
    functions = LAYER_BY_LAYER
    if any(noise):
        functions = {"lstm": layer_by_layer(torch.lstm, noise)}
    return in_namespace(kind.forward, _VF=SimpleNamespace(**functions))
