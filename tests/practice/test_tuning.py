"""Which rate: verdicts, cross-validation over the grid, resuming, and search."""

import json
import os
import threading
import time

import joblib
import numpy as np
import pytest

import dropcore
from dropcore import Key, nn, tuning
from dropcore.data import Preprocessing
from dropcore.optim import SGD, Adam
from dropcore.training import Callback
from dropcore.training.metrics import Metric
from dropcore.tuning import _search
from dropcore.tuning._experiment import fingerprint_of, holdout_of, splits_of
from dropcore.tuning._verdict import difference_of, verdict_of

GRID = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1])
FOLDS = np.array([0.02, -0.01, 0.0, 0.015, -0.025])
"""What makes some folds easier than others, at every keep."""


def table(means, *, wobble=0.005, folds=FOLDS):
    """Scores with the given means: folds differ together, and by `wobble` from keep to keep."""
    rng = np.random.default_rng(0)
    noise = wobble * rng.standard_normal((len(means), len(folds)))
    return np.asarray(means)[:, None] + folds + noise - noise.mean(axis=1, keepdims=True)


def judged(means, keeps=GRID, higher=True, **options):
    return verdict_of(
        keeps, table(means, **options), metric="accuracy" if higher else "loss", higher=higher,
        ratio=0.25, wider=lambda keep: f"a wider layer, {64 / keep:.0f} units",
    )  # fmt: skip


PLATEAU = [0.80, 0.85, 0.9, 0.9, 0.901, 0.9005, 0.9, 0.88, 0.84, 0.7]


# --- verdicts ------------------------------------------------------------------------------------


def test_a_plateau_is_flat_and_half_is_safe():
    verdict = judged(PLATEAU)
    assert (verdict.kind, verdict.flat, verdict.best) == ("flat", (0.4, 0.8), 0.6)
    assert verdict.recommended == 0.5
    assert verdict.text.startswith(
        "Flat from 0.4 to 0.8: 0.5 is safe. Dropout helps: accuracy 0.901 at keep = 0.6 and 0.8 "
        "without dropout, +0.101 ± "
    )
    assert verdict.text.endswith("(better in 5 of 5 folds).")


def test_of_a_loss_the_lower_is_the_better():
    verdict = judged([1 - score for score in PLATEAU], higher=False)
    assert (verdict.kind, verdict.flat, verdict.best) == ("flat", (0.4, 0.8), 0.6)
    assert "loss 0.099 at keep = 0.6 and 0.2 without dropout, +0.101 ±" in verdict.text


def test_a_flat_region_away_from_half_recommends_its_middle():
    verdict = judged([0.8, 0.9, 0.901, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4])
    assert (verdict.flat, verdict.recommended) == ((0.7, 0.9), 0.8)
    assert verdict.text.startswith("Flat from 0.7 to 0.9: 0.8 is safe.")


def test_a_region_at_the_end_of_the_grid_asks_for_more_of_it():
    verdict = judged([0.8, 0.85, 0.899, 0.899, 0.9], keeps=GRID[[0, 2, 4, 5, 6]])
    assert verdict.flat == (0.4, 0.6)
    assert verdict.text.endswith("The grid ends in the flat region: add keeps below 0.4.")


def test_a_single_peak_is_unstable_and_asks_for_width():
    verdict = judged([0.8, 0.82, 0.84, 0.86, 0.9, 0.86, 0.8, 0.7, 0.6, 0.5])
    assert (verdict.kind, verdict.flat, verdict.recommended) == ("unstable", None, 0.6)
    assert verdict.text.startswith(
        "Unstable: no other keep is as good as the best, accuracy 0.9 at keep = 0.6. Try a wider "
        "layer, 107 units, a smaller learning rate, or more folds. Dropout helps:"
    )


def test_scores_that_jump_are_unstable():
    verdict = judged([0.8, 0.9, 0.8, 0.901, 0.8, 0.9005, 0.8, 0.7, 0.6, 0.5])
    assert (verdict.kind, verdict.flat) == ("unstable", None)
    assert verdict.text.startswith(
        "Unstable: 0.9, 0.7, 0.5 are as good, accuracy 0.901 at keep = 0.7. Try a wider layer"
    )


@pytest.mark.parametrize(
    ("errors", "flat"),
    [
        ([9, 9, 0.9, 0.9, 0, 0.9, 0.9, 9, 9, 9], (0.4, 0.8)),
        ([9, 9, 0.9, 0.9, 0, 1.9, 0.9, 9, 9, 9], (0.4, 0.8)),
        ([9, 9, 0.9, 0.9, 0, 2.1, 0.9, 9, 9, 9], (0.6, 0.8)),
        ([9, 9, 0.9, 0.9, 0, 1.9, 1.1, 9, 9, 9], (0.6, 0.8)),
        ([9, 9, 1.9, 0.9, 0, 1.1, 9, 9, 9, 9], None),
        ([9, 9, 9, 9, 9, 9, 9, 0.9, 0, 1.9], None),
        ([9, 9, 9, 9, 9, 9, 9, 0.9, 0.9, 0], (0.1, 0.3)),
    ],
)
def test_the_region_is_within_one_standard_error_or_two_between_good_keeps(errors, flat):
    wobble = np.array([0.001, -0.002, 0.001, 0.002, -0.002])
    error = difference_of(wobble, 0 * wobble, higher=True, ratio=0.25).standard_error
    scores = 0.9 + FOLDS - np.multiply(errors, error)[:, None] + np.not_equal(errors, 0)[
        :, None] * wobble  # fmt: skip
    found = verdict_of(GRID, scores, metric="accuracy", higher=True, ratio=0.25, wider=str)
    assert found.flat == flat
    assert found.kind == ("unstable" if flat is None else "flat")


def test_a_standard_error_that_is_small_by_chance_counts_as_the_median():
    wobble = np.array([0.001, -0.002, 0.001, 0.002, -0.002])
    scores = np.tile(0.9 + FOLDS, (5, 1)) - np.array([0.05, 0.001, 0, 0.001, 0.05])[:, None]
    scores[[0, 1, 4]] += wobble
    found = verdict_of(GRID[::2], scores, metric="accuracy", higher=True, ratio=0.25, wider=str)
    assert difference_of(scores[2], scores[3], higher=True, ratio=0.25).standard_error < 1e-12
    assert found.flat == (0.4, 0.8)


