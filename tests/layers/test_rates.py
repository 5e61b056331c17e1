"""Widths and rates for networks with dropout."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from dropcore.nn import (
    GRU,
    Dense,
    Dropout,
    DropPath,
    Residual,
    rates_over_depth,
    width_for,
)


@pytest.mark.parametrize(
    ("units", "given", "expected"),
    [
        (512, {"rate": 0.5}, 1024),
        (100, {"rate": 0.9}, 1000),  # in float64 100 / (1 - 0.9) is above 1000
        (3, {"rate": 0.7}, 10),
        (800, {"keep": 0.8}, 1000),
        (801, {"keep": 0.8}, 1002),
        (7, {"keep": 1}, 7),
        (7, {"rate": 0}, 7),
        (1, {"keep": 1e-9}, 10**9),
    ],
)
def test_width_for(units, given, expected):
    assert width_for(units, **given) == expected
    assert isinstance(width_for(units, **given), int)


@pytest.mark.parametrize(
    ("arguments", "given", "error", "message"),
    [
        ((512,), {}, TypeError, "give rate"),
        ((512, 0.5), {"keep": 0.5}, ValueError, "not both"),
        ((512, 1.0), {}, ValueError, "something must be kept, got rate=1.0"),
        ((512,), {"keep": 0.0}, ValueError, "something must be kept"),
        ((512, 1.5), {}, ValueError, re.escape("in [0, 1], got 1.5")),
        ((512, math.nan), {}, ValueError, "got nan"),
        ((512.5, 0.5), {}, TypeError, "positive integer"),
        ((0, 0.5), {}, ValueError, "positive integer"),
    ],
)
def test_width_for_refuses(arguments, given, error, message):
    with pytest.raises(error, match=message):
        width_for(*arguments, **given)


def test_rates_over_depth_rise_to_the_last():
    rates = rates_over_depth(54, 0.5)  # the paper's residual blocks on CIFAR
    assert len(rates) == 54
    assert rates[-1] == 0.5
    np.testing.assert_allclose(np.diff(rates), 0.5 / 54)
    assert rates[0] == pytest.approx(0.5 / 54)
    np.testing.assert_allclose(rates_over_depth(2, 0.1, first=0.5), [0.3, 0.1])
    for n, last in ((0, 0.5), (3, 1.5), (3, -0.1)):
        with pytest.raises(ValueError, match="must be"):
            rates_over_depth(n, last)
    blocks = [Residual([Dense(4), DropPath(rate)]) for rate in rates_over_depth(3, 0.6)]
    assert [block.layer[1].rate for block in blocks] == [0.6 / 3, 0.6 * 2 / 3, 0.6]


def test_a_rate_that_no_float_holds_is_refused():
    for build in (Dropout, lambda rate: GRU(3, zoneout=rate)):
        with pytest.raises(ValueError, match=r"rate is the fraction dropped|zoneout"):
            build(10**400)


def test_a_given_mask_needs_a_right_key_too():
    layer = Dropout(mask=[True, False])
    with pytest.raises(ValueError, match="key must be in"):
        layer.forward(np.ones((2, 2)), key=-1)
