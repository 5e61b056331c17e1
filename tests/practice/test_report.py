"""A report is one file: escaped, without references outside, replaced as a whole."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from dropcore import report
from dropcore._base.checks import rounded
from dropcore.constraints import MaxNorm
from dropcore.data import Preprocessing
from dropcore.diagnosis import NormHistory
from dropcore.nn import Dense, Dropout, Sequential
from dropcore.optim import Adam
from dropcore.report import write_report
from dropcore.report._svg import inline_svg
from dropcore.tuning import Sensitivity
from dropcore.uncertainty import averaging_curve, intervals, noise_level, reliability, sample

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

VOID = {"meta", "link", "br", "img", "input", "hr", "path", "use", "image", "rect"}


class Page(HTMLParser):
    """Tags, attributes and visible text of a page; errors for tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words, self._open = [], [], [], []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data):
        if not {"style", "script"} & set(self._open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def external(page, text):
    """Everything that a browser would fetch."""
    found = [
        value
        for _, name, value in page.attributes
        if name in ("src", "href", "xlink:href", "srcset", "data", "action")
        and not value.startswith(("#", "data:"))
    ]
    found += re.findall(r"url\((?!#)[^)]*\)|@import", text)
    return found + [tag for tag in page.tags if tag in ("script", "link", "iframe", "object")]


def data(rows=200, features=6, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features), dtype=np.float32)
    return x, (x[:, 0] + x[:, 1] > 0).astype(np.int64)


def classifier(x, y, **options):
    model = Sequential(
        [Dense(16, activation="relu", constraint=MaxNorm(2.0)), Dropout(0.25), Dense(2)]
    )
    given = {"epochs": 8, "loss": "softmax_cross_entropy", "key": 7, "progress": False}
    model.fit(x, y, **given | options)
    return model


@pytest.fixture(scope="module")
def fitted():
    x, y = data()
    norms = NormHistory()
    model = classifier(x[:100], y[:100], validation_data=(x[100:], y[100:]), callbacks=[norms])
    return model, (x[:100], y[:100]), (x[100:], y[100:]), norms


SENSITIVITY = Sensitivity(
    keeps=np.array([1.0, 0.5]), scores=np.array([[0.7, 0.8], [0.8, 0.9]]),
    train_scores=np.ones((2, 2)), metric="accuracy", higher_is_better=True, widths=None, fix="n",
    splits=[(np.arange(8), np.arange(8, 10)), (np.arange(2, 10), np.arange(2))], kind="flat",
    best=0.5, flat=(0.5, 0.7), recommended=0.5, verdict="flat from 0.5 to 0.7 <i>",
)  # fmt: skip


@pytest.fixture(scope="module")
def full(fitted, tmp_path_factory):
    """The text of a report with everything, and what it is about."""
    model, (x, y), held_out, norms = fitted
    path = tmp_path_factory.mktemp("report") / "report.html"
    curve = averaging_curve(model, *held_out, key=0, samples=(1, 4), repeats=2)
    found = write_report(
        path, model, x, y, validation=held_out, norms=norms, sensitivity=SENSITIVITY,
        uncertainty=[curve, sample(model, held_out[0], samples=4, key=0)],
        title="<script>alert(1)</script> & more", image_shape=(2, 3),
    )  # fmt: skip
    return path, found


def test_a_report_is_whole_and_fetches_nothing(full):
    text = full[0].read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert text.rstrip().endswith("</html>")
    page = Page(text)
    assert external(page, text) == []
    assert page.tags.count("svg") == page.tags.count("figure") > 8


def test_what_would_be_fetched_is_found():
    text = '<p><img src="http://x"><script src="a.js"></script>url(b.png)</p>'
    assert external(Page(text), text) == ["http://x", "a.js", "url(b.png)", "script"]


def test_the_verdict_comes_first_with_its_numbers(full, fitted):
    path, found = full
    model, _, held_out, _ = fitted
    page = Page(path.read_text(encoding="utf-8"))
    accuracy = model.evaluate(*held_out)["accuracy"]
    assert found.validation.metrics["accuracy"] == accuracy
    head = page.text[: page.text.index("The loss over the epochs")]
    assert f"{100 * accuracy:.1f} %" in head
    assert "100 validation samples" in head
    assert "expected calibration error" in head
    for finding in found.findings:
        assert finding.what in head


