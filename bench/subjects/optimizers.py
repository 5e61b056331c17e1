"""One optimiser step on one weight matrix, with and without the projection onto the max-norm ball.

Two bounds are measured: one that no unit reaches, so that the norms are all there is to do, and one
that every unit exceeds at every step. PyTorch's weights are (out, in), so that its units are rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np

from .common import (
    TINY,
    Builder,
    Call,
    Case,
    Kernel,
    as_torch,
    blas_threads,
    module,
    named,
    normal,
)
from .dropout import copy

SHAPE = (16, 32) if TINY else (1024, 1024)
MOMENTUM = 0.95
INSIDE, OUTSIDE = 1e6, 1.0
# The step against the weights' size: no weight leaves its order of magnitude in a million calls
# inside the ball, and every call leads out of the ball where it is small.
RATES = {"SGD": 1e-8, "Adam": 1e-6}


def weight_and_gradient(shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A matrix, and a gradient along which every step makes all its units longer."""
    weight = normal(*shape)
    return weight, -weight


def copy_weight(shape: tuple[int, int]) -> Call:
    """NumPy's copy of as many float32, on one thread."""
    return copy(prod(shape), 1.0)


def step(shape: tuple[int, int], rule: str, bound: float | None = None) -> Call:
    """dropcore's optimiser, which projects in the same call."""
    from dropcore import optim
    from dropcore.constraints import MaxNorm

    settings = {"momentum": MOMENTUM} if rule == "SGD" else {}
    optimizer = getattr(optim, rule)(RATES[rule], **settings)
    weight, gradient = weight_and_gradient(shape)
    params, grads = {"weight": weight}, {"weight": gradient}
    constraints = {} if bound is None else {"weight": MaxNorm(bound)}
    state, steps = optimizer.init(params), itertools.count()
    return lambda: optimizer.apply(params, grads, state, next(steps), constraints)


def step_numpy(shape: tuple[int, int], rule: str, bound: float | None = None) -> Call:
    """Momentum SGD in NumPy without temporaries, and the projection where a unit needs it."""
    blas_threads()
    rate = np.float32(RATES[rule])
    weight, gradient = weight_and_gradient(shape)
    velocity, change = np.zeros_like(weight), np.empty_like(weight)

    def call():
        np.multiply(gradient, rate, out=change)
        np.multiply(velocity, np.float32(MOMENTUM), out=velocity)
        np.subtract(velocity, change, out=velocity)
        np.add(weight, velocity, out=weight)
        if bound is not None:
            norms = np.sqrt(np.einsum("ij,ij->j", weight, weight))
            if (norms > bound).any():
                np.multiply(weight, np.float32(bound) / np.maximum(norms, bound), out=weight)

    return call


def step_torch(shape: tuple[int, int], rule: str, bound: float | None = None) -> Call:
    """torch.optim in its fused form, the fastest of the three, then renorm_ without autograd."""
    torch = module("torch")
    values, gradient = map(as_torch, weight_and_gradient(shape))
    weight = torch.nn.Parameter(values)
    weight.grad = gradient
    settings = {"momentum": MOMENTUM} if rule == "SGD" else {}
    optimizer = getattr(torch.optim, rule)([weight], lr=RATES[rule], fused=True, **settings)

    def call():
        optimizer.step()
        if bound is not None:
            with torch.no_grad():
                weight.renorm_(2, 0, bound)

    return call


def variants(build: Callable[..., Call], suffix: str, rule: str) -> list[Builder]:
    """The step alone, with a bound that no unit reaches, and with one that every unit exceeds."""
    name = rule.lower() + suffix
    settings: dict[str, dict[str, Any]] = {
        name: {},
        f"{name}_max_norm": {"bound": INSIDE},
        f"{name}_max_norm_clipped": {"bound": OUTSIDE},
    }
    return [named(build, key, rule=rule, **given) for key, given in settings.items()]


def optimizer_kernel(rule: str, peers: list[Builder]) -> Kernel:
    """The step alone is what the step with max-norm is compared with."""
    alone, with_max_norm, clipped = variants(step, "", rule)
    # Weight, gradient and state are read, weight and state are written.
    streams = {"SGD": 5, "Adam": 7}[rule]
    size = prod(SHAPE)
    return Kernel(
        reference=alone,
        own=with_max_norm,
        others=[clipped, copy_weight, *peers],
        cases=[Case("x".join(map(str, SHAPE)), (SHAPE,), size, moved=4 * streams * size)],
    )


KERNELS = {
    "sgd": optimizer_kernel(
        "SGD", variants(step_numpy, "_numpy", "SGD") + variants(step_torch, "_torch", "SGD")
    ),
    "adam": optimizer_kernel("Adam", variants(step_torch, "_torch", "Adam")),
}
