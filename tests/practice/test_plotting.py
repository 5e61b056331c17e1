"""Pictures show the numbers that they were given, on the axes that they were given."""

import io
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib")

from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402

from dropcore import plotting  # noqa: E402
from dropcore.diagnosis import Activations, Features, NormHistory, WeightNorms  # noqa: E402
from dropcore.training import History  # noqa: E402

KEEPS = np.array([1.0, 0.75, 0.5, 0.25])


def history():
    found = History()
    for epoch, (loss, held_out) in enumerate([(2.0, 1.5), (1.0, 0.75), (0.5, 1.25)], start=4):
        found.append(epoch, {"loss": loss, "val_loss": held_out, "val_accuracy": 1 - held_out / 2,
                             "own": loss, "val_own": held_out, "seconds": 0.1})  # fmt: skip
    return found


def norms():
    found = NormHistory()
    found.epochs, found.mean = [1, 2], {f"{i}.weight": [1.0, 1.0 + i] for i in range(8)}
    return found


def features(images):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((10, 12)) * np.arange(1, 11)[:, None]
    names = [*"abcdefghij", "$k$", "l" * 60]
    return Features("0.weight", weights, names, weights.reshape(10, 3, 4) if images else None)


def activations():
    counts, edges = np.histogram([0, 0, 0, 1.0, 2.0], 4)
    return Activations("1", "Dense, relu", 5, 0.6, 0.6, 0.8, np.array([2]), counts, edges)


def weight_norms(bound=1.5):
    return WeightNorms("0.weight", np.array([0.5, 1.0, 1.5, 1.5]), bound, bound and 0.5)


def sensitivity(**fields):
    scores = np.array([[0.8, 0.9], [0.9, 1.0], [0.85, 0.95], [0.1, 0.2]])
    given = {
        "keeps": KEEPS, "scores": scores, "standard_error": np.full(4, 0.05), "metric": "f1",
        "flat": (0.5, 0.75), "best": 0.75,
    }  # fmt: skip
    return SimpleNamespace(**given | fields)


def reliability():
    return SimpleNamespace(
        edges=np.array([0, 0.25, 0.5, 0.75, 1.0]), confidence=np.array([np.nan, 0.4, 0.6, 0.9]),
        accuracy=np.array([np.nan, 0.5, 0.5, 1.0]), count=np.array([0, 2, 4, 10]), ece=0.0876,
    )  # fmt: skip


def intervals(n=8):
    mean = np.arange(n, 0, -1.0)
    return SimpleNamespace(lower=mean - 1, upper=mean + 1, mean=mean, level=0.9)


def averaging():
    return SimpleNamespace(
        metric="error rate", samples=np.array([1, 10, 100]), error=np.array([0.3, 0.2, 0.1]),
        standard_error=np.array([0.02, 0.01, 0.0]), weight_scaling=0.125,
    )  # fmt: skip


PICTURES = {
    "averaging_chart": lambda **o: plotting.averaging_chart(averaging(), **o),
    "learning_curves": lambda **o: plotting.learning_curves(history(), **o),
    "norm_curves": lambda **o: plotting.norm_curves(norms(), **o),
    "first_layer": lambda **o: plotting.first_layer(features(True), **o),
    "bars": lambda **o: plotting.first_layer(features(False), **o),
    "activation_histogram": lambda **o: plotting.activation_histogram(activations(), **o),
    "weight_norm_histogram": lambda **o: plotting.weight_norm_histogram(weight_norms(), **o),
    "sensitivity_curve": lambda **o: plotting.sensitivity_curve(sensitivity(), **o),
    "reliability_diagram": lambda **o: plotting.reliability_diagram(reliability(), **o),
    "rank": lambda **o: plotting.prediction_intervals(intervals(), np.arange(8, 0, -1), **o),
    "truth": lambda **o: plotting.prediction_intervals(
        intervals(), np.arange(8, 0, -1), by="truth", **o
    ),
}


