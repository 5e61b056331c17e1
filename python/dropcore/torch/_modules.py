"""Modules: those of `torch.nn` with dropcore's dropout, DropConnect, and max-norm."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, ClassVar, Final

import torch.nn.functional as F
from torch import Tensor, nn

from dropcore._base.checks import check_number
from dropcore.torch import _functions as own
from dropcore.torch._attention import multi_head_attention_forward
from dropcore.torch._namespace import in_namespace
from dropcore.torch._recurrent import Noise, forward_of

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


class _Module:
    """What all modules here have in common."""

    def __prepare_scriptable__(self) -> Any:
        """Called by torch.jit.script.

        Raises
        ------
        TypeError
            Always.
        """
        raise TypeError(
            f"TorchScript cannot call dropcore.torch.{type(self).__name__}: use torch.compile or "
            "torch.export, or give torch.jit.script the model with PyTorch's own modules"
        )


class _ByFunction(_Module):
    """What modules of PyTorch get that drop by a function of dropcore, with its arguments."""

    function: ClassVar[Callable[..., Tensor]]
    p: float
    training: bool
    inplace: bool

    def forward(self, input: Tensor) -> Tensor:
        return self.function(input, self.p, self.training, self.inplace)


class Dropout(_ByFunction, nn.Dropout):
    """`torch.nn.Dropout` by `dropout`.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    function = staticmethod(own.dropout)


class Dropout1d(_ByFunction, nn.Dropout1d):
    """`torch.nn.Dropout1d` by `dropout1d`: drops whole channels of (batch, channels, length).

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    function = staticmethod(own.dropout1d)


class Dropout2d(_ByFunction, nn.Dropout2d):
    """`torch.nn.Dropout2d` by `dropout2d`: drops whole channels of images.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    function = staticmethod(own.dropout2d)


class Dropout3d(_ByFunction, nn.Dropout3d):
    """`torch.nn.Dropout3d` by `dropout3d`: drops whole channels of volumes.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    function = staticmethod(own.dropout3d)


class AlphaDropout(_ByFunction, nn.AlphaDropout):
    """`torch.nn.AlphaDropout` by `alpha_dropout`, for networks of SELU units.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    function = staticmethod(own.alpha_dropout)


class FeatureAlphaDropout(_ByFunction, nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout` by `feature_alpha_dropout`: whole channels.

    Parameters
    ----------
    p : float, default 0.5
        Fraction dropped.
    inplace : bool, default False
    """

    function = staticmethod(own.feature_alpha_dropout)


class DropConnect(_Module, nn.Linear):
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


class MultiheadAttention(_Module, nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose attention weights are dropped by `dropout`.

    It has the parameters of `torch.nn.MultiheadAttention`, so that their state dicts are the same.

    Parameters
    ----------
    embed_dim, num_heads
        As for `torch.nn.MultiheadAttention`.
    dropout : float, default 0.0
        Fraction of the attention weights dropped.
    bias : bool, default True
        As for `torch.nn.MultiheadAttention`, and so are all that follow.
    add_bias_kv, add_zero_attn : bool, default False
        Add to the sequences of keys and values.
    kdim, vdim : int, optional
        Features of keys and of values.
    batch_first : bool, default False
        Whether inputs are (batch, sequence, features).
    device, dtype : optional
        Of the parameters.
    """

    forward = in_namespace(
        nn.MultiheadAttention.forward,
        F=SimpleNamespace(
            **vars(F) | {"multi_head_attention_forward": multi_head_attention_forward}
        ),
    )


class LSTM(_Module, nn.LSTM):
    """`torch.nn.LSTM` with `dropout` between its layers, and with noise at every step.

    It has the parameters of `torch.nn.LSTM`, so that their state dicts are the same. Layers are run
    one at a time if there is dropout between them, and step by step, in Python, if one of the
    rates below is above 0.

    Parameters
    ----------
    *args
        As for `torch.nn.LSTM`.
    zoneout : float, default 0.0
        Probability that a unit of h keeps its previous value, at every step for itself. In
        evaluation mode h is the expectation, ``zoneout * h_{t-1} + (1 - zoneout) * h_t``.
    zoneout_cell : float, default 0.0
        The same for c. h is computed from the new c, whatever is kept.
    recurrent_dropout : float, default 0.0
        Fraction of h that is dropped in the product with the recurrent weight, with one mask for
        all steps of a sequence.
    **options
        As for `torch.nn.LSTM`. Its `dropout` is the rate between layers.

    Raises
    ------
    ValueError
        If a rate is outside [0, 1].

    References
    ----------
    Krueger et al. 2017, "Zoneout: regularizing RNNs by randomly preserving hidden activations";
    Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural
    networks".

    Examples
    --------
    >>> import torch
    >>> layer = LSTM(3, 4, zoneout=0.1, batch_first=True)
    >>> layer(torch.ones(2, 5, 3))[0].shape
    torch.Size([2, 5, 4])
    """

    zoneout = zoneout_cell = recurrent_dropout = 0.0

    def __init__(
        self,
        *args: Any,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        recurrent_dropout: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self.zoneout = check_number("LSTM: zoneout", zoneout, "[0, 1]")
        self.zoneout_cell = check_number("LSTM: zoneout_cell", zoneout_cell, "[0, 1]")
        self.recurrent_dropout = check_number(
            "LSTM: recurrent_dropout", recurrent_dropout, "[0, 1]"
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return forward_of(nn.LSTM, self._noise)(self, *args, **kwargs)

    def extra_repr(self) -> str:
        rates = ((name, getattr(self, name)) for name in Noise.__annotations__)
        return super().extra_repr() + "".join(f", {name}={p}" for name, p in rates if p)

    @property
    def _noise(self) -> Noise:
        return Noise(self.zoneout, self.zoneout_cell, self.recurrent_dropout)


class GRU(_Module, nn.GRU):
    """`torch.nn.GRU` with `dropout` between its layers, which are then run one at a time.

    It has the parameters of `torch.nn.GRU`, so that their state dicts are the same.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.GRU`. Its `dropout` is the rate between layers.
    """

    forward = forward_of(nn.GRU)


class RNN(_Module, nn.RNN):
    """`torch.nn.RNN` with `dropout` between its layers, which are then run one at a time.

    It has the parameters of `torch.nn.RNN`, so that their state dicts are the same.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.RNN`. Its `dropout` is the rate between layers.
    """

    forward = forward_of(nn.RNN)


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