def test_every_part_is_there(full):
    text = Page(full[0].read_text(encoding="utf-8")).text
    for part in (
        "Which rate?", "flat from 0.5 to 0.7 <i>", "How sure are predictions?",
        "The error rate of averages of up to 4 Monte Carlo samples", "mutual information",
        "Norms of incoming weights", "0.weight", "Hidden activations", "Dense, relu", "Classes",
        "First layer", "keep 0.75", "146 parameters for 100 training samples",
        "Key(seed=7, stream=0, step=0)", "softmax_cross_entropy", "Dropout(0.25)", "Adam",
    ):  # fmt: skip
        assert part in text, part


def test_titles_and_names_are_escaped(full, tmp_path):
    pandas = pytest.importorskip("pandas")
    text = full[0].read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; more" in text
    x, y = data(features=2)
    names = ["<img src=x onerror=alert(1)>", "a\"'&<b>"]
    frame = pandas.DataFrame(x, columns=names)
    labels = np.where(y, "<u>yes</u>", "<u>no</u>")
    model = classifier(frame, labels, epochs=2)
    path = tmp_path / "r.html"
    write_report(path, model, frame, labels, validation=(frame, labels))
    page = Page(path.read_text(encoding="utf-8"))
    assert not {"img", "b", "u", "script"} & set(page.tags)
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert names[0] in page.text
    assert "<u>yes</u>" in page.text


def test_ink_and_grid_take_the_colours_of_the_page(full):
    text = full[0].read_text(encoding="utf-8")
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.S))
    assert "#333333" not in drawings
    assert "#e6e6e6" not in drawings
    assert "currentColor" in drawings
    assert "<text" in drawings  # and not paths of letters
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_identifiers_of_pictures_differ(full):
    page = Page(full[0].read_text(encoding="utf-8"))
    ids = [value for tag, name, value in page.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    used = re.findall(r"url\(#([^)]*)\)", full[0].read_text(encoding="utf-8"))
    assert set(used) <= set(ids)


def test_pictures_have_a_description(full):
    page = Page(full[0].read_text(encoding="utf-8"))
    labels = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(labels) == page.tags.count("svg")
    assert all(labels)


def test_the_same_arguments_give_the_same_file(fitted, tmp_path):
    model, (x, y), *_ = fitted
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, model, x, y)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_without_validation_data_the_score_is_qualified(fitted, tmp_path):
    model, (x, y), *_ = fitted
    write_report(tmp_path / "r.html", model, x, y, max_samples=50)
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "says little about others" in text
    assert "50 training samples" in text
    assert "Of 100 training samples, 50 were used" in text
    assert "How sure are predictions?" not in text


def test_a_regression_shows_its_intervals(tmp_path):
    x, _ = data(240)
    y = (x[:, 0] + 0.5 * np.random.default_rng(1).standard_normal(240)).astype(np.float32)
    model = Sequential([Dense(16, activation="relu"), Dropout(0.1), Dense(1)])
    model.fit(x[:120], y[:120], epochs=20, loss="mse", key=0, progress=False, optimizer=Adam(1e-2))
    held_out = (x[120:], y[120:])
    noise = noise_level(model, *held_out, key=0, samples=20)
    found = intervals(model, x[120:], key=0, noise=noise, samples=20)
    write_report(tmp_path / "r.html", model, x[:120], y[:120], validation=held_out,
                 uncertainty=found)  # fmt: skip
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert f"Intervals of 90 % cover {100 * found.coverage(y[120:]):.1f} %" in text
    assert "more or fewer would be chance" in text
    assert "90 % interval" in text  # the legend of the picture
    assert "R²" in text[: text.index("Intervals of")]
    narrow = intervals(model, x[120:], key=0, noise=0.01, samples=20)
    write_report(tmp_path / "r.html", model, x[:120], y[:120], validation=held_out,
                 uncertainty=narrow)  # fmt: skip
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "cover less than they should" in text
    wide = intervals(model, x[120:], key=0, noise=5.0, samples=20)
    write_report(tmp_path / "r.html", model, x[:120], y[:120], validation=held_out,
                 uncertainty=wide)  # fmt: skip
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "cover more than they should" in text
    error = np.sqrt(np.mean((wide.mean[:, 0] - y[120:]) ** 2))
    expected = np.sqrt(np.mean(wide.std**2))
    assert expected > 5
    assert f"they expect errors of {expected:.3g}, and errors are {error:.3g}" in text
    with pytest.raises(ValueError, match="120 intervals and no validation samples"):
        write_report(tmp_path / "r.html", model, x[:120], y[:120], uncertainty=found)
    with pytest.raises(ValueError, match="120 intervals and 20 validation samples"):
        write_report(tmp_path / "r.html", model, x[:120], y[:120], uncertainty=[found],
                     validation=(x[:20], y[:20]))  # fmt: skip


