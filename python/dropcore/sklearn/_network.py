"""What the estimators have in common: parameters, networks, training and prediction."""

from __future__ import annotations

import math
import numbers
import sys
import warnings
from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal, Self

import numpy as np
import numpy.typing as npt
import scipy.sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight as check_sample_weight
from sklearn.utils.validation import check_is_fitted

from dropcore._base.checks import check_bool, check_integer, check_number, shown, users_level
from dropcore.key import Key
from dropcore.losses import MeanSquaredError
from dropcore.nn import Dense, Sequential, mlp
from dropcore.nn.activations import ACTIVATIONS
from dropcore.optim import SGD, Adam
from dropcore.regularizers import L2
from dropcore.sklearn._rates import Adaptive, InverseScaling
from dropcore.sklearn._sparse import over_rows
from dropcore.training import TrainingState, fit, predict
from dropcore.training._warnings import constant_columns_expected
from dropcore.training.callbacks import EarlyStopping

__all__ = ["HalfSquaredError", "NetworkEstimator"]

Array = npt.NDArray[Any]

RATES: Final = ("constant", "invscaling", "adaptive")
"""How the learning rate of "sgd" changes."""

NAMES: Final[dict[str, str | None]] = {"identity": None, "logistic": "sigmoid"}
"""Activations that scikit-learn calls otherwise."""

BATCH: Final = 200
"""The largest batch size of "auto"."""

ELEMENTS: Final = 1 << 24
"""Numbers that a batch of a prediction has at most, where a sparse X becomes dense."""


@dataclass(frozen=True)
class HalfSquaredError(MeanSquaredError):
    """(y - t)^2 / 2, the mean over all numbers: the loss of scikit-learn's MLPRegressor."""

    def each(self, d: Array) -> Array:
        half: Array = super().each(d) * d.dtype.type(0.5)
        return half

    def slope(self, d: Array) -> Array:
        half: Array = super().slope(d) * d.dtype.type(0.5)
        return half