def test_no_dropout_may_be_as_good():
    verdict = judged([0.9, 0.9, 0.9004, 0.9, 0.88, 0.85, 0.8, 0.7, 0.6, 0.5])
    assert (verdict.kind, verdict.flat, verdict.recommended) == ("no dropout", (0.7, 1.0), 1.0)
    assert verdict.text.startswith(
        "No dropout is as good: accuracy 0.9 at keep = 0.8 and 0.9 without dropout, +0.0004 ± "
    )
    assert verdict.text.endswith("of 5 folds). Flat from 0.7 to 1.")


def test_no_dropout_may_be_the_best_of_its_neighbours():
    verdict = judged([0.9005, 0.9, 0.9, 0.85, 0.8, 0.8, 0.8, 0.7, 0.6, 0.5])
    assert verdict.text == (
        "No dropout is as good: accuracy 0.9 at keep = 1 is the best. Flat from 0.8 to 1."
    )


def test_folds_that_differ_more_than_keeps_show_no_difference():
    verdict = judged(np.linspace(0.9, 0.901, 10), wobble=0.05)
    assert verdict.kind == "no dropout"
    assert verdict.text.endswith(
        "No keep can be told from the best; more folds would tell smaller differences."
    )


def test_dropout_may_make_it_worse():
    verdict = judged([0.9, 0.88, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.5, 0.4])
    assert (verdict.kind, verdict.recommended, verdict.flat) == ("worse", 1.0, None)
    assert verdict.text.startswith(
        "Dropout makes it worse: accuracy 0.9 at keep = 1 is the best, by 0.02 ± "
    )
    assert "try a wider layer, 128 units, or more epochs." in verdict.text


def test_a_small_difference_is_called_one():
    scores = table([0.9, 0.895, 0.7], wobble=0.01)
    verdict = verdict_of(GRID[:3], scores, metric="accuracy", higher=True, ratio=0.25, wider=str)
    gap = difference_of(scores[0], scores[1], higher=True, ratio=0.25)
    assert gap.mean < 2 * gap.standard_error
    assert verdict.kind == "no dropout"
    scores = table([0.88, 0.9, 0.9, 0.9], wobble=0.0)
    scores[0] += np.array([1, -1, 1, -1, 0]) * 0.02
    verdict = verdict_of(GRID[:4], scores, metric="accuracy", higher=True, ratio=0.25, wider=str)
    assert "Dropout seems to help: accuracy 0.9 at keep = 0.9 and 0.88 without" in verdict.text


def test_two_folds_are_too_few():
    verdict = judged(PLATEAU, folds=FOLDS[:2])
    assert (verdict.kind, verdict.flat, verdict.best) == ("too few folds", None, 0.6)
    assert verdict.text.startswith("Too few folds to say: 2 give no useful standard error.")


def test_keeps_where_training_diverged_are_left_out():
    scores = table(PLATEAU)
    scores[1, 2] = scores[9, :2] = np.nan
    verdict = verdict_of(GRID, scores, metric="accuracy", higher=True, ratio=0.25, wider=str)
    assert verdict.flat == (0.4, 0.8)
    assert "diverged at keep = 0.9 (1 of 5 folds), 0.1 (2 of 5 folds): use a" in verdict.text
    with pytest.raises(FloatingPointError, match="diverged at every keep: use a smaller learning"):
        verdict_of(GRID, scores * np.nan, metric="loss", higher=False, ratio=0.25, wider=str)


@pytest.mark.parametrize("lost", [False, True])
def test_without_the_score_of_no_dropout_nothing_is_said_about_its_use(lost):
    if lost:
        scores = table(PLATEAU)
        scores[0] = np.nan
        verdict = verdict_of(GRID, scores, metric="accuracy", higher=True, ratio=0.25, wider=str)
    else:
        verdict = judged(PLATEAU[1:], keeps=GRID[1:])
    assert verdict.kind == "flat"
    assert "Dropout helps" not in verdict.text
    assert "do not say whether dropout helps, without those of keep = 1." in verdict.text


def test_a_difference_is_paired_and_its_error_allows_for_overlapping_folds():
    first, second = np.array([0.5, 0.7, 0.9]), np.array([0.4, 0.65, 0.9])
    found = difference_of(first, second, higher=True, ratio=0.5)
    assert found.mean == pytest.approx(0.05)
    assert found.standard_error == pytest.approx(0.05 * np.sqrt(1 / 3 + 0.5))
    assert (found.better, found.folds) == (2, 3)
    assert not found.is_clear
    assert difference_of(first, second, higher=False, ratio=0.5).mean == pytest.approx(-0.05)
    assert difference_of(first + 1, second, higher=True, ratio=0.5).is_clear
    assert str(found) == "+0.05 ± 0.046 (better in 2 of 3 folds)"
    assert np.isnan(difference_of(first[:1], second[:1], higher=True, ratio=1.0).standard_error)


# --- sensitivity ---------------------------------------------------------------------------------

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64)


def small(keep):
    return nn.mlp(8, 2, keep=keep)


def one_output(keep):
    return nn.mlp(8, 1, keep=keep)


def explored(build=small, x=X, y=Y, **changes):
    options = {
        "keeps": (1.0, 0.5), "folds": 2, "epochs": 2, "loss": "softmax_cross_entropy",
        "optimizer": Adam(1e-2), "progress": False,
    }  # fmt: skip
    return tuning.sensitivity(build, x, y, **options | changes)


