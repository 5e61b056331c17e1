"""Which rate? The score over a grid of keeps, and a search over all that goes with it.

`sensitivity` trains at each fraction kept with cross-validation, and says which one to use.
`search` looks for rates, widths and a learning rate at once, through Optuna; `MLPSpace` is what it
chooses from.

Whether a network with dropout is one model or many is shown by
`dropcore.uncertainty.averaging_curve`.
"""

from dropcore.tuning._search import Search, search
from dropcore.tuning._sensitivity import KEEPS, Sensitivity, sensitivity
from dropcore.tuning._spaces import MLPSpace
from dropcore.tuning._verdict import Difference

__all__ = ["KEEPS", "Difference", "MLPSpace", "Search", "Sensitivity", "search", "sensitivity"]
