"""
A network in a pipeline of scikit-learn
=======================================

``DropoutClassifier`` is an estimator. It stands behind a scaler in a pipeline, and a search with
cross-validation chooses its rate and its width.
"""

# %%
# 569 tumours with 30 measurements each, of very different size.

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from dropcore.sklearn import DropoutClassifier

x, y = load_breast_cancer(return_X_y=True)
x_train, x_test, y_train, y_test = train_test_split(x, y, stratify=y, random_state=0)

pipeline = make_pipeline(
    StandardScaler(),
    DropoutClassifier(early_stopping=True, max_iter=100, random_state=0),
)
search = GridSearchCV(
    pipeline,
    {
        "dropoutclassifier__rate": [0.0, 0.25, 0.5, 0.75],
        "dropoutclassifier__hidden_layer_sizes": [(8,), (128,)],
    },
    scoring="neg_log_loss",
    cv=5,
)
search.fit(x_train, y_train)
print(search.best_params_)
print(f"accuracy on the test data: {search.best_estimator_.score(x_test, y_test):.3f}")

# %%
# What the search found: the log loss of the rows that were left out, with its standard deviation
# over the five folds.

import matplotlib.pyplot as plt
import pandas as pd

table = pd.DataFrame(search.cv_results_)
figure, ax = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
for (units, rows), shift in zip(
    table.groupby("param_dropoutclassifier__hidden_layer_sizes"), (-0.008, 0.008)
):
    ax.errorbar(
        rows["param_dropoutclassifier__rate"].astype(float) + shift,
        -rows["mean_test_score"],
        yerr=rows["std_test_score"],
        marker="o",
        capsize=3,
        label=f"{units[0]} hidden units",
    )
ax.set(xlabel="rate", ylabel="log loss, nats", ylim=(0, None))
ax.legend()
plt.show()

# %%
# A narrow layer has few units left at a high rate. A wide one has enough of them.
#
# :doc:`/adapters` says what differs from ``MLPClassifier``.