class NetworkEstimator(BaseEstimator, metaclass=ABCMeta):
    """Base class of the estimators.

    A subclass defines `_fit`. The parameters are described in `DropoutClassifier`.
    """

    model_: Sequential
    n_iter_: int
    n_outputs_: int
    t_: int
    loss_curve_: list[float]
    validation_scores_: list[float] | None
    _network_of: tuple[Any, ...]

    _architecture: ClassVar[Callable[..., Sequential]] = staticmethod(mlp)

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
    ) -> None:
        self._take(locals())

    def _take(self, arguments: Mapping[str, Any]) -> None:
        """Keep the arguments of `__init__`, unchecked, as scikit-learn asks for."""
        for name, value in arguments.items():
            if name != "self":
                setattr(self, name, value)

    # --- training ---------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train the network.

        Parameters
        ----------
        X : array_like or sparse array, shape (samples, features)
            Finite numbers. Standardise them: the learning rate is meant for that.
        y : array_like, shape (samples,) or (samples, outputs)
            Of a classifier labels, or for several labels a sample a matrix of 0 and 1, which may be
            sparse. Of a regressor numbers.
        sample_weight : array_like, shape (samples,), optional
            How much each sample counts in the mean loss of its batch, not negative.

        Returns
        -------
        estimator
            Itself.

        Raises
        ------
        TypeError, ValueError
            If a parameter or the data is invalid, or with `warm_start` the classes or outputs
            differ from those of the last fit.
        FloatingPointError
            If the loss or the weights are not finite.
        KeyboardInterrupt
            If the user interrupts. The network is then as the last update left it, if an epoch was
            finished.

        Warns
        -----
        ConvergenceWarning
            If `max_iter` epochs were made and the loss still improved.
        """
        return self._fit(X, y, sample_weight, bool(self.warm_start))

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Go through some samples once, from where the last call stopped.

        Parameters
        ----------
        X, y, sample_weight
            As for `fit`.

        Returns
        -------
        estimator
            Itself.

        Raises
        ------
        TypeError, ValueError
            As `fit`, or with `early_stopping`.
        """
        return self._fit(X, y, sample_weight, True, epochs=1)

    @abstractmethod
    def _fit(
        self, x: Any, y: Any, sample_weight: Any, goes_on: bool, epochs: int | None = None
    ) -> Self:
        """Check the data and call `_train`.

        Parameters
        ----------
        x, y, sample_weight
            As the user gave them.
        goes_on : bool
            Whether to continue the last fit, if there was one.
        epochs : int, optional
            Of a `partial_fit`, which neither stops early nor warns.
        """

    def _begun(self, goes_on: bool, epochs: int | None) -> bool:
        """Check the parameters, and return whether there is a fit to go on with."""
        self._checked()
        if self.early_stopping and epochs is not None:
            raise ValueError(
                f"{type(self).__name__}: partial_fit does not support early_stopping=True, as it "
                "goes through the data once"
            )
        return goes_on and hasattr(self, "model_")

    # --- parameters -------------------------------------------------------------------------------

    def _checked(self) -> dict[str, Any]:
        """The arguments of the architecture; errors name the parameter that is invalid.

        Raises
        ------
        TypeError, ValueError
            If a parameter is invalid.
        """
        name = type(self).__name__
        sizes, rates = (
            given.tolist() if isinstance(given, np.ndarray) else given
            for given in (self.hidden_layer_sizes, self.rate)
        )
        if isinstance(sizes, str | bytes) or not isinstance(sizes, Iterable):
            sizes = (sizes,)
        widths = [check_integer(f"{name}: each of hidden_layer_sizes", n, 1) for n in sizes]
        if isinstance(rates, numbers.Real):
            rates = (rates,) * len(widths)
        elif isinstance(rates, str | bytes) or not isinstance(rates, Iterable):
            raise TypeError(
                f"{name}: rate must be a number, or one for each hidden layer, got {shown(rates)}"
            )
        rates = [check_number(f"{name}: rate", rate, "[0, 1]") for rate in rates]
        if len(rates) != len(widths):
            raise ValueError(
                f"{name}: rate must be a number, or one for each of the {len(widths)} hidden "
                f"layers, got {len(rates)}"
            )
        check_number(f"{name}: input_rate", self.input_rate, "[0, 1]")
        if self.max_norm is not None:
            check_number(f"{name}: max_norm", self.max_norm, "(0, inf)")
            if not widths:
                raise ValueError(
                    f"{name}: max_norm bounds the weights of hidden layers, and there are none: "
                    "leave it out"
                )
        choices = [*NAMES, *ACTIVATIONS]
        if self.activation not in choices:
            raise ValueError(
                f"{name}: activation must be {', '.join(map(repr, choices))}, got "
                f"{self.activation!r}"
            )
        if self.solver not in ("adam", "sgd"):
            hint = ""
            if self.solver == "lbfgs":
                hint = (
                    ", which compares losses along a line, and under dropout each of them is drawn "
                    "anew: use 'adam', or without dropout scikit-learn's own networks"
                )
            raise ValueError(f"{name}: solver must be 'adam' or 'sgd', got {self.solver!r}{hint}")
        if self.learning_rate not in RATES:
            raise ValueError(
                f"{name}: learning_rate must be {', '.join(map(repr, RATES))}, got "
                f"{self.learning_rate!r}; the number is learning_rate_init"
            )
        if self.learning_rate != "constant" and self.solver != "sgd":
            raise ValueError(
                f"{name}: learning_rate={self.learning_rate!r} is for solver='sgd', got "
                f"{self.solver!r}, whose steps adapt by themselves: leave learning_rate out"
            )
        if self.batch_size != "auto":
            check_integer(f"{name}: batch_size", self.batch_size, 1)
        for option, interval in (
            ("alpha", "[0, inf)"),
            ("learning_rate_init", "(0, inf)"),
            ("power_t", "[0, inf)"),
            ("tol", "[0, inf)"),
            ("momentum", "[0, 1)"),
            ("validation_fraction", "(0, 1)"),
            ("beta_1", "[0, 1)"),
            ("beta_2", "[0, 1)"),
            ("epsilon", "(0, inf)"),
        ):
            check_number(f"{name}: {option}", getattr(self, option), interval)
        check_integer(f"{name}: max_iter", self.max_iter, 1)
        if self.n_iter_no_change != math.inf:
            check_integer(f"{name}: n_iter_no_change", self.n_iter_no_change, 1)
        for option in ("shuffle", "warm_start", "nesterovs_momentum", "early_stopping"):
            check_bool(f"{name}: {option}", getattr(self, option))
        return {
            "widths": widths,
            "rate": rates,
            "input_rate": float(self.input_rate) or None,
            "max_norm": self.max_norm,
        }

    def _key_of(self, random_state: Any) -> Key:
        """The key for a `random_state`: that integer, or one that is drawn from it."""
        generator = check_random_state(random_state)
        if isinstance(random_state, numbers.Integral):
            return Key(int(random_state))
        return Key(int(generator.randint(1 << 31)))

    def _optimizer(self) -> Adam | SGD:
        if self.solver == "adam":
            return Adam(self.learning_rate_init, self.beta_1, self.beta_2, self.epsilon)
        nesterov = bool(self.nesterovs_momentum and self.momentum)
        return SGD(self.learning_rate_init, self.momentum, nesterov)

    # --- the network ------------------------------------------------------------------------------

    def _network(
        self, options: dict[str, Any], n_features: int, n_outputs: int, batch_size: int
    ) -> Sequential:
        """The network for the parameters of today, with the weights of the last fit if it goes on.

        Raises
        ------
        ValueError
            If it has weights of another shape.
        """
        strength = self.alpha / (2 * batch_size)
        wanted = (options, n_outputs, self.activation, strength)
        before: Sequential | None = getattr(self, "model_", None)
        if before is not None and self._network_of == wanted:
            return before
        widths = options["widths"]
        activation = NAMES.get(self.activation, self.activation)
        rest = {k: v for k, v in options.items() if k != "widths"}
        if activation is not None:
            rest["activation"] = activation
        if not widths:
            del rest["rate"]
        model: Sequential = self._architecture(widths, n_outputs, **rest)
        dense = [layer for layer in model.layers if isinstance(layer, Dense)]
        for layer in dense:
            # As in scikit-learn: few epochs are enough for small data. (Its biases are drawn too.)
            layer.initializer = "glorot_uniform"
            if strength:
                layer.regularizer = L2(strength)
        if activation is None:  # which an architecture refuses
            for layer in dense[:-1]:
                layer.activation = None
        if before is not None:
            shapes = {path: array.shape for path, array in before.params.items()}
            model.build((n_features,), key=0)
            if {path: array.shape for path, array in model.params.items()} != shapes:
                raise ValueError(
                    f"{type(self).__name__}: the fit goes on with the weights of the one before, "
                    f"and hidden_layer_sizes={self.hidden_layer_sizes!r} or input_rate="
                    f"{self.input_rate!r} needs others: set warm_start=False, or clone the "
                    "estimator"
                )
            model.load_params(before.params)
            model.training_state = before.training_state
        self._network_of = wanted
        return model

    def _train(
        self,
        x: Any,
        targets: Array,
        sample_weight: Array | None,
        *,
        loss: Any,
        goes_on: bool,
        epochs: int | None = None,
        metric: str = "",
        class_weight: Mapping[int, float] | Literal["balanced"] | None = None,
    ) -> Self:
        """Fit the network to checked arrays, and set the attributes that all estimators have.

        Parameters
        ----------
        x : ndarray or sparse array of float32
        targets : ndarray
        sample_weight : ndarray or None
        loss : str or Loss
        goes_on : bool
            Whether the fit continues the last one.
        epochs : int, optional
            Of a `partial_fit`, which neither stops early nor warns.
        metric : str
            That early stopping watches, such as "accuracy".
        class_weight
            As `dropcore.training.fit` takes it.
        """
        options = self._checked()
        if not goes_on:
            self.__dict__.pop("model_", None)
        samples, features = x.shape
        size = min(BATCH if self.batch_size == "auto" else int(self.batch_size), samples)
        model = self._network(options, features, self.n_outputs_, size)
        state = model.training_state
        key = self._key_of(self.random_state) if state is None or state.key is None else state.key
        callbacks = self._callbacks(metric, state, goes_on, epochs)
        if not model.built:
            model.build((features,), key=key)
        sparse = scipy.sparse.issparse(x)
        trained = over_rows(model, x) if sparse else model
        held_out = self.early_stopping and epochs is None
        if held_out:
            self._check_held_out(samples, 1 if metric == "accuracy" else 2)
        try:
            # Folds and encoded categories have such columns, and no estimator warns of them.
            with constant_columns_expected():
                fit(
                    trained,
                    np.arange(samples)[:, None] if sparse else x,
                    targets,
                    epochs=self.max_iter if epochs is None else epochs,
                    optimizer=self._optimizer(),
                    batch_size=size,
                    loss=loss,
                    key=key,
                    validation_split=self.validation_fraction if held_out else None,
                    metrics=(metric,) if held_out and metric != "accuracy" else (),
                    progress=False,
                    sample_weight=sample_weight,
                    class_weight=class_weight,
                    shuffle=self.shuffle,
                    callbacks=callbacks,
                )
        except KeyboardInterrupt:
            # What is finished can be used, and trained on.
            done = trained.training_state
            if done is not None and done.history.epochs:
                self._adopt(model, done, goes_on, metric if held_out else "")
            raise
        state = trained.training_state
        assert state is not None
        self._adopt(model, state, goes_on, metric if held_out else "")
        if epochs is None and not state.stopped:
            warnings.warn(
                f"{type(self).__name__}: max_iter={self.max_iter} epochs are done and the "
                f"{'validation score' if held_out else 'loss'} still improves: raise max_iter, or "
                "tol",
                ConvergenceWarning,
                stacklevel=users_level(),
            )
        return self

    def _check_held_out(self, samples: int, least: int) -> None:
        """ValueError unless `least` samples or more are held out for a score, and some are not."""
        count = round(samples * self.validation_fraction)
        if not least <= count < samples:
            raise ValueError(
                f"{type(self).__name__}: with early_stopping=True the validation set must have at "
                f"least {least} of the {samples} samples, and not all of them, and "
                f"validation_fraction={self.validation_fraction} gives it {count}: change that, or "
                "set early_stopping=False"
            )

    def _callbacks(
        self, metric: str, state: TrainingState | None, goes_on: bool, epochs: int | None
    ) -> list[Any]:
        """What ends the training, changes the learning rate and prints; `state` is from before."""
        monitor = f"val_{metric}" if self.early_stopping else "loss"
        patience, least = int(min(self.n_iter_no_change, sys.maxsize)), self.tol
        found: list[Any] = []
        adaptive = self.learning_rate == "adaptive"
        if epochs is None and (self.early_stopping or not adaptive):
            # An adaptive rate decides when training ends. The best weights are kept all the same.
            wait = sys.maxsize if adaptive else patience
            found.append(EarlyStopping(monitor, wait, least, restore_best=self.early_stopping))
        if adaptive:
            kept = None if state is None or epochs is None else state.callbacks.get("Adaptive")
            factor = 1.0 if state is None else state.learning_rate_factor
            rate = self.learning_rate_init
            found.append(Adaptive(monitor, patience, least, rate, factor, kept))
        elif self.learning_rate == "invscaling":
            found.append(InverseScaling(self.power_t, self.t_ if goes_on else 0))
        if self.verbose:
            found.append(_printing(self.n_iter_ if goes_on else 0))
        return found

    def _adopt(self, model: Sequential, state: TrainingState, goes_on: bool, score: str) -> None:
        """Take over a network that was trained, and set the attributes about its training."""
        model.training_state, self.model_ = state, model
        history = state.history
        losses = list(history["loss"])
        scores = list(history[f"val_{score}"]) if score else None
        if goes_on:
            losses = self.loss_curve_ + losses
            if scores is not None:
                scores = (self.validation_scores_ or []) + scores
        self.loss_curve_ = losses
        self.n_iter_ = len(losses)
        self.loss_ = losses[-1]
        seen = int(state.call["samples"]) * len(history["loss"])
        self.t_ = seen + (self.t_ if goes_on else 0)
        self.validation_scores_ = scores
        self.best_validation_score_ = max(scores) if scores else None
        self.best_loss_ = None if scores else min(losses)
        self.n_layers_ = 1 + len(self.coefs_)

    def _state(self) -> TrainingState:
        state = self.model_.training_state
        assert state is not None
        return state

    # --- what is learned --------------------------------------------------------------------------

    @property
    def coefs_(self) -> list[Array]:
        """The weights of the layers, (inputs, units) each: the network's own arrays."""
        return self._parameters("weight")

    @property
    def intercepts_(self) -> list[Array]:
        """The biases of the layers, (units,) each: the network's own arrays."""
        return self._parameters("bias")

    def _parameters(self, name: str) -> list[Array]:
        model = vars(self).get("model_")
        if model is None:  # scikit-learn asks for attributes with hasattr
            raise AttributeError(f"{type(self).__name__} has no weights before fit")
        return [a for path, a in model.params.items() if path.endswith(f".{name}")]

    # --- data and prediction ----------------------------------------------------------------------

    def _inputs(self, x: Any, y: Any = "no_validation", **options: Any) -> Any:
        """X, and y if it is given, as scikit-learn checks them: X as float32, sparse as CSR."""
        options = {"accept_sparse": "csr", "dtype": np.float32} | options
        # A number too large for float32 is an error, and no warning before.
        with np.errstate(over="ignore", invalid="ignore"):
            try:
                from sklearn.utils.validation import validate_data
            except ImportError:  # before scikit-learn 1.6
                found = self._validate_data(x, y, **options)
            else:
                found = validate_data(self, x, y, **options)
        checked, *rest = found if isinstance(found, tuple) else (found,)
        if scipy.sparse.issparse(checked):
            checked = scipy.sparse.csr_array(checked)
        return (checked, *rest) if rest else checked

    def _weights(self, sample_weight: Any, x: Any) -> Array | None:
        if sample_weight is None:
            return None
        found: Array = check_sample_weight(sample_weight, x, dtype=np.float64)
        if (found < 0).any():
            raise ValueError(f"sample_weight must not be negative, got {found.min()}")
        if not found.any():  # which older versions of scikit-learn let pass
            raise ValueError("sample_weight must not be all zero: no sample would count")
        return found

    def _outputs(self, x: Any, **sampling: Any) -> Array:
        """What the network gives for X, float64; with `key` and `samples` under dropout."""
        check_is_fitted(self)
        x = self._inputs(x, reset=False)
        found: Array
        if scipy.sparse.issparse(x):
            if sampling:  # which may make a batch dense
                sampling["batch_size"] = max(1, min(1024, ELEMENTS // x.shape[1]))
            rows = np.arange(x.shape[0])[:, None]
            found = predict(over_rows(self.model_, x), rows, **sampling)
        else:
            found = predict(self.model_, x, **sampling)
        return found.astype(np.float64)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _printing(before: int) -> Callable[[int, Mapping[str, float]], None]:
    """A callback that prints a line an epoch, as scikit-learn's networks do."""
    done = before

    def line(epoch: int, metrics: Mapping[str, float]) -> None:
        nonlocal done
        done += 1
        print(f"Iteration {done}, loss = {metrics['loss']:.8f}")
        for name in ("accuracy", "r2"):
            if f"val_{name}" in metrics:
                print(f"Validation score: {metrics[f'val_{name}']:.6f}")

    return line