def test_the_scores_are_those_of_models_trained_by_hand():
    folds = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    result = explored(folds=folds, keeps=(0.5, 1.0), key=Key(3, step=5))
    np.testing.assert_array_equal(result.keeps, [1.0, 0.5])
    for row, keep in enumerate(result.keeps):
        for fold, (train, test) in enumerate(folds):
            model = small(keep)
            model.fit(X[train], Y[train], epochs=2, optimizer=Adam(1e-2), progress=False,
                      loss="softmax_cross_entropy", key=Key(3 + fold, step=5))  # fmt: skip
            assert result.scores[row, fold] == model.evaluate(X[test], Y[test])["accuracy"]
            trained = model.evaluate(X[train], Y[train])["accuracy"]
            assert result.train_scores[row, fold] == trained
    assert (result.metric, result.higher_is_better, result.ratio) == ("accuracy", True, 0.5)


def test_models_of_a_fold_share_weights_order_and_uniforms():
    seen = {}

    def build(keep):
        model = nn.mlp(8, 2, keep=keep)
        seen.setdefault(keep, []).append(model)
        return model

    explored(build, keeps=(0.9, 0.5), epochs=0)
    first, second = (seen[keep][-2:] for keep in (0.9, 0.5))
    for one, other in zip(first, second):
        for name, weight in one.params.items():
            np.testing.assert_array_equal(weight, other.params[name])
        wide, narrow = (m[1].mask((16, 8), Key(0)).to_bool() for m in (one, other))
        assert (wide | ~narrow).all()
        assert wide.sum() > narrow.sum()
    assert not np.array_equal(first[0].params["0.weight"], first[1].params["0.weight"])


def test_with_n_keep_fixed_layers_are_wider():
    widths = []

    def build(keep, units):
        widths.append((keep, units))
        return nn.mlp(units, 2, keep=keep)

    result = explored(build, units=(8, 3), fix="n*keep", keeps=(1.0, 0.5, 0.3))
    assert result.widths == [(8, 3), (16, 6), (27, 10)]
    assert set(widths) == {(1.0, (8, 3)), (0.5, (16, 6)), (0.3, (27, 10))}
    assert explored(build, units=8, fix="n*keep").widths == [8, 16]
    assert explored(build, units=8).widths == [8, 8]
    assert explored().widths is None


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"units": 8}, "a wider layer, n / keep = 8 / 0.5 = 16 units"),
        ({}, "wider layers, n / keep, which is 2 times as many units"),
        ({"units": 8, "fix": "n*keep"}, "more units"),
    ],
)
def test_the_advice_on_width_is_for_what_was_fixed(options, advice):
    from dropcore.tuning._sensitivity import _advice_on_width

    assert _advice_on_width(options.get("fix", "n"), options.get("units"))(0.5) == advice


@pytest.mark.parametrize(
    ("metric", "loss", "expected"),
    [
        (None, "mse", ("rmse", False)),
        (None, "mae", ("mae", False)),
        (None, "huber", ("loss", False)),
        ("r2", "mse", ("r2", True)),
        ("loss", "mse", ("loss", False)),
        (Metric("worst", lambda p, y: abs(p - y).max(), False), "mse", ("worst", False)),
        (Metric("near", lambda p, y: (abs(p - y) < 1).mean()), "mse", ("near", True)),
    ],
)
def test_the_metric_says_what_is_better(metric, loss, expected):
    result = explored(one_output, y=X[:, 0], metric=metric, loss=loss, epochs=1)
    assert (result.metric, result.higher_is_better) == expected
    if metric == "loss":
        squared = explored(one_output, y=X[:, 0], metric="mse", loss=loss, epochs=1)
        np.testing.assert_allclose(result.scores, squared.scores)


def test_a_classification_may_have_another_metric():
    result = explored(metric="top_1")
    np.testing.assert_array_equal(result.scores, explored(metric=None).scores)
    assert (result.metric, result.higher_is_better) == ("top_1", True)
    assert not explored(metric="log_loss").higher_is_better


def test_whether_dropout_is_of_use_in_a_regression_is_a_paired_difference():
    result = explored(one_output, y=X[:, 0] * 2 + 1, loss=None, folds=3)
    found = result.compare(0.5)
    gains = result.scores[0] - result.scores[1]
    assert found.mean == pytest.approx(gains.mean())
    np.testing.assert_allclose(
        result.standard_error, result.scores.std(axis=1, ddof=1) * np.sqrt(1 / 3 + 1 / 2)
    )


def test_a_loss_that_was_not_named_is_announced_once(capsys):
    explored(loss=None)
    assert capsys.readouterr().err.count("no loss was named") == 1


def test_results_do_not_depend_on_the_number_of_jobs():
    one, threads = dropcore.get_num_threads(), []
    dropcore.set_num_threads(4)
    try:
        alone = explored(keeps=(1.0, 0.7, 0.5))

        class Watch(Callback):
            def on_epoch_end(self, run, epoch, metrics):
                threads.append(dropcore.get_num_threads())

        with joblib.parallel_config(backend="threading"):
            beside = explored(keeps=(1.0, 0.7, 0.5), n_jobs=2, callbacks=[Watch()])
        assert dropcore.get_num_threads() == 4
    finally:
        dropcore.set_num_threads(one)
    np.testing.assert_array_equal(alone.scores, beside.scores)
    np.testing.assert_array_equal(alone.train_scores, beside.train_scores)
    assert set(threads) == {2}


def test_processes_give_the_same_results():
    with joblib.parallel_config(backend="loky", n_jobs=2):
        beside = explored(lambda keep: nn.mlp(8, 2, keep=keep))
    np.testing.assert_array_equal(beside.scores, explored().scores)


