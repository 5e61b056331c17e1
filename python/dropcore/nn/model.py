"""Models: layers that can be trained."""

from __future__ import annotations

from dropcore.nn._saving import save
from dropcore.nn._summary import Summary, summarize
from dropcore.nn._weights import load_weights, save_weights
from dropcore.nn.layer import Layer, Shape
from dropcore.training import evaluate, fit, predict, predict_labels, predict_proba

__all__ = ["Model"]


class Model(Layer):
    """A layer made of layers, with the functions of `dropcore.training` as methods.

    `Sequential`, `Parallel`, `Residual` and `Bidirectional` are models. A single layer is trained
    inside one: ``Sequential([Dense(10)])``.
    """

    fit = fit
    predict = predict
    predict_proba = predict_proba
    predict_labels = predict_labels
    evaluate = evaluate
    save = save
    save_weights = save_weights
    load_weights = load_weights

    def summary(self, input_shape: Shape | None = None) -> Summary:
        """A table of the layers: shapes, parameters, dropout, constraints.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Of one sample, without the batch axis. By default that of `build`.

        Raises
        ------
        ValueError
            If the model has not been built and no shape is given.
        """
        return summarize(self, input_shape)
