"""`replace_dropout`: the dropout of a model that exists."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import torch
from torch import nn

from dropcore.torch import _modules as own

__all__ = ["Replacement", "replace_dropout"]

OWN: Final[dict[type[nn.Module], type[nn.Module]]] = {
    nn.Dropout: own.Dropout,
    nn.Dropout1d: own.Dropout1d,
    nn.Dropout2d: own.Dropout2d,
    nn.Dropout3d: own.Dropout3d,
    nn.AlphaDropout: own.AlphaDropout,
    nn.FeatureAlphaDropout: own.FeatureAlphaDropout,
    nn.MultiheadAttention: own.MultiheadAttention,
    nn.LSTM: own.LSTM,
    nn.GRU: own.GRU,
    nn.RNN: own.RNN,
}
"""PyTorch's classes and ours, which derive from them and differ in `forward` alone."""


@dataclass(frozen=True)
class Replacement:
    """What `replace_dropout` has done. Its str is a line for each module.

    Attributes
    ----------
    replaced : dict of str
        The class that each replaced module has now, by its name in ``model.named_modules()``.
    left : dict of str
        Why a module that has dropout was left alone.
    """

    replaced: dict[str, str] = field(default_factory=dict)
    left: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{name or '(the model)'}: {what}" for name, what in self.replaced.items()]
        lines += [f"{name or '(the model)'}: left, {why}" for name, why in self.left.items()]
        return "\n".join(lines) or "no module of the model has dropout"


def replace_dropout(model: nn.Module) -> Replacement:
    """Give all dropout of a model to dropcore, in place.

    A module becomes one of the class of `dropcore.torch` that derives from its own: `nn.Dropout`,
    `Dropout1d`, `Dropout2d`, `Dropout3d`, `AlphaDropout` and `FeatureAlphaDropout`, and, if they
    have dropout, `nn.MultiheadAttention` and `nn.LSTM`, `GRU` and `RNN` of several layers. It is
    the same object as before, with its p, inplace, training flag, parameters, hooks and place in
    the state dict.

    Parameters
    ----------
    model : torch.nn.Module

    Returns
    -------
    Replacement
        What was replaced, and what was left alone and why: modules of classes that derive from
        PyTorch's and may have a `forward` of their own, and TorchScript, whose code is fixed.

    Raises
    ------
    TypeError
        If `model` is not a module.

    Notes
    -----
    Calls of functions, as of `torch.nn.functional.dropout`, cannot be seen in a model:
    `fast_dropout` is a block in which they are dropcore's.

    Examples
    --------
    >>> from torch import nn
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    >>> print(replace_dropout(model))
    1: Dropout(p=0.5, inplace=False)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"replace_dropout takes a torch.nn.Module, got {type(model).__name__}")
    done = Replacement()
    for name, module in model.named_modules():
        if _is_scripted(module):
            done.left[name] = "its TorchScript code is fixed"
            continue
        if isinstance(module, tuple(OWN.values())):
            continue
        kind = next((kind for kind in OWN if isinstance(module, kind)), None)
        if kind is None or not getattr(module, "dropout", True):
            continue
        if type(module) is not kind:
            done.left[name] = f"{type(module).__name__} derives from {kind.__name__}"
        elif isinstance(module, nn.RNNBase) and module.num_layers == 1:
            done.left[name] = "one layer has no dropout between layers, in PyTorch neither"
        else:
            module.__class__ = OWN[kind]
            done.replaced[name] = _described(module)
    return done


def _is_scripted(module: nn.Module) -> bool:
    return isinstance(module, torch.jit.ScriptModule)


def _described(module: nn.Module) -> str:
    p = getattr(module, "dropout", None)
    return repr(module) if p is None else f"{type(module).__name__} with dropout {p}"