def test_a_run_that_was_interrupted_goes_on(tmp_path):
    whole, path, left = explored(keeps=(1.0, 0.7, 0.5)), tmp_path / "grid.json", [3]

    def interrupts(epoch, metrics):
        if epoch == 1:
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

    names = ("keeps", "scores", "train_scores")
    with pytest.raises(KeyboardInterrupt):
        explored(keeps=(1.0, 0.7, 0.5), resume=path, callbacks=[interrupts])
    kept = json.loads(path.read_text())["results"]
    assert len(kept) == 2
    left[0] = 99
    again = explored(keeps=(1.0, 0.7, 0.5), resume=path, callbacks=[interrupts])
    assert left[0] == 99 - 4
    for name in names:
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    assert again.verdict == whole.verdict
    # Finished models are not trained again, and the grid may grow.
    explored(keeps=(1.0, 0.7, 0.5, 0.3), resume=path, callbacks=[interrupts])
    assert left[0] == 99 - 4 - 2
    assert os.listdir(tmp_path) == ["grid.json"]


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"epochs": 3}, "options of fit"),
        ({"x": X + 1}, "x"),
        ({"y": 1 - Y}, "y"),
        ({"folds": 3}, "folds"),
        ({"key": 1}, "folds, key"),
        ({"metric": "loss"}, "metric"),
    ],
)
def test_results_of_another_experiment_are_not_mixed_in(tmp_path, changes, differs):
    path = tmp_path / "grid.json"
    explored(resume=path, epochs=1)
    before = path.read_bytes()
    message = rf"differs in (options of fit, )?{differs}: name another file"
    with pytest.raises(ValueError, match=message):
        explored(resume=path, **{"epochs": 1} | changes)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no results of sensitivity"),
        ("[" * 100_000, "holds no results of sensitivity"),
        ('{"format": "other"}', "holds no results of sensitivity"),
        ('{"format": "dropcore results", "version": 9}', "has version 9 of its format"),
        ('{"format": "dropcore results", "version": 1}', "is damaged: delete it"),
        *(
            (
                f'{{"format": "dropcore results", "version": 1, "experiment": {{}}, "results": '
                f'{{"a": {result}}}}}',
                "is damaged: delete it",
            )
            for result in (
                "3",
                "{}",
                '{"score": "0.5", "train_score": 1}',
                '{"score": 0.5}',
                f'{{"score": 1{"0" * 400}, "train_score": 1.0}}',
            )
        ),
    ],
)
def test_a_file_with_something_else_is_refused(tmp_path, content, message):
    path = tmp_path / "grid.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        explored(resume=path)
    assert path.read_text() == content


def test_a_model_that_diverges_has_no_score(tmp_path):
    path = tmp_path / "grid.json"
    y = np.where(np.arange(60) < 30, 1e30, 1.0)
    folds = [(np.arange(30), np.arange(30, 60)), (np.arange(30, 60), np.arange(30))]
    with (
        pytest.raises(FloatingPointError, match="diverged at every keep"),
        np.errstate(all="ignore"),
    ):
        explored(one_output, y=y, folds=folds, loss="mse", optimizer=SGD(1e30), resume=path)
    results = json.loads(path.read_text())["results"].values()
    assert {result["score"] for result in results} == {None}
    assert all("not finite" in r["diverged"] or "the" in r["diverged"] for r in results)


def test_weights_of_samples_go_with_their_rows():
    weights = np.where(np.arange(60) % 2, 1.0, 0.0)
    odd = np.arange(1, 60, 2)
    folds = [(odd[:20], odd[20:]), (odd[10:], odd[:10])]
    half = [(np.arange(40), np.arange(40, 60)), (np.arange(20, 60), np.arange(20))]
    result = explored(folds=half, sample_weight=weights, epochs=0)
    expected = explored(folds=folds, epochs=0)
    np.testing.assert_allclose(result.scores, expected.scores)


def test_callbacks_are_new_for_each_model():
    class Counts(Callback):
        epochs = 0

        def on_epoch_end(self, run, epoch, metrics):
            self.epochs += 1
            assert self.epochs == epoch

    counts = Counts()
    explored(callbacks=[counts])
    assert counts.epochs == 0


def test_tables_keep_their_columns():
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame(X, columns=list("abcdef"))
    found = explored(x=x, y=pandas.Series(Y, name="label"))
    np.testing.assert_array_equal(found.scores, explored().scores)
    shown = found.table()
    assert list(shown.columns) == [
        "keep", "rate", "accuracy", "standard_error", "train_accuracy"
    ]  # fmt: skip
    assert list(shown["rate"]) == [0.0, 0.5]
    assert "units" in explored(lambda keep, n: nn.mlp(n, 2, keep=keep), units=4).table()


def test_the_result_prints_as_a_table_and_its_verdict():
    text = str(explored(folds=3))
    assert text.splitlines()[0].split() == ["keep", "accuracy", "±", "s.e.", "training"]
    assert text.splitlines()[2].startswith("0.5 ")
    assert text.splitlines()[-1] == explored(folds=3).verdict


def test_progress_is_lines_where_there_is_no_terminal(capsys):
    explored(progress=True)
    assert capsys.readouterr().err.splitlines()[-1] == "sensitivity: 4/4 models"
    explored(progress=None)
    assert capsys.readouterr().err == ""


def test_a_number_of_folds_keeps_the_fractions_of_classes():
    y = np.repeat([0, 1, 2], [30, 20, 10])
    for train, test in splits_of("a test", y, 60, 5, "softmax_cross_entropy", Key(0)):
        assert list(np.bincount(y[test])) == [6, 4, 2]
        assert sorted([*train, *test]) == list(range(60))
    numbers = splits_of("a test", y, 60, 5, "mse", Key(0))
    assert any(list(np.bincount(y[test], minlength=3)) != [6, 4, 2] for _, test in numbers)
    names = np.array(["a", "b", "c"])[y]
    assert [len(test) for _, test in splits_of("a test", names, 60, 5, None, Key(0))] == [12] * 5
    two = splits_of("a test", y, 60, 5, "softmax_cross_entropy", Key(1))
    assert not np.array_equal(two[0][1], splits_of("a test", y, 60, 5, None, Key(0))[0][1])


def test_folds_may_be_a_splitter():
    from sklearn.model_selection import RepeatedStratifiedKFold

    splitter = RepeatedStratifiedKFold(n_splits=2, n_repeats=2, random_state=0)
    assert explored(folds=splitter, epochs=1).scores.shape == (2, 4)


