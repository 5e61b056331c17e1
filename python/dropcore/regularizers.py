"""Regularisers: what is added to the loss for a parameter."""

from __future__ import annotations

from typing import Any, Protocol

from numpy.typing import NDArray

from dropcore.gradients import Gradient

__all__ = ["Regularizer"]


class Regularizer(Protocol):
    """What training asks of a regulariser."""

    def penalty(self, weight: NDArray[Any]) -> float:
        """What is added to the loss."""

    def add_gradient(self, weight: NDArray[Any], gradient: Gradient) -> Gradient:
        """`gradient` with that of the penalty added."""
