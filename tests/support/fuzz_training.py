"""Cases of what trains: updates, optimisers, losses, constraints, regularisers, schedules."""

from __future__ import annotations

import math

import numpy as np

from dropcore import losses, optim, reference, regularizers, schedules, updates
from dropcore._backends.gradients import BlockGradient, ProductGradient
from dropcore.constraints import MaxNorm, MinMaxNorm, NonNeg, UnitNorm
from support import fuzz
from support.arrays import assert_same_bits, norms
from support.fuzz import REAL, case, plain
from support.fuzz_arrays import BOUNDS, eps, expect_projected, frozen, no_axes, swapped, within

# --- updates -------------------------------------------------------------------------------------

# By function: its reference, its states in order (whether they can be left out, whether they are
# never negative), and its numbers.
UPDATES = {
    "sgd_": (
        reference.sgd,
        {"velocity": (True, False)},
        ("learning_rate", "momentum", "weight_decay"),
    ),
    "adam_": (
        reference.adam,
        {"mean": (False, False), "square": (False, True)},
        ("learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay"),
    ),
    "rmsprop_": (
        reference.rmsprop,
        {"square": (False, True), "mean": (True, False), "velocity": (True, False)},
        ("learning_rate", "rho", "momentum", "epsilon"),
    ),
    "adagrad_": (reference.adagrad, {"square": (False, True)}, ("learning_rate", "epsilon")),
    "adadelta_": (
        reference.adadelta,
        {"square": (False, True), "change": (False, True)},
        ("learning_rate", "rho", "epsilon"),
    ),
}
GOOD = {
    "learning_rate": (0.0, 0.1, 1, 1e-3, np.float32(0.5)),
    "momentum": (0.0, 0.9, 0, np.float64(0.5)),
    "beta_1": (0.0, 0.9, 0.5),
    "beta_2": (0.0, 0.999, 0.5),
    "rho": (0.0, 0.9, 0.5),
    "epsilon": (1e-3, 0.1, 1e-8),
    "weight_decay": (0.0, 0.01, 0.5),
}
BEYOND = {
    "momentum": (1.0, 1, 5),
    "beta_1": (1.0,),
    "beta_2": (1, 2.0),
    "rho": (1.0,),
    "epsilon": (0, 0.0),
}


def no_numbers(name):
    return (*fuzz.NO_NUMBERS, None, -0.1, math.nan, math.inf, 10**400, *BEYOND.get(name, ()))


def writeable(draw, shape, dtype, low=None):
    array = draw.view(shape, dtype)
    array[...] = draw.numbers(shape, dtype, low=low)
    return draw.watch(array)


def compact(draw, shape, dtype):
    """A gradient in one of the forms that layers make, and as an array."""
    if len(shape) == 2 and draw.flag():
        rows = draw.choose((1, 2, 33))
        factors = [draw.numbers((rows, n), dtype) for n in shape]
        gradient = ProductGradient(*map(draw.watch, factors))
        return gradient, np.asarray(gradient)
    if len(shape) == 2 and draw.flag():
        rng = draw.rng()
        places = [np.flatnonzero(rng.random(n) < 0.6) for n in shape]
        values = draw.numbers(tuple(map(len, places)), dtype)
        gradient = BlockGradient(draw.watch(values), *places, shape)
        return gradient, np.asarray(gradient)
    gradient = draw.array(shape, dtype, swapped=False)
    return gradient, plain(gradient)


@case(*(f"dropcore.updates.{name}" for name in UPDATES), share=50)
def update(draw, target):
    oracle, kinds, names = UPDATES[target.__name__]
    shape, dtype = draw.shape(), draw.dtype(REAL)
    w = writeable(draw, shape, dtype)
    g, dense = compact(draw, shape, dtype)
    states = {
        name: writeable(draw, shape, dtype, low=0.01 if positive else None)
        for name, (optional, positive) in kinds.items()
        if not optional or draw.flag()
    }
    numbers = {name: draw.choose(GOOD[name]) for name in names}
    wrong = {name: no_numbers(name) for name in names}
    if "velocity" in kinds and "velocity" not in states:
        numbers["momentum"] = 0.0
        wrong["momentum"] += (0.9,)
    elif "velocity" in kinds:
        del wrong["momentum"]
        wrong["momentum"] = no_numbers("momentum")
    options = {}
    if target is updates.adam_:
        numbers["step"] = draw.choose((0, 1, 2, 1000, 10**9))
        wrong["step"] = (*fuzz.NO_INTEGERS, -1, 10**30)
    if target is updates.sgd_ and "velocity" in states:
        numbers["nesterov"] = draw.flag()
        wrong["nesterov"] = fuzz.NO_BOOLS
    if target is updates.sgd_:
        wrong["lazy"] = fuzz.NO_BOOLS
    axes = draw.axes(len(shape), 1) if shape and draw.flag() else None
    if axes:
        options = {"max_norm": draw.choose(BOUNDS), "axis": axes}
        wrong |= {"max_norm": fuzz.NO_POSITIVE, "axis": no_axes(len(shape))}
    else:
        wrong |= {"axis": (0, (0,)), "max_norm": (1.0,)}
    before = plain(w)
    old = {name: plain(state) for name, state in states.items()}
    other = np.float64 if dtype == np.float32 else np.float32
    bad = [
        *fuzz.no_floats(before),
        before.astype(other),
        before[None],
        frozen(before).tolist(),
        *swapped(before),
    ]
    wrong["w"], wrong["g"] = [*bad, frozen(before)], bad
    for name in states:
        optional = kinds[name][0]
        wrong[name] = [*(b for b in bad if b is not None or not optional), frozen(before)]
        if before.size:
            wrong[name].append(w)  # shares memory
    arguments = {"w": w, "g": g} | states | numbers | options
    found = draw.call(target, arguments, wrong)
    if found is None:
        return
    assert found is w
    draw.expect_unchanged([w, *states.values()])
    exact = {name: float(n) if name in names else n for name, n in numbers.items()}
    wanted, *after = oracle(before, dense, **old, **exact)
    for name, state in zip(states, (a for a in after if a is not None), strict=True):
        np.testing.assert_array_equal(plain(states[name]), state)
    if axes:
        # What is denormal counts as zero in updates.
        tiny = float(np.finfo(dtype).tiny)
        expect_projected(np.asarray(wanted), plain(w), options["max_norm"], axes, tiny)
    else:
        np.testing.assert_array_equal(plain(w), wanted)  # a zero of either sign in blocks


