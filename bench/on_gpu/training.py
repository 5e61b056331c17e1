"""Sections that time steps of training."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from dropcore import Key, Mask

from .setting import KEEP, Call, Setting, section, torch_on_device
from .timing import fastest, measured, over, target, tf32


def training_data(s: Setting, batch: int) -> Iterator[tuple[Any, Any]]:
    """A few batches in turn, on the device."""
    rng, layers = np.random.default_rng(0), s.sizes.layers
    made = [
        (s.xp.asarray(rng.random((batch, layers[0]), dtype=np.float32)),
         s.xp.asarray(rng.integers(layers[-1], size=batch)))
        for _ in range(4)
    ]  # fmt: skip
    return itertools.cycle(made)


def our_step(s: Setting, batch: int, *, regularised: bool, graph: bool, **dropout: Any) -> Call:
    """A batch's forward and backward pass and its update, as `fit` makes it."""
    from dropcore.constraints import MaxNorm
    from dropcore.losses import LOSSES
    from dropcore.nn import Dense, Dropout, Sequential
    from dropcore.optim import SGD
    from dropcore.training import TrainingState
    from dropcore.training._data import Batch
    from dropcore.training._update import Update

    _, *hidden, classes = s.sizes.layers
    constraint = MaxNorm(1.4) if regularised else None
    layers: list[Any] = [Dropout(0.2, **dropout)] if regularised else []
    for units in hidden:
        layers.append(Dense(units, activation="relu", constraint=constraint))
        layers += [Dropout(0.5, **dropout)] if regularised else []
    model = Sequential([*layers, Dense(classes, constraint=constraint)])
    model.to("cuda").build((s.sizes.layers[0],), key=0)
    optimizer, state = SGD(1e-4, momentum=0.95), TrainingState()
    state.prepare(optimizer, model.params)
    data = training_data(s, batch)

    make = Update(model, optimizer, LOSSES["softmax_cross_entropy"], state)

    def update(x: Any, y: Any, key: Key) -> Any:
        return make(Batch(x, y), key)[:2]

    step: Callable[..., Any] = update
    if graph:
        from dropcore.training._graphed_step import GraphedStep

        step = GraphedStep(update, optimizer, state, *next(data))
    return lambda: step(*next(data), Key(7, step=state.step))


def torch_step(s: Setting, batch: int, *, regularised: bool, mode: str | None) -> Call:
    """PyTorch with its fused SGD; renorm_ without autograd. Without a mode it is eager."""
    torch = torch_on_device()
    torch.manual_seed(0)
    sizes = s.sizes.layers
    layers = [torch.nn.Dropout(0.2)] if regularised else []
    for inputs, units in itertools.pairwise(sizes[:-1]):
        layers += [torch.nn.Linear(inputs, units), torch.nn.ReLU()]
        layers += [torch.nn.Dropout(0.5)] if regularised else []
    network = torch.nn.Sequential(*layers, torch.nn.Linear(*sizes[-2:])).cuda()
    weights = [p for p in network.parameters() if p.ndim == 2]
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-4, momentum=0.95, fused=True)
    data = ((torch.from_dlpack(x), torch.from_dlpack(y)) for x, y in training_data(s, batch))

    def loss_of(x: Any, y: Any) -> Any:
        return torch.nn.functional.cross_entropy(network(x), y)

    if mode is not None:
        loss_of = torch.compile(loss_of, dynamic=False, mode=mode)

    def call() -> None:
        torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        loss_of(*next(data)).backward()
        optimizer.step()
        if regularised:
            with torch.no_grad():
                for weight in weights:
                    weight.renorm_(2, 0, 1.4)

    return call


@section
def training_step(s: Setting) -> dict[str, Any]:
    """A whole step with dropout and max-norm, beside steps without; products in TF32."""
    out: dict[str, Any] = {"layers": s.sizes.layers, "targets": []}
    for batch in s.sizes.batches:
        ours = partial(partial, our_step, s, batch)
        theirs = partial(partial, torch_step, s, batch)
        with tf32(s):
            result = measured(
                s,
                {
                    "regularised": ours(regularised=True, graph=False),
                    "regularised_graph": ours(regularised=True, graph=True),
                    "plain": ours(regularised=False, graph=False),
                    "plain_graph": ours(regularised=False, graph=True),
                    "units": ours(regularised=True, graph=False, shared_axes=0),
                    "torch": theirs(regularised=False, mode=None),
                    "torch_compiled": theirs(regularised=False, mode="default"),
                    "torch_graph": theirs(regularised=False, mode="reduce-overhead"),
                    "torch_regularised_compiled": theirs(regularised=True, mode="default"),
                },
                own="regularised_graph",
            )
        out[f"batch {batch}"] = result
        own = fastest(result, "regularised_graph", "regularised")
        out["targets"] += [
            target(f"step of batch {batch} with dropout and max-norm: times as fast as PyTorch "
                   f"{what} without", over(result, peer, own), 1.0)
            for peer, what in (("torch_compiled", "compiled"),
                               ("torch_graph", "compiled with CUDA graphs"))
        ]  # fmt: skip
    return out


def layer_step(s: Setting, batch: int, width: int, kind: str) -> Call:
    """A layer's share of a step: forward with ReLU, both gradients, update; new masks each time."""
    from dropcore._ops.dense import DenseOp
    from dropcore._ops.epilogue import CompactActivation
    from dropcore.optim import SGD

    x, dy = s.numbers(batch, width), s.numbers(batch, width, seed=2)
    params = {"weight": s.numbers(width, width, seed=3) * np.float32(width**-0.5),
              "bias": s.xp.zeros(width, np.float32)}  # fmt: skip
    optimizer = SGD(1e-6, momentum=0.95, lazy=kind == "lazy")
    state, steps = optimizer.init(params), itertools.count()

    def call() -> None:
        step = next(steps)
        came, mask = x, None
        if kind != "plain":
            masks = [Mask((1, width), KEEP, key=Key(7, stream, step)) for stream in (1, 2)]
            came, mask = CompactActivation.of(x, masks[0]), masks[1]
        dense = DenseOp(came, params["weight"], params["bias"], relu=True, mask=mask,
                          compact=mask is not None)  # fmt: skip
        back = dy if dense.y_units is None else dy[:, dense.y_units]
        _, dw, dbias = dense.backward(back, for_update=True)
        optimizer.apply(params, {"weight": dw, "bias": dbias}, state, step, {})

    return call


@section
def unit_masks(s: Setting) -> dict[str, Any]:
    """A layer with half of its inputs and units kept, and the whole layer; products in TF32."""
    out: dict[str, Any] = {"targets": []}
    for batch, width in s.sizes.units:
        kinds = {kind: partial(layer_step, s, batch, width, kind)
                 for kind in ("plain", "units", "lazy")}  # fmt: skip
        with tf32(s):
            result = measured(s, kinds, own="units")
        out[f"{batch} x {width} x {width}"] = result
        name = f"unit masks, {batch} x {width} x {width}: times as fast as our dense layer"
        out["targets"].append(target(name, over(result, "plain", "units"), 2.5))
    return out
