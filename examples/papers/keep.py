"""How much to keep: the error against the probability of keeping a hidden unit.

Srivastava et al. 2014, figure 9. With n units in each layer for every p, the error is flat for
0.4 <= p <= 0.8. With p * n units kept on average the layers of a small p are wider, and the error
at p = 0.1 falls from 2.7 to 1.7 %.

The hidden layers are two of 768 units, or of 192 / p; the paper has three, of 2048, or of 256 / p
and 512 / p. Inputs are all kept, so that the error at p = 1 is that without dropout. Networks of a
small p are not fully trained here, after 14,070 updates.

The settings were chosen with seed 0 on digits that were held out. With 512 units, errors after 6
epochs of batches of 256 at p = 0.1, 0.5 and 1 are 9.2, 2.6 and 2.1 % for a learning rate of 0.04
and c = 2; 54, 2.6 and 2.1 % without a bound; and 37, 4.0 and 3.4 % for 0.01 without a bound.
"""

import numpy as np

from dropcore.reproduction import COLORS, Experiment, Measure, Row, legend, styled

from ._digits import digits, error, network, train

SHOWN = 0.1, 0.5, 1.0


def one(run):
    settings = run.settings
    data = digits(run)
    errors = []
    for p in settings.keep:
        n = {"n": settings.units, "p * n": round(settings.kept / p)}[settings.fixed]
        model, found = train(
            run,
            network([n] * settings.layers, input_keep=settings.input_keep, keep=p, c=settings.c),
            data,
            name=f"p-{p}",
            curve=None,
        )
        errors.append((found, error(model, *data[:2])))
    test, training = np.transpose(errors)
    run.add_curve("test error", settings.keep, test)
    run.add_curve("training error", settings.keep, training)
    return {f"p = {p}": test[settings.keep.index(p)] for p in SHOWN}


def draw(figure, results):
    figure.set_size_inches(8.4, 3.8)
    panels = figure.subplots(1, len(results.rows), sharey=True, squeeze=False)[0]
    for ax, row in zip(panels, results.rows):
        for name, colour in zip(("test error", "training error"), COLORS):
            p, mean, deviation = results.curve(row, name)
            styled(ax).errorbar(
                p, mean, yerr=np.nan_to_num(deviation), fmt="o-", markersize=4, capsize=3,
                color=colour, label=name,
            )  # fmt: skip
        published = results.experiment.published(row)["p = 0.1"]
        ax.plot(0.1, published, "D", mfc="none", color=COLORS[0], label="test error of the paper")
        ax.axvspan(
            0.4, 0.8, color=COLORS[2], alpha=0.12, linewidth=0, label="flat in the paper"
        )  # fmt: skip
        ax.set_title(row, loc="left", fontsize="medium")
        ax.set(xlabel="p, the probability of keeping a hidden unit", ylim=(0, None))
    panels[0].set_ylabel("error, %")
    legend(panels[0])


EXPERIMENT = Experiment(
    title="Error against the probability of keeping a hidden unit",
    paper="Srivastava et al. 2014, figure 9",
    rows=[
        Row("n fixed", {"p = 0.1": 2.7}, fixed="n"),
        Row("p * n fixed", {"p = 0.1": 1.7}, fixed="p * n"),
    ],
    train=one,
    draw=draw,
    measures=[Measure(f"p = {p}", "%") for p in SHOWN],
    settings={
        "keep": [0.1, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0], "layers": 2, "units": 768, "kept": 192,
        "fixed": "n", "input_keep": 1.0, "c": 2.0, "epochs": 30, "batch": 128,
        "learning_rate": 0.02, "momentum": 0.95, "samples": None,
    },
    quick={"keep": [0.1, 0.5, 1.0], "units": 16, "kept": 8, "epochs": 2, "samples": 500},
)  # fmt: skip