def test_fingerprints_tell_data_and_models_apart():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    values = [
        X, X[:30], X.astype(np.float64), X + 1, [1, 2], [1, [2]], {"a": 1}, {"a": 2}, None, "None ",
        frame, frame.rename(columns={"a": "c"}), frame[::-1], frame["a"], np.array(["x", "y"]),
        np.array(["x", None]), Adam(1e-3), Adam(1e-2), len,
    ]  # fmt: skip
    assert len({fingerprint_of(value) for value in values}) == len(values)
    assert fingerprint_of(lambda: 0) == fingerprint_of(lambda: 0)
    assert fingerprint_of(X[::2]) == fingerprint_of(X[::2].copy())


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"build": small(0.5)}, TypeError, "build must be a function of keep that returns a new"),
        ({"build": lambda keep: small(0.5)}, ValueError, "the same model for every keep"),
        ({"build": lambda keep: [keep]}, TypeError, r"build must return a model.*got \[1.0\]"),
        ({"keeps": 0.5}, TypeError, "keeps must be several fractions kept"),
        ({"keeps": (0.5,)}, ValueError, "keeps must be at least two different"),
        ({"keeps": (0.5, 0.5)}, ValueError, "keeps must be at least two different"),
        ({"keeps": (0.5, 0)}, ValueError, r"keeps must be in \(0, 1\], got 0"),
        ({"folds": 1}, ValueError, "folds must be an integer >= 2, got 1"),
        ({"folds": 61}, ValueError, "folds must be at most the 60 samples, got 61"),
        ({"folds": [(np.arange(9), np.arange(0))]}, ValueError, "at least two splits"),
        ({"y": np.r_[Y[:-1], 2]}, ValueError, "class 2 has 1 samples, and each of the 2 parts of"),
        ({"fix": "keep"}, ValueError, "fix must be 'n' or 'n\\*keep', got 'keep'"),
        ({"fix": "n*keep"}, ValueError, r"fix='n\*keep' needs units, the width without dropout"),
        ({"units": ()}, ValueError, "units must have at least one width"),
        ({"units": 0}, ValueError, "units must be a positive integer, got 0"),
        ({"y": Y[:9]}, ValueError, "y must hold one target for each of the 60 samples, got 9"),
        ({"x": iter(X)}, TypeError, "x must be an array or a table with a row for each sample"),
        ({"metric": "acuracy"}, ValueError, "metric must be .*'accuracy'.*got 'acuracy'"),
        ({"metric": len}, TypeError, "metric must be a name or a Metric"),
        ({"metric": "rmse"}, ValueError, "rmse.*numbers"),
        ({"metric": "accuracy", "loss": "mse", "y": X[:, :2]}, ValueError, "'accuracy' is not the"),
        ({"metrics": ["f1"]}, TypeError, "metrics is not an option of sensitivity: give metric"),
        ({"progress": 1}, TypeError, "progress must be True or False"),
        ({"epoch": 3}, TypeError, "neither sensitivity nor fit has an argument 'epoch'"),
        ({"validation_data": (X, Y)}, TypeError, "validation_data is not an option of"),
        ({"resume": b"x"}, TypeError, "resume: path must be a str or a pathlib.Path, got bytes"),
    ],
)
def test_what_sensitivity_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        explored(**changes)


def test_epochs_are_required():
    with pytest.raises(TypeError, match="sensitivity: give epochs"):
        tuning.sensitivity(small, X, Y)


def test_a_model_that_was_trained_is_refused():
    trained = small(0.5)
    trained.fit(X, Y, epochs=1, loss="softmax_cross_entropy", key=0, progress=False)
    with pytest.raises(ValueError, match="must return a new model each time"):
        explored(lambda keep: trained)


def test_a_wider_layer_is_compared_with_a_narrow_one():
    def build(keep, units):
        return nn.mlp(units, 2, keep=keep)

    narrow, wide = (explored(build, units=4, fix=fix) for fix in ("n", "n*keep"))
    found = wide.compare(0.5, 0.5, of=narrow)
    gains = wide.scores[1] - narrow.scores[1]
    assert found.mean == pytest.approx(gains.mean())
    for other in (explored(folds=3), explored(key=1), explored(metric="f1")):
        with pytest.raises(ValueError, match="the same metric and the same folds"):
            wide.compare(0.5, of=other)


def test_labels_in_words_and_mixed_tables(capsys):
    pandas = pytest.importorskip("pandas")
    x = pandas.DataFrame({"number": X[:, 0], "word": np.where(X[:, 1] > 0, "up", "down")})
    y = np.where(Y, "yes", "no")
    options = {"preprocessing": Preprocessing(), "class_weight": {"yes": 2.0, "no": 1.0}}
    result = explored(x=x, y=y, metric="f1", loss=None, **options)
    assert capsys.readouterr().err.count("are encoded: 'no' as 0, 'yes' as 1") == 1
    (train, test), _ = result.splits
    model = small(1.0)
    model.fit(x.iloc[train], y[train], epochs=2, optimizer=Adam(1e-2), key=0, progress=False,
              **options)  # fmt: skip
    assert result.scores[0, 0] == model.evaluate(x.iloc[test], y[test], metrics=["f1"])["f1"]
    found = searched(x=x, y=y, loss=None, n_trials=1, **options)
    assert set(found.best_model().predict_labels(x)) <= {"yes", "no"}


def test_targets_are_standardised_within_each_fold():
    y = 1e3 * X[:, 0] + 1e4
    result = explored(one_output, y=y, loss="mse", scale_targets=True, epochs=20)
    (train, test), _ = result.splits
    model = one_output(0.5)
    model.fit(X[train], y[train], epochs=20, optimizer=Adam(1e-2), loss="mse", scale_targets=True,
              key=0, progress=False)  # fmt: skip
    error = np.sqrt(np.square(model.predict(X[test])[:, 0] - y[test]).mean())
    assert result.scores[1, 0] == pytest.approx(error, rel=1e-6)


def test_compare_takes_keeps_of_the_grid():
    with pytest.raises(ValueError, match=r"keep must be one of 1, 0\.5, got 0\.7"):
        explored().compare(0.7)


# --- search --------------------------------------------------------------------------------------


WITHOUT_OPTUNA = "search needs Optuna, part of which has no free-threaded wheels"


