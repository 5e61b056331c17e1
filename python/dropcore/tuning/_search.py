"""Bayesian search through Optuna."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any, Final

from dropcore._base.checks import check_integer, check_number, shown
from dropcore._base.extras import require
from dropcore._base.generators import DATA, generator
from dropcore.key import Key, as_key
from dropcore.nn import Model
from dropcore.training.metrics import Metric
from dropcore.tuning._experiment import (
    Experiment,
    Split,
    checked_experiment,
    fingerprint_of,
    holdout_of,
    key_of_fold,
    splits_of,
)
from dropcore.tuning._parallel import jobs_of
from dropcore.tuning._progress import Bar

__all__ = ["Search", "search"]

Build = Callable[[Any], Any]
_NAME: Final = "dropcore"
_SUFFIXES: Final = {
    ".db": "sqlite", ".sqlite": "sqlite", ".sqlite3": "sqlite",
    ".log": "journal", ".journal": "journal",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Search:
    """The trials of a search, and the best one.

    Attributes
    ----------
    best_params : dict
        The parameters of the best trial, by name.
    best_value : float
        Its score on samples that it was not trained on. The best of many scores is optimistic: for
        an unbiased one, evaluate `best_model` on a test set that `search` was not given.
    metric : str
    higher_is_better : bool
    study : optuna.study.Study
        For Optuna's own plots and importances.
    """

    best_params: dict[str, Any]
    best_value: float
    metric: str
    higher_is_better: bool
    study: Any
    _build: Build = field(repr=False)
    _experiment: Experiment = field(repr=False)
    _key: Key = field(repr=False)

    def best_model(self, **changes: Any) -> Model:
        """A model with the best parameters, trained on all samples.

        Parameters
        ----------
        **changes
            Arguments of `fit` that replace those of the search, such as ``epochs=100``, or
            ``callbacks=()`` where those of the search need validation data.

        Returns
        -------
        Model
            A new one.
        """
        optuna = require("optuna", "tune", "best_model")
        trial = optuna.trial.FixedTrial(self.best_params)
        model, options = _built(self._build, trial, {})
        self._experiment.train(model, None, self._key, **options | changes)
        return model

    def table(self) -> Any:
        """A data frame with a row for each trial: number, value, parameters, state, duration.

        Returns
        -------
        pandas.DataFrame
            In the order of the trials.

        Raises
        ------
        ImportError
            If pandas is missing.
        """
        require("pandas", "tables", "a table of trials")
        return self.study.trials_dataframe(("number", "value", "params", "state", "duration"))

    def importance(self) -> dict[str, float]:
        """Importance of each parameter that all trials have, largest first.

        It is the explained fraction of the variance of the score, by Optuna's functional ANOVA.

        Returns
        -------
        dict of str to float
            They sum to 1.

        Raises
        ------
        ValueError
            If fewer than two trials were trained to their end.
        """
        optuna = require("optuna", "tune", "importance")
        finished = self.study.get_trials(False, (optuna.trial.TrialState.COMPLETE,))
        if len(finished) < 2:
            raise ValueError(
                f"importance: at least two finished trials are needed, got {len(finished)}"
            )
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        found = optuna.importance.get_param_importances(self.study, evaluator=evaluator)
        return {name: float(share) for name, share in found.items()}

    def __str__(self) -> str:
        states = [trial.state.name for trial in self.study.get_trials(False)]
        chosen = ", ".join(f"{name} {_short(value)}" for name, value in self.best_params.items())
        pruned = states.count("PRUNED")
        return (
            f"Best of {states.count('COMPLETE') + pruned} trials ({pruned} pruned): {self.metric} "
            f"{self.best_value:.4g}\n{chosen}"
        )


def search(
    build: Build,
    x: Any,
    y: Any,
    *,
    n_trials: int = 50,
    timeout: float | None = None,
    validation: float | None = None,
    folds: Any = None,
    metric: str | Metric | None = None,
    sampler: Any = "tpe",
    pruner: Any = "median",
    start: Mapping[str, Any] | None = None,
    storage: Any = None,
    key: Key | int = 0,
    n_jobs: int | None = None,
    progress: bool | None = None,
    **fit_options: Any,
) -> Search:
    """Search rates, widths and whatever else `build` chooses, by Bayesian optimisation.

    All trials train on the same samples in the same order, and are scored on the same others.
    The score is reported after each epoch, and a trial that falls behind is pruned.

    Parameters
    ----------
    build : callable
        ``build(trial)`` asks an Optuna trial for choices, as in
        ``trial.suggest_float("rate", 0.0, 0.8)``, and returns a new model, or a model and a dict of
        arguments for `fit`, such as ``{"optimizer": Adam(learning_rate)}``. `MLPSpace` is one.
    x, y : array_like or table, shape (samples, ...)
        As for `fit`. Keep a test set apart.
    n_trials : int, default 50
        Total number of trials, including those already in `storage`; pruned ones count.
    timeout : float, optional
        Seconds after which no further round of trials begins.
    validation : float, default 0.2
        Fraction of the samples that trials are scored on, stratified for classes.
    folds : int, splitter or iterable of (train, test), optional
        Cross-validation instead, as in `sensitivity`: more reliable with few samples, at the cost
        of a training for each fold. A trial may be pruned after an epoch of any fold.
    metric : str or Metric, optional
        As in `sensitivity`.
    sampler : str or optuna.samplers.BaseSampler, default "tpe"
        "tpe", "gp" (Gaussian process, which needs PyTorch) or "random", seeded by the key; or an
        object of Optuna, which is used as it is.
    pruner : str, optuna.pruners.BasePruner or None, default "median"
        "median", "hyperband", an object of Optuna, or None.
    start : dict, optional
        Parameters of the first trial, by their names, such as settings that are known to work:
        the result is then at least as good, by the score of the trials. Those that are missing are
        chosen as in other trials.
    storage : str, path or optuna.storages.BaseStorage, optional
        Where trials are kept, so that a stopped search can be resumed: a file that ends in .db
        (SQLite) or .log (Optuna's journal, the faster one), or a URL such as ``"mysql://..."``. By
        default they are kept in memory. Only this process uses it, and one search at a time.
    key : Key or int, default 0
    n_jobs : int, optional
        Trials at a time, as in `sensitivity`, also on a Dask cluster. They are chosen in rounds:
        each `n_jobs` trials learn from the rounds before theirs, and are pruned by comparison with
        those. The result depends on `n_jobs`, and neither on timing nor on where trials are
        trained. Make `n_trials` several times as large.
    progress : bool, optional
        Whether to show a progress bar; by default on a terminal and in a notebook.
    **fit_options
        Arguments of `fit`: `epochs`, which is required, ...

    Returns
    -------
    Search

    Raises
    ------
    TypeError, ValueError
        If an argument is invalid, or `storage` holds a search on other data or with other options.
    ConnectionError, ImportError
        As in `sensitivity`.
    FloatingPointError
        If training diverged in every trial.
    KeyboardInterrupt
        If the user interrupts. Finished trials are in `storage`, and those that were begun are
        trained again, with the same parameters, when the search goes on.

    References
    ----------
    Akiba, Sano, Yanase, Ohta and Koyama 2019, "Optuna: a next-generation hyperparameter
    optimization framework"; Bergstra, Bardenet, Bengio and Kégl 2011, "Algorithms for
    hyper-parameter optimization" (TPE); Dahl, Sainath and Hinton 2013.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from dropcore.tuning import MLPSpace
    >>> x, y = load_iris(return_X_y=True)
    >>> result = search(
    ...     MLPSpace(3, units=16, depth=1), x, y, n_trials=2, epochs=2,
    ...     loss="softmax_cross_entropy", progress=False,
    ... )
    >>> sorted(result.best_params)[:3]
    ['activation', 'bounded', 'input_dropout']
    """
    optuna = require("optuna", "tune", "search")
    if isinstance(build, Model) or not callable(build):
        raise TypeError(
            "search: build must be a function of an Optuna trial that returns a new model, such as "
            f"MLPSpace(10), got {shown(build)}"
        )
    n_trials = check_integer("search: n_trials", n_trials, 1)
    if start is not None and not (isinstance(start, Mapping) and all(map(_is_name, start))):
        raise TypeError(
            "search: start must be a dict of parameters by name, such as {'learning_rate': 1e-3}, "
            f"got {shown(start)}"
        )
    deadline = math.inf
    if timeout is not None:
        deadline = monotonic() + check_number("search: timeout", timeout, "(0, inf)")
    address = as_key(key)
    if "validation_split" in fit_options:
        raise TypeError("search: write validation=, or folds=, instead of validation_split")
    experiment = checked_experiment("search", x, y, fit_options, metric)
    n, loss = len(experiment.x), experiment.options.get("loss")
    if folds is None:
        fraction = check_number(
            "search: validation", 0.2 if validation is None else validation, "(0, 1)"
        )
        splits = holdout_of("search", experiment.y, n, fraction, loss, address)
    elif validation is not None:
        raise ValueError("search: give validation or folds, not both")
    else:
        splits = splits_of("search", experiment.y, n, folds, loss, address)
    make_sampler = _sampler_of(optuna, sampler, address)
    trim = _pruner_of(optuna, pruner, check_integer("search: epochs", fit_options["epochs"], 1),
                      len(splits))  # fmt: skip
    # A trial of no study, which says how a model is built.
    with _quiet(optuna):
        drafts = optuna.create_study(sampler=_random(optuna, address))
        if start is not None:
            drafts.enqueue_trial(dict(start))
        draft = drafts.ask()
    model, changes = _built(build, draft, experiment.options)
    for name, value in (start or {}).items():
        if name not in draft.params or draft.params[name] != value:
            raise ValueError(
                f"search: start has {name}={shown(value)}, which build does not choose: it asks "
                f"for {', '.join(draft.params)}, each in its own range"
            )
    options = experiment.options
    experiment = experiment.probed(model, splits[0], address, **changes)
    name, higher = experiment.metric_name, experiment.higher_is_better
    identity = {
        "x": fingerprint_of(experiment.x),
        "y": fingerprint_of(experiment.y),
        "rows to train on": fingerprint_of(splits),
        "options of fit": fingerprint_of(options),
        "metric": name,
        "key": str(address),
        "start": fingerprint_of(start),
    }
    with _quiet(optuna):
        kept, study = _opened(optuna, storage, higher, identity)
        if start is not None and not study.get_trials(False):
            study.enqueue_trial(dict(start))
        study.pruner = trim  # Hyperband also says which trials a sampler looks at
        shared = _Trials(build, experiment, splits, address, trim)
        jobs = jobs_of("search", _train, shared, n_jobs, modules=("optuna",))
        rounds = _Rounds(optuna, study, kept, make_sampler, n_trials, jobs.together)
        with Bar("search", max(n_trials - rounds.finished, 0), progress) as bar:
            while not rounds.ended and monotonic() < deadline:
                chosen = rounds.choose(lambda trial: _built(build, trial, options))
                with closing(jobs.run(chosen)) as results:
                    for trained in results:
                        rounds.keep(trained)
                        bar.update(_note(study, name))
    complete = study.get_trials(False, (optuna.trial.TrialState.COMPLETE,))
    if not complete:
        raise FloatingPointError(
            f"search: none of {len(study.trials)} trials was trained to its end: "
            + next((t.user_attrs["diverged"] for t in study.trials if "diverged" in t.user_attrs),
                   "give a longer timeout")
        )  # fmt: skip
    best = study.best_trial
    return Search(
        dict(best.params), float(best.value), name, higher, study, build, experiment, address
    )


# --- trials --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trials:
    """How a trial is trained and scored, with parameters that were chosen before."""

    build: Build
    experiment: Experiment
    splits: list[Split]
    key: Key
    pruner: Any

    def trained(self, chosen: Any, before: Sequence[Any]) -> Any:
        """A trial with its reports, value and state.

        Parameters
        ----------
        chosen : optuna.trial.FrozenTrial
            With parameters.
        before : sequence of optuna.trial.FrozenTrial
            The trials with smaller numbers, as they were when this one was chosen: the pruner
            compares with them.
        """
        optuna = require("optuna", "tune", "search")
        optuna.logging.set_verbosity(optuna.logging.ERROR)  # also in a worker
        higher = self.experiment.higher_is_better
        # A study of its own: what the pruner sees then does not depend on what other trials do
        # meanwhile, and the storage is needed in one process only.
        study = optuna.create_study(
            study_name=_NAME,
            direction="maximize" if higher else "minimize",
            sampler=_random(optuna, self.key),
            pruner=self.pruner,
        )
        study.add_trials(before)
        study.enqueue_trial(chosen.params)
        study.optimize(partial(self._score, optuna), n_trials=1)
        return study.trials[chosen.number]

    def _score(self, optuna: Any, trial: Any) -> float:
        """The mean score of the folds; TrialPruned if the trial falls behind or diverges."""
        scores: list[float] = []
        for fold, (train, test) in enumerate(self.splits):
            model, options = _built(self.build, trial, self.experiment.options)
            epochs = self.experiment.options["epochs"]
            before, last = fold * epochs, len(self.splits) * epochs
            report = _Report(trial, self.experiment.metric_name, scores, before, last)
            try:
                self.experiment.train(
                    model, train, key_of_fold(self.key, fold), test=test, report=report, **options
                )
                score = self.experiment.score(model, test)
            except FloatingPointError as error:
                trial.set_user_attr("diverged", str(error))
                raise optuna.TrialPruned from error
            if report.pruned:
                raise optuna.TrialPruned
            if not math.isfinite(score):
                trial.set_user_attr("diverged", f"the score is {score}")
                raise optuna.TrialPruned
            scores.append(score)
        return sum(scores) / len(scores)


@dataclass
class _Report:
    """What `fit` calls after each epoch: reports the mean of the folds so far to Optuna."""

    trial: Any
    metric: str
    scores: list[float]
    before: int
    last: int
    pruned: bool = False

    def __call__(self, epoch: int, metrics: Mapping[str, float]) -> bool:
        found = metrics[f"val_{self.metric}"]
        if math.isfinite(found):
            mean = (sum(self.scores) + found) / (len(self.scores) + 1)
            self.trial.report(mean, self.before + epoch)
            # At the end nothing is left to be saved.
            self.pruned = self.before + epoch < self.last and bool(self.trial.should_prune())
        return self.pruned


def _is_name(name: Any) -> bool:
    return isinstance(name, str)


def _train(trials: _Trials, chosen: Any, before: Sequence[Any]) -> Any:
    return trials.trained(chosen, before)


def _built(build: Build, trial: Any, options: Mapping[str, Any]) -> tuple[Model, dict[str, Any]]:
    """A new model for a trial, and the arguments of `fit` that come with it."""
    found = build(trial)
    model, more = found if isinstance(found, tuple) and len(found) == 2 else (found, {})
    if not isinstance(model, Model) or not isinstance(more, Mapping):
        raise TypeError(
            "search: build must return a model, or a model and a dict of arguments of fit, got "
            f"{shown(found)}"
        )
    if model.training_state is not None:
        raise ValueError(
            "search: build must return a new model each time, and this one has been trained"
        )
    both = sorted(more.keys() & options.keys())
    if both:
        raise ValueError(
            f"search: build chooses {', '.join(both)} for each trial: leave it out of the "
            "arguments of search"
        )
    return model, dict(more)


@dataclass
class _Rounds:
    """Chooses trials round by round, and keeps their results in the study.

    A round has as many trials as there are jobs at a time, and learns from the rounds before it.
    All its trials are chosen before the first is trained: the choices do not depend on which trial
    is finished first, nor on where it is trained.

    Parameters
    ----------
    optuna : module
    study : optuna.study.Study
    storage : optuna.storages.BaseStorage
        Of the study.
    make_sampler : callable
        Makes the sampler for the trial of a number.
    n_trials : int
    together : int
        Trials of a round.
    """

    optuna: Any
    study: Any
    storage: Any
    make_sampler: Callable[[int], Any]
    n_trials: int
    together: int
    exhausted: bool = False

    @property
    def finished(self) -> int:
        """The number of trials that were trained to the end or pruned."""
        states = self.optuna.trial.TrialState
        return len(self.study.get_trials(False, (states.COMPLETE, states.PRUNED)))

    @property
    def ended(self) -> bool:
        """Whether no trial is left, or the sampler has tried everything."""
        return self.exhausted or self.finished >= self.n_trials

    def choose(self, build: Callable[[Any], Any]) -> list[tuple[Any, list[Any]]]:
        """The trials of the next round, each with those before it.

        Trials of a round that was interrupted come first, with the parameters that they had.
        """
        states = self.optuna.trial.TrialState
        known = self.study.get_trials(False)
        left = {t.number: t.state for t in known if t.state in (states.RUNNING, states.WAITING)}
        first = min(left, default=len(known))
        begin = first // self.together * self.together
        numbers = [
            number
            for number in range(first, begin + self.together)
            if number in left or number >= len(known)
        ][: self.n_trials - self.finished]
        for number in numbers:
            self.study.sampler = self.make_sampler(number)
            if left.get(number) == states.RUNNING:
                before = known[:begin] + [self._begun(t) for t in known[begin:number]]
                self._complete(known[number], before, build)
                build(self.optuna.trial.Trial(self.study, self._id(number)))
            else:
                build(self.study.ask())
        trials = self.study.get_trials(False)
        return [
            (trials[number], trials[:begin] + [self._begun(t) for t in trials[begin:number]])
            for number in numbers
        ]

    def _complete(self, trial: Any, before: Sequence[Any], build: Callable[[Any], Any]) -> None:
        """Suggest what a trial lacks if it was interrupted between two suggestions.

        A sampler draws one parameter after the other. All of them are therefore drawn again, in a
        study of its own, where none is known yet.
        """
        drafts = self.optuna.create_study(
            directions=self.study.directions, sampler=self.study.sampler
        )
        drafts.add_trials(before)
        drafts.add_trial(
            self.optuna.trial.create_trial(
                state=self.optuna.trial.TrialState.WAITING, system_attrs=trial.system_attrs
            )
        )
        draft = drafts.ask()
        build(draft)
        for name, distribution in draft.distributions.items():
            if name not in trial.params:
                value = distribution.to_internal_repr(draft.params[name])
                self.storage.set_trial_param(self._id(trial.number), name, value, distribution)

    def keep(self, trained: Any) -> None:
        """Write the reports, the value and the state of a trial to the study."""
        storage, number = self.storage, self._id(trained.number)
        for step, value in trained.intermediate_values.items():
            storage.set_trial_intermediate_value(number, step, value)
        for name, value in trained.user_attrs.items():
            storage.set_trial_user_attr(number, name, value)
        for name, value in trained.system_attrs.items():
            if name != "fixed_params":
                storage.set_trial_system_attr(number, name, value)
        complete = trained.state == self.optuna.trial.TrialState.COMPLETE
        try:
            self.study.tell(trained.number, trained.value if complete else None, trained.state)
        except RuntimeError as error:
            # The sampler of a grid says so when all of it was tried; the trial is kept.
            if "Study.stop" not in str(error):
                raise
            self.exhausted = True

    def _id(self, number: int) -> int:
        study = self.storage.get_study_id_from_name(self.study.study_name)
        found: int = self.storage.get_trial_id_from_study_id_trial_number(study, number)
        return found

    def _begun(self, trial: Any) -> Any:
        """A trial of the same round as it was when the round began."""
        return self.optuna.trial.create_trial(
            state=self.optuna.trial.TrialState.RUNNING,
            params=trial.params,
            distributions=trial.distributions,
        )


# --- Optuna --------------------------------------------------------------------------------------


def _sampler_of(optuna: Any, sampler: Any, key: Key) -> Callable[[int], Any]:
    """Makes the sampler of a trial from its index.

    Each trial has a sampler of its own, seeded by its index: a resumed search then chooses
    what it would have chosen without the interruption.
    """
    samplers = optuna.samplers
    if isinstance(sampler, samplers.BaseSampler):
        return lambda index: sampler
    kinds = {
        "tpe": samplers.TPESampler,
        "gp": samplers.GPSampler,
        "random": samplers.RandomSampler,
    }
    if not isinstance(sampler, str) or sampler not in kinds:
        raise ValueError(
            "search: sampler must be 'tpe', 'gp', 'random', or an object of optuna.samplers, got "
            f"{shown(sampler)}"
        )
    return partial(_seeded, kinds[sampler], key)


def _seeded(kind: Callable[..., Any], key: Key, index: int) -> Any:
    return kind(seed=int(generator(key, DATA, index + 1).integers(1 << 32)))


def _random(optuna: Any, key: Key) -> Any:
    return _seeded(optuna.samplers.RandomSampler, key, 0)


def _pruner_of(optuna: Any, pruner: Any, epochs: int, folds: int) -> Any:
    """The pruner of that name for so many reports."""
    pruners, reports = optuna.pruners, epochs * folds
    if isinstance(pruner, pruners.BasePruner):
        return pruner
    if pruner is None:
        return pruners.NopPruner()
    if pruner == "median":
        return pruners.MedianPruner(n_startup_trials=5, n_warmup_steps=max(1, epochs // 5))
    if pruner == "hyperband":
        return pruners.HyperbandPruner(min_resource=max(1, reports // 9), max_resource=reports)
    raise ValueError(
        "search: pruner must be 'median', 'hyperband', None, or an object of optuna.pruners, got "
        f"{shown(pruner)}"
    )


def _storage_of(optuna: Any, storage: Any) -> Any:
    """The storage for a file or an URL."""
    storages = optuna.storages
    if storage is None:
        return storages.InMemoryStorage()
    if isinstance(storage, storages.BaseStorage):
        return storage
    if isinstance(storage, str) and "://" in storage:
        return storages.RDBStorage(storage)
    kind = _SUFFIXES.get(Path(storage).suffix.lower()) if isinstance(storage, str | Path) else None
    if kind is None:
        raise ValueError(
            f"search: storage must be a file that ends in {', '.join(_SUFFIXES)}, a URL such as "
            f"sqlite:///trials.db, or an object of optuna.storages, got {shown(storage)}"
        )
    path = Path(storage)
    if not path.parent.is_dir():
        raise FileNotFoundError(f"search: there is no folder {path.parent}: create it first")
    if kind == "sqlite":
        return storages.RDBStorage(f"sqlite:///{path.resolve()}")
    return storages.JournalStorage(storages.journal.JournalFileBackend(str(path)))


def _opened(optuna: Any, storage: Any, higher: bool, experiment: dict[str, str]) -> tuple[Any, Any]:
    """The storage, and the study in it; ValueError if it holds something else."""
    try:
        kept = _storage_of(optuna, storage)
        return kept, _study_of(optuna, kept, higher, experiment)
    except Exception as error:
        # What libraries raise for a file that is no database, or no journal.
        if type(error).__module__.partition(".")[0] not in ("sqlalchemy", "sqlite3", "json"):
            raise
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"search: storage={str(storage)!r} cannot be read as the trials of a search: {reason}; "
            "name another file, or delete it"
        ) from error


def _study_of(optuna: Any, storage: Any, higher: bool, experiment: dict[str, str]) -> Any:
    """The study in a storage; ValueError if it is of another experiment."""
    study = optuna.create_study(
        study_name=_NAME,
        storage=storage,
        direction="maximize" if higher else "minimize",
        load_if_exists=True,
    )
    known = study.user_attrs.get("experiment")
    if known is None:
        study.set_user_attr("experiment", experiment)
    elif known != experiment:
        differ = [name for name, value in experiment.items() if known.get(name) != value]
        raise ValueError(
            f"search: storage holds a search of another experiment, which differs in "
            f"{', '.join(differ)}: name another file, or delete it"
        )
    return study


def _finished(optuna: Any, study: Any) -> list[Any]:
    """The trials that count: trained to the end or pruned."""
    states = optuna.trial.TrialState
    found: list[Any] = study.get_trials(False, (states.COMPLETE, states.PRUNED))
    return found


@contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's messages about each study and trial."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def _note(study: Any, metric: str) -> str:
    """The best score so far."""
    try:
        return f"best {metric} {study.best_value:.4g}"
    except ValueError:  # no trial was trained to its end yet
        return ""


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