def test_the_scores_of_large_numbers_are_readable(tmp_path):
    x, _ = data(240)
    y = 1e5 * (x[:, 0] + 0.5 * np.random.default_rng(1).standard_normal(240)).astype(np.float32)
    model = Sequential([Dense(16, activation="relu"), Dense(1)])
    model.fit(x[:120], y[:120], epochs=20, loss="mse", key=0, progress=False, scale_targets=True)
    held_out = (x[120:], y[120:])
    found = write_report(tmp_path / "r.html", model, x[:120], y[:120], validation=held_out,
                         metrics=["rmse", "mae"])  # fmt: skip
    page = (tmp_path / "r.html").read_text(encoding="utf-8")
    error = found.validation.metrics["rmse"]
    assert 1e4 < error < 1e6
    assert f"<strong>{round(error, -len(str(int(error))) + 3):,.0f}</strong>" in page
    assert "e+0" not in Page(page).text
    assert page.count('class="score"') == 4
    assert [f">{name}<" in page for name in ("R²", "RMSE", "Loss", "MAE")] == [True] * 3 + [False]


def test_descriptions_are_escaped():
    from matplotlib.figure import Figure

    svg = inline_svg(Figure().subplots(), '"><script>', 1)
    assert "<script" not in svg
    assert 'aria-label="&#34;&gt;&lt;script&gt;"' in svg


@pytest.mark.parametrize(("sure", "how"), [(0.99, "too sure"), (0.6, "not sure enough")])
def test_a_given_calibration_is_the_one_that_is_shown(fitted, tmp_path, sure, how):
    model, (x, y), held_out, _ = fitted
    chances = np.full((100, 2), 1 - sure)
    chances[:, 0] = sure
    found = reliability(chances, np.arange(100) % 5 == 0)  # 80 % are right
    write_report(tmp_path / "r.html", model, x, y, validation=held_out, uncertainty=found)
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert f"they are {how}." in text
    assert text.count("Accuracy against confidence") == 1
    assert f"ECE {found.ece:.3f}" in text


def test_a_calibration_within_chance_is_called_neither(fitted, tmp_path):
    model, (x, y), held_out, _ = fitted
    chances = np.full((100, 2), 0.26)
    chances[:, 0] = 0.74
    found = reliability(chances, np.arange(100) % 5 == 0)  # 80 % are right, ± 4.4 %
    write_report(tmp_path / "r.html", model, x, y, validation=held_out, uncertainty=found)
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "off by 6.0 %" in text
    assert "cannot be told from 100 samples" in text


def test_shares_of_classes_have_no_calibration(tmp_path):
    x, y = data()
    shares = np.eye(2, dtype=np.float32)[y]
    model = classifier(x, shares)
    write_report(tmp_path / "r.html", model, x, shares, validation=(x, shares))
    assert "calibration" not in Page((tmp_path / "r.html").read_text(encoding="utf-8")).text


