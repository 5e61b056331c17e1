"""Networks with dropout as estimators of scikit-learn.

==========================  ===========================================================
`DropoutClassifier`         one class out of two or more, or several labels a sample
`DropoutRegressor`          one number or several, with their spread under dropout
`DropoutAutoencoder`        a transformer: the code of a denoising autoencoder
==========================  ===========================================================

Names and defaults of parameters are those of `sklearn.neural_network.MLPClassifier` where they
mean the same. The estimators work in pipelines, searches and ensembles, and pass the checks of
`sklearn.utils.estimator_checks`.

**random_state.** An integer s is the key ``dropcore.Key(s)`` of a fit: it decides initial weights,
the order of the samples, the split for early stopping and the masks, which are then those that a
network of `dropcore.nn` draws with this key. Two fits with the same integer give the same bits for
any number of threads. From a RandomState, or None, an integer is drawn in the same way.

**Initial weights** are drawn by Glorot's uniform rule, as in scikit-learn; biases begin at 0.

**dtype.** Networks are float32; X is converted. What is predicted is float64, and the code of
`DropoutAutoencoder` has the dtype of X.

**Sparse X.** A CSR array stays sparse: the first product of the classifier and the regressor reads
its stored elements, while training and in predictions, and other formats are converted to CSR. Only
where `input_rate` is above 0 and samples are drawn (`predict` with ``return_std=True``,
`DropoutRegressor.sample_y`), a batch of rows at a time becomes dense, of 64 MiB at most.

**The network.** ``model_`` is the `dropcore.nn.Sequential` of an estimator, with weights in place:
`dropcore.uncertainty`, `dropcore.diagnosis` and ``model_.save`` take it. Of a classifier its
outputs are logits, one for two classes.
"""

from __future__ import annotations

from dropcore._base.extras import require

require("sklearn", "sklearn", "dropcore.sklearn")

import dropcore.nn  # noqa: E402, F401
from dropcore.sklearn._estimators import (  # noqa: E402
    DropoutAutoencoder,
    DropoutClassifier,
    DropoutRegressor,
)

__all__ = ["DropoutAutoencoder", "DropoutClassifier", "DropoutRegressor"]
