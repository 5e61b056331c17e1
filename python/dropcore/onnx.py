"""Trained models as ONNX, and ONNX's Dropout with masks of dropcore.

=============  ========================================================
`export`       a model as `onnx.ModelProto`, or as a file
`Dropout`      the operator, for `onnx.reference.ReferenceEvaluator`
=============  ========================================================
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore import functional, nn
from dropcore._backends import to_device
from dropcore._base.checks import check_bool, check_integer
from dropcore._base.extras import require
from dropcore._base.files import check_replaceable, checked_path, replacing
from dropcore.key import Key
from dropcore.mask import Mask
from dropcore.nn._checks import checked_shape
from dropcore.nn.layer import Layer, Shape, calls_are_of

require("onnx", "onnx", "dropcore.onnx")

import onnx  # noqa: E402
from onnx import helper, numpy_helper  # noqa: E402
from onnx.reference.op_run import OpRun  # noqa: E402

__all__ = ["Dropout", "export"]

_LEAST_OPSET: Final = 17  # the first one with LayerNormalization

_TIME: Final = "time"


def export(
    model: Layer,
    path: str | Path | None = None,
    *,
    training: bool = False,
    input_shape: Sequence[int | None] | None = None,
    opset: int = _LEAST_OPSET,
) -> onnx.ModelProto:
    """A built model as an ONNX graph, with its weights.

    The input is ``x`` and the output ``y``, in the layouts of dropcore: (batch, features),
    (batch, time, features), (batch, height, width, channels). The number of rows is free. Layers
    that need channels first get a Transpose where the layout changes, not around each of them.

    The graph computes what ``model(x)`` does. It has no preprocessing, no scaling of targets and no
    labels: these are in the ``metadata_props`` of the result as JSON, by the names "preprocessing",
    "target_scaling" and "classes". All steps of a sequence count, since the graph has no lengths.

    Parameters
    ----------
    model : Layer
        Built. Its weights are copied in their dtype, which is that of the input unless the model
        takes integers. Runtimes have fewer operators for float64 than for float32.
    path : str or path, optional
        A file to write, too. It is replaced as a whole.
    training : bool, default False
        Whether each `Dropout` of the model stays, as ONNX's Dropout in training mode. The runtime
        draws its masks, by a generator of its own, so that they are not those of a `Key`. By
        default layers that draw noise are left out, as they do nothing at inference. BatchNorm
        uses its running moments in both cases.
    input_shape : tuple of int or None, optional
        Of one sample. By default that of `build`. None is an axis of any length:
        ``input_shape=(None, 8)`` for sequences of 8 features.
    opset : int, default 17
        Version of ONNX's operators.

    Returns
    -------
    onnx.ModelProto

    Raises
    ------
    TypeError
        If `model` is not a layer, or an argument has the wrong type.
    ValueError
        If the model is not built, or a layer or one of its options has no counterpart in ONNX. The
        message names the layer.
    OSError
        If the file cannot be written.

    Warns
    -----
    UserWarning
        If the model has a preprocessing or scaled targets, which the graph leaves out.

    Examples
    --------
    >>> export(model, "model.onnx")  # doctest: +SKIP
    """
    what = "export"
    if not isinstance(model, Layer):
        raise TypeError(f"{what} takes a layer or a model, got {type(model).__name__}")
    if not model.built or model.input_shape is None:
        raise ValueError(f"{what}: call build(input_shape, key=...) or fit first")
    training = check_bool(f"{what}: training", training)
    newest = onnx.defs.onnx_opset_version()
    opset = check_integer(f"{what}: opset", opset, _LEAST_OPSET, newest)
    shape = (
        model.input_shape
        if input_shape is None
        else checked_shape(f"{what}: input_shape", input_shape)
    )
    file = None if path is None else checked_path(what, path)
    if file is not None:
        check_replaceable(what, file)
    proto = _model_proto(model, shape, training, opset)
    if file is not None:
        content = proto.SerializeToString()
        with replacing(what, file) as temporary:
            temporary.write_bytes(content)
    return proto


def _model_proto(model: Layer, shape: Shape, training: bool, opset: int) -> onnx.ModelProto:
    floats = [array.dtype for array in model.params.values()]
    dtype = floats[0] if floats else np.dtype(np.float32)
    given = np.dtype(np.int64) if model.integer_input else dtype
    writer = _Writer(dtype, training)
    y = writer.last(writer.layer(model, "", _Value("x", shape)))
    writer.nodes.append(helper.make_node("Identity", [y.name], ["y"]))
    graph = helper.make_graph(
        writer.nodes,
        "dropcore",
        [_described("x", given, shape)],
        [_described("y", dtype, y.shape)],
        writer.initializers,
    )
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(
        graph,
        producer_name="dropcore",
        opset_imports=opsets,
        ir_version=helper.find_min_ir_version_for(opsets),
    )
    helper.set_model_props(proto, _metadata(model))
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _described(name: str, dtype: np.dtype[Any], shape: Shape) -> onnx.ValueInfoProto:
    axes = [
        n if n is not None else _TIME if i == 0 else f"axis{i + 1}" for i, n in enumerate(shape)
    ]
    return helper.make_tensor_value_info(
        name, helper.np_dtype_to_tensor_dtype(dtype), ["batch", *axes]
    )


def _metadata(model: Layer) -> dict[str, str]:
    """What belongs to the model and is not in the graph."""
    state = model.training_state
    if state is None:
        return {}
    found: dict[str, str] = {}
    if state.classes is not None:
        found["classes"] = json.dumps(np.asarray(state.classes).tolist(), default=str)
    for name, about, how in (
        ("preprocessing", state.preprocessing, "give the graph what its transform returns"),
        ("target_scaling", state.target_scaling, "apply its inverse to the output"),
    ):
        if about is not None:
            found[name] = json.dumps(about.to_config(), default=str)
            warnings.warn(
                f"export: the {name} of the model is not part of the graph: {how}; its numbers "
                f"are in metadata_props, as {name!r}",
                stacklevel=4,
            )
    return found


# --- the graph -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Value:
    """An array of the graph.

    Attributes
    ----------
    name : str
    shape : tuple of int or None
        Of one sample, channels last, as the layers of dropcore have it.
    first : bool
        Whether the array of the graph has its channels before its positions.
    """

    name: str
    shape: Shape
    first: bool = False


class _Writer:
    """The nodes and weights of a graph, while a model is walked through."""

    def __init__(self, dtype: np.dtype[Any], training: bool) -> None:
        self.dtype = dtype
        self.training = training
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._count = 0

    def node(self, operator: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node with one output, whose name is returned."""
        name = self._new(operator)
        self.nodes.append(helper.make_node(operator, list(inputs), [name], name, **attributes))
        return name

    def constant(self, array: Any, dtype: Any = None) -> str:
        """Add an array, by default in the dtype of the model."""
        values = np.array(to_device(array, "cpu"), dtype=dtype or self.dtype, order="C")
        name = self._new("constant")
        self.initializers.append(numpy_helper.from_array(values, name))
        return name

    def _new(self, kind: str) -> str:
        self._count += 1
        return f"{kind.lower()}_{self._count}"

    def last(self, x: _Value) -> _Value:
        """The array with its channels last."""
        if not x.first:
            return x
        n = len(x.shape)
        perm = [0, *range(2, n + 1), 1]
        return _Value(self.node("Transpose", [x.name], perm=perm), x.shape)

    def channels_first(self, x: _Value) -> _Value:
        """The array with its channels first."""
        n = len(x.shape)
        if x.first or n < 2:
            return x
        perm = [0, n, *range(1, n)]
        return _Value(self.node("Transpose", [x.name], perm=perm), x.shape, first=True)

    def layer(self, layer: Layer, path: str, x: _Value) -> _Value:
        """Add a layer; its output."""
        for kind in type(layer).__mro__:
            write = _WRITERS.get(kind)
            if write is not None and calls_are_of(layer, kind):
                return write(self, layer, path, x)
        raise _unsupported(
            path,
            layer,
            "it has no counterpart in ONNX: replace it by layers of dropcore.nn that have one",
        )


