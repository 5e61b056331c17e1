"""What `fit` calls between updates and epochs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dropcore._base.checks import check_number, shown
from dropcore.distributed._group import Alone
from dropcore.optim import Optimizer, scaled
from dropcore.training.history import History
from dropcore.training.state import TrainingState

if TYPE_CHECKING:
    from dropcore.nn.layer import Layer

__all__ = ["Callback", "EpochEnd", "Run"]

EpochEnd = Callable[[int, Mapping[str, float]], Any]
"""A function of the number of the epoch and its metrics."""


class Run:
    """A call of `fit`, as callbacks see it.

    Attributes
    ----------
    model : Layer
        Weights may be changed in place, and layers frozen.
    optimizer : Optimizer
        As given to `fit`, without `learning_rate_factor`.
    state : TrainingState
        That of the model.
    history : History
        All epochs so far.
    rank, ranks : int
        The number of this process, from 0, and how many train together: 0 and 1 without ``comm``.
    learning_rate_factor : float
        Factor of the learning rate from the next update on, also of that of a schedule and of an
        optimiser inside `Clip`. It is kept in ``state.learning_rate_factor``.
    """

    def __init__(
        self,
        model: Layer,
        optimizer: Optimizer,
        state: TrainingState,
        history: History,
        callbacks: list[Callback],
        use: Callable[[Optimizer], None],
        group: Alone,
    ) -> None:
        self.rank, self.ranks = group.rank, group.size
        self.model, self.optimizer, self.state, self.history = model, optimizer, state, history
        self._callbacks, self._use = _named(callbacks), use

    @property
    def learning_rate_factor(self) -> float:
        """Factor of the learning rate."""
        return self.state.learning_rate_factor

    @learning_rate_factor.setter
    def learning_rate_factor(self, factor: float) -> None:
        number = check_number("learning_rate_factor", factor, "(0, inf)")
        self._use(scaled(self.optimizer, number))
        self.state.learning_rate_factor = number

    def keep_callbacks(self) -> None:
        """Put the state of all callbacks into ``state.callbacks``.

        `fit` does so at its beginning and after each epoch. A callback that saves the model between
        two epochs does so first.
        """
        found = {name: callback.state() for name, callback in self._callbacks.items()}
        for name, kept in found.items():
            if not isinstance(kept, dict):
                raise TypeError(f"{name}: state() must return a dict, got {shown(kept)}")
        self.state.callbacks = {name: kept for name, kept in found.items() if kept}

    def restore_callbacks(self) -> None:
        """Give each callback the state that was kept of one of its class."""
        kept = self.state.callbacks
        for name, callback in self._callbacks.items():
            if name in kept:
                callback.restore(kept[name])


class Callback:
    """The base class of callbacks. A subclass overrides the methods that it needs.

    A callback that was used before begins anew in `on_fit_begin`. Where training is resumed
    (``fit(resume=True)``), `restore` is called next.
    """

    last: ClassVar[bool] = False
    """Whether it is called after all others: for callbacks that save the model."""

    writes_files: ClassVar[bool] = False
    """Whether all it does is to write files: where several processes train, only rank 0 calls it.

    Other callbacks are called on every rank, with the same metrics, and must change the model in
    the same way there.
    """

    def check(self, metrics: Mapping[str, bool]) -> None:
        """Called before anything is changed; raises an error if the callback cannot work.

        Parameters
        ----------
        metrics : dict of str to bool
            The names of the metrics that `on_epoch_end` will get, in their order, and whether
            higher is better.
        """

    def writes(self) -> Path | None:
        """The file that it writes, which no other callback of the call may; None if it has none."""
        return None

    def check_state(self, state: Mapping[str, Any]) -> None:
        """Called before a resumed run; raises an error if `restore` cannot continue.

        Nothing has been changed yet.

        Parameters
        ----------
        state : dict
            What `state` returned.
        """

    def on_fit_begin(self, run: Run) -> None:
        """Called once the model is built, before the first update.

        Parameters
        ----------
        run : Run
            The call of `fit`.
        """

    def on_update_end(self, run: Run) -> None:
        """Called after each update.

        Parameters
        ----------
        run : Run
            The call of `fit`.
        """

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> bool | None:
        """Called after each epoch.

        Parameters
        ----------
        run : Run
        epoch : int
            Its number, from 1.
        metrics : dict of str to float
            A copy of the metrics of the epoch in the history.

        Returns
        -------
        bool or None
            Whether training stops.
        """
        return None

    def on_fit_end(self, run: Run) -> None:
        """Called at the end, also after Ctrl-C, which waits for it; not after other errors.

        Parameters
        ----------
        run : Run
            The call of `fit`.
        """

    def state(self) -> dict[str, Any]:
        """State for a resumed run: numbers, strings, None, arrays, lists and dicts of these.

        Returns
        -------
        dict
            By names of your own.
        """
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned.

        Parameters
        ----------
        state : dict
            As it was returned.
        """


