"""Models: layers that can be trained."""

from __future__ import annotations

from os import PathLike

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
    save_weights = save_weights
    load_weights = load_weights

    def save(self, path: str | PathLike[str], *, optimizer: bool = True) -> None:
        """Write the model to a file for `dropcore.load`.

        The file has the layers with their arguments, weights, running moments and frozen layers,
        and the training state: the state of the optimiser, counts, the address of the masks, loss,
        history, preprocessing, classes and the state of callbacks. A further `fit` of the loaded
        model gives the same bits as one of this model. Arrays of a GPU are loaded into host memory.
        The same state gives the same bytes.

        The file is replaced atomically: if the process is killed or the disk is full, the old file
        remains. It contains no code, and loading it runs none.

        The optimiser itself, which is an argument of `fit`, and the training states of models
        inside this one are not saved.

        Parameters
        ----------
        path : str or path
            Usually ``"name.dropcore"``; any name is taken. A new file is first written beside it,
            in the same folder.
        optimizer : bool, default True
            Whether to save the state of the optimiser, which for Adam is twice as large as the
            weights. Without it a further `fit` begins with a new one, as for an optimiser of
            another kind, and ``fit(resume=True)`` is refused.

        Raises
        ------
        TypeError
            If an argument of a layer cannot be written, such as a function of your own. The message
            names it.
        ValueError
            If the description of the model is larger or nested deeper than `load` takes.
        OSError
            If the file cannot be written. The old file is unchanged.
        ImportError
            If safetensors is not installed.

        Warns
        -----
        UserWarning
            If the loss of the last `fit` is a function of your own, which is not saved.

        Examples
        --------
        >>> model.save("digits.dropcore")  # doctest: +SKIP
        >>> model = dropcore.load("digits.dropcore")  # doctest: +SKIP
        """
        from dropcore.nn._saving import save

        save(self, path, optimizer=optimizer)

    def summary(self, input_shape: Shape | None = None) -> Summary:
        """A table of the layers: shapes, parameters, dropout, constraints.

        Parameters
        ----------
        input_shape : tuple of int, optional
            Of one sample, without the batch axis. By default that of `build`.

        Returns
        -------
        Summary
            It prints as a table.

        Raises
        ------
        ValueError
            If the model has not been built and no shape is given.
        """
        return summarize(self, input_shape)