def search(*arguments, **options):
    """`tuning.search`, where Optuna is installed."""
    pytest.importorskip("optuna", reason=WITHOUT_OPTUNA)
    return tuning.search(*arguments, **options)


def choices(trial):
    return nn.mlp(8, 2, rate=trial.suggest_float("rate", 0.0, 0.8))


def searched(build=choices, x=X, y=Y, **changes):
    options = {
        "n_trials": 4, "epochs": 3, "loss": "softmax_cross_entropy", "progress": False,
        "optimizer": Adam(1e-2),
    }  # fmt: skip
    return search(build, x, y, **options | changes)


def params_of(result):
    return [trial.params for trial in result.study.trials]


def test_the_best_trial_is_the_one_with_the_best_score():
    result = searched(pruner=None)
    values = [trial.value for trial in result.study.trials]
    assert len(values) == 4
    assert result.best_value == max(values)
    assert result.best_params == result.study.trials[int(np.argmax(values))].params
    assert (result.metric, result.higher_is_better) == ("accuracy", True)
    assert searched(metric="loss").best_value == min(t.value for t in searched(
        metric="loss").study.trials if t.state.name == "COMPLETE")  # fmt: skip


def test_a_trial_is_scored_on_samples_that_it_was_not_trained_on():
    result = searched(n_trials=1, key=Key(4, step=2), validation=0.25)
    ((train, test),) = holdout_of("a test", Y, 60, 0.25, "softmax_cross_entropy", Key(4))
    assert (len(train), len(test)) == (45, 15)
    assert not set(train) & set(test)
    model = nn.mlp(8, 2, rate=result.best_params["rate"])
    model.fit(X[train], Y[train], epochs=3, loss="softmax_cross_entropy", optimizer=Adam(1e-2),
              key=Key(4, step=2), progress=False)  # fmt: skip
    assert result.best_value == model.evaluate(X[test], Y[test])["accuracy"]
    reported = result.study.trials[0].intermediate_values
    assert sorted(reported) == [1, 2, 3]
    assert reported[3] == result.best_value


def test_folds_are_averaged():
    result = searched(n_trials=1, folds=3)
    reported = result.study.trials[0].intermediate_values
    assert sorted(reported) == list(range(1, 10))
    assert result.best_value == pytest.approx(reported[9])
    rate = result.best_params["rate"]
    grid = explored(keeps=(1.0, 1 - rate), folds=3, epochs=3)
    assert result.best_value == pytest.approx(grid.mean[1])


def test_a_search_repeats_and_goes_on_where_it_stopped(tmp_path):
    whole = searched(n_trials=14)
    assert params_of(searched(n_trials=14)) == params_of(whole)
    assert params_of(searched(key=1)) != params_of(whole)[:4]
    path, left = tmp_path / "trials.db", [12]

    def interrupts(trial):
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return choices(trial)

    with pytest.raises(KeyboardInterrupt):
        searched(interrupts, n_trials=14, storage=path)
    again = searched(interrupts, n_trials=14, storage=str(path))
    # From the eleventh trial on the sampler looks at the results of those before.
    assert params_of(again) == params_of(whole)
    assert [t.value for t in again.study.trials] == [t.value for t in whole.study.trials]
    left[0] = 99
    assert searched(interrupts, n_trials=14, storage=path).best_params == whole.best_params
    assert left[0] == 98  # a model is built to find the loss


def test_trials_that_fall_behind_are_pruned():
    calls = []

    def counts(epoch, metrics):
        calls.append(epoch)

    result = searched(n_trials=16, epochs=6, callbacks=[counts], metric="loss",
                      optimizer=Adam(0.05))  # fmt: skip
    states = [trial.state.name for trial in result.study.trials]
    assert states.count("PRUNED") >= 2
    assert len(calls) < 16 * 6
    pruned = [trial for trial in result.study.trials if trial.state.name == "PRUNED"]
    assert all(1 <= len(trial.intermediate_values) < 6 for trial in pruned)
    assert f"Best of 16 trials ({states.count('PRUNED')} pruned): loss" in str(result)


def test_a_trial_that_diverges_does_not_end_the_search():
    def build(trial):
        rate = trial.suggest_categorical("learning_rate", [1e30, 1e-2])
        return nn.mlp(8, 1, rate=0.2), {"optimizer": SGD(rate)}

    with np.errstate(all="ignore"):
        result = search(build, X, X[:, 0], loss="mse", n_trials=8, epochs=3, progress=False)
    assert result.best_params == {"learning_rate": 1e-2}
    lost = [t for t in result.study.trials if t.params == {"learning_rate": 1e30}]
    assert lost
    for trial in lost:
        assert trial.state.name == "PRUNED"
        assert "Weights and optimiser state are back" in trial.user_attrs["diverged"]


def test_a_search_where_all_diverge_says_why():
    def build(trial):
        return nn.mlp(8, 1, rate=0.0), {"optimizer": SGD(trial.suggest_float("lr", 1e30, 1e31))}

    message = "none of 2 trials was trained to its end: the .* not finite"
    with np.errstate(all="ignore"), pytest.raises(FloatingPointError, match=message):
        search(build, X, X[:, 0], loss="mse", n_trials=2, epochs=2, progress=False)


def test_the_best_model_is_trained_on_all_samples():
    result = searched(key=5)
    model = result.best_model()
    expected = nn.mlp(8, 2, rate=result.best_params["rate"])
    expected.fit(X, Y, epochs=3, loss="softmax_cross_entropy", optimizer=Adam(1e-2), key=5,
                 progress=False)  # fmt: skip
    for name, weight in expected.params.items():
        np.testing.assert_array_equal(model.params[name], weight)
    assert result.best_model(epochs=1).training_state.epoch == 1


