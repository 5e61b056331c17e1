"""Weights in the names and layouts of PyTorch, without importing it.

========================  ============================================================
`Dense`, `DropConnect`    ``Linear``: weight (out, in)
`Conv1D`, `Conv2D`        ``Conv1d``, ``Conv2d``: weight (out, in / groups, kernel)
`Embedding`               ``Embedding``
`BatchNorm`               ``BatchNorm1d``, ``BatchNorm2d``, with the running moments
`LayerNorm`               ``LayerNorm`` over the last axis
`SimpleRNN`, `LSTM`       ``RNN``, ``LSTM``: two biases, of which only the sum matters
`GRU`                     ``GRU``: gates r, z, n
`Bidirectional` of these  the same with ``bidirectional=True``
`MultiHeadAttention`      ``MultiheadAttention``; as many heads of keys as of queries
`CrossAttention`          the same, with ``kdim`` and ``vdim`` for `context_features`
`LearnedPositions`        ``Embedding`` of positions
========================  ============================================================

In PyTorch the channels of images and of convolved sequences come before their positions, and they
are flattened in that order. The rows of a `Dense` after a `Flatten` are permuted accordingly.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import to_device
from dropcore._base.checks import shown
from dropcore.nn.attention import CrossAttention, MultiHeadAttention
from dropcore.nn.bidirectional import Bidirectional
from dropcore.nn.branches import Parallel
from dropcore.nn.convolution import Conv1D, Conv2D
from dropcore.nn.dense import Dense
from dropcore.nn.embedding import Embedding
from dropcore.nn.layer import Layer, Shape
from dropcore.nn.normalization import BatchNorm, LayerNorm
from dropcore.nn.pooling import AveragePool1D, AveragePool2D, MaxPool1D, MaxPool2D
from dropcore.nn.positions import LearnedPositions
from dropcore.nn.recurrent import Recurrent
from dropcore.nn.reshape import Reshape

__all__ = ["load_state_dict", "to_state_dict"]

Arrays = dict[str, NDArray[Any]]

_CHANNELS_FIRST: Final = (Conv1D, Conv2D, MaxPool1D, MaxPool2D, AveragePool1D, AveragePool2D)
"""Layers whose input and output have channels first in PyTorch."""

_COUNT: Final = "num_batches_tracked"
"""What PyTorch's BatchNorm counts and uses for nothing by default."""

_RECURRENT: Final = re.compile(r"(?:(.*)\.)?((?:weight|bias)_(?:ih|hh)_l)(\d+)((?:_reverse)?)")

_IN_PROJ: Final = ("in_proj_weight", "q_proj_weight")
_OUT_PROJ: Final = re.compile(r"((?:.*\.)?)(out_proj\.(?:weight|bias))")


