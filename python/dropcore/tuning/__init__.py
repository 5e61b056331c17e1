"""Choose the dropout rate: sensitivity to the fraction kept, and Bayesian search.

`sensitivity` trains at each fraction kept with cross-validation, and recommends one. `search`
chooses rates, widths and a learning rate together, through Optuna; `MLPSpace` defines the choices
for a multilayer perceptron.
"""

import dropcore.nn  # noqa: F401
from dropcore.tuning._search import Search, search
from dropcore.tuning._sensitivity import KEEPS, Sensitivity, sensitivity
from dropcore.tuning._spaces import MLPSpace
from dropcore.tuning._verdict import Difference

__all__ = ["KEEPS", "Difference", "MLPSpace", "Search", "Sensitivity", "search", "sensitivity"]
