"""The scripts of the papers, in their quick form, on small data."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

from dropcore.reproduction import load_script, read_results, reproduce, script_names
from dropcore.reproduction._selection import Selection
from support.idx import write_mnist

pytest.importorskip("safetensors", reason="safetensors is not installed")
pytest.importorskip("matplotlib", reason="matplotlib is not installed")


def write_mr(folder, rng):
    """Sentences with one word that tells their class."""
    folder.mkdir()
    for kind, word in (("pos", "good"), ("neg", "bad")):
        sentences = []
        for length in rng.integers(3, 20, 600):
            words = [f"word{n}" for n in rng.integers(0, 60, length)]
            sentences.append(" ".join([*words, word, "."]))
        (folder / f"rt-polarity.{kind}").write_text("\n".join(sentences) + "\n")


def write_ptb(folder, rng):
    """Lines of few different words."""
    folder.mkdir()
    words = np.array([f"w{n}" for n in range(30)])
    for part, lines in (("train", 300), ("valid", 60), ("test", 60)):
        text = [" ".join(words[rng.integers(0, 30, 9)]) for _ in range(lines)]
        if part == "train":
            text.append(" ".join(words))
        (folder / f"ptb.{part}.txt").write_text("".join(f" {line} \n" for line in text))


def write_uci(folder, rng):
    """Tables with a linear target and noise."""
    for name, features in (("concrete", 8), ("energy", 8), ("yacht", 6)):
        (folder / name).mkdir(parents=True)
        x = rng.normal(size=(120, features))
        y = x @ np.arange(1, features + 1) + rng.normal(size=120)
        np.savetxt(folder / name / "data.txt", np.column_stack([x, y]))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with small sets in place of the real ones."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    write_mnist(folder / "MNIST", rng, train=1200, test=300)
    write_mr(folder / "MR", rng)
    write_ptb(folder / "PTB", rng)
    write_uci(folder / "UCI", rng)
    return folder


@pytest.fixture(autouse=True)
def chosen(data, monkeypatch):
    monkeypatch.setenv("DROPCORE_DATA", str(data))


def test_there_are_scripts():
    assert "mnist-max-norm" in script_names()


@pytest.mark.parametrize("name", script_names())
def test_quick_form(name, tmp_path):
    experiment = load_script(name)
    path = tmp_path / f"{name}.jsonl"
    results = reproduce(experiment, path, quick=True)
    assert results.rows == [row.name for row in experiment.rows]
    assert path.with_suffix(".png").stat().st_size > 5000
    assert not path.with_suffix(".unfinished").exists()
    for record in results.records:
        assert record.updates > 0
        for value in record.values.values():
            assert math.isfinite(value)


@pytest.mark.parametrize("name", script_names())
def test_a_seed_repeats_its_numbers_and_held_out_data_changes_them(name, tmp_path):
    experiment = load_script(name)
    row = experiment.rows[-1].name
    first, again, held_out = (
        reproduce(
            experiment, tmp_path / f"{n}.jsonl", quick=True, rows=[row], held_out=n == 2
        ).records[0]
        for n in range(3)
    )  # fmt: skip
    assert (first.values, first.curves) == (again.values, again.curves)
    assert (first.values, first.curves) != (held_out.values, held_out.curves)


def test_regression_with_known_noise(tmp_path, monkeypatch):
    """Half of the variance of the targets is noise of deviation 3."""
    folder = tmp_path / "UCI" / "yacht"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 6))
    y = 3 * x[:, 0] + 3 * rng.normal(size=300)
    np.savetxt(folder / "data.txt", np.column_stack([x, y]))
    monkeypatch.setenv("DROPCORE_DATA", str(tmp_path))
    results = reproduce(
        load_script("uci"), tmp_path / "uci.jsonl", rows=["yacht"], seeds=[0, 1],
        settings={"epochs": 10, "networks": 50},
    )  # fmt: skip
    assert 2.5 < results.mean("yacht", "RMSE") < 4.2
    # -log(3 sqrt(2 pi e)) = -2.52
    assert results.mean("yacht", "log likelihood") == pytest.approx(-2.6, abs=0.3)
    assert 80 < results.mean("yacht", "coverage") <= 100


# --- what the documents show ---------------------------------------------------------------------

ROOT = Path(__file__).parents[2]
RECORDS = sorted((ROOT / "docs" / "papers").glob("*.jsonl"))


def recorded(name):
    return read_results(load_script(name), ROOT / "docs" / "papers" / f"{name}.jsonl")


@pytest.mark.parametrize("name", [path.stem for path in RECORDS])
def test_a_record_is_that_of_the_script_as_it_is(name):
    results = recorded(name)
    assert results.records
    for record in results.records:
        wanted = results.experiment.settings_of(record.row) | {"held_out": False}
        assert record.settings == json.loads(json.dumps(wanted))
        assert record.seed in results.experiment.seeds_of(record.row)
    assert (ROOT / "docs" / "papers" / f"{name}.png").is_file()


def test_the_page_shows_each_record():
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    assert RECORDS
    assert sorted(re.findall(r"^```\{reproduced\} (\S+)$", text, re.M)) == [
        path.stem for path in RECORDS
    ]


@pytest.mark.parametrize("name", [path.stem for path in RECORDS])
def test_the_page_says_where_runs_are_missing(name):
    text = (ROOT / "docs" / "papers.md").read_text(encoding="utf-8")
    (section,) = (part for part in text.split("\n## ") if f"{{reproduced}} {name}\n" in part)
    selection = Selection(load_script(name), ROOT / "docs" / "papers" / f"{name}.jsonl")
    assert ("been recorded yet" in section) == bool(selection.missing())


def test_ridge_regression_is_reached():
    results = recorded("ridge")
    for row in results.rows:
        assert results.values(row, "difference from ridge").max() < 1
        assert results.mean(row, "least squares from ridge") > 50


def test_dropout_with_max_norm_is_reached():
    results = recorded("mnist-max-norm")
    assert len(results.of("dropout + max-norm")) == 3
    assert results.mean("dropout + max-norm") <= 1.15
    assert results.mean("without dropout") > 1.3 * results.mean("dropout + max-norm")
    assert results.mean("dropout + max-norm") < results.mean("dropout") <= 1.25


def test_dropout_gains_with_two_and_three_layers():
    results = recorded("architectures")
    gained = [results.mean(row) - results.mean(f"{row}, dropout") for row in results.rows[:6]]
    assert [round(gain, 1) for gain in gained] == [0.1, 0.1, 0.0, 0.3, 0.3, 0.0]


def test_ways_to_regularise_have_the_published_order():
    results = recorded("mnist-regularizers")

    def is_better(row, other):
        """Whether the means differ by more than two standard errors of their difference."""
        errors = [results.standard_error(name) for name in (row, other)]
        return results.mean(other) - results.mean(row) > 2 * math.hypot(*errors)

    assert is_better("dropout + max-norm", "dropout + L2")
    assert is_better("dropout + L2", "max-norm")
    for row in ("L2", "L2 + L1", "L2 + KL sparsity"):
        assert is_better("max-norm", row)
    assert all(len(results.of(row)) == 3 for row in results.rows)


def test_regression_is_as_good_as_published():
    results = recorded("uci")
    for row in results.rows:
        assert len(results.of(row)) == 20
        published = results.experiment.published(row)
        assert results.mean(row, "RMSE") <= published["RMSE"]
        assert results.mean(row, "log likelihood") >= published["log likelihood"]


def test_dropout_makes_activations_sparse():
    results = recorded("features")
    without, dropout = (results.mean(row, "mean activation") for row in results.rows)
    assert dropout == pytest.approx(0.76, abs=0.005)
    assert without / 2.0 == pytest.approx(1.28, abs=0.01)
    without, dropout = (results.mean(row, "activations above 0") for row in results.rows)
    assert dropout < without - 30


def test_dropout_of_hidden_units_and_then_of_inputs_removes_errors():
    results = recorded("hinton-2012")
    standard, hidden, inputs = (results.mean(row) for row in results.rows)
    assert standard > hidden + 10
    assert round(hidden - inputs) == 8
    assert inputs < 120


def test_gaussian_noise_is_as_good_as_bernoulli_dropout():
    results = recorded("gaussian")
    bernoulli, gaussian = map(results.mean, results.rows)
    spread = math.hypot(*map(results.standard_error, results.rows))
    assert abs(bernoulli - gaussian) < spread < 0.07


def test_masks_of_groups_are_as_good_as_masks_of_elements():
    results = recorded("unit-masks")
    elements, groups, units, longer = map(results.mean, results.rows)
    assert groups == pytest.approx(elements, abs=0.01)
    assert (round(units - elements, 2), round(longer - elements, 2)) == (0.03, 0.04)


def test_every_experiment_is_recorded():
    assert [path.stem for path in RECORDS] == script_names()


def test_dropping_weights_removes_errors():
    results = recorded("drop-connect")
    neither, dropout, weights = (results.mean(row) for row in results.rows)
    assert round(100 * (1 - weights / dropout)) == 11
    assert weights < neither - 0.1
    assert results.mean("DropConnect", "error without noise") - weights == pytest.approx(
        0.05, abs=0.005
    )


def test_dropout_in_a_convolutional_network_removes_errors():
    results = recorded("convolution")
    without, dense, everywhere = (results.mean(row) for row in results.rows)
    assert (round(100 * (1 - dense / without)), round(100 * (1 - everywhere / without))) == (34, 23)
    assert all(results.standard_error(row) < 0.06 for row in results.rows)


def test_dropout_in_dense_layers_takes_more_updates_and_ends_lower():
    results = recorded("convergence")
    without, dropout = (results.mean(row, "updates to converge") for row in results.rows)
    assert dropout / without == pytest.approx(2.7, abs=0.05)
    ratios = results.values(results.rows[1]) / results.values(results.rows[0])
    assert (round(min(ratios), 1), round(max(ratios), 1)) == (2.0, 3.4)
    without, dropout = (results.mean(row, "test error") for row in results.rows)
    assert dropout < without - 0.3


def test_the_search_takes_rectified_units_with_dropout():
    results = recorded("relu-sigmoid")
    for unit in ("sigmoid", "ReLU"):
        assert results.mean(f"{unit}, dropout") < 0.85 * results.mean(unit)
    assert results.mean("search") < results.mean("ReLU, dropout") < results.mean("sigmoid, dropout")
    for record in results.of("search"):
        hidden_rate, input_rate, _ = record.curves["chosen: relu"][1]
        assert min(hidden_rate, input_rate) > 0.05


def test_the_average_of_fifty_networks_is_as_good_as_scaled_weights():
    results = recorded("averaging")
    (row,) = results.rows
    scaled = results.mean(row, "weights scaled")
    assert results.mean(row, "k = 1") > 1.5 * scaled
    assert abs(results.mean(row, "k = 50") - scaled) < 0.05
    assert abs(results.mean(row, "k = 120") - scaled) < 0.04


def test_errors_are_flat_in_the_middle_and_wide_layers_help_a_small_p():
    results = recorded("keep")
    fixed, wide = (
        dict(zip(*results.curve(row, "test error")[:2], strict=True)) for row in results.rows
    )
    middle = [fixed[p] for p in (0.4, 0.5, 0.6, 0.8)]
    assert max(middle) - min(middle) < 0.3
    assert fixed[0.1] > max(middle) + 1
    assert fixed[1.0] > max(middle)
    assert wide[0.1] < fixed[0.1] - 1


def test_the_gain_of_dropout_rises_and_declines_with_the_training_set():
    results = recorded("data-size")
    (sizes, without, _), (_, dropout, _) = (
        results.curve(row, "test error") for row in results.rows
    )
    gain = dict(zip(sizes, 1 - dropout / without, strict=True))
    assert gain[100] < gain[500] < gain[1_000]
    assert gain[1_000] > gain[5_000] > gain[10_000] > gain[50_000]


def test_sentences_are_classified_as_well_as_published():
    results = recorded("sentences")
    assert len(results.of("dropout")) == 10
    assert results.mean("dropout") >= 76.0
    assert results.mean("dropout") > results.mean("without dropout")


def test_masks_for_sequences_are_far_better_than_no_dropout():
    results = recorded("penn-treebank")
    assert (
        results.mean("without dropout")
        <= results.experiment.published("without dropout")["test perplexity"]
    )
    assert results.mean("Gal: a mask each sequence") < 0.95 * results.mean("without dropout")
    (measure,) = results.experiment.measures
    first = {r.row: r.values[measure.name] for r in results.records if r.seed == 0}
    gained = [first["without dropout"] - first[row] for row in results.rows[1:4]]
    assert list(map(round, gained)) == [14, 12, 10]
    assert round(first["transformer without dropout"] - first["transformer with dropout"]) == 6
