"""Modules: those of `torch.nn` with dropcore's dropout, DropConnect, and max-norm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch.nn.functional as F
from torch import Tensor, nn

from dropcore._base.checks import check_number
from dropcore.torch import _functions as own
from dropcore.torch._attention import fast_dropout

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "AlphaDropout",
    "DropConnect",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "MaxNorm",
    "MultiheadAttention",
]


class Dropout(nn.Dropout):
    """`torch.nn.Dropout` by `dropout`.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    def forward(self, input: Tensor) -> Tensor:
        return own.dropout(input, self.p, self.training, self.inplace)


class Dropout1d(nn.Dropout1d):
    """`torch.nn.Dropout1d` by `dropout1d`: drops whole channels of (batch, channels, length).

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    def forward(self, input: Tensor) -> Tensor:
        return own.dropout1d(input, self.p, self.training, self.inplace)


class Dropout2d(nn.Dropout2d):
    """`torch.nn.Dropout2d` by `dropout2d`: drops whole channels of images.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    def forward(self, input: Tensor) -> Tensor:
        return own.dropout2d(input, self.p, self.training, self.inplace)


class Dropout3d(nn.Dropout3d):
    """`torch.nn.Dropout3d` by `dropout3d`: drops whole channels of volumes.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    def forward(self, input: Tensor) -> Tensor:
        return own.dropout3d(input, self.p, self.training, self.inplace)


class AlphaDropout(nn.AlphaDropout):
    """`torch.nn.AlphaDropout` by `alpha_dropout`, for networks of SELU units.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    def forward(self, input: Tensor) -> Tensor:
        return own.alpha_dropout(input, self.p, self.training, self.inplace)


class FeatureAlphaDropout(nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout` by `feature_alpha_dropout`: whole channels.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    def forward(self, input: Tensor) -> Tensor:
        return own.feature_alpha_dropout(input, self.p, self.training, self.inplace)


class DropConnect(nn.Linear):
    """A linear layer that drops weights in place of outputs, with one mask for the batch.

    While training ``y = input @ (weight * mask / (1 - p)).T + bias``; then it is
    `torch.nn.Linear`, whose parameters it has.

    Parameters
    ----------
    in_features, out_features : int
    p : float, default 0.5
        Fraction of the weights dropped.
    bias : bool, default True
    device, dtype
        As for `torch.nn.Linear`.

    Raises
    ------
    ValueError
        If p is outside [0, 1].

    References
    ----------
    Wan, Zeiler, Zhang, LeCun and Fergus 2013, "Regularization of neural networks using
    DropConnect".
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        p: float = 0.5,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        check_number("DropConnect: p", p, "[0, 1]")
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.p = p

    def forward(self, input: Tensor) -> Tensor:
        weight = own.dropout(self.weight, self.p, self.training)
        y: Tensor = F.linear(input, weight, self.bias)
        return y

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, p={self.p}"


class MultiheadAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose attention weights are dropped by `dropout`.

    It takes the arguments of `torch.nn.MultiheadAttention` and has its parameters.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with fast_dropout():
            return super().forward(*args, **kwargs)


class LSTM(nn.LSTM):
    """`torch.nn.LSTM` with `dropout` between its layers, which are then run one at a time.

    It takes the arguments of `torch.nn.LSTM` and has its parameters.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with fast_dropout():
            return super().forward(*args, **kwargs)


class GRU(nn.GRU):
    """`torch.nn.GRU` with `dropout` between its layers, which are then run one at a time.

    It takes the arguments of `torch.nn.GRU` and has its parameters.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with fast_dropout():
            return super().forward(*args, **kwargs)


class RNN(nn.RNN):
    """`torch.nn.RNN` with `dropout` between its layers, which are then run one at a time.

    It takes the arguments of `torch.nn.RNN` and has its parameters.
    """

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with fast_dropout():
            return super().forward(*args, **kwargs)


UNITS: Final[dict[type[nn.Module], tuple[int, ...]]] = {
    nn.Linear: (1,),
    nn.Conv1d: (1, 2),
    nn.Conv2d: (1, 2, 3),
    nn.Conv3d: (1, 2, 3, 4),
}
"""The dimensions of the incoming weights of a unit."""


class MaxNorm:
    """The max-norm constraint as a hook of any optimiser.

    ``optimizer.register_step_post_hook(MaxNorm(model, 3.0))`` bounds the norm of the incoming
    weights of each unit after every step: the rows of `torch.nn.Linear` and of what derives from
    it, and the filters of `Conv1d`, `Conv2d` and `Conv3d`. Biases are left alone.

    Parameters
    ----------
    model : torch.nn.Module
    max_norm : float
        Largest norm, > 0.
    layers : iterable of str, optional
        The names, as in ``model.named_modules()``, of the layers that are bounded. All by default.

    Raises
    ------
    TypeError
        If `model` is not a module, or max_norm not a number.
    ValueError
        If max_norm is not positive, a name is not that of such a layer, or there is none.

    References
    ----------
    Srebro and Shraibman 2005; Srivastava et al. 2014, section 5.1.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    >>> hook = optimizer.register_step_post_hook(MaxNorm(model, 3.0))
    """

    def __init__(
        self, model: nn.Module, max_norm: float, *, layers: Iterable[str] | None = None
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"MaxNorm: model must be a torch.nn.Module, got {type(model).__name__}")
        self.max_norm = check_number("MaxNorm: max_norm", max_norm, "(0, inf]")
        found: dict[str, tuple[Any, tuple[int, ...]]] = {
            name: (layer, dim)
            for name, layer in model.named_modules()
            for kind, dim in UNITS.items()
            if isinstance(layer, kind)
        }
        names = list(found) if layers is None else list(layers)
        unknown = [name for name in names if name not in found]
        if unknown or not names:
            raise ValueError(
                f"MaxNorm bounds Linear, Conv1d, Conv2d and Conv3d layers: {list(found)} in this "
                f"model, got {unknown or names}"
            )
        self.layers = {name: found[name] for name in names}

    def __call__(self, optimizer: Any = None, args: Any = (), kwargs: Any = None) -> None:
        """Bound the weights; the arguments are those of a hook, and are not used."""
        for layer, dim in self.layers.values():
            own.max_norm_(layer.weight, self.max_norm, dim)
