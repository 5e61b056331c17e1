"""Dropout of whole words."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from dropcore._backends import backend_of, cpu
from dropcore._backends.gradients import Gradient
from dropcore._base.checks import check_integer
from dropcore._base.device import array_namespace, on_device
from dropcore.functional import dropout, dropout_backward
from dropcore.key import Key, as_key
from dropcore.mask import Mask
from dropcore.nn._checks import check_array, check_gradient
from dropcore.nn.dropout import RatedLayer, check_row_offset, mode_of
from dropcore.nn.layer import Array, Backward, Layer, Shape, error_context, prefixed
from dropcore.nn.rates import Given, Rate

__all__ = ["EmbeddingDropout", "word_mask"]


def word_mask(
    words: npt.NDArray[np.integer[Any]],
    vocabulary: int,
    rate: float | None = None,
    *,
    keep: float | None = None,
    key: Key | int,
    row_offset: int = 0,
    mode: str = "row",
) -> Mask:
    """The mask of the vectors of some words: a word is kept or dropped at all its positions.

    It is a mask over the rows of an embedding, drawn only for the words that occur. Decision i of
    the mask contract belongs to word i, or in sequence r of the global batch to word
    i - r * vocabulary.

    Parameters
    ----------
    words : ndarray of int, (batch, ...)
        In [0, vocabulary). The values of a CuPy array are not checked; its mask is on its device.
    vocabulary : int
        Number of words.
    rate, keep : float, optional
        Fraction of the words dropped, or kept.
    key : Key or int
    row_offset : int, default 0
        Position of the first sequence in the global batch.
    mode : "row" or "batch", default "row"
        Whether each sequence drops other words.

    Returns
    -------
    Mask
        (batch, ..., 1), for vectors (batch, ..., features).

    Raises
    ------
    TypeError, ValueError
        For a rate outside [0, 1], or words out of range.

    References
    ----------
    Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural
    networks", section 4.2.
    """
    if not hasattr(words, "dtype") or words.dtype.kind not in "iu":
        found = getattr(words, "dtype", type(words).__name__)
        raise TypeError(f"word_mask: words must be an array of integers, got {found}")
    vocabulary = check_integer("word_mask: vocabulary", vocabulary, 1)
    offset = check_row_offset((len(words), vocabulary), row_offset)
    kept_fraction = Rate("word_mask", rate, keep, arrays=False, schedules=False)(0)
    address = as_key(key)
    xp = array_namespace(words)
    index = xp.array(words, dtype=np.int64, order="C")
    if not on_device(words) and index.size and not 0 <= index.min() <= index.max() < vocabulary:
        raise ValueError(
            f"word_mask: words must be in [0, {vocabulary}), got {index.min()} ... {index.max()}"
        )
    if mode_of("word_mask", mode) == "row":
        sequence = xp.arange(offset, offset + len(index), dtype=np.int64) * vocabulary
        index += sequence.reshape(-1, *(1,) * (index.ndim - 1))
    kept = xp.empty(index.shape, np.uint8)
    backend_of("words", index).kept_at(
        kept.reshape(-1), index.reshape(-1), address, address.domain, cpu.threshold(kept_fraction)
    )
    return Mask.given(kept.view(np.bool_)[..., np.newaxis], keep=kept_fraction)


class EmbeddingDropout(RatedLayer):
    """An embedding that drops words: the vector of a word is dropped at all its positions.

    With m = 1 where the word is kept, which has probability keep = 1 - rate::

        y = embedding(words) * m[words] / keep

    A word is dropped at all its positions or at none, because another position would reveal it.
    Without a key nothing is dropped.

    Parameters
    ----------
    embedding : Layer
        Such as ``Embedding(10000, 200)``: a layer that takes indices and whose `weight` has a row
        for each.
    rate, keep : float or callable, optional
        As for `Dropout`, of the words.
    mode : "row" or "batch", default "row"
        Whether each sequence of the batch drops other words, as in the paper.

    Raises
    ------
    TypeError
        If `embedding` is not a layer that takes indices.
    ValueError
        If a rate is outside [0, 1], or for another mode.

    References
    ----------
    Gal and Ghahramani 2016, "A theoretically grounded application of dropout in recurrent neural
    networks".
    """

    own_streams = 1

    def __init__(
        self, embedding: Layer, rate: Given = None, *, keep: Given = None, mode: str = "row"
    ) -> None:
        super().__init__()
        if not isinstance(embedding, Layer) or not embedding.integer_input:
            raise TypeError(
                "EmbeddingDropout: embedding must be a layer that takes indices, such as "
                f"Embedding(10000, 200), got {embedding!r}"
            )
        self.embedding = self._add_child("embedding", embedding)
        self._rate = Rate("EmbeddingDropout", rate, keep, arrays=False)
        self.mode = mode_of("EmbeddingDropout", mode)

    @property
    def integer_input(self) -> bool:
        return True

    def noise_notes(self, shape: Shape) -> list[str]:
        return [f"{self.rate_note()} of the words"]

    def output_shape(self, input_shape: Shape) -> Shape:
        with error_context("embedding"):
            return self.embedding.output_shape(input_shape)

    def forward(
        self, x: Array, *, key: Key | int | None = None, row_offset: int = 0
    ) -> tuple[Array, Backward]:
        check_array(self, x)
        ((_, _, child_key),) = self.children_with_keys(key)
        with error_context("embedding"):
            y, inner = self.embedding.forward(x, key=child_key, row_offset=row_offset)
        mask = None
        if key is not None:
            address, vocabulary = as_key(key), len(self.embedding.params["weight"])
            mask = word_mask(
                x,
                vocabulary,
                keep=self._rate(address.step),
                key=address,
                row_offset=row_offset,
                mode=self.mode,
            )
            y = dropout(y, mask=mask)

        def backward(
            dy: Array, *, input_gradient: bool = True, for_update: bool = False
        ) -> tuple[Any, dict[str, Gradient]]:
            check_gradient(self, dy, y.shape, y.dtype)
            if mask is not None:
                dy = dropout_backward(dy, mask=mask)
            dx, grads = inner(dy, input_gradient=input_gradient, for_update=for_update)
            return dx, prefixed("embedding", grads)

        return y, backward
