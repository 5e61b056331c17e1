"""The dropout of thinc, as operations that its layers use.

Every layer of thinc that drops asks the operations of its model for a mask. With those of this
module the mask is dropcore's::

    import dropcore.thinc
    from thinc.api import use_ops

    with use_ops("dropcore"):
        model = chain(Relu(nO=64, dropout=0.5), Softmax())

A model keeps the operations that are in use when it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from dropcore import functional
from dropcore._base.extras import require

require("thinc", "thinc", "dropcore.thinc")

from thinc.api import NumpyOps, registry  # noqa: E402

__all__ = ["DropcoreOps", "DropoutOps"]


class DropoutOps:
    """Masks of dropcore for operations of thinc, as a base class before theirs.

    `DropcoreOps` is this for thinc's NumpyOps. For others: ``class Own(DropoutOps, AppleOps)``.

    Each mask has a key of its own, whose seed is drawn from `numpy.random`. So
    ``thinc.api.fix_random_seed`` repeats the masks.
    """

    xp: Any  # of thinc's operations: the module of their arrays

    def get_dropout_mask(self, shape: tuple[int, ...], drop: float | None) -> Any:
        """The factors by which thinc multiplies: 1 / (1 - drop) where kept, and 0 where dropped.

        Parameters
        ----------
        shape : tuple of int
        drop : float or None
            Fraction dropped. As in thinc, all is kept from 0 downwards and for None, and nothing
            from 1 upwards.

        Returns
        -------
        array of float32
            Of the operations' own kind.

        Raises
        ------
        ValueError
            If drop is NaN.
        """
        ones = self.xp.ones(shape, np.float32)
        return functional.dropout(ones, _rate(drop), key=_draw_seed(), out=ones)

    def dropout(self, X: Any, drop: float | None) -> tuple[Any, Callable[[Any], Any]]:
        """Dropout of an array without a mask that is kept: for layers of your own.

        Parameters
        ----------
        X : array of float32, float64 or float16
        drop : float or None
            As for `get_dropout_mask`, with the same mask.

        Returns
        -------
        Y : array
            Of the shape and dtype of X.
        backprop : callable
            From the gradient of Y to that of X. It draws the mask again.
        """
        rate, key = _rate(drop), _draw_seed()

        def backprop(dY: Any) -> Any:
            return functional.dropout_backward(dY, rate, key=key)

        return functional.dropout(X, rate, key=key), backprop


@registry.ops("dropcore")
class DropcoreOps(DropoutOps, NumpyOps):
    """thinc's operations on NumPy arrays with masks of dropcore: ``use_ops("dropcore")``.

    Parameters
    ----------
    device_type : str, default "cpu"
        As for thinc's NumpyOps, and so are all that follow.
    device_id : int, default -1
        Not used on the CPU.
    use_blis : bool, default True
        Whether products are those of BLIS.
    """

    name = "dropcore"


def _rate(drop: float | None) -> float:
    return 0.0 if drop is None else min(max(float(drop), 0.0), 1.0)


def _draw_seed() -> int:
    # The generator that fix_random_seed sets.
    return int(np.random.randint(1 << 63, dtype=np.uint64))  # noqa: NPY002
