"""Training: arrays in, a trained model and its history out.

==========  ============================================================
`loop`      fit, predict, evaluate
`data`      what is accepted as data, and batches in the model's dtype
`state`     where training stands: it goes on, or goes back
`diverged`  which layer is to blame for a loss that is not finite
`history`   History
==========  ============================================================
"""

from dropcore.training._state import TrainingState
from dropcore.training.history import History
from dropcore.training.loop import evaluate, fit, predict

__all__ = ["History", "TrainingState", "evaluate", "fit", "predict"]
