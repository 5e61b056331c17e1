"""PyTorch's losses, optimisers, schedules and initialisers: the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import optim, schedules
from dropcore.nn.initializers import INITIALIZERS
from dropcore.optim import SGD, Adadelta, Adagrad, Adam, AdamW, Clip, RMSprop
from dropcore.regularizers import L2
from dropcore.updates import global_norm
from support.arrays import normal
from support.training import (
    CLASS_WEIGHTS,
    LOSS_CASES,
    SCHEDULES,
    as_one,
    gradients,
)

DTYPES = [np.float32, np.float64]
pytestmark = pytest.mark.filterwarnings("ignore")  # those of other packages


def torch_losses(torch):
    f, t = torch.nn.functional, torch.tensor
    w = t(CLASS_WEIGHTS)
    last = {3: (0, 2, 1), 2: (0, 1)}

    def classes(z, y, **options):
        return f.cross_entropy(z.permute(last[z.ndim]), t(y), **options)

    def pairs(z, y):
        return f.gaussian_nll_loss(z[..., 0], t(y), torch.exp(z[..., 1]), full=True, eps=0)

    def binary(z, y, no, yes):
        # PyTorch divides by the numbers, here it is by their weights.
        each = no + (yes - no) * t(y).double()
        loss = f.binary_cross_entropy_with_logits(z, t(y).double(), weight=each)
        return loss * each.numel() / each.sum()

    flat = {"weight": w.double()}
    return {
        0: classes, 1: classes, 2: classes,
        3: lambda z, y: classes(z, y, label_smoothing=0.2),
        4: lambda z, y: classes(z, y, label_smoothing=1.0),
        5: lambda z, y: classes(z, y, **flat),
        # With probabilities PyTorch divides by the rows, here it is by their weights.
        6: lambda z, y: classes(z, y, **flat) * len(y) / float((y * CLASS_WEIGHTS).sum()),
        7: lambda z, y: classes(z, y, label_smoothing=0.3, ignore_index=-1, **flat),
        8: lambda z, y: classes(z, y, ignore_index=2),
        9: lambda z, y: f.binary_cross_entropy_with_logits(z, t(y)),
        10: lambda z, y: f.binary_cross_entropy_with_logits(z, t(y[:, None]).double()),
        11: lambda z, y: binary(z, y[:, None], 0.5, 3.0),
        12: lambda z, y: binary(z, y, 2.0, 0.0),
        13: lambda z, y: f.mse_loss(z, t(y)),
        14: lambda z, y: f.mse_loss(z, t(y[..., None])),
        15: lambda z, y: f.l1_loss(z, t(y)),
        16: lambda z, y: f.huber_loss(z, t(y), delta=0.7),
        17: lambda z, y: f.huber_loss(z, t(y[:, 0]), delta=100),
        18: pairs, 19: pairs,
    }  # fmt: skip


@pytest.mark.parametrize("case", range(len(LOSS_CASES)))
def test_losses_are_those_of_pytorch(torch, case):
    loss, outputs, targets = LOSS_CASES[case]
    z = torch.tensor(outputs, requires_grad=True)
    theirs = torch_losses(torch)[case](z, targets)
    theirs.backward()
    value, gradient = loss(outputs, targets)
    assert value == pytest.approx(theirs.item(), rel=1e-10)
    np.testing.assert_allclose(gradient, z.grad.numpy(), rtol=1e-9, atol=1e-12)


def torch_optimizers(torch):
    o = torch.optim
    return [
        (SGD(0.01), lambda p: o.SGD(p, 0.01)),
        (SGD(0.01, momentum=0.9), lambda p: o.SGD(p, 0.01, momentum=0.9)),
        (
            SGD(0.01, momentum=0.9, nesterov=True),
            lambda p: o.SGD(p, 0.01, momentum=0.9, nesterov=True),
        ),
        (Adam(0.01), lambda p: o.Adam(p, 0.01)),
        (
            Adam(0.01, beta_1=0.8, beta_2=0.9, epsilon=0.1),
            lambda p: o.Adam(p, 0.01, betas=(0.8, 0.9), eps=0.1),
        ),
        (SGD(0.01, weight_decay=0.2), lambda p: o.SGD(p, 0.01, weight_decay=0.2)),
        (
            SGD(0.01, momentum=0.9, weight_decay=0.2),
            lambda p: o.SGD(p, 0.01, momentum=0.9, weight_decay=0.2),
        ),
        (
            SGD(0.01, momentum=0.9, nesterov=True, weight_decay=0.2),
            lambda p: o.SGD(p, 0.01, momentum=0.9, weight_decay=0.2, nesterov=True),
        ),
        (AdamW(0.01), lambda p: o.AdamW(p, 0.01)),
        (
            AdamW(0.02, beta_1=0.8, beta_2=0.9, epsilon=0.1, weight_decay=0.5),
            lambda p: o.AdamW(p, 0.02, betas=(0.8, 0.9), eps=0.1, weight_decay=0.5),
        ),
        (RMSprop(), lambda p: o.RMSprop(p)),
        (RMSprop(0.02, rho=0.9), lambda p: o.RMSprop(p, 0.02, alpha=0.9)),
        (RMSprop(0.02, centered=True), lambda p: o.RMSprop(p, 0.02, centered=True)),
        (RMSprop(0.02, momentum=0.8), lambda p: o.RMSprop(p, 0.02, momentum=0.8)),
        (
            RMSprop(0.02, rho=0.9, momentum=0.8, centered=True, epsilon=0.1),
            lambda p: o.RMSprop(p, 0.02, alpha=0.9, momentum=0.8, centered=True, eps=0.1),
        ),
        (Adagrad(), lambda p: o.Adagrad(p)),
        (
            Adagrad(0.1, initial_accumulator=0.7, epsilon=0.1),
            lambda p: o.Adagrad(p, 0.1, initial_accumulator_value=0.7, eps=0.1),
        ),
        (Adadelta(), lambda p: o.Adadelta(p, rho=0.95)),
        (Adadelta(0.5, rho=0.8, epsilon=1e-3), lambda p: o.Adadelta(p, 0.5, rho=0.8, eps=1e-3)),
    ]


@pytest.mark.parametrize("case", range(19))
def test_optimizers_are_those_of_pytorch(torch, case):
    assert len(torch_optimizers(torch)) == 19
    ours, make = torch_optimizers(torch)[case]
    start = normal(30, 20)
    theirs = torch.nn.Parameter(torch.tensor(start))
    optimizer = make([theirs])
    found = {dtype: {"w": start.astype(dtype)} for dtype in DTYPES}
    states = {dtype: ours.init(params) for dtype, params in found.items()}
    for step in range(100):
        g = normal(30, 20, seed=step) * (1 + step % 7)
        theirs.grad = torch.tensor(g)
        optimizer.step()
        for dtype, params in found.items():
            ours.apply(params, {"w": g.astype(dtype)}, states[dtype], step)
    wanted = theirs.detach().numpy()
    assert np.abs(wanted - start).max() > 0.01
    np.testing.assert_allclose(found[np.float64]["w"], wanted, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(found[np.float32]["w"], wanted, rtol=1e-5, atol=3e-5)


def test_clipping_is_that_of_pytorch(torch):
    grads = gradients()
    theirs = [torch.nn.Parameter(torch.zeros(np.shape(g))) for g in map(np.asarray, grads.values())]
    for p, g in zip(theirs, grads.values()):
        p.grad = torch.tensor(np.asarray(g), dtype=torch.float32)
    assert float(torch.nn.utils.clip_grad_norm_(theirs, 0.7)) == pytest.approx(
        global_norm(grads.values()), rel=1e-6
    )
    found = as_one(Clip(SGD(0.1), norm=0.7).clipped(grads))
    wanted = np.concatenate([p.grad.numpy().ravel() for p in theirs])
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-7)


def test_the_learning_rate_is_inside_the_velocity(torch):
    """As in Sutskever et al. and in Keras: a velocity keeps the rate that it was gained at.

    PyTorch multiplies the whole velocity by the rate of the moment.
    """
    ours = optim.SGD(schedules.Piecewise(boundaries=[1], values=[0.5, 0.25]), momentum=0.5)
    params = {"w": np.zeros(1)}
    state = ours.init(params)
    theirs = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([theirs], lr=0.5, momentum=0.5)
    for step in range(2):
        optimizer.param_groups[0]["lr"] = (0.5, 0.25)[step]
        theirs.grad = torch.ones(1)
        optimizer.step()
        ours.apply(params, {"w": np.ones(1)}, state, step)
    assert params["w"][0] == -0.5 + 0.5 * -0.5 - 0.25
    assert theirs.item() == -0.5 - 0.25 * (0.5 + 1)


def test_l2_is_the_coupled_weight_decay_of_pytorch(torch):
    w = normal(5, 4)
    theirs = torch.nn.Parameter(torch.tensor(w))
    optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.3)
    ours, state = SGD(0.1, momentum=0.9), {"velocity": {"w": np.zeros((5, 4))}}
    for step in range(20):
        g = normal(5, 4, seed=step)
        theirs.grad = torch.tensor(g)
        optimizer.step()
        ours.apply({"w": w}, {"w": L2(0.15).add_gradient(w, g)}, state, step)
    np.testing.assert_allclose(w, theirs.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES[1:7], ids=repr)
def test_schedules_are_those_of_pytorch(torch, schedule):
    lr, theirs = torch.optim.lr_scheduler, {
        SCHEDULES[1]: lambda o: lr.MultiStepLR(o, [10, 20], 0.1),
        SCHEDULES[2]: lambda o: lr.ExponentialLR(o, 0.5**0.1),
        SCHEDULES[3]: lambda o: lr.StepLR(o, 10, 0.5),
        SCHEDULES[4]: lambda o: lr.LinearLR(o, 1.0, 0.1 / 0.9, 40),
        SCHEDULES[5]: lambda o: lr.CosineAnnealingLR(o, 30),
        SCHEDULES[6]: lambda o: lr.CosineAnnealingWarmRestarts(o, 10, 3, 0.01),
    }  # fmt: skip
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=schedule(0))
    scheduler = theirs[schedule](optimizer)
    for step in range(30):
        assert schedule(step) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        scheduler.step()


@pytest.mark.parametrize("shape", [(300, 200), (3, 4, 50, 100)])
def test_initialisers_have_the_variance_of_pytorch(torch, shape):
    """There the units stand first: (out, in, ...)."""
    init = torch.nn.init
    for name, draw in {
        "he_uniform": init.kaiming_uniform_,
        "he_normal": init.kaiming_normal_,
        "glorot_uniform": init.xavier_uniform_,
        "glorot_normal": init.xavier_normal_,
        "lecun_uniform": lambda t: init.kaiming_uniform_(t, nonlinearity="linear"),
        "lecun_normal": lambda t: init.kaiming_normal_(t, nonlinearity="linear"),
    }.items():
        torch.manual_seed(0)
        theirs = draw(torch.empty(shape[-1], shape[-2], *shape[:-2])).numpy()
        ours = INITIALIZERS[name](np.random.default_rng(0), shape)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.02), name
        if name.endswith("uniform"):
            assert np.abs(ours).max() == pytest.approx(np.abs(theirs).max(), rel=1e-3)
