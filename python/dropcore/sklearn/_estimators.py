"""The estimators: what they learn from, and what they predict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import scipy.sparse
import scipy.special
from sklearn.base import (
    ClassifierMixin,
    ClassNamePrefixFeaturesOutMixin,
    RegressorMixin,
    TransformerMixin,
)
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_is_fitted, column_or_1d

from dropcore._base.checks import check_bool, check_integer
from dropcore.nn import Dense, Sequential, autoencoder
from dropcore.sklearn._network import Array, HalfSquaredError, NetworkEstimator
from dropcore.training import predict

__all__ = ["DropoutAutoencoder", "DropoutClassifier", "DropoutRegressor"]


class DropoutClassifier(ClassifierMixin, NetworkEstimator):
    """A multi-layer perceptron with dropout, which predicts classes.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Width of each hidden layer; ``()`` is a linear model.
    rate : float or sequence of float, default 0.5
        Fraction of a hidden layer that is dropped in an update, in [0, 1]: one for all hidden
        layers, or one for each. With 0 nothing is dropped.
    input_rate : float, default 0.0
        Of the features. 0.2 suits many redundant features, such as pixels.
    max_norm : float, optional
        Bound on the norm of the incoming weights of a hidden unit, of the weights as they are
        stored. 1.5 to 2 corresponds to the papers' 3 to 4 at a rate of 0.5.
    activation : str, default "relu"
        Of the hidden layers: "identity", "logistic", "tanh", "relu", or another name of
        `dropcore.nn.activations.ACTIVATIONS`.
    solver : "adam" or "sgd", default "adam"
        There is no "lbfgs": it compares losses along a line, and under dropout each is drawn anew.
    alpha : float, default 1e-4
        Of the penalty alpha / 2 * sum of the squared weights / batch size that is added to the
        loss of a batch.
    batch_size : int or "auto", default "auto"
        Samples in an update. "auto" is 200. At most all samples.
    learning_rate : "constant", "invscaling" or "adaptive", default "constant"
        Of "sgd". "invscaling" divides the learning rate by ``(t_ + 1) ** power_t`` after each
        epoch. "adaptive" divides it by 5 where training would end, which ends where that happens
        at 1e-6 or less.
    learning_rate_init : float, default 1e-3
        The learning rate of "adam", and the first one of "sgd".
    power_t : float, default 0.5
        Of "invscaling", not negative.
    max_iter : int, default 200
        Most epochs of a `fit`.
    shuffle : bool, default True
        Whether each epoch takes the samples in an order of its own.
    random_state : int, RandomState or None, default None
        An integer s is the key ``dropcore.Key(s)``: see `dropcore.sklearn`.
    tol : float, default 1e-4
        The least improvement of `n_iter_no_change`.
    verbose : bool, default False
        Whether each epoch prints a line.
    warm_start : bool, default False
        Whether `fit` goes on with the weights, the state of the solver, its learning rate and the
        key of the last one. Other parameters than the shapes of weights may have changed.
    momentum : float, default 0.9
    nesterovs_momentum : bool, default True
        Of "sgd".
    early_stopping : bool, default False
        Whether a part of the data is held out, drawn in proportion to the classes. Its score
        decides when training ends, and the weights of the best epoch are kept.
    validation_fraction : float, default 0.1
        The part that is held out.
    beta_1, beta_2, epsilon : float, default 0.9, 0.999 and 1e-8
        Of "adam".
    n_iter_no_change : int or inf, default 10
        Training ends after `n_iter_no_change` epochs in a row in which the loss, or with
        `early_stopping` the validation score, has not improved by more than `tol`. The loss of
        the training data is one under dropout, and noisy.
    class_weight : dict or "balanced", optional
        How much a class counts in the training loss, by its label; classes that a dict leaves out
        count 1. "balanced" is n / (number of classes * n of the class), by the training data.

    Attributes
    ----------
    classes_ : ndarray, shape (classes,)
        The labels in the order of the columns of `predict_proba`. Of several labels a sample the
        numbers of the columns of y.
    model_ : dropcore.nn.Sequential
        The network. Its outputs are logits: one for two classes, else one for each class or label.
    coefs_, intercepts_ : list of ndarray
        Weights (inputs, units) and biases (units,) of the layers: those of the network, not copies.
    loss_ : float
        The cross-entropy of the last epoch, under dropout and without the penalty.
    loss_curve_ : list of float
        That of each epoch.
    best_loss_ : float or None
        Its lowest value; None with `early_stopping`.
    validation_scores_ : list of float or None
        With `early_stopping` the accuracy of the part that is held out, after each epoch.
    best_validation_score_ : float or None
    n_iter_ : int
        Epochs, over all fits that went on with the weights.
    t_ : int
        Samples that the updates have seen.
    n_features_in_ : int
    feature_names_in_ : ndarray
        If X had names that are all strings.
    n_layers_, n_outputs_ : int
    out_activation_ : "logistic" or "softmax"

    See Also
    --------
    sklearn.neural_network.MLPClassifier : The same without dropout.

    References
    ----------
    Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, "Dropout: a simple way to
    prevent neural networks from overfitting".

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> x, y = load_iris(return_X_y=True)
    >>> classifier = DropoutClassifier((50,), rate=0.2, max_iter=300, tol=0.01, random_state=0)
    >>> classifier.fit(x, y).score(x, y) > 0.9
    True
    """

    classes_: Array
    _several: bool

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        rate: float | Sequence[float] = 0.5,
        *,
        input_rate: float = 0.0,
        max_norm: float | None = None,
        activation: str = "relu",
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        class_weight: Mapping[Any, float] | str | None = None,
    ) -> None:
        self._take(locals())

    def partial_fit(  # type: ignore[override]
        self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None
    ) -> Self:
        """Go through some samples once, from where the last call stopped.

        Parameters
        ----------
        X, y
            As for `fit`.
        classes : array_like, shape (classes,)
            All labels that there will ever be. Needed in the first call.
        sample_weight
            As for `fit`.

        Returns
        -------
        DropoutClassifier
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`; if `classes` are missing in the first call, differ from those of an earlier
            one, or lack a label of y; or with `early_stopping`.
        """
        return self._fit(X, y, sample_weight, True, epochs=1, classes=classes)

    def _fit(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        goes_on: bool,
        epochs: int | None = None,
        classes: Any = None,
    ) -> Self:
        goes_on = self._begun(goes_on, epochs)
        whole = epochs is None
        if classes is not None:
            classes = np.unique(np.asarray(classes))
            if goes_on:
                self._check_classes("partial_fit", classes)
        elif not whole:
            if not goes_on:
                raise ValueError("partial_fit: classes must be given in the first call")
            classes = self.classes_
        x, y = self._inputs(x, y, multi_output=True, reset=not goes_on)
        known, y = self._labels(y, classes)
        if goes_on:
            self._check_classes("warm_start=True" if whole else "partial_fit", known)
        several = y.ndim == 2
        if goes_on and several != self._several:
            raise ValueError(
                f"{type(self).__name__}: y must have the shape of the last fit, "
                f"{'(samples, labels)' if self._several else '(samples,)'}, got {y.shape}"
            )
        weights = self._weights(sample_weight, x)
        if whole and weights is not None and not several and len(np.unique(y[weights > 0])) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two classes, and all samples of positive "
                "weight are of one class"
            )
        outputs = len(known) if several or len(known) > 2 else 1
        of_labels = several or outputs == 1
        of_classes = self._weights_of_classes(known, several)
        self.classes_, self._several = known, several
        self.n_outputs_, self.out_activation_ = outputs, "logistic" if of_labels else "softmax"
        return self._train(
            x,
            y,
            weights,
            loss="binary_cross_entropy" if of_labels else "softmax_cross_entropy",
            goes_on=goes_on,
            epochs=epochs,
            metric="accuracy",
            class_weight=of_classes,
        )

    def _labels(self, y: Any, classes: Array | None = None) -> tuple[Array, Array]:
        """The classes in y, and y as their numbers or as a matrix of 0 and 1.

        Raises
        ------
        ValueError
            If y does not hold labels, there are fewer than two classes, or a label is not in
            `classes`.
        """
        if scipy.sparse.issparse(y):
            y = y.toarray()
        if y.ndim == 2 and y.shape[1] > 1:
            if type_of_target(y) != "multilabel-indicator":
                raise ValueError(
                    f"{type(self).__name__}: y must hold one label a sample, or 0 and 1 for each "
                    f"of several labels, got shape {y.shape}"
                )
            return np.arange(y.shape[1]), np.asarray(y, np.float32)
        check_classification_targets(y)
        y = column_or_1d(y, warn=True)
        if classes is None:
            classes, numbers = np.unique(y, return_inverse=True)
        else:
            unknown = np.setdiff1d(y, classes)
            if len(unknown):
                raise ValueError(
                    f"partial_fit: y holds labels that are not in classes, {unknown.tolist()}"
                )
            numbers = np.searchsorted(classes, y)
        if len(classes) < 2:
            raise ValueError(
                f"{type(self).__name__} needs at least two classes, and y has one class only, "
                f"{classes.tolist()}"
            )
        return classes, numbers

    def _check_classes(self, what: str, classes: Array) -> None:
        """ValueError unless they are those of the last fit."""
        if not np.array_equal(classes, self.classes_):
            raise ValueError(
                f"{what} goes on with a network for the classes {self.classes_.tolist()}, and "
                f"there are {classes.tolist()}"
            )

    def _weights_of_classes(self, classes: Array, several: bool) -> Any:
        """`class_weight` by the numbers of the classes."""
        given = self.class_weight
        if given is None or (isinstance(given, str) and given == "balanced" and not several):
            return given
        if several:
            raise ValueError(
                f"{type(self).__name__}: class_weight is for one label a sample, and y is a matrix "
                "of several: leave it out"
            )
        if not isinstance(given, Mapping):
            raise TypeError(
                f"{type(self).__name__}: class_weight must be a dict by label, 'balanced' or None, "
                f"got {given!r}"
            )
        known = classes.tolist()
        unknown = [label for label in given if label not in known]
        if unknown:
            raise ValueError(
                f"{type(self).__name__}: class_weight has labels that are not among the classes "
                f"{known}: {unknown}"
            )
        return {number: float(given.get(label, 1.0)) for number, label in enumerate(known)}

    def predict_proba(self, X: Any) -> Array:
        """The probability of each class, without dropout.

        Parameters
        ----------
        X : array_like or sparse array, shape (samples, features)

        Returns
        -------
        float64 ndarray, shape (samples, classes)
            In the order of `classes_`. With several labels a sample that of each label.
        """
        logits = self._outputs(X)
        if self.out_activation_ == "softmax":
            return cast(Array, scipy.special.softmax(logits, axis=1))
        yes = scipy.special.expit(logits)
        return cast(Array, yes if self._several else np.hstack([1 - yes, yes]))

    def predict_log_proba(self, X: Any) -> Array:
        """The logarithm of `predict_proba`, which stays finite where that is rounded to 0.

        Parameters
        ----------
        X : array_like or sparse array, shape (samples, features)

        Returns
        -------
        float64 ndarray, shape (samples, classes)
        """
        logits = self._outputs(X)
        if self.out_activation_ == "softmax":
            return cast(Array, scipy.special.log_softmax(logits, axis=1))
        yes = scipy.special.log_expit(logits)
        if self._several:
            return cast(Array, yes)
        return np.hstack([scipy.special.log_expit(-logits), yes])

    def predict(self, X: Any) -> Array:
        """The most probable class of each sample.

        Parameters
        ----------
        X : array_like or sparse array, shape (samples, features)

        Returns
        -------
        ndarray, shape (samples,) or (samples, labels)
        """
        logits = self._outputs(X)
        if self.out_activation_ == "softmax":
            return self.classes_[logits.argmax(axis=1)]
        yes = (logits > 0).astype(np.intp)
        return yes if self._several else self.classes_[yes[:, 0]]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags


class DropoutRegressor(RegressorMixin, NetworkEstimator):
    """A multi-layer perceptron with dropout, which predicts numbers.

    The loss is (prediction - y)^2 / 2, the mean over samples and outputs. Targets are not scaled:
    as for MLPRegressor, `sklearn.compose.TransformedTargetRegressor` with a StandardScaler helps
    where their deviation is far from 1.

    Parameters
    ----------
    hidden_layer_sizes, rate, input_rate, max_norm, activation, solver, alpha, batch_size
        As for `DropoutClassifier`, with the same defaults.
    learning_rate, learning_rate_init, power_t, max_iter, shuffle, random_state, tol, verbose
        As for `DropoutClassifier`, with the same defaults.
    warm_start, momentum, nesterovs_momentum
        As for `DropoutClassifier`, with the same defaults.
    early_stopping, validation_fraction
        As for `DropoutClassifier`, with the same defaults. The score is R^2, the mean over the
        outputs.
    beta_1, beta_2, epsilon, n_iter_no_change
        As for `DropoutClassifier`, with the same defaults.

    Attributes
    ----------
    model_, coefs_, intercepts_, loss_, loss_curve_, best_loss_, validation_scores_
        As for `DropoutClassifier`.
    best_validation_score_, n_iter_, t_, n_features_in_, feature_names_in_
        As for `DropoutClassifier`.
    n_layers_, n_outputs_
        As for `DropoutClassifier`.
    out_activation_ : "identity"

    See Also
    --------
    sklearn.neural_network.MLPRegressor : The same without dropout.

    References
    ----------
    Gal and Ghahramani 2016, "Dropout as a Bayesian approximation: representing model uncertainty in
    deep learning".
    """

    def _fit(
        self, x: Any, y: Any, sample_weight: Any, goes_on: bool, epochs: int | None = None
    ) -> Self:
        goes_on = self._begun(goes_on, epochs)
        x, y = self._inputs(x, y, multi_output=True, y_numeric=True, reset=not goes_on)
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
        if scipy.sparse.issparse(y):
            y = y.toarray()
        with np.errstate(over="ignore", invalid="ignore"):
            y = check_array(y, dtype=np.float32, ensure_2d=False, input_name="y")
        y = y.reshape(len(y), -1)
        if goes_on and y.shape[1] != self.n_outputs_:
            raise ValueError(
                f"{type(self).__name__}: the fit goes on with a network of {self.n_outputs_} "
                f"outputs, and y has {y.shape[1]}"
            )
        weights = self._weights(sample_weight, x)
        self.n_outputs_, self.out_activation_ = y.shape[1], "identity"
        return self._train(
            x,
            y,
            weights,
            loss=HalfSquaredError(),
            goes_on=goes_on,
            epochs=epochs,
            metric="r2",
        )

    def predict(self, X: Any, return_std: bool = False, n_samples: int = 100) -> Any:
        """The prediction for each sample, without dropout.

        Parameters
        ----------
        X : array_like or sparse array, shape (samples, features)
        return_std : bool, default False
            Whether the spread is returned too.
        n_samples : int, default 100
            Networks that are drawn for the spread.

        Returns
        -------
        y : float64 ndarray, shape (samples,) or (samples, outputs)
        std : float64 ndarray, of the shape of y
            If `return_std`: the standard deviation of the predictions of networks under dropout,
            those of ``sample_y(X, n_samples)``. It says how much the network disagrees with
            itself; the noise of y is not in it. 0 where no layer drops anything.
        """
        outputs = self._outputs(X)
        y = outputs[:, 0] if self.n_outputs_ == 1 else outputs
        if not check_bool(f"{type(self).__name__}: return_std", return_std):
            return y
        return y, self.sample_y(X, n_samples).std(axis=-1)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = None) -> Array:
        """Predictions of networks under dropout: samples of the predictive distribution.

        Parameters
        ----------
        X : array_like or sparse array, shape (samples, features)
        n_samples : int, default 1
        random_state : int, RandomState or None
            As that of the estimator, whose key is used for None: then every call gives the same.

        Returns
        -------
        float64 ndarray, shape (samples, n_samples) or (samples, outputs, n_samples)
            The predictions of one network are those at one place of the last axis, as for
            `sklearn.gaussian_process.GaussianProcessRegressor.sample_y`.
        """
        check_is_fitted(self)
        count = check_integer(f"{type(self).__name__}: n_samples", n_samples, 1)
        key = self._state().key if random_state is None else self._key_of(random_state)
        drawn = self._outputs(X, key=key, samples=count)
        return np.moveaxis(drawn[..., 0] if self.n_outputs_ == 1 else drawn, 0, -1)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags


class DropoutAutoencoder(ClassNamePrefixFeaturesOutMixin, TransformerMixin, NetworkEstimator):
    """A denoising autoencoder, as a transformer: features become the code of a hidden layer.

    The network learns to reconstruct X from an X of which a part is dropped, by the loss
    (reconstruction - x)^2 / 2, the mean over samples and features. X is dense.

    Parameters
    ----------
    hidden_layer_sizes : int or sequence of int, default (100,)
        Widths of the encoder. The last one is the code; the decoder has the others in reverse.
    rate : float or sequence of float, default 0.0
        Of the layers of the encoder; those of the decoder have the rates of their counterparts. A
        narrow code loses too much by dropout.
    input_rate : float, default 0.25
        Of the features: the noise that the network learns to remove.
    max_norm, activation, solver, alpha, batch_size, learning_rate, learning_rate_init, power_t
        As for `DropoutRegressor`, with the same defaults.
    max_iter, shuffle, random_state, tol, verbose, warm_start, momentum, nesterovs_momentum
        As for `DropoutRegressor`, with the same defaults.
    early_stopping, validation_fraction, beta_1, beta_2, epsilon, n_iter_no_change
        As for `DropoutRegressor`, with the same defaults.

    Attributes
    ----------
    model_, coefs_, intercepts_, loss_, loss_curve_, best_loss_, validation_scores_
        As for `DropoutRegressor`; encoder and decoder are one network.
    best_validation_score_, n_iter_, t_, n_features_in_, feature_names_in_
        As for `DropoutRegressor`.
    n_layers_, n_outputs_
        As for `DropoutRegressor`.

    References
    ----------
    Vincent, Larochelle, Bengio and Manzagol 2008, "Extracting and composing robust features with
    denoising autoencoders".
    """

    _architecture = staticmethod(autoencoder)

    def __init__(
        self,
        hidden_layer_sizes: int | Sequence[int] = (100,),
        rate: float | Sequence[float] = 0.0,
        *,
        input_rate: float = 0.25,
        max_norm: float | None = None,
        activation: str = "relu",
        solver: str = "adam",
        alpha: float = 1e-4,
        batch_size: int | str = "auto",
        learning_rate: str = "constant",
        learning_rate_init: float = 1e-3,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: Any = None,
        tol: float = 1e-4,
        verbose: bool = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
    ) -> None:
        self._take(locals())

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Train the network to reconstruct X.

        Parameters
        ----------
        X : array_like, shape (samples, features)
        y
            Ignored.
        sample_weight : array_like, shape (samples,), optional
            How much each sample counts in the mean loss of its batch, not negative.

        Returns
        -------
        DropoutAutoencoder
            Itself.

        Raises
        ------
        TypeError, ValueError, FloatingPointError, KeyboardInterrupt
            As `DropoutRegressor.fit`; also if X is sparse.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` epochs were made and the loss still improved.
        """
        return super().fit(X, y, sample_weight)

    def partial_fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Self:
        """Go through some samples once, from where the last call stopped.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        DropoutAutoencoder
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`, or with `early_stopping`.
        """
        return super().partial_fit(X, y, sample_weight)

    def _fit(
        self, x: Any, y: Any, sample_weight: Any, goes_on: bool, epochs: int | None = None
    ) -> Self:
        goes_on = self._begun(goes_on, epochs)
        if not self._checked()["widths"]:
            raise ValueError(
                f"{type(self).__name__}: hidden_layer_sizes must have at least one width, that of "
                "the code"
            )
        x = self._inputs(x, reset=not goes_on, accept_sparse=False)
        self.n_outputs_ = x.shape[1]
        return self._train(
            x,
            x,
            self._weights(sample_weight, x),
            loss=HalfSquaredError(),
            goes_on=goes_on,
            epochs=epochs,
            metric="r2",
        )

    def transform(self, X: Any) -> Array:
        """The code of each sample, without dropout.

        Parameters
        ----------
        X : array_like, shape (samples, features)

        Returns
        -------
        ndarray, shape (samples, width of the code)
            float64 for an X of float64, else float32.
        """
        check_is_fitted(self)
        return self._through(X, slice(None, self._code() + 1))

    def inverse_transform(self, X: Any) -> Array:
        """The reconstruction of samples from their codes.

        Parameters
        ----------
        X : array_like, shape (samples, width of the code)

        Returns
        -------
        ndarray, shape (samples, features)
            float64 for an X of float64, else float32.
        """
        check_is_fitted(self)
        dtype = _dtype_of(X)
        codes = check_array(X, dtype=np.float32)
        if codes.shape[1] != self._n_features_out:
            raise ValueError(
                f"{type(self).__name__}.inverse_transform: X must hold codes of "
                f"{self._n_features_out} features, got {codes.shape[1]}"
            )
        return predict(self.model_[self._code() + 1 :], codes).astype(dtype)

    def score(self, X: Any, y: Any = None) -> float:
        """R^2 of the reconstruction: the part of the variance of X that the code explains.

        Parameters
        ----------
        X : array_like, shape (samples, features)
        y
            Ignored.

        Returns
        -------
        float
            1 - (sum of the squared errors) / (sum of the squared deviations from the mean), over
            all features together; 1 is perfect. Where X is constant it is 1 or 0.
        """
        check_is_fitted(self)
        found = self._through(X, slice(None))
        x = self._inputs(X, reset=False, accept_sparse=False).astype(np.float64)
        error = float(((found - x) ** 2).sum())
        whole = float(((x - x.mean(axis=0)) ** 2).sum())
        if not whole:  # as scikit-learn's R^2 of a constant
            return float(not error)
        return 1 - error / whole

    def _through(self, x: Any, layers: slice) -> Array:
        """What some of the layers give for X, in its dtype."""
        dtype = _dtype_of(x)
        checked = self._inputs(x, reset=False, accept_sparse=False)
        return predict(self.model_[layers], checked).astype(dtype)

    def _code(self) -> int:
        """The place of the layer that gives the code."""
        model: Sequential = self.model_
        dense = [i for i, layer in enumerate(model.layers) if isinstance(layer, Dense)]
        return dense[len(dense) // 2 - 1]

    @property
    def _n_features_out(self) -> int:
        return cast(Dense, self.model_.layers[self._code()]).units

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _dtype_of(x: Any) -> type[Any]:
    """float32 for arrays of it and smaller floats, else float64."""
    dtype = getattr(x, "dtype", None)
    return np.float32 if dtype in (np.float16, np.float32) else np.float64
