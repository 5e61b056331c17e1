"""The table of a model, as `Model.summary` returns it."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from dropcore.nn._checks import checked_shape
from dropcore.nn.layer import Layer, Shape

__all__ = ["Row", "Summary", "summarize"]


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes
    ----------
    path : str
        Its path, such as ``"0.1"``; empty for the model itself.
    layer : str
        The name of its class.
    output_shape : tuple
        Of one sample.
    parameters : int
        Trained numbers.
    notes : tuple of str
        Dropout, constraints, regularisers.
    """

    path: str
    layer: str
    output_shape: Shape
    parameters: int
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Summary:
    """Layers in order; as text a table.

    Attributes
    ----------
    rows : tuple of Row
    input_shape : tuple
        Of one sample.
    parameters : int
        Trained numbers in the whole model.
    buffers : int
        Numbers that are not trained, such as running means.
    n_streams : int
        Streams of masks or noise that the layers draw from.
    """

    rows: tuple[Row, ...]
    input_shape: Shape
    parameters: int
    buffers: int
    n_streams: int

    def __str__(self) -> str:
        lines = [("", "layer", "output", "parameters", "")]
        lines.append(("", "(input)", _shape(self.input_shape), "", ""))
        for row in self.rows:
            depth = row.path.count(".") + bool(row.path)
            name = "  " * max(depth - 1, 0) + row.layer
            lines.append(
                (row.path, name, _shape(row.output_shape), f"{row.parameters:,}",
                 "; ".join(row.notes))
            )  # fmt: skip
        widths = [max(len(line[column]) for line in lines) for column in range(4)]
        text = []
        for path, name, shape, count, notes in lines:
            text.append(
                f"{path:<{widths[0]}}  {name:<{widths[1]}}  {shape:<{widths[2]}}  "
                f"{count:>{widths[3]}}  {notes}".rstrip()
            )
        text.insert(1, "-" * max(map(len, text)))
        text.append(text[1])
        kept = f", {self.buffers:,} numbers that are not trained" if self.buffers else ""
        streams = f"{self.n_streams} stream{'' if self.n_streams == 1 else 's'} of noise"
        text.append(f"{self.parameters:,} parameters{kept}, {streams}")
        return "\n".join(text)

    __repr__ = __str__


def summarize(model: Layer, input_shape: Shape | None) -> Summary:
    """The table of `model` for samples of `input_shape`; a model without weights stays so."""
    shape = model.input_shape if input_shape is None else checked_shape("summary", input_shape)
    if shape is None:
        raise ValueError(
            "summary: the model has not been built: give the shape of one sample, as in "
            "summary((28, 28, 1)), without the batch axis"
        )
    model.output_shape(shape)
    if not model.built:
        model = copy.deepcopy(model)
        model.build(shape, key=0)
    rows: list[Row] = []
    _walk(model, "", shape, rows)
    return Summary(
        tuple(rows),
        shape,
        sum(array.size for array in model.params.values()),
        sum(array.size for array in model.buffers.values()),
        model.n_streams,
    )


def _walk(layer: Layer, path: str, shape: Shape, rows: list[Row]) -> None:
    parameters = sum(array.size for array in layer.params.values())
    after = layer.output_shape(shape)
    if path or not layer.children:
        rows.append(Row(path, type(layer).__name__, after, parameters, tuple(layer.notes(after))))
    for name, child, own in layer.child_shapes(shape):
        _walk(child, f"{path}.{name}" if path else name, own, rows)


def _shape(shape: Shape) -> str:
    """Shape of a batch."""
    return "(" + ", ".join(["batch", *("any" if n is None else str(n) for n in shape)]) + ")"
