"""Recurrent layers in both directions of time."""

from __future__ import annotations

import copy

from dropcore.nn.branches import Parallel
from dropcore.nn.layer import Layer
from dropcore.nn.recurrent import Recurrent

__all__ = ["Bidirectional"]


class Bidirectional(Parallel):
    """A recurrent layer in both directions of time: y = merge(forward(x), backward(x)).

    Without ``return_sequences`` each direction gives its own last state: that of the backward one
    is at the first step. The two have separate weights and noise. The state is a dict of their
    states, named ``"forward"`` and ``"backward"``.

    Parameters
    ----------
    layer : Recurrent
        The forward direction; the backward one is a copy with the opposite `reverse`.
    merge : "concat", "sum" or "mean", default "concat"

    Raises
    ------
    TypeError
        If `layer` is not a recurrent layer.
    ValueError
        If `merge` is unknown.

    References
    ----------
    Schuster and Paliwal 1997, "Bidirectional recurrent neural networks".
    """

    input_weights = ("forward.weight", "backward.weight")

    def __init__(self, layer: Recurrent, merge: str = "concat") -> None:
        if not isinstance(layer, Recurrent):
            raise TypeError(f"Bidirectional takes a recurrent layer, got {layer!r}")
        other = copy.deepcopy(layer)
        other.reverse = not layer.reverse
        super().__init__([layer, other], merge=merge)
        self.layer = layer

    def _name_of(self, index: int) -> str:
        return ("forward", "backward")[index]

    def _adopt(self, other: Layer) -> None:
        assert isinstance(other, Bidirectional)
        vars(self)["merge"] = other.merge  # each direction keeps its settings
