"""The examples of the gallery run, and what they say in words is what they find."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

from dropcore import Mask

pytest.importorskip("matplotlib")
pytest.importorskip("sklearn")

import matplotlib
import matplotlib.pyplot as plt

matplotlib.use("Agg")

GALLERY = Path(__file__).parents[2] / "docs" / "gallery"
EXAMPLES = {path.stem.removeprefix("plot_"): path for path in sorted(GALLERY.glob("*/plot_*.py"))}


def of_a_mask(found):
    rows, units = found["rows"], found["units"]
    drawn = {
        name: np.broadcast_to(mask.to_bool(), (rows, units))
        for name, mask in found["masks"].items()
    }
    assert (drawn["units"] == drawn["units"][0]).all()
    assert (drawn["samples"] == drawn["samples"][:, :1]).all()
    runs = drawn["runs of four units"].reshape(rows, -1, 4)
    assert (runs == runs[:, :, :1]).all()
    assert (drawn["elements"] != drawn["elements, the next step"]).any()
    assert np.array_equal(found["y"] != 0, drawn["units"])


def of_larger_keep(found):
    assert found["nested"]
    first, keeps = found["first"], found["keeps"]
    for keep in keeps:
        same = Mask(found["large"], keep=keep, key=3).to_bool()[first].mean()
        assert same == 1 if keep >= 0.3 else same == pytest.approx(keep / 0.3, abs=0.02)
        other = Mask(found["large"], keep=keep, key=4).to_bool()[first].mean()
        assert other == pytest.approx(keep, abs=0.02)


def of_shards(found):
    assert np.array_equal(found["together"], found["whole"].to_bool())
    assert np.array_equal(found["packed"], found["whole"].packed())
    assert all(start * found["units"] % 8 == 0 for start in found["cuts"])


def of_a_first_network(found):
    test = [
        model.evaluate(found["x_test"], found["labels_test"])["accuracy"]
        for model in found["models"].values()
    ]
    assert test[1] > test[0] + 0.02


def of_missing_pixels(found):
    plain, robust = map(np.array, found["accuracy"].values())
    assert plain[0] > robust[0]
    assert (robust[3:] > plain[3:] + 0.02).all()


def of_max_norm(found):
    free, bounded = (
        np.linalg.norm(model.params[found["layer"]].astype(np.float64), axis=0)
        for model in found["models"].values()
    )
    assert bounded.max() <= found["bound"] < free.min()
    norms = found["norms"]["without a bound"].mean[found["layer"]]
    assert norms[-1] > norms[0]


def of_dropconnect(found):
    assert np.abs(found["sums"].mean(axis=0) - found["mean"]).max() < 0.1
    assert np.abs(found["sums"].std(axis=0) - found["std"]).max() < 0.05
    on = (found["sums"][:, found["order"][found["at"]]] > 0).mean(axis=0)
    assert on[0] < 0.2
    assert on[1] == pytest.approx(0.5, abs=0.1)
    assert on[2] > 0.8
    assert found["mean"][found["order"][found["at"][1]]] < 0


def of_convolution(found):
    spatial = found["kinds"]["SpatialDropout2D"](found["maps"], key=11)
    dropped = (spatial == 0).all(axis=(0, 1, 2))
    kept = np.isclose(spatial, found["maps"] / 0.7).all(axis=(0, 1, 2))
    assert dropped.any()
    assert (dropped ^ kept).all()
    plain, dropped = (1 - np.array(run["val_accuracy"]) for run in found["runs"].values())
    assert plain[-1] > plain.min() + 0.03
    assert dropped[-1] < plain.min()


def of_recurrent(found):
    plain, dropped = found["histories"].values()
    assert plain["accuracy"][-1] == 1
    assert dropped["val_loss"][-1] < 0.8 * plain["val_loss"][-1]


def of_autoencoder(found):
    plain, dropped = (np.mean(values > 0) for values in found["activations"].values())
    assert dropped < 0.7 * plain
    plain, dropped = ((values > 0).mean(axis=0) for values in found["activations"].values())
    assert ((plain < 0.1) | (plain > 0.9)).mean() > 0.9
    assert ((dropped > 0.1) & (dropped < 0.9)).mean() > 0.5
    x = found["x_test"]
    plain, dropped = (model.evaluate(x, x)["loss"] for model in found["models"].values())
    assert dropped > plain


def of_rate(found):
    assert found["result"].compare(found["result"].best).mean > 0
    assert found["result"].kind == "flat"


def of_uncertainty(found):
    widths = (found["found"].upper - found["found"].lower)[:, 0]
    grid = found["grid"][:, 0]
    assert 0.8 < found["checked"].coverage(found["y"][found["held_out"]]) < 1
    assert widths[abs(grid) < 0.3].mean() > 2 * widths[(abs(grid) > 1) & (abs(grid) < 1.8)].mean()
    assert found["found"].upper[-1, 0] < np.sin(3 * grid[-1])


def of_calibration(found):
    errors = {
        name: found["uncertainty"].reliability(p, found["labels"][found["test"]]).ece
        for name, p in found["probabilities"].items()
    }
    plain, cooled, one, many = errors.values()
    assert max(cooled, one) < 0.5 * plain
    assert one < many
    sure = [p.max(axis=1).mean() for p in found["probabilities"].values()]
    assert sure[3] < sure[2]


def of_diagnosis(found):
    assert found["found"].findings[0].name == "overfitting"
    assert "Dropout(0.5)" in found["found"].advice[0]
    assert found["found"].train.metrics["accuracy"] > 0.99
    after, before = (found[name].validation.metrics["accuracy"] for name in ("after", "found"))
    assert after > before + 0.05
    assert "overfitting" not in [finding.name for finding in found["after"].findings]


def of_scikit_learn(found):
    table = found["table"]
    loss = -table.set_index(
        [
            "param_dropoutclassifier__hidden_layer_sizes",
            "param_dropoutclassifier__rate",
        ]
    )["mean_test_score"]
    assert loss[(8,), 0.75] > loss[(128,), 0.75]
    assert found["search"].best_estimator_.score(found["x_test"], found["y_test"]) > 0.9


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name):
    try:
        found = runpy.run_path(str(EXAMPLES[name]))
        assert plt.get_fignums()
        globals()[f"of_{name}"](found)
    finally:
        plt.close("all")


def test_every_example_has_a_title_and_a_place():
    assert len(EXAMPLES) == len(list(GALLERY.rglob("*.py")))
    for folder in {path.parent for path in EXAMPLES.values()} | {GALLERY}:
        assert (folder / "GALLERY_HEADER.rst").is_file()
    for path in EXAMPLES.values():
        assert re.match(r'"""\n(.+)\n(=+)\n\n', path.read_text("utf-8")), path.name
