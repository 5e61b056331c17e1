"""Pictures of training, layers, tuning and uncertainty, with matplotlib.

Every function draws on the axes that it is given, or on those of a new figure, and returns them::

    ax = learning_curves(model.training_state.history)
    ax.figure.savefig("curves.svg")

No window opens and no global state of matplotlib changes. Colours are those of Okabe and Ito, which
colour-blind readers tell apart.
"""

import dropcore.training  # noqa: F401
from dropcore.plotting._layers import activation_histogram, first_layer, weight_norm_histogram
from dropcore.plotting._training import learning_curves, norm_curves
from dropcore.plotting._tuning import sensitivity_curve
from dropcore.plotting._uncertainty import (
    averaging_chart,
    prediction_intervals,
    reliability_diagram,
)

__all__ = [
    "activation_histogram",
    "averaging_chart",
    "first_layer",
    "learning_curves",
    "norm_curves",
    "prediction_intervals",
    "reliability_diagram",
    "sensitivity_curve",
    "weight_norm_histogram",
]
