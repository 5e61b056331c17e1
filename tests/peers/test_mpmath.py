"""The float64 formulas that accuracy is measured against are themselves accurate."""

from __future__ import annotations

import numpy as np
import pytest

from support.activations import FORMULAS


def test_formulas_against_mpmath():
    mpmath = pytest.importorskip("mpmath")
    exact = {
        "gelu": lambda x: x * mpmath.ncdf(x),
        "silu": lambda x: x / (1 + mpmath.exp(-x)),
        "tanh": mpmath.tanh,
        "sigmoid": lambda x: 1 / (1 + mpmath.exp(-x)),
        "softplus": lambda x: mpmath.log(1 + mpmath.exp(x)),
        "gelu_tanh": lambda x: (
            x / 2 * (1 + mpmath.tanh(mpmath.sqrt(2 / mpmath.pi) * (x + 0.044715 * x**3)))
        ),
    }
    with mpmath.workdps(120):
        for name, f in exact.items():
            for x in (-14.0, -9.5, -3.3, -0.7, -1e-6, 1e-9, 0.3, 2.0, 8.0, 40.0):
                ours = float(FORMULAS[name][1](np.float64(x)))
                assert ours == pytest.approx(float(f(mpmath.mpf(x))), rel=1e-12, abs=1e-300)