def gradients(draw):
    """Some gradients of one dtype, and all numbers of them in float64."""
    dtype = draw.dtype(REAL)
    found = [compact(draw, draw.shape(), dtype) for _ in range(draw.integer(0, 3))]
    numbers = np.concatenate([dense.ravel() for _, dense in found] + [np.zeros(0)])
    return [gradient for gradient, _ in found], numbers.astype(np.float64)


NO_GRADIENTS = (
    None,
    3,
    {"a": np.ones(3)},
    [None],
    [np.ones(3, int)],
    ["a"],
    "abc",
    [np.ones(2, np.float16)],
    [np.ma.array([1.0], mask=True)],
)


@case("dropcore.updates.global_norm", share=30)
def global_norm(draw, target):
    given, numbers = gradients(draw)
    size = draw.choose((1.0, 1e-30, 1e-300, 1e300))
    if size != 1:
        given = [np.asarray(g, np.float64) * size for g in given]
    found = draw.call(target, {"gradients": given}, {"gradients": NO_GRADIENTS})
    if found is None:
        return
    exact = math.sqrt(math.fsum(numbers**2))
    assert abs(found / size - exact) <= 1e-12 * exact
    draw.expect_unchanged()


@case("dropcore.updates.clipping_factor", share=30)
def clipping_factor(draw, target):
    given, numbers = gradients(draw)
    bound = draw.choose((1e-3, 1, 100.0, 1e-300, 1e300))
    wrong = {"gradients": NO_GRADIENTS, "bound": (*fuzz.NO_POSITIVE, math.inf)}
    found = draw.call(target, {"gradients": given, "bound": bound}, wrong)
    if found is None and not given:
        return
    exact = math.sqrt(math.fsum(numbers**2))
    if found is not None:
        assert exact >= bound * (1 - 1e-12)
        assert abs(found * exact - bound) <= 1e-12 * bound
    draw.expect_unchanged()


@case("dropcore.updates.dense", share=30)
def dense(draw, target):
    dtype = draw.dtype(REAL)
    rows, columns = (np.flatnonzero(draw.rng().random(n) < 0.5) for n in (7, 5))
    values = draw.numbers((len(rows), len(columns)), dtype)
    found = target(BlockGradient(draw.watch(values), rows, columns, (7, 5)))
    wanted = np.zeros((7, 5), dtype)
    wanted[np.ix_(rows, columns)] = values
    assert_same_bits(found, wanted)
    x, dz = draw.numbers((9, 4), dtype), draw.numbers((9, 3), dtype)
    found = target(ProductGradient(draw.watch(x), draw.watch(dz)))
    exact = x.T.astype(float) @ dz
    within(found, exact, 20 * eps(dtype) * (abs(x).T @ abs(dz)))
    array = draw.array(draw.shape(), dtype)
    assert target(array) is array
    draw.expect_unchanged()


# --- optimisers ----------------------------------------------------------------------------------

