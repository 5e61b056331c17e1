"""Diagnosis of trained models: measurements, and findings in words.

`diagnose` compares training with validation data, measures weights and activations, and returns a
`Diagnosis`. Its `findings` name what is probably wrong, with the evidence and what to do:

=========================== ========================================================================
"overfitting"               worse on validation data, and nothing regularises the model
"overfitting_with_dropout"  the same in spite of dropout, max-norm or weight penalties
"underfitting"              strong dropout and a poor score on the training data
"recurrent_too_small"       the same, where the dropout is that of a recurrent layer
"learning_rate_too_high"    the training loss rises, or rises and falls
"learning_rate_too_low"     the training loss was still falling at the end
"best_epoch_passed"         the validation loss was best long before the end
"dropout_after_last_layer"  outputs are dropped
"dropout_before_batch_norm" noise shifts the variances that BatchNorm has learned
"dead_units"                units that are zero for every sample
"max_norm_never_clips"      a bound that no norm has reached
"max_norm_clips_all"        a bound that holds nearly every unit of a model that learned little
"inputs_not_standardised"   inputs of large, or all of tiny, means and standard deviations
"unbalanced_classes"        a rare class that is often missed
=========================== ========================================================================

`NormHistory` is a callback that records the norms of weights in each epoch. `dropcore.plotting`
draws the measurements, and `dropcore.report` writes all of it to a page.
"""

import dropcore.nn  # noqa: F401
from dropcore.diagnosis._diagnose import diagnose
from dropcore.diagnosis._diagnosis import (
    ClassBalance,
    Diagnosis,
    Finding,
    Gap,
    InputScale,
    Score,
    VarianceShift,
)
from dropcore.diagnosis._measures import Activations, Features, WeightNorms
from dropcore.diagnosis._norm_history import NormHistory

__all__ = [
    "Activations",
    "ClassBalance",
    "Diagnosis",
    "Features",
    "Finding",
    "Gap",
    "InputScale",
    "NormHistory",
    "Score",
    "VarianceShift",
    "WeightNorms",
    "diagnose",
]