def texts(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def line(ax, label):
    (found,) = [line for line in ax.get_lines() if line.get_label() == label]
    return found.get_xydata()


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_on_its_own_figure_or_on_the_given_axes(name):
    own = PICTURES[name]()
    assert isinstance(own, Axes)
    assert len(own.figure.axes) == 1
    given = Figure().subplots()
    assert PICTURES[name](ax=given) is given
    for ax in (own, given):
        written = io.BytesIO()
        ax.figure.savefig(written, format="svg")
        assert b"<path" in written.getvalue()


@pytest.mark.parametrize("name", PICTURES)
def test_axes_are_labelled(name):
    ax = PICTURES[name]()
    if name == "first_layer":
        assert ax.get_title(loc="left") == "10 of 10 units of 0.weight, largest norms first"
    else:
        assert ax.get_xlabel()
        assert ax.get_ylabel() or name == "bars"
        assert not ax.spines["top"].get_visible()


def test_drawing_leaves_no_trace_in_matplotlib():
    code = """
import sys
import matplotlib
from dropcore.plotting import learning_curves
from dropcore.training import History

before = matplotlib.rcParams.copy()
history = History()
history.append(1, {"loss": 1.0})
learning_curves(history).figure.savefig(sys.stdout.buffer, format="png")
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.startswith(b"\x89PNG")


@pytest.mark.parametrize("name", PICTURES)
def test_what_is_no_axes_is_named(name):
    with pytest.raises(TypeError, match="ax must be an Axes of matplotlib, such as"):
        PICTURES[name](ax=Figure())


def test_learning_curves_are_those_of_the_history():
    ax = plotting.learning_curves(history())
    np.testing.assert_array_equal(line(ax, "training, under noise"), [[4, 2.0], [5, 1.0], [6, 0.5]])
    np.testing.assert_array_equal(line(ax, "validation"), [[4, 1.5], [5, 0.75], [6, 1.25]])
    np.testing.assert_array_equal(line(ax, "best: 0.75, epoch 5"), [[5, 0.75]])


def test_the_best_epoch_depends_on_the_metric():
    ax = plotting.learning_curves(history(), metric="accuracy")
    assert "training, under noise" not in texts(ax)
    assert "best: 0.625, epoch 5" in texts(ax)
    assert not [t for t in texts(plotting.learning_curves(history(), metric="own")) if "best" in t]
    ax = plotting.learning_curves(history(), metric="own", higher_is_better=True)
    assert "best: 1.5, epoch 4" in texts(ax)


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match=r"one that the history has \(accuracy, loss, own\)"):
        plotting.learning_curves(history(), metric="auc")


def test_norm_curves_need_epochs():
    ax = plotting.norm_curves(norms())
    np.testing.assert_array_equal(line(ax, "3.weight"), [[1, 1.0], [2, 4.0]])
    with pytest.raises(ValueError, match="nothing was recorded: give the NormHistory to fit"):
        plotting.norm_curves(NormHistory())


def test_the_grid_holds_the_images_with_the_largest_norms():
    found = features(True)
    ax = plotting.first_layer(found, count=4)
    (image,) = ax.get_images()
    grid = image.get_array()
    assert grid.shape == (2 * 3 + 1, 2 * 4 + 1, 3)
    order = np.argsort(-np.square(found.images).sum(axis=(1, 2)))
    first = found.images[order[0]]
    # Red is positive, blue negative, as strong as the weight.
    np.testing.assert_array_equal(grid[:3, :4, 0] > grid[:3, :4, 2], first > 0)
    np.testing.assert_array_equal(grid[3], 1.0)
    strongest = np.unravel_index(np.abs(first).argmax(), first.shape)
    assert grid[:3, :4].min(axis=2).argmin() == np.ravel_multi_index(strongest, first.shape)


def test_images_of_three_channels_are_colours():
    images = np.zeros((2, 2, 2, 3))
    images[0, 0, 0, 0], images[0, 1, 1, 2] = 2.0, -2.0
    ax = plotting.first_layer(Features("0.weight", images, [], images))
    grid = ax.get_images()[0].get_array()
    np.testing.assert_array_equal(grid[0, 0], [1.0, 0.5, 0.5])
    np.testing.assert_array_equal(grid[1, 1], [0.5, 0.5, 0.0])
    images[0] /= 8  # each image has a scale of its own
    ax = plotting.first_layer(Features("0.weight", images, [], images))
    np.testing.assert_array_equal(ax.get_images()[0].get_array(), grid)


def test_bars_are_the_norms_of_inputs_whatever_their_names():
    found = features(False)
    ax = plotting.first_layer(found, count=12)
    widths = [bar.get_width() for bar in ax.patches][::-1]
    np.testing.assert_allclose(widths, [norm for _, norm in found.top(12)])
    ax.figure.savefig(io.BytesIO())  # a formula in a name would fail or vanish
    shown = [label.get_text() for label in ax.get_yticklabels()]
    assert r"\$k\$" in shown
    assert max(map(len, shown)) == 28


def test_weights_without_images_and_names_are_refused():
    found = Features("0.weight", np.zeros((3, 2, 2)), [], None)
    with pytest.raises(ValueError, match=r"the weights of 0\.weight are no images"):
        plotting.first_layer(found)
    with pytest.raises(ValueError, match="count must be a positive integer, got 0"):
        plotting.first_layer(features(True), count=0)


def test_the_histogram_of_activations_shows_shares():
    ax = plotting.activation_histogram(activations())
    values, edges, _ = ax.patches[0].get_data()
    np.testing.assert_allclose(values, [0.6, 0, 0.2, 0.2])
    np.testing.assert_allclose(edges, [0, 0.5, 1, 1.5, 2])
    assert ax.get_title(loc="left") == "layer 1, Dense, relu: 60 % zeros, 1 of 5 units dead"


@pytest.mark.parametrize(("bound", "lines"), [(1.5, 1), (None, 0), (np.inf, 0)])
def test_the_bound_of_norms_is_drawn_if_it_is_finite(bound, lines):
    ax = plotting.weight_norm_histogram(weight_norms(bound), bins=7)
    assert sum(bar.get_height() for bar in ax.patches) == 4
    assert len(ax.get_lines()) == lines
    if lines:
        assert texts(ax) == ["max-norm 1.5: holds 50 %"]
        wide = plotting.weight_norm_histogram(weight_norms(3.0))
        assert wide.get_xlim()[1] == pytest.approx(3.15)  # the bound is on the picture
    with pytest.raises(ValueError, match="bins must be a positive integer"):
        plotting.weight_norm_histogram(weight_norms(), bins=0)


def test_the_sensitivity_curve_has_its_flat_region_and_its_best_keep():
    ax = plotting.sensitivity_curve(sensitivity())
    np.testing.assert_allclose(
        line(ax, "mean ± 1 s.e."), [[0.25, 0.15], [0.5, 0.9], [0.75, 0.95], [1.0, 0.85]]
    )
    assert {"flat, 0.5 to 0.75", "best, 0.75"} <= set(texts(ax))
    band = ax.collections[0].get_paths()[0].vertices[:, 1]
    assert band.max() == pytest.approx(0.95 + 0.05)
    np.testing.assert_array_equal(line(ax, "best, 0.75"), [[0.75, 0.95]])
    assert ax.get_ylabel() == "f1, held-out samples"


def test_the_stated_standard_error_is_drawn_in_the_order_of_keeps():
    ax = plotting.sensitivity_curve(sensitivity(standard_error=KEEPS / 10, flat=None))
    vertices = ax.collections[0].get_paths()[0].vertices
    at_one = vertices[np.isclose(vertices[:, 0], 1.0), 1]
    assert at_one.max() - at_one.min() == pytest.approx(0.2)
    assert not [text for text in texts(ax) if "flat" in text]


def test_the_reliability_diagram_leaves_empty_bins_out():
    ax = plotting.reliability_diagram(reliability())
    (container,) = ax.containers
    np.testing.assert_array_equal(
        container.lines[0].get_xydata(), [[0.4, 0.5], [0.6, 0.5], [0.9, 1.0]]
    )
    assert "model, ECE 0.088" in texts(ax)
    np.testing.assert_allclose(ax.patches[0].get_data()[0], np.array([0, 2, 4, 10]) / 16)


def test_the_averaging_chart_stands_beside_weight_scaling():
    ax = plotting.averaging_chart(averaging())
    (container,) = ax.containers
    np.testing.assert_array_equal(container.lines[0].get_xydata()[:, 1], [0.3, 0.2, 0.1])
    bars = container.lines[2][0].get_segments()
    np.testing.assert_allclose(
        [bar[:, 1] for bar in bars], [[0.28, 0.32], [0.19, 0.21], [0.1, 0.1]]
    )
    np.testing.assert_array_equal(line(ax, "weight scaling, 0.125")[:, 1], [0.125, 0.125])
    assert ax.get_xscale() == "log"
    assert ax.get_ylabel() == "error rate"


def test_intervals_count_what_they_cover():
    y = np.arange(8, 0, -1.0)
    y[:2] += 3
    ax = plotting.prediction_intervals(intervals(), y)
    assert {"true value inside: 75 %", "true value outside: 25 %"} <= set(texts(ax))
    np.testing.assert_array_equal(line(ax, "true value outside: 25 %"), [[6, 10.0], [7, 11.0]])
    np.testing.assert_array_equal(line(ax, "prediction")[:, 1], np.arange(1, 9))
    ax = plotting.prediction_intervals(intervals(), y[:, None], by="truth")
    assert {"90 % interval covers: 75 %", "90 % interval misses: 25 %"} <= set(texts(ax))


def test_an_interval_holds_its_ends_and_reaches_from_one_to_the_other():
    found = intervals()
    found.upper += 2
    ax = plotting.prediction_intervals(found, found.lower, by="truth")
    assert "90 % interval covers: 100 %" in texts(ax)
    (segments,) = (c.get_segments() for c in ax.containers[0].lines[2])
    np.testing.assert_allclose(sorted(bar[:, 1].tolist() for bar in segments)[0], [0, 4])
    ax = plotting.prediction_intervals(found, found.upper)
    assert "true value inside: 100 %" in texts(ax)


def test_many_intervals_are_thinned_out_and_all_are_counted():
    y = np.arange(1000, 0, -1.0)
    y[:500] += 5
    ax = plotting.prediction_intervals(intervals(1000), y, count=50)
    assert len(line(ax, "prediction")) == 50
    assert "true value inside: 50 %" in texts(ax)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"by": "x"}, ValueError, "by must be 'rank' or 'truth', got 'x'"),
        ({"count": 0}, ValueError, "count must be a positive integer"),
        ({"y": np.zeros(3)}, ValueError, r"one value for each prediction, got \(3,\) and \(8,\)"),
    ],
)
def test_wrong_arguments_of_intervals_are_named(options, error, message):
    with pytest.raises(error, match=message):
        plotting.prediction_intervals(intervals(), **{"y": np.zeros(8)} | options)


def test_a_missing_matplotlib_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.axes", None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"drawing needs matplotlib.*pip install 'dropcore\[plot"):
        plotting.norm_curves(norms())