def to_state_dict(model: Layer, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The weights and running moments in the names and layouts of PyTorch.

    ``theirs.load_state_dict(to_state_dict(ours, theirs.state_dict()))`` gives a PyTorch module with
    the same layers the same weights.

    Parameters
    ----------
    model : Layer
    like : mapping, optional
        The ``state_dict`` of a module. The result has its names, with the layers in its order, and
        torch tensors if it has. By default names begin with the paths of this model, as in
        ``"0.weight"``, and values are arrays.

    Returns
    -------
    dict of str to ndarray, or to torch.Tensor
        Copies. A BatchNorm also has ``num_batches_tracked``, which is 0.

    Raises
    ------
    ValueError
        If the model is not built, a layer with weights has no counterpart in PyTorch, or `like` has
        other layers or shapes.
    """
    what = "to_state_dict"
    modules = _modules_of(what, model)
    if like is None:
        return {
            f"{module.path}.{name}" if module.path else name: np.array(array)
            for module in modules
            for name, array in module.exported().items()
        }
    found: dict[str, Any] = {}
    for module, group in _paired(what, modules, like):
        exported = module.exported()
        _check_group(what, module, group, exported, like)
        found |= {key: _like(np.array(exported[name]), like[key]) for name, key in group.items()}
    return {key: found[key] for key in like}


def load_state_dict(model: Layer, state_dict: Mapping[str, Any]) -> None:
    """Take the weights and running moments from the ``state_dict`` of a PyTorch module.

    Layers are matched by name where all names are those of `to_state_dict`. Otherwise they are
    matched in order: that of ``state_dict``, in which the module's constructor made its layers,
    against that of this model. Numbers and shapes are checked, but two layers of one shape could
    be exchanged unnoticed: compare outputs. Nothing is changed unless everything fits.

    Parameters
    ----------
    model : Layer
        It is changed.
    state_dict : mapping of str to torch.Tensor or array_like
        Floating-point numbers, which are converted to the dtype of the model.

    Raises
    ------
    TypeError
        If it is not a mapping of names to arrays of numbers.
    ValueError
        If the model is not built, a layer with weights has no counterpart in PyTorch, or layers or
        shapes differ.

    Examples
    --------
    >>> load_state_dict(model, torch_model.state_dict())  # doctest: +SKIP
    """
    what = "load_state_dict"
    if not isinstance(state_dict, Mapping) or not all(isinstance(key, str) for key in state_dict):
        raise TypeError(
            f"{what}: state_dict must be a mapping of names to arrays, such as "
            f"module.state_dict(), got {shown(state_dict)}"
        )
    values = {key: _numbers(what, key, value) for key, value in state_dict.items()}
    changes: list[tuple[Any, NDArray[Any]]] = []
    for module, group in _paired(what, _modules_of(what, model), values):
        _check_group(what, module, group, module.exported(), values)
        given = {name: values[key] for name, key in group.items()}
        own = dict(module.layer.params) | dict(module.layer.buffers)
        for name, array in module.imported(what, given).items():
            changes.append((own[name], _converted(what, module, name, array, own[name].dtype)))
    for array, value in changes:
        array[...] = to_device(value, model.device)


# --- layers and their counterparts ---------------------------------------------------------------


@dataclass(frozen=True)
class _Module:
    """A layer with a counterpart in PyTorch.

    Attributes
    ----------
    path : str
    layer : Layer
    maps : tuple or None
        The shape (..., channels) before flattening, if the input is flattened maps, whose elements
        have another order in PyTorch.
    """

    path: str
    layer: Layer
    maps: tuple[int, ...] | None

    def __str__(self) -> str:
        return f"layer {self.path}, {self.layer!r}" if self.path else repr(self.layer)

    def exported(self) -> Arrays:
        """The arrays in PyTorch's layout, by PyTorch's names; views where possible."""
        layer = self.layer
        own = {
            name: to_device(array, "cpu")
            for name, array in (*layer.params.items(), *layer.buffers.items())
        }
        if isinstance(layer, Bidirectional):
            first, second = layer.branches
            return _exported_cell(first, own, "forward.", "") | _exported_cell(
                second, own, "backward.", "_reverse"
            )
        if isinstance(layer, Recurrent):
            return _exported_cell(layer, own, "", "")
        if isinstance(layer, BatchNorm | LayerNorm):
            return self._exported_norm(own)
        if isinstance(layer, MultiHeadAttention | CrossAttention):
            return _exported_attention(layer)
        weight = own["weight"]
        if isinstance(layer, Dense):
            found = {"weight": self._channels_first(weight).T}
        elif isinstance(layer, Conv1D | Conv2D):
            found = {"weight": np.moveaxis(weight, (-1, -2), (0, 1))}
        else:
            found = {"weight": weight}
        return found | ({"bias": own["bias"]} if "bias" in own else {})

    def imported(self, what: str, given: Arrays) -> Arrays:
        """The arrays in the layout of the layer, by its names, from those of PyTorch."""
        layer = self.layer
        if isinstance(layer, Bidirectional):
            first, second = layer.branches
            return _imported_cell(first, given, "forward.", "") | _imported_cell(
                second, given, "backward.", "_reverse"
            )
        if isinstance(layer, Recurrent):
            return _imported_cell(layer, given, "", "")
        if isinstance(layer, BatchNorm | LayerNorm):
            return self._imported_norm(what, given)
        if isinstance(layer, MultiHeadAttention | CrossAttention):
            return _imported_attention(layer, given)
        weight = given["weight"]
        if isinstance(layer, Dense):
            found = {"weight": self._channels_last(weight.T)}
        elif isinstance(layer, Conv1D | Conv2D):
            found = {"weight": np.moveaxis(weight, (0, 1), (-1, -2))}
        else:
            found = {"weight": weight}
        return found | ({"bias": given["bias"]} if "bias" in given else {})

    def _exported_norm(self, own: Arrays) -> Arrays:
        found: Arrays = {}
        gamma, beta = own.get("gamma"), own.get("beta")
        if gamma is not None or beta is not None:  # PyTorch has both or none
            found["weight"] = np.ones_like(beta) if gamma is None else gamma
            found["bias"] = np.zeros_like(gamma) if beta is None else beta
        if "mean" in own:
            dtype = next(iter(found.values())).dtype if found else np.float32
            found["running_mean"] = own["mean"].astype(dtype)
            found["running_var"] = own["variance"].astype(dtype)
        found = {name: self._channels_first(array) for name, array in found.items()}
        return found | ({_COUNT: np.zeros((), np.int64)} if "mean" in own else {})

    def _imported_norm(self, what: str, given: Arrays) -> Arrays:
        ours = {
            "weight": "gamma",
            "bias": "beta",
            "running_mean": "mean",
            "running_var": "variance",
        }
        own = {*self.layer.params, *self.layer.buffers}
        found = {}
        for name, array in given.items():
            if name == _COUNT:
                continue
            if ours[name] in own:
                found[ours[name]] = self._channels_last(array)
            elif not (array == (name == "weight")).all():
                option = {"weight": "scale", "bias": "center"}[name]
                raise ValueError(
                    f"{what}: {self} has no {ours[name]}, and {name!r} is not {name == 'weight':d} "
                    f"everywhere: create the layer with {option}=True"
                )
        return found

    def _channels_first(self, array: NDArray[Any]) -> NDArray[Any]:
        """The elements of flattened maps, on the first axis, with the channels first."""
        if self.maps is None:
            return array
        apart = array.reshape(*self.maps, *array.shape[1:])
        return np.moveaxis(apart, len(self.maps) - 1, 0).reshape(array.shape)

    def _channels_last(self, array: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `_channels_first`."""
        if self.maps is None:
            return array
        apart = array.reshape(self.maps[-1], *self.maps[:-1], *array.shape[1:])
        return np.moveaxis(apart, 0, len(self.maps) - 1).reshape(array.shape)


def _exported_cell(layer: Layer, own: Arrays, path: str, suffix: str) -> Arrays:
    found = {
        f"weight_ih_l0{suffix}": _gates(layer, own[f"{path}weight"]).T,
        f"weight_hh_l0{suffix}": _gates(layer, own[f"{path}recurrent_weight"]).T,
    }
    if f"{path}bias" in own:
        bias = _gates(layer, own[f"{path}bias"])
        both = bias if bias.ndim == 2 else (bias, np.zeros_like(bias))
        found |= {f"bias_ih_l0{suffix}": both[0], f"bias_hh_l0{suffix}": both[1]}
    return found


def _imported_cell(layer: Layer, given: Arrays, path: str, suffix: str) -> Arrays:
    found = {
        f"{path}weight": _gates(layer, given[f"weight_ih_l0{suffix}"].T),
        f"{path}recurrent_weight": _gates(layer, given[f"weight_hh_l0{suffix}"].T),
    }
    if f"bias_ih_l0{suffix}" in given:
        both = given[f"bias_ih_l0{suffix}"], given[f"bias_hh_l0{suffix}"]
        bias = np.stack(both) if layer.params["bias"].ndim == 2 else both[0] + both[1]
        found[f"{path}bias"] = _gates(layer, bias)
    return found


def _exported_attention(layer: MultiHeadAttention | CrossAttention) -> Arrays:
    own: dict[str, list[Any]] = {
        name: [None if array is None else to_device(array, "cpu") for array in both]
        for name, both in layer.projections().items()
    }
    out, out_bias = own.pop("output")
    weights = {name: weight.reshape(len(weight), -1).T for name, (weight, _) in own.items()}
    if len({weight.shape for weight in weights.values()}) == 1:
        found = {"in_proj_weight": np.concatenate(list(weights.values()))}
    else:
        found = {f"{name[0]}_proj_weight": weight for name, weight in weights.items()}
    found["out_proj.weight"] = out.reshape(-1, out.shape[-1]).T
    if out_bias is not None:
        found["in_proj_bias"] = np.concatenate([bias.ravel() for _, bias in own.values()])
        found["out_proj.bias"] = out_bias
    return found


def _imported_attention(layer: MultiHeadAttention | CrossAttention, given: Arrays) -> Arrays:
    if "in_proj_weight" in given:
        q, k, v = np.split(given["in_proj_weight"], 3)
    else:
        q, k, v = (given[f"{name}_proj_weight"] for name in "qkv")
    parts: dict[str, tuple[Any, ...]] = {"weight": (q, k, v)}
    if isinstance(layer, CrossAttention):
        parts = {"weight": (q,), "context_weight": (k, v)}
    found = {name: np.concatenate(part).T for name, part in parts.items()}
    found["output_weight"] = given["out_proj.weight"].T
    if "in_proj_bias" in given:
        bias, width = given["in_proj_bias"], len(q)
        if isinstance(layer, CrossAttention):
            found |= {"bias": bias[:width], "context_bias": bias[width:]}
        else:
            found["bias"] = bias
        found["output_bias"] = given["out_proj.bias"]
    return found


def _gates(layer: Layer, array: NDArray[Any]) -> NDArray[Any]:
    """The gates on the last axis in the order of the other side: r and z of GRU change places."""
    if not isinstance(layer, Recurrent) or layer.cell != "gru":
        return array
    z, r, n = np.split(array, 3, axis=-1)
    return np.concatenate([r, z, n], axis=-1)


# --- the walk through a model --------------------------------------------------------------------


@dataclass(frozen=True)
class _Layout:
    """The layout of a layer's input in PyTorch.

    Attributes
    ----------
    first : bool
        Whether the channels of its samples are before their positions.
    maps : tuple or None
        As in `_Module`.
    """

    first: bool
    maps: tuple[int, ...] | None = None


def _modules_of(what: str, model: Layer) -> list[_Module]:
    """The layers with weights in their order."""
    if not model.built or model.input_shape is None:
        raise ValueError(f"{what}: call build(input_shape, key=...) first")
    found: list[_Module] = []
    start = _Layout(first=len(model.input_shape) == 3)
    _walk(what, model, "", model.input_shape, start, found)
    return found


def _walk(
    what: str, layer: Layer, path: str, shape: Shape, layout: _Layout, found: list[_Module]
) -> _Layout:
    """Add the layers with weights to `found`; the layout of the output."""
    module = _Module(path, layer, layout.maps)
    leaf = isinstance(layer, Bidirectional) or not layer.children
    own = [
        n for n in (*layer.params, *layer.buffers) if leaf or n.split(".")[0] not in layer.children
    ]
    if own:
        if not _is_known(layer, own):
            raise ValueError(
                f"{what}: {module} has no counterpart in PyTorch; save and load take every model"
            )
        found.append(module)
    if isinstance(layer, Reshape):
        return _reshaped(what, module, shape, layout)
    if isinstance(layer, _CHANNELS_FIRST):
        return _Layout(first=True)
    if isinstance(layer, Dense | Embedding | Recurrent | Bidirectional | MultiHeadAttention):
        return _Layout(first=False)
    if leaf:
        return layout
    results = []
    for name, child, own_shape in layer.child_shapes(shape):
        place = f"{path}.{name}" if path else name
        results.append(_walk(what, child, place, own_shape, layout, found))
        if not isinstance(layer, Parallel):
            layout = results[-1]
    if not isinstance(layer, Parallel):
        return layout
    if any(result.maps for result in results):
        raise ValueError(
            f"{what}: {module} merges flattened maps, which PyTorch has in another order: put "
            "Flatten after it"
        )
    return _Layout(first=any(result.first for result in results))


def _is_known(layer: Layer, own: list[str]) -> bool:
    """Whether PyTorch has such a layer, with these arrays and no others."""
    if isinstance(layer, Bidirectional | Recurrent):
        last = {name.rpartition(".")[2] for name in own}
        return last <= {"weight", "recurrent_weight", "bias"}
    if isinstance(layer, BatchNorm | LayerNorm):
        return {*own} <= {"gamma", "beta", "mean", "variance"}
    if isinstance(layer, MultiHeadAttention | CrossAttention):
        rows, features = layer.params["output_weight"].shape
        return rows == features and layer.key_heads in (None, layer.heads)
    known = Dense | Conv1D | Conv2D | Embedding | LearnedPositions
    return isinstance(layer, known) and {*own} <= {"weight", "bias"}


def _reshaped(what: str, module: _Module, shape: Shape, layout: _Layout) -> _Layout:
    """The layout after a Reshape."""
    out = module.layer.output_shape(shape)
    if len(out) == 1:
        if len(shape) == 1 or not layout.first:
            return layout
        return _Layout(first=False, maps=tuple(n for n in shape if n is not None))
    plain = layout.maps is None and not (layout.first and len(shape) > 1)
    if (out[-1] == 1 and plain) or (len(shape) > 1 and shape[-1] == out[-1]):
        return _Layout(first=len(out) == 3 or layout.first)
    if plain and len(out) == 2:
        return _Layout(first=False)
    raise ValueError(
        f"{what}: {module} makes {out} of {shape}, for which PyTorch has its elements in another "
        "order: only Flatten, and shapes that keep the channels, are converted"
    )


# --- names ---------------------------------------------------------------------------------------


def _groups(names: Collection[str]) -> dict[tuple[str, int], dict[str, str]]:
    """The names of each layer of a module, without its path, and as they are."""
    found: dict[tuple[str, int], dict[str, str]] = {}
    for key in names:
        cell, projection = _RECURRENT.fullmatch(key), _OUT_PROJ.fullmatch(key)
        if projection and any(f"{projection[1]}{name}" in names for name in _IN_PROJ):
            path, name = (projection[1].rstrip("."), 0), projection[2]
        elif cell:
            path, name = (cell[1] or "", int(cell[3])), f"{cell[2]}0{cell[4]}"
        else:
            place, _, name = key.rpartition(".")
            path = place, 0
        found.setdefault(path, {})[name] = key
    return found


def _paired(
    what: str, modules: list[_Module], given: Mapping[str, Any]
) -> list[tuple[_Module, dict[str, str]]]:
    """Each layer with the names of its counterpart."""
    groups = _groups(given.keys())
    by_name = {(module.path, 0): module for module in modules}
    if by_name.keys() == groups.keys():
        return [(module, groups[path]) for path, module in by_name.items()]
    if len(groups) != len(modules):
        theirs = ", ".join(path or "(top)" for path, _ in groups) or "none"
        ours = ", ".join(map(str, modules)) or "none"
        raise ValueError(
            f"{what}: there are {len(groups)} layers with weights, {theirs}, and the model has "
            f"{len(modules)}: {ours}"
        )
    return list(zip(modules, groups.values(), strict=True))


def _check_group(
    what: str, module: _Module, group: dict[str, str], exported: Arrays, given: Mapping[str, Any]
) -> None:
    """ValueError if the names or shapes of a counterpart are not those of the layer."""
    if group.keys() | {_COUNT} != exported.keys() | {_COUNT}:
        raise ValueError(
            f"{what}: {module} takes {', '.join(exported)}, got {', '.join(group.values())}"
        )
    for name, key in group.items():
        if name != _COUNT and tuple(given[key].shape) != exported[name].shape:
            raise ValueError(
                f"{what}: {module} takes {key!r} of shape {exported[name].shape}, got "
                f"{tuple(given[key].shape)}"
            )


def _numbers(what: str, key: str, value: Any) -> NDArray[Any]:
    """A tensor or array as a NumPy array of floating-point numbers."""
    if type(value).__module__.partition(".")[0] == "torch":
        value = value.detach().cpu()
        if value.is_floating_point() and value.element_size() < 4:  # NumPy lacks bfloat16
            value = value.float()
        value = value.numpy()
    found = np.asarray(to_device(value, "cpu"))
    if found.dtype.kind != "f" and not key.endswith(_COUNT):
        raise TypeError(f"{what}: {key!r} must hold floating-point numbers, got {found.dtype}")
    return found


def _converted(
    what: str, module: _Module, name: str, array: NDArray[Any], dtype: np.dtype[Any]
) -> NDArray[Any]:
    """The array in another dtype; ValueError if a number is too large for it."""
    with np.errstate(over="ignore"):
        found = array.astype(dtype)
    if (np.isinf(found) & np.isfinite(array)).any():
        raise ValueError(f"{what}: {name!r} of {module} has numbers too large for {dtype}")
    return found


def _like(array: NDArray[Any], wanted: Any) -> Any:
    """The array as a tensor if `wanted` is one."""
    if type(wanted).__module__.partition(".")[0] != "torch":
        return array
    return sys.modules["torch"].from_numpy(array)
