"""Whether ``fit(resume=True)`` makes the updates to come as those before were made."""

from __future__ import annotations

from collections.abc import Mapping

from dropcore.key import Key
from dropcore.optim import Optimizer, kind_of
from dropcore.training.state import TrainingState

__all__ = ["check_call", "check_history", "check_key"]


def check_key(state: TrainingState, address: Key) -> None:
    """ValueError unless the epochs to come have the key of those before."""
    if state.step and state.key is not None and state.key != address:
        raise ValueError(
            "resume=True continues with the masks, the order of samples and the validation_split "
            f"of key={state.key}, got {address}: leave key out, or begin another run with "
            "resume=False"
        )


def check_history(state: TrainingState, measured: Mapping[str, bool]) -> None:
    """ValueError unless the epochs to come have the metrics of those before."""
    before = list(state.history)
    if before and before != list(measured):
        raise ValueError(
            "resume=True continues with the history, so metrics and validation data must be as "
            f"before: it has {', '.join(before)}, and the epochs to come have "
            f"{', '.join(measured)}; resume=False begins another history"
        )


def check_call(state: TrainingState, call: Mapping[str, str], optimizer: Optimizer) -> None:
    """ValueError unless the updates to come are made as those before."""
    if not state.step:
        return
    for name, now in call.items():
        then = state.call.get(name, now)
        if then != now:
            raise ValueError(
                f"resume=True continues the run, which ends with the same bits only with the "
                f"same {name} as before, {then}, got {now}; resume=False begins another run"
            )
    if not state.optimizer:
        raise ValueError(
            "resume=True continues with the state of the optimiser, and the model was saved "
            "without it, by save(optimizer=False): resume=False begins with a new optimiser"
        )
    if state.optimizer != kind_of(optimizer):
        raise ValueError(
            f"resume=True continues with the state of the optimiser {state.optimizer}, which made "
            f"the last update, got {kind_of(optimizer)}; resume=False begins with a new optimiser"
        )