class FunctionCallback(Callback):
    """Calls a function of (epoch, metrics) after each epoch."""

    def __init__(self, function: EpochEnd) -> None:
        self._function = function

    def on_epoch_end(self, run: Run, epoch: int, metrics: dict[str, float]) -> bool:
        return bool(self._function(epoch, metrics))


def callbacks_of(given: Any) -> list[Callback]:
    """Callbacks in the order in which they are called.

    Raises
    ------
    TypeError
        If it is not a list or tuple of callbacks and functions.
    ValueError
        If it holds an object twice.
    """
    if not isinstance(given, list | tuple):
        one = callable(given) or isinstance(given, Callback)
        raise TypeError(
            "callbacks must be a list of callbacks and functions of (epoch, metrics), got "
            f"{shown(given)}{'; put it into a list' if one else ''}"
        )
    found: list[Callback] = []
    for callback in given:
        if isinstance(callback, Callback):
            if any(callback is other for other in found):
                raise ValueError(
                    f"callbacks must hold each object once, got {shown(callback)} twice: it counts "
                    "epochs, and would count each of them twice"
                )
            found.append(callback)
        elif callable(callback) and not isinstance(callback, type):
            found.append(FunctionCallback(callback))
        else:
            raise TypeError(
                "callbacks must hold objects such as EarlyStopping(), or functions of (epoch, "
                f"metrics), got {shown(callback)}"
            )
    return sorted(found, key=lambda callback: callback.last)


def check_files(callbacks: list[Callback]) -> None:
    """ValueError if two callbacks write the same file."""
    owners: dict[Path, str] = {}
    for name, callback in _named(callbacks).items():
        path = callback.writes()
        if path is None:
            continue
        other = owners.setdefault(path.resolve(), name)
        if other != name:
            raise ValueError(
                f"callbacks: {other} and {name} would overwrite each other's file {path}: give "
                "each a path of its own"
            )


def check_kept(kept: Mapping[str, Mapping[str, Any]], callbacks: list[Callback]) -> None:
    """ValueError unless each callback with kept state is there again and can continue from it."""
    named = _named(callbacks)
    missing = [name for name in kept if name not in named]
    if missing:
        raise ValueError(
            "resume=True continues with the callbacks of the run, and there is no "
            f"{' and no '.join(missing)}: give the same callbacks as before, or begin another run "
            "with resume=False"
        )
    for name, state in kept.items():
        named[name].check_state(state)


def overrides(callback: Callback, method: str) -> bool:
    """Whether the class of a callback has a method of its own of that name."""
    return getattr(type(callback), method) is not getattr(Callback, method)


def _named(callbacks: list[Callback]) -> dict[str, Callback]:
    """The callbacks by their class; a second one of a class is numbered."""
    found: dict[str, Callback] = {}
    for callback in callbacks:
        kind = type(callback).__name__
        number = sum(type(other).__name__ == kind for other in found.values())
        found[f"{kind} {number + 1}" if number else kind] = callback
    return found
