"""Search spaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from dropcore._base.checks import check_integer, check_number, shown
from dropcore.nn import Sequential, mlp
from dropcore.nn.activations import activation_of
from dropcore.optim import SGD, Adam

__all__ = ["MLPSpace"]

Range = tuple[float, float]


@dataclass(frozen=True)
class MLPSpace:
    """Search space of `dropcore.nn.mlp` and a learning rate, after Dahl et al. 2013.

    Each parameter is a fixed number, or a range (low, high) to search.

    Parameters
    ----------
    n_outputs : int
        Number of outputs of the model.
    units : int or (int, int), default (32, 512)
        Width of all hidden layers; a range is searched on a logarithmic scale.
    depth : int or (int, int), default (1, 3)
        Number of hidden layers.
    rate : float or (float, float), default (0.0, 0.8)
        Fraction dropped of each hidden layer: ``rate_1``, ``rate_2``, ...
    input_rate : float, (float, float) or None, default (0.0, 0.3)
        Fraction of the inputs dropped; None for no input dropout. With a range, the search also
        chooses whether there is any: ``input_dropout``.
    max_norm : float, (float, float) or None, default (0.5, 5.0)
        Bound on incoming weights; a range is searched on a logarithmic scale. None for no
        bound. With a range, the search also chooses whether there is one: ``bounded``.
    activation : str or sequence of str, default ("relu", "tanh")
    learning_rate : float or (float, float), default (3e-4, 1e-2)
        A range is searched on a logarithmic scale.
    optimizer : "adam" or "sgd", default "adam"
        ``Adam(learning_rate)`` or ``SGD(learning_rate, momentum=0.9)``.

    Raises
    ------
    TypeError, ValueError
        If something is neither a number nor a range, or is out of range.

    References
    ----------
    Dahl, Sainath and Hinton 2013, "Improving deep neural networks for LVCSR using rectified linear
    units and dropout": Bayesian optimisation of rates, widths, depth and learning rate.
    """

    n_outputs: int
    units: int | tuple[int, int] = (32, 512)
    depth: int | tuple[int, int] = (1, 3)
    rate: float | Range = (0.0, 0.8)
    input_rate: float | Range | None = (0.0, 0.3)
    max_norm: float | Range | None = (0.5, 5.0)
    activation: str | Sequence[str] = ("relu", "tanh")
    learning_rate: float | Range = (3e-4, 1e-2)
    optimizer: str = "adam"

    def __post_init__(self) -> None:
        check_integer("MLPSpace: n_outputs", self.n_outputs, 1)
        for name in ("units", "depth"):
            bounds = _bounds(name, getattr(self, name))
            for bound in bounds:
                check_integer(f"MLPSpace: {name}", bound, 1)
        for name, interval in (
            ("rate", "[0, 1]"),
            ("input_rate", "[0, 1]"),
            ("max_norm", "(0, inf)"),
            ("learning_rate", "(0, inf)"),
        ):
            value = getattr(self, name)
            if value is not None or name in ("rate", "learning_rate"):
                for bound in _bounds(name, value):
                    check_number(f"MLPSpace: {name}", bound, interval)
        names = [self.activation] if isinstance(self.activation, str) else list(self.activation)
        if not names or None in names:
            raise ValueError("MLPSpace: activation must be a name or several, got none")
        for activation in names:
            activation_of("MLPSpace", activation)
        object.__setattr__(self, "activation", tuple(names))
        if self.optimizer not in ("adam", "sgd"):
            raise ValueError(
                f"MLPSpace: optimizer must be 'adam' or 'sgd', got {shown(self.optimizer)}"
            )

    def __call__(self, trial: Any) -> tuple[Sequential, dict[str, Any]]:
        """A model, and the optimiser, for the choices of an Optuna trial."""

        def integer(name: str, given: Any, log: bool = False) -> int:
            low, high = _bounds(name, given)
            return int(low if low == high else trial.suggest_int(name, low, high, log=log))

        def number(name: str, given: Any, log: bool = False) -> float:
            low, high = _bounds(name, given)
            return float(low if low == high else trial.suggest_float(name, low, high, log=log))

        def used(name: str, given: Any) -> bool:
            """Whether an optional part is there, which the search chooses where it has a range."""
            low, high = _bounds(name, given)
            if low == high:
                return low is not None
            return bool(trial.suggest_categorical(name, (False, True)))

        width = integer("units", self.units, log=True)
        depth = integer("depth", self.depth)
        rates = [number(f"rate_{layer}", self.rate) for layer in range(1, depth + 1)]
        input_rate = bound = None
        if used("input_dropout", self.input_rate):
            input_rate = number("input_rate", self.input_rate)
        if used("bounded", self.max_norm):
            bound = number("max_norm", self.max_norm, log=True)
        names = cast(tuple[str, ...], self.activation)
        activation = names[0] if len(names) == 1 else trial.suggest_categorical("activation", names)
        learning_rate = number("learning_rate", self.learning_rate, log=True)
        model = mlp(
            [width] * depth, self.n_outputs, rate=rates, input_rate=input_rate, max_norm=bound,
            activation=activation,
        )  # fmt: skip
        if self.optimizer == "adam":
            return model, {"optimizer": Adam(learning_rate)}
        return model, {"optimizer": SGD(learning_rate, momentum=0.9)}


def _bounds(name: str, given: Any) -> tuple[Any, Any]:
    """Lowest and highest value of a number or a range."""
    if not isinstance(given, tuple | list):
        return given, given
    if len(given) != 2 or not given[0] <= given[1]:
        raise ValueError(
            f"MLPSpace: {name} must be a number or a range (low, high), got {shown(given)}"
        )
    return given[0], given[1]
