"""Callbacks: what `fit` calls between updates and epochs.

==================  ==============================================================
`EarlyStopping`     ends training when a metric no longer improves
`ReduceOnPlateau`   lowers the learning rate when a metric no longer improves
`Checkpoint`        saves the model, so that a run can be resumed
`CSVLog`            writes the metrics of each epoch to a CSV file
`TensorBoard`       writes them to a folder for TensorBoard
`Callback`          the base class of one's own
==================  ==============================================================

They are given to `fit` in a list, ``fit(..., callbacks=[EarlyStopping(), Checkpoint(path)])``, in
any order: those that save the model are called last. The state of a callback is part of the
training state and is saved with the model, so that a resumed run (``fit(resume=True)``) makes the
same decisions as one that was never interrupted.
"""

from dropcore.training.callbacks._base import Callback, EpochEnd, Run
from dropcore.training.callbacks._checkpoint import Checkpoint
from dropcore.training.callbacks._csv_log import CSVLog
from dropcore.training.callbacks._early_stopping import EarlyStopping
from dropcore.training.callbacks._reduce_on_plateau import ReduceOnPlateau
from dropcore.training.callbacks._tensorboard import TensorBoard

__all__ = [
    "CSVLog",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "EpochEnd",
    "ReduceOnPlateau",
    "Run",
    "TensorBoard",
]