def test_the_choices_of_an_mlp():
    result = search(
        tuning.MLPSpace(2, units=(4, 16), depth=(1, 2), optimizer="sgd"), X, Y, n_trials=6,
        epochs=1, progress=False, loss="softmax_cross_entropy", sampler="random",
    )  # fmt: skip
    for params in params_of(result):
        assert params.keys() - {"rate_2", "input_rate", "max_norm"} == {
            "units", "depth", "rate_1", "input_dropout", "bounded", "activation", "learning_rate"
        }  # fmt: skip
        assert ("rate_2" in params) == (params["depth"] == 2)
        assert ("input_rate" in params) == params["input_dropout"]
        assert ("max_norm" in params) == params["bounded"]
        assert 4 <= params["units"] <= 16
        assert 0 <= params["rate_1"] <= 0.8
    assert isinstance(result.best_model()[0], nn.Dropout) == result.best_params["input_dropout"]
    assert set(result.table()["state"]) <= {"COMPLETE", "PRUNED"}
    shares = result.importance()
    assert "rate_1" in shares
    assert sum(shares.values()) == pytest.approx(1.0)


START = {
    "units": 12, "depth": 1, "rate_1": 0.25, "input_dropout": False, "bounded": False,
    "activation": "relu", "learning_rate": 0.002,
}  # fmt: skip


def test_a_search_begins_with_what_is_known_to_work(tmp_path):
    options = {"n_trials": 3, "epochs": 1, "progress": False, "loss": "softmax_cross_entropy"}
    space = tuning.MLPSpace(2, units=(4, 16), depth=(1, 2), optimizer="sgd")
    result = search(space, X, Y, start=START, storage=tmp_path / "a.log", **options)
    first = params_of(result)
    assert first[0] == START
    assert first[1] != START
    # It is not tried again when the search goes on.
    again = search(
        space, X, Y, start=START, storage=tmp_path / "a.log", **options | {"n_trials": 4}
    )
    assert params_of(again)[:3] == first
    assert params_of(again).count(START) == 1
    with pytest.raises(ValueError, match="which differs in start"):
        search(space, X, Y, storage=tmp_path / "a.log", **options)
    with pytest.raises(ValueError, match=r"start has momentum=0\.9, which build does not"):
        search(space, X, Y, start=START | {"momentum": 0.9}, **options)
    with pytest.raises(TypeError, match="start must be a dict of parameters by name"):
        search(space, X, Y, start=[0.5], **options)


def test_numbers_of_a_space_are_not_searched():
    optuna = pytest.importorskip("optuna", reason=WITHOUT_OPTUNA)

    space = tuning.MLPSpace(
        3, units=8, depth=2, rate=0.5, input_rate=None, max_norm=None, activation="tanh",
        learning_rate=1e-3,
    )  # fmt: skip
    model, options = space(optuna.trial.FixedTrial({}))
    assert model.to_config() == nn.mlp((8, 8), 3, rate=0.5, activation="tanh").to_config()
    assert options == {"optimizer": Adam(1e-3)}
    assert tuning.MLPSpace(3, optimizer="sgd", learning_rate=0.1)(
        optuna.create_study().ask()
    )[1] == {"optimizer": SGD(0.1, momentum=0.9)}  # fmt: skip


def test_trials_run_side_by_side(tmp_path):
    with joblib.parallel_config(backend="threading", n_jobs=2):
        assert len(params_of(searched())) == 4
    # Other processes need no storage; with one, it is written here.
    assert params_of(searched(n_jobs=2)) == params_of(searched(n_jobs=1))
    with joblib.parallel_config(backend="loky"):
        beside = searched(n_jobs=2, storage=tmp_path / "trials.log", sampler="random", pruner=None)
    alone = searched(sampler="random", pruner=None)
    key = lambda trial: (trial.params["rate"], trial.value)  # noqa: E731
    assert sorted(map(key, beside.study.trials)) == sorted(map(key, alone.study.trials))


class Delays:
    """A callback that makes every other training finish last, after those that began later."""

    def __init__(self, number):
        self.left, self.number, self.lock = 0, number, threading.Lock()

    def __call__(self, epoch, metrics):
        with self.lock:
            self.left += 1
            first = self.left % self.number == 1
        time.sleep(0.02 if first else 0.0)
        return False

    def __deepcopy__(self, memo):
        return self


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trials_that_run_side_by_side_do_not_depend_on_timing(pruner):
    options = {"n_trials": 20, "n_jobs": 3, "pruner": pruner, "epochs": 9}
    found = []
    with joblib.parallel_config(backend="threading"):
        for number in (1000, 2, 5):
            study = searched(callbacks=[Delays(number)], **options).study
            found.append([(t.params, t.value, t.state, t.intermediate_values)
                          for t in study.trials])  # fmt: skip
    assert found[0] == found[1] == found[2]
    # A round learns from those before it, of which there are fewer than one by one.
    assert found[0] != [(t.params, t.value, t.state, t.intermediate_values)
                        for t in searched(**options | {"n_jobs": 1}).study.trials]  # fmt: skip


