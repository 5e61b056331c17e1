"""Schedules: their formulas, their ends, and what they are to optimisers."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from dropcore.nn._config import decode, encode
from dropcore.schedules import (
    Constant,
    Cosine,
    Exponential,
    Linear,
    Piecewise,
    WarmUp,
    value_at,
)
from support.training import SCHEDULES


def values(schedule, n):
    found = [schedule(step) for step in range(n)]
    assert all(type(value) is float for value in found)
    return found


def test_by_hand():
    assert values(Constant(1), 3) == [1.0] * 3
    assert values(Piecewise(boundaries=(1, 3), values=(3.0, 2.0, 1.0)), 5) == [3, 2, 2, 1, 1]
    assert values(Piecewise(boundaries=(), values=(3.0,)), 2) == [3, 3]
    assert values(Exponential(8.0, 0.5), 4) == [8, 4, 2, 1]
    assert values(Exponential(8.0, 0.25, 2), 5) == pytest.approx([8, 4, 2, 1, 0.5], rel=1e-15)
    assert values(Exponential(8.0, 0.5, 2, staircase=True), 5) == [8, 8, 4, 4, 2]
    assert values(Linear(1.0, 3.0, 4), 7) == [1, 1.5, 2, 2.5, 3, 3, 3]
    assert values(Cosine(2.0, 4), 6) == pytest.approx(
        [2, 1 + math.sqrt(0.5), 1, 1 - math.sqrt(0.5), 0, 0], abs=1e-15
    )
    assert values(WarmUp(Linear(4.0, 0.0, 4), 3), 8) == [1, 2, 3, 4, 3, 2, 1, 0]
    assert values(WarmUp(4.0, 1, start=2.0), 3) == [3, 4, 4]
    assert values(WarmUp(4.0, 0), 2) == [4, 4]
    assert values(WarmUp(lambda step: 10.0 + step, 1), 4) == [5, 10, 11, 12]


def test_restarts():
    one, longer = values(Cosine(2.0, 4, 1.0), 4), values(Cosine(2.0, 8, 1.0), 8)
    assert one[0] == 2
    assert values(Cosine(2.0, 4, 1.0, restarts=1), 9) == one + one + [1]
    assert values(Cosine(2.0, 4, 1.0, restarts=1, cycle_factor=2), 14) == one + longer + [1, 1]


def test_ends_are_exact():
    for start, end in [(0.1, 0.3), (0.5, 0.99), (1e-3, 1e-7)]:
        for schedule in (Linear(start, end, 7), Cosine(start, 7, end), WarmUp(end, 7, start)):
            assert schedule(7) == schedule(10**9) == end
        assert Linear(start, end, 7)(0) == Cosine(start, 7, end)(0) == start


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_repr_rebuilds(schedule):
    for made in (eval(repr(schedule)), pickle.loads(pickle.dumps(schedule)),
                 decode(encode(schedule), {})):  # fmt: skip
        assert made == schedule
        assert hash(made) == hash(schedule)
        assert values(made, 50) == values(schedule, 50)
    assert schedule(np.int64(3)) == schedule(3)
    with pytest.raises(ValueError, match=r"step must be an integer in \[0, .*got -1"):
        schedule(-1)
    with pytest.raises(TypeError, match="step must be an integer"):
        schedule(0.5)


def test_value_at():
    assert value_at(3, 7) == 3.0
    assert value_at(lambda step: step * 2, 7) == 14.0


@pytest.mark.parametrize(("call", "error", "text"), [
    (lambda: Constant(math.nan), ValueError, "Constant: value must be finite, got nan"),
    (lambda: Piecewise(boundaries=[], values=[1, 2]), ValueError,
     "one value more .* got 2 values and 0 boundaries"),
    (lambda: Piecewise(boundaries=[5, 5], values=[1, 2, 3]), ValueError,
     "the next boundary must be .* 6, got 5"),
    (lambda: Piecewise(boundaries=[0], values=[1, 2]), ValueError,
     "boundary must be a positive integer, got 0"),
    (lambda: Piecewise(boundaries=[], values=["a"]), TypeError,
     "each value must be a number, got 'a'"),
    (lambda: Piecewise([1], [1.0, 0.5]), TypeError, "positional argument"),
    (lambda: Piecewise(boundaries=5, values=[1, 2]), TypeError,
     "boundaries must be a sequence of numbers, got 5"),
    (lambda: Piecewise(boundaries=[], values="1"), TypeError, "values must be a sequence .* '1'"),
    (lambda: Exponential(1.0, 0.5, 3, "yes"), TypeError, "staircase must be True or False"),
    (lambda: Constant(True), TypeError, "Constant: value must be a number, got True"),
    (lambda: Exponential(1.0, 0.0), ValueError, "factor must be positive and finite, got 0.0"),
    (lambda: Exponential(1.0, 0.5, 0), ValueError, "steps must be a positive integer, got 0"),
    (lambda: Linear(0, 1, 0), ValueError, "Linear: steps must be a positive integer, got 0"),
    (lambda: Linear(0, "1", 1), TypeError, "Linear: end must be a number, got '1'"),
    (lambda: Linear(0, 1, 2.5), TypeError, "Linear: steps must be a positive integer, got 2.5"),
    (lambda: Cosine(1.0, 5, restarts=-1), ValueError, "restarts must be an integer >= 0, got -1"),
    (lambda: Cosine(1.0, 5, cycle_factor=0), ValueError,
     "cycle_factor must be a positive integer, got 0"),
    (lambda: WarmUp("a", 5), TypeError, "WarmUp: schedule must be a number, got 'a'"),
    (lambda: WarmUp(1.0, -1), ValueError, "WarmUp: steps must be an integer >= 0, got -1"),
    (lambda: WarmUp(1.0, 1, math.inf), ValueError, "WarmUp: start must be finite, got inf"),
])  # fmt: skip
def test_wrong_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


def test_numbers_without_an_end():
    assert Exponential(0.1, 1.5)(2**40) == math.inf
    assert Exponential(-0.1, 1e300)(7) == -math.inf
    assert Exponential(0.0, 1e300)(7) == 0.0
    assert Cosine(0.1, 3, restarts=10**18)(2**60) == Cosine(0.1, 3, restarts=2**60)(2**60 % 3)
    for schedule in (Cosine(0.1, 3), Exponential(0.1, 0.5), Linear(0.1, 1.0, 5), Constant(1.0)):
        with pytest.raises(ValueError, match="step must be an integer in"):
            schedule(10**400)
    with pytest.raises(ValueError, match="no float holds"):
        value_at(10**400, 0)
    for wrong in (b"1", 1j, np.complex64(1), np.array([0.5])):
        with pytest.raises(TypeError, match="must return a number"):
            value_at(wrong, 0)
    assert value_at(np.array(0.5), 0) == 0.5
