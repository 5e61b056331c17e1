"""Training: fit a model to arrays or batches, evaluate it, and predict.

================  ======================================================
`_fit`            checks of what fit is given, and the loop over epochs
`_epochs`         the updates of an epoch
`_update`         one update: step
`_shared_update`  an update by several blocks of a batch, or several processes
`_means`          the loss of a batch, and the means of an epoch
`_inference`      predict, predict_proba, predict_labels, evaluate
`_data`           checks of data, and batches in the dtype of the model
`_sources`        batches of arrays, or from an iterable of batches
`_sets`           the training and the validation set, and weights of classes
`_labels`         labels in the user's words, and as numbers of outputs
`_resume`         whether a resumed run continues as it began
`_in_words`       a run in words, which tell two runs apart
`_choices`        optimisers by name, the loss where none is named
`_warnings`       models and data that are probably not meant
`_interrupts`     Ctrl-C waits for the end of an update
`_graphed_step`   updates recorded as a CUDA graph
`_measures`       metrics, from batches to a number
`_nonfinite`      the first layer whose numbers are not finite
`_progress`       the progress bar, or lines in a file
`callbacks`       EarlyStopping and others: what fit calls between updates and epochs
`metrics`         metrics by name, and Metric for one of one's own
`state`           TrainingState, and a snapshot to return to
`history`         History
================  ======================================================

Nothing here imports `dropcore.nn` at run time: models take `fit`, `predict` and `evaluate` from
here.
"""

import dropcore.distributed  # noqa: F401
from dropcore.training._fit import fit
from dropcore.training._inference import evaluate, predict, predict_labels, predict_proba
from dropcore.training._update import StepResult, step
from dropcore.training.callbacks import (
    Callback,
    Checkpoint,
    CSVLog,
    EarlyStopping,
    ReduceOnPlateau,
    Run,
    TensorBoard,
)
from dropcore.training.history import History
from dropcore.training.metrics import Metric
from dropcore.training.state import TrainingState

__all__ = [
    "CSVLog",
    "Callback",
    "Checkpoint",
    "EarlyStopping",
    "History",
    "Metric",
    "ReduceOnPlateau",
    "Run",
    "StepResult",
    "TensorBoard",
    "TrainingState",
    "evaluate",
    "fit",
    "predict",
    "predict_labels",
    "predict_proba",
    "step",
]
