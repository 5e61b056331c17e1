"""Predictive uncertainty: Monte Carlo prediction, calibration and intervals.

==================  ==============================================================================
`_outputs`          what the outputs of a model mean: probabilities, or numbers in the user's units
`_sampling`         `sample`: mean, deviation, entropy and mutual information under dropout
`_averaging`        `averaging_curve`: averages of k samples, compared with weight scaling
`_calibration`      `reliability`, `brier_score`, `log_likelihood`, `fit_temperature`
`_intervals`        `predictive`, `intervals`, `noise_level`: regression with a noise level
==================  ==============================================================================

Functions return NumPy arrays of float64, whatever the dtype and the device of the model.
"""

import dropcore.training  # noqa: F401
from dropcore.uncertainty._averaging import AveragingCurve, averaging_curve
from dropcore.uncertainty._calibration import (
    Reliability,
    brier_score,
    fit_temperature,
    log_likelihood,
    reliability,
)
from dropcore.uncertainty._intervals import (
    Intervals,
    Mixture,
    intervals,
    model_precision,
    noise_level,
    predictive,
)
from dropcore.uncertainty._outputs import probabilities
from dropcore.uncertainty._sampling import MonteCarlo, sample

__all__ = [
    "AveragingCurve",
    "Intervals",
    "Mixture",
    "MonteCarlo",
    "Reliability",
    "averaging_curve",
    "brier_score",
    "fit_temperature",
    "intervals",
    "log_likelihood",
    "model_precision",
    "noise_level",
    "predictive",
    "probabilities",
    "reliability",
    "sample",
]
