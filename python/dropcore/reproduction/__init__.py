"""Published experiments, repeated: what `dropcore reproduce` runs.

A script describes an `Experiment`: its rows, which are networks or settings to compare, with the
figures that were published, and a function that trains one row with one seed. The scripts of the
dropout papers are in ``examples/papers``, and installed with the package::

    from dropcore.reproduction import Experiment, Measure, Row

    def train(run):
        model = mlp([run.settings.units] * 2, 10, rate=run.settings.rate)
        model = run.fit(model, x, y, epochs=run.settings.epochs, optimizer="adam")
        return {"test error": 100 * (1 - model.evaluate(x_test, y_test)["accuracy"])}

    EXPERIMENT = Experiment(
        title="With dropout and without",
        paper="Hinton et al. 2012",
        rows=[Row("without", 1.6, rate=0.0), Row("dropout", 1.3, rate=0.5)],
        train=train,
        settings={"units": 800, "epochs": 100},
        quick={"units": 16, "epochs": 1},
    )

`reproduce` runs it. Each finished run is a line of a JSON Lines file, and a run that is stopped
continues from its last checkpoint.
"""

import dropcore.nn
import dropcore.plotting
import dropcore.training  # noqa: F401
from dropcore.reproduction._experiment import Experiment, Measure, Row
from dropcore.reproduction._pictures import COLORS, draw_curves, draw_rows, legend, styled
from dropcore.reproduction._records import Record, Results, read_results
from dropcore.reproduction._reproduce import reproduce
from dropcore.reproduction._scripts import load_script, script_names
from dropcore.reproduction._seeded_run import SeededRun

__all__ = [
    "COLORS",
    "Experiment",
    "Measure",
    "Record",
    "Results",
    "Row",
    "SeededRun",
    "draw_curves",
    "draw_rows",
    "legend",
    "load_script",
    "read_results",
    "reproduce",
    "script_names",
    "styled",
]