def _unsupported(path: str, layer: Layer, why: str) -> ValueError:
    place = f"layer {path}, {layer!r}" if path else repr(layer)
    return ValueError(f"export: {place}: {why}")


def _sequential(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    for name, child in layer.children.items():
        x = w.layer(child, _below(path, name), x)
    return x


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _parallel(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    outputs = [w.layer(c, _below(path, name), x) for name, c in layer.children.items()]
    first = all(y.first for y in outputs)
    if not first:
        outputs = [w.last(y) for y in outputs]
    names, shape = [y.name for y in outputs], layer.output_shape(x.shape)
    if layer.merge == "concat":
        return _Value(w.node("Concat", names, axis=1 if first else -1), shape, first)
    return _Value(w.node("Mean" if layer.merge == "mean" else "Sum", names), shape, first)


def _activated(w: _Writer, layer: Any, x: _Value) -> _Value:
    """The activation that a layer has by its name."""
    if layer.activation is None:
        return x
    return _activation(w, nn.activations.ACTIVATIONS[layer.activation](), "", x)


def _activation(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    if isinstance(layer, nn.Softmax):
        x = w.last(x)
        return _Value(w.node("Softmax", [x.name], axis=-1), x.shape)
    if isinstance(layer, nn.SiLU):
        name = w.node("Mul", [x.name, w.node("Sigmoid", [x.name])])
    elif isinstance(layer, nn.GELU):
        name = _gelu(w, layer, x.name)
    else:
        attributes: dict[str, float] = {}
        if isinstance(layer, nn.LeakyReLU):
            attributes = {"alpha": layer.slope}
        elif isinstance(layer, nn.ELU):
            attributes = {"alpha": layer.alpha}
        operator = {nn.ReLU: "Relu", nn.LeakyReLU: "LeakyRelu", nn.ELU: "Elu", nn.SELU: "Selu",
                    nn.Tanh: "Tanh", nn.Sigmoid: "Sigmoid", nn.Softplus: "Softplus"}  # fmt: skip
        kind = next(kind for kind in operator if isinstance(layer, kind))
        name = w.node(operator[kind], [x.name], **attributes)
    return _Value(name, x.shape, x.first)


def _gelu(w: _Writer, layer: Any, x: str) -> str:
    """x / 2 * (1 + erf(x / sqrt(2))), or with tanh: the operator Gelu is of opset 20."""
    if layer.approximate is None:
        inner = w.node("Erf", [w.node("Mul", [x, w.constant(math.sqrt(0.5))])])
    else:
        cubed = w.node("Mul", [w.node("Mul", [x, x]), x])
        total = w.node("Add", [x, w.node("Mul", [cubed, w.constant(0.044715)])])
        inner = w.node("Tanh", [w.node("Mul", [total, w.constant(math.sqrt(2 / math.pi))])])
    half = w.node("Mul", [x, w.constant(0.5)])
    return w.node("Mul", [half, w.node("Add", [inner, w.constant(1.0)])])


def _dense(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    return _activated(w, layer, _product(w, layer, w.last(x)))


def _product(w: _Writer, layer: Any, x: _Value) -> _Value:
    name = w.node("MatMul", [x.name, w.constant(layer.params["weight"])])
    if "bias" in layer.params:
        name = w.node("Add", [name, w.constant(layer.params["bias"])])
    return _Value(name, layer.output_shape(x.shape))


def _dropconnect(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    if layer.inference != "mean":
        raise _unsupported(path, layer, "ONNX has no inference='gaussian': set inference='mean'")
    _no_noise(w, layer, path)
    return _dense(w, layer, path, x)


def _maxout(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    y = _product(w, layer.children["linear"], w.last(x))
    names = [f"{y.name}_piece_{piece}" for piece in range(layer.pieces)]
    sizes = w.constant([layer.units] * layer.pieces, np.int64)
    w.nodes.append(helper.make_node("Split", [y.name, sizes], names, axis=-1))
    return _Value(w.node("Max", names), layer.output_shape(x.shape))


def _convolution(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    x, weight = w.channels_first(x), to_device(layer.params["weight"], "cpu")
    axes = weight.ndim - 2
    inputs = [x.name, w.constant(np.moveaxis(weight, (-1, -2), (0, 1)))]
    if "bias" in layer.params:
        inputs.append(w.constant(layer.params["bias"]))
    name = w.node(
        "Conv", inputs, group=layer.groups, dilations=_each(layer.dilation, axes),
        kernel_shape=_each(layer.kernel_size, axes), strides=_each(layer.stride, axes),
        **_padding(layer.padding, axes),
    )  # fmt: skip
    return _activated(w, layer, _Value(name, layer.output_shape(x.shape), first=True))


def _each(value: Any, axes: int) -> list[int]:
    return [value] * axes if isinstance(value, int) else list(value)


def _padding(padding: Any, axes: int) -> dict[str, Any]:
    if padding == "same":
        return {"auto_pad": "SAME_UPPER"}
    if padding == "valid":
        return {"pads": [0] * 2 * axes}
    if isinstance(padding, int):
        return {"pads": [padding] * 2 * axes}
    if axes == 1 and len(padding) == 2:
        return {"pads": list(padding)}
    pairs = [(side, side) if isinstance(side, int) else tuple(side) for side in padding]
    return {"pads": [pair[0] for pair in pairs] + [pair[1] for pair in pairs]}


def _pool(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    x = w.channels_first(x)
    axes = len(x.shape) - 1
    average = isinstance(layer, nn.AveragePool1D | nn.AveragePool2D)
    own = {"count_include_pad": int(layer.count_include_pad)} if average else {}
    name = w.node(
        "AveragePool" if average else "MaxPool", [x.name],
        kernel_shape=_each(layer.pool_size, axes),
        strides=_each(layer.pool_size if layer.stride is None else layer.stride, axes),
        **_padding(layer.padding, axes), **own,
    )  # fmt: skip
    return _Value(name, layer.output_shape(x.shape), first=True)


def _global_pool(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    x = w.channels_first(x)
    average = isinstance(layer, nn.GlobalAveragePool1D | nn.GlobalAveragePool2D)
    name = w.node("GlobalAveragePool" if average else "GlobalMaxPool", [x.name])
    return _Value(w.node("Flatten", [name], axis=1), layer.output_shape(x.shape))


def _reshape(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    x, shape = w.last(x), layer.output_shape(x.shape)
    target = w.constant([0, *shape], np.int64)  # 0 takes the number of rows
    return _Value(w.node("Reshape", [x.name, target]), shape)


def _batch_norm(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    x = w.channels_first(x)
    names = [w.constant(layer.buffers[name]) for name in ("mean", "variance")]
    name = w.node(
        "BatchNormalization", [x.name, *_affine(w, layer, x), *names], epsilon=layer.epsilon
    )
    return _Value(name, x.shape, x.first)


def _layer_norm(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    x = w.last(x)
    inputs = [x.name, *_affine(w, layer, x)]
    return _Value(w.node("LayerNormalization", inputs, axis=-1, epsilon=layer.epsilon), x.shape)


def _affine(w: _Writer, layer: Any, x: _Value) -> tuple[str, str]:
    """gamma and beta."""
    features = layer.output_shape(x.shape)[-1]
    gamma = layer.params["gamma"] if layer.scale else np.ones(features)
    beta = layer.params["beta"] if layer.center else np.zeros(features)
    return w.constant(gamma), w.constant(beta)


def _embedding(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    weight = np.array(to_device(layer.params["weight"], "cpu"))
    if layer.padding_index is not None:
        weight[layer.padding_index] = 0
    return _Value(w.node("Gather", [w.constant(weight), x.name]), layer.output_shape(x.shape))


def _recurrent(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    for name in ("zoneout", "zoneout_cell"):
        if getattr(layer, name, 0.0) != 0.0:
            raise _unsupported(path, layer, f"ONNX has no {name}, which inference needs: set it 0")
    _no_noise(w, layer, path)
    # The gates of ONNX are i, o, f, g for LSTM, and z, r, n for GRU as here.
    gates = {"lstm": (0, 3, 1, 2), "gru": (0, 1, 2)}.get(layer.cell, (0,))

    def ordered(array: Any) -> NDArray[Any]:
        parts = np.split(to_device(array, "cpu"), len(gates), axis=-1)
        return np.concatenate([parts[gate] for gate in gates], axis=-1)

    x, params = w.last(x), layer.params
    inputs = [w.node("Transpose", [x.name], perm=[1, 0, 2])]
    inputs += [w.constant(ordered(params[n]).T[None]) for n in ("weight", "recurrent_weight")]
    if "bias" in params:
        bias = np.atleast_2d(ordered(params["bias"]))
        both = bias if len(bias) == 2 else np.concatenate([bias, np.zeros_like(bias)])
        inputs.append(w.constant(both.reshape(1, -1)))
    attributes: dict[str, Any] = {"hidden_size": layer.units}
    if layer.reverse:
        attributes["direction"] = "reverse"
    operator = {"lstm": "LSTM", "gru": "GRU"}.get(layer.cell, "RNN")
    if operator == "GRU":
        attributes["linear_before_reset"] = 1  # the reset gate comes after the product
    if operator == "RNN":
        attributes["activations"] = [layer.cell.capitalize()]
    name = w.node(operator, inputs, **attributes)  # (time, 1, batch, units)
    shape = layer.output_shape(x.shape)
    if layer.return_sequences:
        name = w.node("Squeeze", [name, w.constant([1], np.int64)])
        return _Value(w.node("Transpose", [name], perm=[1, 0, 2]), shape)
    node = w.nodes[-1]
    node.output[:] = ["", name]  # the last state, (1, batch, units)
    return _Value(w.node("Squeeze", [name, w.constant([0], np.int64)]), shape)


def _dropout(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    scaled = layer.scaling == "test"
    if w.training:
        plain = type(layer) is nn.Dropout and not layer.shared_axes
        if not plain or not isinstance(layer.rate, float) or layer.config().get("mask") is not None:
            raise _unsupported(
                path, layer, "ONNX's Dropout drops elements at one rate: export with training=False"
            )
        if layer.rate == 1.0:
            raise _unsupported(path, layer, "ONNX's Dropout takes rates below 1")
        ratio, mode = w.constant(layer.rate, np.float32), w.constant(True, np.bool_)
        x = _Value(w.node("Dropout", [x.name, ratio, mode]), x.shape, x.first)
    elif scaled and not isinstance(layer.keep, float):
        raise _unsupported(path, layer, "call set_scaling_(model, 'inverted') first")
    if not scaled:
        return x
    return _Value(w.node("Mul", [x.name, w.constant(layer.keep)]), x.shape, x.first)


def _nothing(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    _no_noise(w, layer, path)
    return x


def _inner(w: _Writer, layer: Any, path: str, x: _Value) -> _Value:
    """A layer that adds noise to another one."""
    _no_noise(w, layer, path)
    return _sequential(w, layer, path, x)


def _no_noise(w: _Writer, layer: Layer, path: str) -> None:
    if w.training and layer.draws:
        raise _unsupported(
            path, layer, "ONNX has no operator for its noise: export with training=False"
        )


_Write = Callable[[_Writer, Any, str, _Value], _Value]

_WRITERS: Final[dict[type, _Write]] = {
    nn.Sequential: _sequential,
    nn.Parallel: _parallel,
    nn.Dense: _dense,
    nn.DropConnect: _dropconnect,
    nn.Maxout: _maxout,
    nn.Embedding: _embedding,
    nn.BatchNorm: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.Reshape: _reshape,
    nn.Dropout: _dropout,
    nn.EmbeddingDropout: _inner,
    **dict.fromkeys((nn.Conv1D, nn.Conv2D), _convolution),
    **dict.fromkeys((nn.MaxPool1D, nn.MaxPool2D, nn.AveragePool1D, nn.AveragePool2D), _pool),
    **dict.fromkeys(
        (nn.GlobalMaxPool1D, nn.GlobalMaxPool2D, nn.GlobalAveragePool1D, nn.GlobalAveragePool2D),
        _global_pool,
    ),
    **dict.fromkeys((nn.SimpleRNN, nn.GRU, nn.LSTM), _recurrent),
    **dict.fromkeys(
        (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus,
         nn.Softmax),
        _activation,
    ),
    **dict.fromkeys(
        (nn.DropPath, nn.BlockDropout, nn.GaussianNoise, nn.GaussianDropout, nn.AlphaDropout,
         nn.FeatureAlphaDropout, nn.VariationalDropout, nn.ActivityRegularization),
        _nothing,
    ),
}  # fmt: skip
"""How each class is written. Others are refused, and so are subclasses with a call of their own."""


# --- the operator --------------------------------------------------------------------------------


class Dropout(OpRun):
    """ONNX's Dropout with masks of dropcore, for ONNX's reference evaluator.

    ``ReferenceEvaluator(proto, new_ops=[Dropout])`` draws each mask as ``Mask(x.shape, ratio,
    key=seed)``, with the attribute `seed` of the node. A node without one takes a seed from
    `numpy.random` at each run.

    Parameters
    ----------
    onnx_node : onnx.NodeProto
        The node. The evaluator makes an object of this class for each.
    run_params : dict
        Options of the evaluator.
    schema : optional
        Of the operator.
    """

    op_domain = ""

    def _run(
        self, x: Any, ratio: Any = None, training_mode: Any = None, seed: int | None = None
    ) -> tuple[Any, ...]:
        rate = 0.5 if ratio is None else float(ratio)
        if training_mode is None or not bool(training_mode):
            y, kept = x, np.ones(x.shape, np.bool_)
        else:
            if seed is None:
                seed = int(np.random.randint(1 << 63, dtype=np.uint64))  # noqa: NPY002
            mask = Mask(x.shape, rate, key=Key(seed % (1 << 64)))
            y, kept = functional.dropout(x, mask=mask), mask.to_bool()
        return (y, kept) if len(self.onnx_node.output) == 2 else (y,)