OPTIMIZERS = {
    "SGD": {
        "learning_rate": 0.1,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "nesterov": True,
        "lazy": False,
    },
    "Adam": {"learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.9, "epsilon": 1e-3},
    "AdamW": {"learning_rate": 0.1, "beta_1": 0.5, "weight_decay": 0.1},
    "RMSprop": {
        "learning_rate": 0.1,
        "rho": 0.9,
        "momentum": 0.5,
        "centered": True,
        "epsilon": 1e-3,
    },
    "Adagrad": {"learning_rate": 0.1, "initial_accumulator": 0.1, "epsilon": 1e-3},
    "Adadelta": {"learning_rate": 0.5, "rho": 0.9, "epsilon": 1e-3},
}
FLAGS = ("nesterov", "lazy", "centered")


def an_optimizer(draw, name):
    """An optimiser of that name, or None if it was made with a wrong argument and refused."""
    full = OPTIMIZERS[name]
    given = {key: value for key, value in full.items() if key == "learning_rate" or draw.flag()}
    if "momentum" not in given:
        given.pop("nesterov", None)
    if draw.flag():
        given["learning_rate"] = schedules.Linear(0.5, 0.1, 3)
    wrong = {}
    for key in given:
        flag = key in FLAGS
        wrong[key] = fuzz.NO_BOOLS if flag else no_numbers(key)
        if key == "learning_rate":
            wrong[key] += (0, 0.0)
    return draw.call(getattr(optim, name), given, wrong)


@case(*(f"dropcore.optim.{name}" for name in OPTIMIZERS), share=36)
def optimizer(draw, target):
    made = an_optimizer(draw, target.__name__)
    if made is None:
        return
    check_optimizer(draw, made)
    twice = made.scaled(2.0)
    assert schedules.value_at(twice.learning_rate, 0) == 2 * schedules.value_at(
        made.learning_rate, 0
    )
    assert type(twice) is type(made)


def check_optimizer(draw, made, change=None):
    """Some updates are those of the function of its rule, which has a case of its own."""
    dtype = draw.dtype(REAL)
    params = {path: writeable(draw, draw.shape(), dtype) for path in "ab"}
    state = made.init(params)
    others = {path: plain(w) for path, w in params.items()}
    copies = {kind: {path: s.copy() for path, s in slot.items()} for kind, slot in state.items()}
    constraints = {"a": MaxNorm(0.5)} if params["a"].ndim > 1 and draw.flag() else {}
    for step in range(draw.integer(1, 3)):
        pairs = {path: compact(draw, w.shape, dtype) for path, w in params.items()}
        grads = {path: gradient for path, (gradient, _) in pairs.items()}
        if draw.integer(0, 9) == 0:
            del grads["b"]  # frozen
        if draw.integer(0, 5) == 0:
            bad = dict(grads)
            bad[draw.choose(("a", "c"))] = draw.choose(
                (np.zeros((9, 9, 9), dtype), np.zeros(3, np.float16), [1.0], None)
            )
            draw.refuse(lambda bad=bad: made.apply(dict(params), bad, state, 0), "gradients")
        made.apply(params, grads, state, step, constraints)
        draw.expect_unchanged(list(params.values()))
        own = {path: pairs[path][1] for path in grads}
        if change is not None:
            own = change(own)
        rule, numbers = made.rule(step)
        for path, g in own.items():
            apply_rule(
                rule, numbers, others[path], g, {k: slot[path] for k, slot in copies.items()}
            )
            if path in constraints:
                constraints[path](others[path])
    for path, w in params.items():
        found = plain(w)
        np.testing.assert_allclose(found, others[path], 64 * eps(dtype), 64 * eps(dtype))
    assert made.init({}) == {kind: {} for kind in state}
    for wrong in (None, [1], "a", {"a": [1.0]}, {"a": np.ones(2, int)}, {"a": frozen(np.ones(2))}):
        draw.refuse(lambda wrong=wrong: made.init(wrong), repr(wrong))


ORDER = {
    "sgd_": ("learning_rate", "momentum", "nesterov", "lazy", "weight_decay"),
    "adam_": ("step", "learning_rate", "beta_1", "beta_2", "epsilon", "weight_decay"),
    "rmsprop_": ("learning_rate", "rho", "momentum", "epsilon"),
    "adagrad_": ("learning_rate", "epsilon"),
    "adadelta_": ("learning_rate", "rho", "epsilon"),
}


def apply_rule(rule, numbers, w, g, states):
    """The reference's step, in place."""
    oracle = UPDATES[rule][0]
    options = dict(zip(ORDER[rule], numbers, strict=True))
    options.pop("lazy", None)
    found, *after = oracle(w, g, **states, **options)
    w[...] = found
    for state, new in zip(states.values(), (a for a in after if a is not None), strict=True):
        state[...] = new


@case("dropcore.optim.Clip", share=36)
def clip(draw, target):
    inner = an_optimizer(draw, draw.choose(OPTIMIZERS))
    if inner is None:
        return
    bounds = draw.choose(
        (
            {"norm": 0.5},
            {"value": 0.3},
            {"norm": np.float64(0.5)},
            {"value": np.float64(0.3)},
            {"norm": 1, "value": np.float32(0.75)},
            {"norm": 1e30},
        )
    )
    wrong = {
        "optimizer": (None, "sgd", optim.SGD, 0.1),
        "norm": (*fuzz.NO_NUMBERS, 0, -1.0, math.nan),
    }
    made = draw.call(target, {"optimizer": inner} | bounds, wrong)
    draw.refuse(lambda: target(inner), "no bound")
    if made is None:
        return

    def change(grads):
        grads = {path: g.astype(np.float64) for path, g in grads.items()}
        if made.value is not None:
            grads = {path: np.clip(g, -made.value, made.value) for path, g in grads.items()}
        if made.norm is not None:
            norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
            grads = {
                path: g * min(1.0, made.norm / norm if norm else 1.0) for path, g in grads.items()
            }
        return grads

    # Adaptive rules magnify the rounding of a clipped gradient near zero.
    if isinstance(inner, optim.SGD):
        dtype = draw.dtype(REAL)
        grads = {path: draw.array(draw.shape(), dtype, swapped=False) for path in "ab"}
        found, wanted = made.clipped(grads), change({path: plain(g) for path, g in grads.items()})
        for path, g in found.items():
            assert g.dtype == dtype
            within(np.asarray(g), wanted[path], 8 * eps(dtype) * (abs(wanted[path]) + 1e-30))
        draw.expect_unchanged()
    else:
        check_optimizer(draw, optim.Clip(inner, norm=1e30))


# --- constraints ---------------------------------------------------------------------------------


def constrained(draw, made, least=1):
    """The weight before and after, and the axes of its vectors; None if it was refused."""
    shape, dtype = draw.shape(least=least), draw.dtype()
    w = draw.view(shape, dtype)
    w[...] = draw.numbers(shape, dtype)
    if draw.integer(0, 3) == 0 and w.size:
        w.reshape(-1)[:1] = np.nan
    draw.watch(w)
    before = plain(w)
    wrong = {"weight": [*fuzz.no_floats(before), before.tolist(), frozen(before), *swapped(before)]}
    found = draw.call(made, {"weight": w}, wrong)
    if found is None:
        return None
    assert found is w
    draw.expect_unchanged([w])
    return before, plain(w)


def axis_of(draw, options):
    """An axis, or none, for weights of two axes and more; wrong values of it."""
    if draw.flag():
        options["axis"] = draw.choose((0, 1, -1, (0, 1), (0,), [0]))
    return {"axis": ("0", 0.0, [None], (0.5,), Hidden())}


Hidden = fuzz.Hidden


@case("dropcore.constraints.MaxNorm", share=45)
def max_norm(draw, target):
    options = {"max_norm": draw.choose(BOUNDS[:4])}
    wrong = axis_of(draw, options) | {"max_norm": fuzz.NO_POSITIVE}
    made = draw.call(target, options, wrong)
    if made is None:
        return
    found = constrained(draw, made, 2)
    if found is not None:
        expect_projected(*found, made.max_norm, made.axes(found[0].ndim))
    given, keep = draw.keep()
    bad = {"c": fuzz.NO_POSITIVE, next(iter(given)): (*fuzz.NO_RATES, None)}
    if float(keep) * 2.0 > 0:
        paper = draw.call(target.paper, {"c": 2.0} | given, bad)
        assert paper is None or paper.max_norm == 2.0 * float(keep)
    else:
        draw.refuse(lambda: target.paper(2.0, **given), "a bound of 0")


@case("dropcore.constraints.UnitNorm", "dropcore.constraints.MinMaxNorm", share=36)
def norms_between(draw, target):
    options, wrong, low, high, rate = {}, {}, 1.0, 1.0, 1.0
    if target is MinMaxNorm:
        low, high = draw.choose(((0, 1.0), (0.5, 0.5), (0.25, 2)))
        rate = draw.choose((1.0, 1, 0.5, 1e-3))
        options = {"min_norm": low, "max_norm": high, "rate": rate}
        numbers = (*fuzz.NO_NUMBERS, None, -1.0, math.nan, math.inf)
        wrong = {"min_norm": (*numbers, 3.0), "max_norm": (*numbers, 0), "rate": (*numbers, 0, 1.5)}
    wrong |= axis_of(draw, options)
    made = draw.call(target, options, wrong)
    found = None if made is None else constrained(draw, made, 2)
    if found is None:
        return
    before, after = (array.astype(np.float64) for array in found)
    axes = made.axes(before.ndim)
    finite = np.isfinite(before).all(axis=axes, keepdims=True)
    size = norms(np.where(finite, before, 1.0), axes, keepdims=True)
    with np.errstate(all="ignore"):
        wanted = before / size * (rate * np.clip(size, low, high) + (1 - rate) * size)
    moves = np.broadcast_to(finite & (size > 0), before.shape)
    np.testing.assert_array_equal(after[~moves], before[~moves])
    unit, n = float(eps(found[0].dtype)), math.prod(before.shape[axis] for axis in axes)
    largest = np.broadcast_to(
        np.abs(np.where(moves, wanted, 0)).max(axis=axes, keepdims=True, initial=0), before.shape
    )
    assert (
        np.abs(after - wanted)[moves] <= (n + 16) * unit * largest[moves] + 1e-7 * (unit > 1e-4)
    ).all()


@case("dropcore.constraints.NonNeg", share=24)
def non_negative(draw, target):
    found = constrained(draw, target(), 0)
    if found is not None:
        before, after = found
        wanted = np.where(before.astype(np.float64) < 0, 0, before.astype(np.float64))
        np.testing.assert_array_equal(after.astype(np.float64), wanted)


@case("dropcore.constraints.with_default_axis", share=15)
def with_default_axis(draw, target):
    axis = draw.choose((0, 1, -1, (0, 1)))
    for constraint in (MaxNorm(1.0), UnitNorm(), MinMaxNorm(0.5, 1)):
        assert target(constraint, axis).axis == axis
        own = type(constraint)(
            **({} if constraint == UnitNorm() else vars(constraint)) | {"axis": 1}
        )
        assert target(own, axis) is own
    plain_one = NonNeg()
    assert target(plain_one, axis) is plain_one


# --- regularisers --------------------------------------------------------------------------------


@case(*(f"dropcore.regularizers.{name}" for name in ("L1", "L2", "L1L2")), share=30)
def regularizer(draw, target):
    names = ("l1", "l2") if target is regularizers.L1L2 else ("strength",)
    options = {name: draw.choose((0, 0.0, 0.1, 2, np.float32(0.5))) for name in names}
    numbers = (*fuzz.NO_NUMBERS, None, -0.1, math.nan, math.inf, 10**400)
    made = draw.call(target, options, dict.fromkeys(names, numbers))
    if made is None:
        return
    l1 = float(options.get("l1", options.get("strength", 0) if target is regularizers.L1 else 0))
    l2 = float(options.get("l2", options.get("strength", 0) if target is regularizers.L2 else 0))
    shape, dtype = draw.shape(), draw.dtype(REAL)
    weight, g = draw.array(shape, dtype, swapped=False), draw.array(shape, dtype, swapped=False)
    w = plain(weight).astype(np.float64)
    exact = l1 * abs(w).sum() + l2 * (w * w).sum()
    found = draw.call(
        made.penalty, {"weight": weight}, {"weight": list(fuzz.no_floats(plain(weight)))}
    )
    if found is None:
        return
    assert abs(found - exact) <= 1e-12 * exact
    slope = l1 * np.sign(w) + 2 * l2 * w
    tolerance = 4 * eps(dtype) * (abs(slope) + abs(plain(g)) + l1 + abs(w) * l2)
    assert made.gradient(weight).dtype == dtype
    assert type(found) is float
    within(made.gradient(weight), slope, tolerance)
    within(made.add_gradient(weight, g), slope + plain(g), tolerance)
    if shape and len(w):
        within(made.activity_gradient(weight), slope / len(w), tolerance)
        assert abs(made.activity_penalty(weight) - exact / len(w)) <= 1e-12 * exact
    draw.expect_unchanged()


@case("dropcore.regularizers.KLSparsity", share=24)
def kl_sparsity(draw, target):
    numbers = (*fuzz.NO_NUMBERS, None, -0.1, math.nan, math.inf)
    options = {
        "target": draw.choose((0.05, 0.5, np.float64(0.25))),
        "strength": draw.choose((0.0, 1, 0.1, np.float64(0.3), np.float32(0.5))),
    }
    made = draw.call(target, options, {"target": (*numbers, 0, 1, 1.5), "strength": numbers})
    if made is None:
        return
    shape, dtype = (draw.choose((1, 5, 64)), draw.choose((1, 7))), draw.dtype(REAL)
    y = draw.watch(draw.rng().uniform(0.01, 0.99, shape).astype(dtype))
    strength = float(options["strength"])
    t, m = options["target"], y.astype(np.float64).mean(axis=0)
    exact = strength * (t * np.log(t / m) + (1 - t) * np.log((1 - t) / (1 - m))).sum()
    tolerance = 100 * eps(dtype) * shape[0]
    assert abs(made.activity_penalty(y) - exact) <= tolerance * (abs(exact) + 1)
    slope = strength / shape[0] * ((1 - t) / (1 - m) - t / m)
    gradient = made.activity_gradient(y)
    assert gradient.dtype == dtype
    within(gradient, np.broadcast_to(slope, shape), tolerance * (abs(slope) + 1))
    draw.refuse(lambda: made.activity_penalty(y + dtype.type(1)), "means above 1")
    draw.expect_unchanged()


# --- losses --------------------------------------------------------------------------------------


def label_losses(z, targets, smoothing, weights, ignored, sample):
    """Loss and gradient of logits by the formula of the docstring, in float64."""
    z, classes = z.astype(np.float64), z.shape[-1]
    top = z.max(axis=-1, keepdims=True)
    log_p = z - top - np.log(np.exp(z - top).sum(axis=-1, keepdims=True))
    counts = np.ones(z.shape[:-1])
    if targets.ndim < z.ndim:
        if ignored is not None:
            counts = (targets != ignored).astype(float)
        q = np.eye(classes)[np.where(counts > 0, targets, 0).astype(int)]
    else:
        q = targets.astype(np.float64)
    q = q * (counts * sample.reshape(-1, *[1] * (z.ndim - 2)))[..., None]
    w = np.ones(classes) if weights is None else np.asarray(weights, float)
    r = w * ((1 - smoothing) * q + smoothing / classes * q.sum(axis=-1, keepdims=True))
    total = (w * q).sum()
    share = 1 / total if total else 0.0
    mass = r.sum(axis=-1, keepdims=True)
    return -(r * log_p).sum() * share, (np.exp(log_p) * mass - r) * share


class Outputs:
    """Outputs of a network, weights of samples, and what is refused for them."""

    def __init__(self, draw, last):
        self.lead = draw.choose(((1,), (3,), (40,), (2, 5)))
        self.shape = (*self.lead, *last)
        self.dtype = draw.dtype(REAL)
        self.array = draw.array(self.shape, self.dtype, swapped=False)
        self.value = plain(self.array)
        self.sample, self.arguments = np.ones(self.lead[0]), {"outputs": self.array}
        if draw.flag():
            self.sample = draw.rng().uniform(0, 2, self.lead[0]) * (
                draw.rng().random(self.lead[0]) < 0.7
            )
            self.sample[0] = 1.0
            self.arguments["sample_weight"] = draw.watch(self.sample)
        n = self.lead[0]
        self.wrong = {
            "outputs": (
                None,
                self.value.tolist(),
                "a",
                self.value.astype(int),
                np.float64(1.0),
                np.array(1.0),
                np.ma.array(self.value, mask=True),
                self.value.astype(complex),
            ),
            "sample_weight": (
                np.zeros(n),
                -np.ones(n),
                np.full(n, np.nan),
                np.ones(n + 1),
                "a",
                np.full(n, 1j),
                np.ma.array(np.ones(n), mask=True),
                1.0,
                np.full(n, np.inf),
            ),
        }


def check_loss(draw, made, outputs, targets, oracle, wrong_targets):
    arguments = outputs.arguments | {"targets": draw.watch(targets)}
    found = draw.call(made, arguments, outputs.wrong | {"targets": wrong_targets})
    if found is None:
        return
    value, gradient = found
    exact, slope = oracle(outputs.value.astype(np.float64), targets)
    assert type(value) is float
    assert gradient.dtype == outputs.dtype
    unit = 200 * eps(outputs.dtype)
    assert abs(value - exact) <= unit * (abs(exact) + 1)
    within(gradient, slope, unit * (np.abs(slope) + np.abs(slope).max(initial=0)))
    draw.expect_unchanged()


@case("dropcore.losses.SoftmaxCrossEntropy", "dropcore.losses.softmax_cross_entropy", share=36)
def softmax_cross_entropy(draw, target):
    classes = draw.choose((2, 3, 7))
    options, made = {}, target
    if isinstance(target, type):
        if draw.flag():
            options["class_weights"] = draw.choose(((0.5,) * classes, [1.0] * (classes - 1) + [0]))
        if draw.flag():
            options["label_smoothing"] = draw.choose((0, 0.0, 0.1, 1.0))
        if draw.flag():
            options["ignore_label"] = draw.choose((-1, 1, np.int8(0), 10**30))
        wrong = {
            "class_weights": (
                "balanced",
                {0: 1.0},
                3,
                [math.nan],
                [-1.0] * classes,
                [None],
                [math.inf],
            ),
            "label_smoothing": (*fuzz.NO_NUMBERS, None, -0.1, 1.1, math.nan),
            "ignore_label": (1.0, "1", True, [1], math.nan),
        }
        made = draw.call(target, options, wrong)
        if made is None:
            return
    outputs, rng = Outputs(draw, (classes,)), draw.rng()
    ignored = options.get("ignore_label")
    if draw.flag():
        targets = rng.integers(0, classes, outputs.lead).astype(
            draw.choose((np.int64, np.uint8, np.int32))
        )
        if ignored == -1 and targets.dtype != np.uint8:
            targets[rng.random(targets.shape) < 0.3] = -1
    else:
        targets = rng.uniform(0.1, 1, outputs.shape)
        targets /= targets.sum(axis=-1, keepdims=True)
    wrong_targets = (
        np.full(outputs.lead, classes),
        np.full(outputs.lead, -2),
        np.zeros(outputs.lead),
        np.zeros((*outputs.lead, 2), int),
        "a",
        None,
        np.full(outputs.shape, 0.9 + 1 / classes),
        np.full(outputs.shape, np.nan),
        np.zeros(outputs.lead, bool),
        np.array([], int),
        np.ma.array(np.zeros(outputs.lead, int), mask=True),
        np.full(outputs.lead, "a"),
    )
    smoothing, weights = options.get("label_smoothing", 0), options.get("class_weights")

    def oracle(z, t):
        return label_losses(z, t, smoothing, weights, ignored, outputs.sample)

    check_loss(draw, made, outputs, targets, oracle, wrong_targets)


def mean_of(each, slope, sample, counts=1.0):
    """A weighted mean and its gradient, from those of each number."""
    weight = np.broadcast_to(sample.reshape(-1, *[1] * (each.ndim - 1)) * counts, each.shape)
    total = weight.sum()
    share = 1 / total if total else 0.0
    along = weight.reshape(*weight.shape, *[1] * (slope.ndim - weight.ndim))
    return (each * weight).sum() * share, slope * along * share


@case("dropcore.losses.BinaryCrossEntropy", "dropcore.losses.binary_cross_entropy", share=30)
def binary_cross_entropy(draw, target):
    made, weights = target, None
    if isinstance(target, type) and draw.flag():
        weights = draw.choose(((1.0, 2.0), [0.5, 0], (0, 0)))
        wrong = {"class_weights": ("balanced", (1.0,), (1.0, -1.0), (1, 2, 3), 3, [None, 1])}
        made = draw.call(target, {"class_weights": weights}, wrong)
    elif isinstance(target, type):
        made = target()
    if made is None:
        return
    outputs, rng = Outputs(draw, draw.choose(((), (1,), (3,)))), draw.rng()
    targets = rng.random(outputs.shape)
    if draw.flag():
        targets = (targets > 0.5).astype(draw.choose((int, bool, np.float32)))

    def oracle(z, t):
        t = t.astype(outputs.dtype).astype(np.float64)
        each = np.maximum(z, 0) - z * t + np.log1p(np.exp(-abs(z)))
        slope = 1 / (1 + np.exp(-z)) - t
        counts = 1.0 if weights is None else weights[0] + (weights[1] - weights[0]) * t
        return mean_of(each, slope, outputs.sample, counts)

    wrong = (
        np.full(outputs.shape, 1.5),
        np.full(outputs.shape, -0.1),
        np.full(outputs.shape, np.nan),
        np.zeros((7, 3, 2)),
        "a",
        None,
        np.full(outputs.shape, "a"),
        np.full(outputs.shape, 1j),
    )
    check_loss(draw, made, outputs, targets, oracle, wrong)


@case(
    *(f"dropcore.losses.{n}" for n in ("MeanSquaredError", "MeanAbsoluteError", "Huber")), share=24
)
def of_differences(draw, target):
    made, delta = target(), 1.0
    if target is losses.Huber and draw.flag():
        delta = draw.choose((0.3, 1, 100.0, np.float64(0.3), np.float32(0.25)))
        made = draw.call(target, {"delta": delta}, {"delta": (*fuzz.NO_POSITIVE, math.inf)})
        if made is None:
            return
    outputs = Outputs(draw, draw.choose(((), (1,), (3,))))
    targets = draw.numbers(outputs.shape, np.float64)
    if draw.flag():
        targets = np.rint(targets).astype(draw.choose((int, np.float32, np.int8)))

    def oracle(y, t):
        d = y - t.astype(outputs.dtype).astype(np.float64)
        if target is losses.MeanSquaredError:
            each, slope = d * d, 2 * d
        elif target is losses.MeanAbsoluteError:
            each, slope = abs(d), np.sign(d)
        else:
            slope = np.clip(d, -delta, delta)
            each = np.where(abs(d) <= delta, d * d / 2, delta * (abs(d) - delta / 2))
        return mean_of(each, slope, outputs.sample)

    wrong = (
        np.full(outputs.shape, np.nan),
        np.full(outputs.shape, np.inf),
        np.zeros((7, 3, 2)),
        "a",
        None,
        np.full(outputs.shape, "a"),
        np.full(outputs.shape, 1j),
    )
    check_loss(draw, made, outputs, targets, oracle, wrong)


@case("dropcore.losses.GaussianNLL", share=24)
def gaussian_nll(draw, target):
    outputs = Outputs(draw, draw.choose(((2,), (3, 2))))
    targets = draw.numbers(outputs.shape[:-1], np.float64)

    def oracle(y, t):
        d, precision = y[..., 0] - t.astype(outputs.dtype).astype(np.float64), np.exp(-y[..., 1])
        each = (y[..., 1] + d * d * precision + math.log(2 * math.pi)) / 2
        slope = np.stack([d * precision, (1 - d * d * precision) / 2], axis=-1)
        return mean_of(each, slope, outputs.sample)

    wrong = (np.full(outputs.shape[:-1], np.nan), np.zeros((7, 9, 2)), "a", None)
    check_loss(draw, target(), outputs, targets, oracle, wrong)


@case("dropcore.losses.accuracy", share=24)
def accuracy(draw, target):
    classes = draw.choose((2, 5))
    outputs = Outputs(draw, (classes,))
    labels = draw.rng().integers(0, classes, outputs.lead)
    arguments = {"logits": outputs.array, "labels": draw.watch(labels)}
    if "sample_weight" in outputs.arguments:
        arguments["sample_weight"] = outputs.sample
    wrong = {
        "logits": (None, "a", outputs.value.tolist(), np.array(1.0), outputs.value.astype(complex)),
        "labels": (
            np.full(outputs.lead, classes),
            np.full(outputs.lead, -1),
            "a",
            None,
            labels + 0.5,
            np.zeros((9, 9, 9), int),
        ),
        "sample_weight": outputs.wrong["sample_weight"],
    }
    found = draw.call(target, arguments, wrong)
    if found is not None:
        right = outputs.value.argmax(axis=-1) == labels
        exact, _ = mean_of(right.astype(float), right.astype(float), outputs.sample)
        assert abs(found - exact) <= 1e-12
        draw.expect_unchanged()


# --- schedules -----------------------------------------------------------------------------------

STEPS = (0, 1, 2, 9, 10, 11, 20, 10**6, 2**62, np.int64(3))
NO_STEPS = (*fuzz.NO_INTEGERS, -1, 2**62 + 1, 10**400)


def at_steps(draw, made, formula):
    for _ in range(3):
        step = draw.choose((*STEPS, draw.integer(0, 50)))
        found = draw.call(made, {"step": step}, {"step": NO_STEPS})
        if found is None:
            continue
        wanted = formula(int(step))
        assert type(found) is float
        assert found == wanted or abs(found - wanted) <= 1e-12 * (abs(wanted) + 1), (
            step,
            found,
            wanted,
        )


NO_REALS = (*fuzz.NO_NUMBERS, None, math.nan, math.inf, 10**400)
NO_COUNTS = (*fuzz.NO_INTEGERS, 0, -1)


@case("dropcore.schedules.Constant", "dropcore.schedules.Scaled", share=15)
def constant(draw, target):
    value = draw.choose((0.1, 3, -2.0, 0))
    if target is schedules.Constant:
        made = draw.call(target, {"value": value}, {"value": NO_REALS})
        factor = 1.0
    else:
        factor = draw.choose((2.0, 0, -1))
        wrong = {"schedule": NO_REALS, "factor": NO_REALS}
        given = draw.choose((value, schedules.Constant(value)))
        made = draw.call(target, {"schedule": given, "factor": factor}, wrong)
    if made is not None:
        at_steps(draw, made, lambda step: value * factor)


@case("dropcore.schedules.Piecewise", share=15)
def piecewise(draw, target):
    boundaries = sorted(
        draw.rng().choice(np.arange(1, 30), draw.integer(0, 4), replace=False).tolist()
    )
    values = draw.numbers((len(boundaries) + 1,), np.float64).tolist()
    wrong = {
        "boundaries": ("ab", 3, [0], [2, 1], [1.5], [1, 1], [None], [*boundaries, 99]),
        "values": ("a", 3, [], [None], [math.nan] * len(values), [*values, 1.0]),
    }
    made = draw.call(target, {"boundaries": boundaries, "values": values}, wrong)
    if made is not None:
        at_steps(draw, made, lambda step: values[sum(step >= b for b in boundaries)])


@case("dropcore.schedules.Exponential", share=18)
def exponential(draw, target):
    start, factor = (
        draw.choose((0.1, -2.0, 0, 5, np.float32(0.5))),
        draw.choose((0.5, 1, 1.5, 1e-3, 1e300)),
    )
    steps, staircase = draw.choose((1, 7, 10**6, 10**400)), draw.flag()
    arguments = {"start": start, "factor": factor, "steps": steps, "staircase": staircase}
    wrong = {
        "start": NO_REALS,
        "factor": (*NO_REALS, 0, -0.5),
        "steps": NO_COUNTS,
        "staircase": fuzz.NO_BOOLS,
    }
    made = draw.call(target, arguments, wrong)
    if made is None:
        return

    def formula(step):
        power = (step // steps if staircase else step / steps) * math.log(factor)
        if not start or power < -745:
            return 0.0
        return math.copysign(math.inf, start) if power > 709.7 else float(start) * math.exp(power)

    for step in (0, 1, 5, 20, 2**40, 2**62, draw.integer(0, 10**4)):
        found, wanted = made(step), formula(step)
        assert found == wanted or abs(found - wanted) <= 1e-9 * (abs(wanted) + 1), (
            step,
            found,
            wanted,
        )
    draw.refuse(lambda: made(-1), "a negative step")


@case("dropcore.schedules.Linear", share=15)
def linear(draw, target):
    start, end, steps = (
        draw.choose((0.5, -1, 0)),
        draw.choose((0.9, 2)),
        draw.choose((1, 10, 10**400)),
    )
    wrong = {"start": NO_REALS, "end": NO_REALS, "steps": NO_COUNTS}
    made = draw.call(target, {"start": start, "end": end, "steps": steps}, wrong)
    if made is not None:
        at_steps(draw, made, lambda step: start + (end - start) * min(step / steps, 1.0))


@case("dropcore.schedules.Cosine", share=18)
def cosine(draw, target):
    start, end, steps = (
        draw.choose((0.5, -1, 0)),
        draw.choose((0.0, 2)),
        draw.choose((1, 10, 10**30)),
    )
    restarts, factor = draw.choose((0, 1, 3, 10**12, 10**400)), draw.choose((1, 2, 10**200))
    arguments = {
        "start": start,
        "end": end,
        "steps": steps,
        "restarts": restarts,
        "cycle_factor": factor,
    }
    wrong = {
        "start": NO_REALS,
        "end": NO_REALS,
        "steps": NO_COUNTS,
        "restarts": (*fuzz.NO_INTEGERS, -1),
        "cycle_factor": NO_COUNTS,
    }
    made = draw.call(target, arguments, wrong)
    if made is None:
        return

    def formula(step):
        length, cycle = steps, 0
        if factor == 1:
            cycle = min(step // length, restarts)
            step -= cycle * length
        while cycle < restarts and step >= length:
            step, length, cycle = step - length, length * factor, cycle + 1
        if step >= length:
            return end
        return end + (start - end) * (1 + math.cos(math.pi * (step / length))) / 2

    at_steps(draw, made, formula)


@case("dropcore.schedules.WarmUp", share=15)
def warm_up(draw, target):
    inner = draw.choose((0.7, 2, schedules.Linear(1.0, 0.5, 7)))
    steps, start = draw.choose((0, 1, 9, 10**400)), draw.choose((0.0, 0.1, -1))
    wrong = {"schedule": NO_REALS, "steps": (*fuzz.NO_INTEGERS, -1), "start": NO_REALS}
    made = draw.call(target, {"schedule": inner, "steps": steps, "start": start}, wrong)
    if made is not None:
        at_steps(
            draw,
            made,
            lambda step: (
                schedules.value_at(inner, step - steps)
                if step >= steps
                else start + (schedules.value_at(inner, 0) - start) * ((step + 1) / (steps + 1))
            ),
        )


@case("dropcore.schedules.value_at", share=15)
def value_at(draw, target):
    value = draw.choose((0.5, 3, np.float32(0.25), np.array(0.5)))
    given = draw.choose((value, lambda step: value))
    no_value = [v for v in fuzz.NO_NUMBERS if v is not True] + [
        None,
        lambda step: None,
        lambda step: "1",
        10**400,
        np.array([0.5]),
        lambda step: b"1",
    ]
    found = draw.call(target, {"value": given, "step": 3}, {"value": no_value})
    assert found is None or found == float(value)