def test_intervals_of_several_outputs_have_no_picture(tmp_path):
    x, _ = data()
    y = x[:, :2] * 2
    model = Sequential([Dense(8, activation="relu"), Dropout(0.1), Dense(2)])
    model.fit(x, y, epochs=2, loss="mse", key=0, progress=False)
    found = intervals(model, x, key=0, noise=1.0, samples=5)
    write_report(tmp_path / "r.html", model, x, y, validation=(x, y), uncertainty=found)
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Intervals of 90 % cover" in text
    assert "Validation samples with their intervals" not in text


def test_columns_that_are_not_used_are_named(tmp_path):
    pandas = pytest.importorskip("pandas")
    x, y = data()
    frame = pandas.DataFrame(x[:, :2], columns=["a", "b"]).assign(same=3.0)
    with pytest.warns(UserWarning, match="same"):
        model = classifier(frame, y, preprocessing=Preprocessing())
    write_report(tmp_path / "r.html", model, frame, y, metrics=["f1"])
    text = Page((tmp_path / "r.html").read_text(encoding="utf-8")).text
    assert "Columns that are not used: same (constant)." in text
    assert "Preprocessing" in text
    assert "F1" in text


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"sensitivity": 0.5}, TypeError, "sensitivity must be what dropcore.tuning.sensitivity"),
        ({"title": 3}, TypeError, "title must be a str, got 3"),
        ({"uncertainty": [1.0]}, TypeError, "uncertainty must be results of dropcore.uncertainty"),
        ({"validation": 1}, TypeError, "validation must be a pair"),
        ({"path": 3}, TypeError, "write_report: path must be a str or a pathlib.Path"),
    ],
)
def test_wrong_arguments_leave_the_old_file(fitted, tmp_path, options, error, message):
    model, (x, y), *_ = fitted
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(error, match=message):
        write_report(**{"path": path, "model": model, "x": x, "y": y} | options)
    assert path.read_text(encoding="utf-8") == "old"


def test_a_failure_while_writing_leaves_the_old_file(fitted, tmp_path, monkeypatch):
    model, (x, y), *_ = fitted
    path = tmp_path / "report.html"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_report(path, model, x, y)
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_does_not_exist_is_named(fitted, tmp_path):
    model, (x, y), *_ = fitted
    with pytest.raises(FileNotFoundError, match="write_report: there is no folder"):
        write_report(tmp_path / "no" / "r.html", model, x, y)


def test_a_missing_jinja_is_named(fitted, tmp_path, monkeypatch):
    model, (x, y), *_ = fitted
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(ImportError, match=r"a report needs Jinja2.*dropcore\[report\]"):
        write_report(tmp_path / "r.html", model, x, y)


def test_the_template_is_package_data():
    from importlib import resources

    assert resources.files(report).joinpath("template.html").is_file()
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert '"report/*.html"' in pyproject.read_text(encoding="utf-8")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_overflows_in_a_browser(full, tmp_path, width):
    """The page in a frame of that width, which a script outside of it measures."""
    frame = tmp_path / "frame.html"
    frame.write_text(
        f"<iframe src='{full[0].as_uri()}' style='border:0;width:{width}px;height:900px'></iframe>"
        "<script>addEventListener('load', () => { const page = frames[0].document; "
        "document.body.textContent = `width ${page.documentElement.scrollWidth}, texts "
        "${page.querySelectorAll('svg text').length}`; })</script>",
        encoding="utf-8",
    )
    done = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
         "--allow-file-access-from-files", f"--user-data-dir={tmp_path / 'profile'}",
         "--dump-dom", frame.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    measured = re.search(r"width (\d+), texts (\d+)", done.stdout)
    assert measured, done.stdout[-500:]
    assert int(measured[1]) == width
    assert int(measured[2]) > 50


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (35_349.6, 3, "35,300"),
        (-35_349.6, 4, "-35,350"),
        (999.96, 4, "1000"),
        (1234, 3, "1,230"),
        (0.012345, 3, "0.0123"),
        (2e9, 3, "2e+09"),
        (float("nan"), 3, "nan"),
        (float("inf"), 3, "inf"),
    ],
)
def test_numbers_are_rounded_as_people_write_them(value, digits, text):
    assert rounded(value, digits) == text