# Trainings in threads change the filters of warnings, also that of joblib's about unused results.
@pytest.mark.filterwarnings(r"ignore:\d+ tasks (have been|which were)")
@pytest.mark.parametrize("finished", [12, 13, 14])
def test_a_round_that_was_interrupted_is_completed(tmp_path, monkeypatch, finished):
    options = {"n_trials": 20, "n_jobs": 5, "epochs": 9, "storage": tmp_path / "trials.log"}
    with joblib.parallel_config(backend="threading"):
        whole = searched(**options | {"storage": None})
        keep, left = _search._Rounds.keep, [finished]

        def interrupts(rounds, trained):
            keep(rounds, trained)
            left[0] -= 1
            if not left[0]:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(_search._Rounds, "keep", interrupts)
            with pytest.raises(KeyboardInterrupt):
                searched(**options)
        again = searched(**options)
    found = [
        [(t.params, t.state, t.value, t.intermediate_values) for t in result.study.trials]
        for result in (again, whole)
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_killed_between_two_suggestions_chooses_the_same(tmp_path, sampler):
    def build(trial):
        rates = [trial.suggest_float(name, 0.0, 0.8) for name in "abc"]
        return nn.mlp(4, 2, rate=rates[0])

    options = {"n_trials": 2, "epochs": 1, "sampler": sampler}
    path = tmp_path / "whole.log"
    whole = params_of(searched(build, storage=path, **options))
    lines = path.read_bytes().splitlines(keepends=True)
    suggested = [n for n, line in enumerate(lines) if b"param_name" in line]
    assert len(suggested) == 6
    for n in suggested:
        killed = tmp_path / f"{n}.log"
        killed.write_bytes(b"".join(lines[:n]))
        assert params_of(searched(build, storage=killed, **options)) == whole


def test_objects_of_optuna_are_taken_as_they_are():
    optuna = pytest.importorskip("optuna", reason=WITHOUT_OPTUNA)

    storage = optuna.storages.InMemoryStorage()
    grid = optuna.samplers.GridSampler({"rate": [0.0, 0.25]}, seed=0)
    # The sampler asks to stop when both were tried.
    result = searched(n_trials=5, sampler=grid, pruner=optuna.pruners.NopPruner(), storage=storage)
    assert sorted(p["rate"] for p in params_of(result)) == [0.0, 0.25]
    assert optuna.load_study(study_name="dropcore", storage=storage).best_value == result.best_value
    assert len(params_of(searched(n_trials=2, pruner="hyperband", sampler="random"))) == 2


def test_a_timeout_begins_no_further_trial():
    with pytest.raises(FloatingPointError, match=r"none of 0 trials .*give a longer timeout"):
        searched(timeout=1e-9)


def test_a_search_is_not_continued_with_other_data(tmp_path):
    path = tmp_path / "trials.sqlite"
    searched(n_trials=1, storage=path)
    with pytest.raises(ValueError, match="another experiment, which differs in options of fit: na"):
        searched(n_trials=2, storage=path, epochs=4)
    with pytest.raises(ValueError, match="which differs in x: name another file"):
        searched(n_trials=2, storage=path, x=X + 1)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"build": small(0.5)}, TypeError, "build must be a function of an Optuna trial"),
        ({"build": lambda trial: 3}, TypeError, "build must return a model, or a model and a dict"),
        ({"build": lambda trial: (small(0.5), {"optimizer": "sgd"})}, ValueError,
         "build chooses optimizer for each trial: leave it out"),
        ({"n_trials": 0}, ValueError, "n_trials must be a positive integer, got 0"),
        ({"timeout": 0}, ValueError, "timeout must be positive and finite, got 0"),
        ({"validation": 1.0}, ValueError, r"validation must be in \(0, 1\), got 1.0"),
        ({"validation": 1e-9}, ValueError, "validation=1e-09 of 60 samples: "),
        ({"validation": 0.2, "folds": 3}, ValueError, "give validation or folds, not both"),
        ({"validation_split": 0.2}, TypeError, "write validation=, or folds=, instead of val"),
        ({"y": np.r_[Y[:-1], 2]}, ValueError, "class 2 has 1 samples, and each of the 2 parts"),
        ({"epochs": 0}, ValueError, "epochs must be a positive integer, got 0"),
        ({"sampler": "tpa"}, ValueError, "sampler must be 'tpe', 'gp', 'random', or an object"),
        ({"pruner": "best"}, ValueError, "pruner must be 'median', 'hyperband', None, or an obj"),
        ({"storage": "trials"}, ValueError, "storage must be a file that ends in .db"),
        ({"storage": "/no/folder/trials.db"}, FileNotFoundError, "there is no folder /no/folder"),
        ({"storage": 3}, ValueError, "storage must be a file that ends in .db"),
    ],
)  # fmt: skip
def test_what_search_refuses(changes, error, message):
    with pytest.raises(error, match=message):
        searched(**changes)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n_outputs": 0}, ValueError, "MLPSpace: n_outputs must be a positive integer"),
        ({"units": (8, 4)}, ValueError, r"units must be a number or a range \(low, high\), got"),
        ({"units": (8, 16, 32)}, ValueError, "units must be a number or a range"),
        ({"depth": 0}, ValueError, "depth must be a positive integer, got 0"),
        ({"rate": (0.0, 1.5)}, ValueError, r"rate must be in \[0, 1\], got 1.5"),
        ({"rate": None}, TypeError, "rate must be a number, got None"),
        ({"max_norm": 0.0}, ValueError, "max_norm must be positive and finite, got 0.0"),
        ({"activation": ()}, ValueError, "activation must be a name or several, got none"),
        ({"activation": ("relu", "rellu")}, ValueError, "MLPSpace: activation must be None, 'relu"),
        ({"optimizer": "rmsprop"}, ValueError, "optimizer must be 'adam' or 'sgd', got 'rmsprop'"),
    ],
)
def test_what_a_space_refuses(options, error, message):
    with pytest.raises(error, match=message):
        tuning.MLPSpace(**{"n_outputs": 2} | options)


def test_a_trained_model_is_no_trial():
    trained = small(0.5)
    trained.fit(X, Y, epochs=1, loss="softmax_cross_entropy", key=0, progress=False)
    with pytest.raises(ValueError, match="search: build must return a new model each time"):
        searched(lambda trial: trained)


def test_importance_needs_trials():
    with pytest.raises(ValueError, match="at least two finished trials are needed, got 1"):
        searched(n_trials=1).importance()


@pytest.mark.slow
def test_the_search_names_a_keep_of_the_flat_region():
    from dropcore.demo import noisy_digits

    x, y, x_test, y_test = noisy_digits(0)
    options = {"epochs": 40, "loss": "softmax_cross_entropy", "progress": False}
    grid = tuning.sensitivity(
        lambda keep: nn.mlp((256, 256), 10, keep=keep), x, y, folds=10, **options
    )
    assert grid.kind == "flat"
    assert grid.flat[0] <= 0.5 <= grid.flat[1]
    assert grid.compare(0.5).is_clear

    def build(trial):
        return nn.mlp((256, 256), 10, rate=trial.suggest_float("rate", 0.0, 0.9))

    found = search(build, x, y, n_trials=20, folds=5, **options)
    assert grid.flat[0] <= 1 - found.best_params["rate"] <= grid.flat[1]
    assert found.best_model().evaluate(x_test, y_test)["accuracy"] > 0.94
