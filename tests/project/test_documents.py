"""What the documents show is what happens: their blocks run, one after the other."""

import re
import shlex
from pathlib import Path

import pytest

from dropcore.cli import main
from dropcore.cli._defaults import with_defaults
from dropcore.cli._main import COMMANDS, parser
from dropcore.uncertainty import log_likelihood, reliability

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"

PAGES = {path.name: path for path in (README, *sorted((ROOT / "docs").glob("*.md")))}

ELSEWHERE = {
    "gpu.md": "tests/cuda/test_document.py, on a GPU or the stand-in for CuPy",
    "adapters.md": "tests/adapters/test_document.py, beside the libraries",
    "coming_from.md": "tests/adapters/test_coming_from.py, beside the libraries",
    "embedding.md": "tests/adapters/test_numba.py, beside Numba",
}

BLOCK = re.compile(r"^```(python|console)\n(.*?)^```$", re.M | re.S)


def blocks(name):
    """Language and text of each block that runs, in the order of the page."""
    return BLOCK.findall(PAGES[name].read_text(encoding="utf-8"))


def commands(text):
    """The command lines of a console block; the other lines are output."""
    joined = text.replace("\\\n", " ")
    return [shlex.split(line[2:]) for line in joined.splitlines() if line.startswith("$ ")]


def run_page(name):
    """The names that are there when all blocks of a page have run."""
    namespace = {}
    for number, (language, text) in enumerate(blocks(name)):
        if language == "python":
            exec(compile(text, f"{name}, block {number}", "exec"), namespace)
            continue
        for words in commands(text):
            if words[0] == "dropcore":
                assert main(words[1:]) == 0, " ".join(words)
    return namespace


def of_readme(found):
    assert 0.5 < found["model"].evaluate(found["x"], found["labels"])["accuracy"] <= 1


def of_data(found):
    assert found["model"].evaluate(found["x"], found["price"])["loss"] < 0.2
    assert found["x"]["size"].dtype == "float64"
    assert [len(part[0]) for part in (found["train"], found["validation"], found["test"])] == [
        210, 60, 30,
    ]  # fmt: skip
    assert found["big"].training_state.epoch == 4


def of_networks(found):
    assert found["dx"].shape == found["x"].shape == (8, 10, 32)
    assert found["dcontext"].shape == found["context"].shape
    assert found["said"] == [8, 9, 0, 1, 2, 3, 4, 5]
    assert found["samples"].shape == (10, 32, 10)
    assert found["model"].training_state.step == 15
    assert found["language_model"].training_state.step == 3
    history = found["history"]
    assert history.epochs == list(range(1, 1 + len(history.epochs)))
    assert 20 < history.best_epoch <= len(history.epochs)
    assert history["val_roc_auc"][history.best_epoch - 1] == max(history["val_roc_auc"])


def of_performance(found):
    assert found["forward_mine"](8, 0.5, "float64")().shape == (8,)


def of_mask_contract(found):
    assert [f"{u:08x}" for u in found["u"]] == [
        "16687b38", "5c13cd4b", "711f53de", "1cdefa67", "d3b96278", "6224910b", "f1b40901",
        "91fb57fc",
    ]  # fmt: skip
    assert found["packed"] == 0xAF


def of_diagnosis(found):
    names = [finding.name for finding in found["found"].findings]
    assert names[0] == "overfitting"
    assert found["found"].gap.large
    assert not found["better"].gap.large
    better = found["better"].validation.metrics["accuracy"]
    assert better > found["found"].validation.metrics["accuracy"] + 0.05
    assert Path("curves.svg").is_file()
    assert "Digits with wrong labels" in Path("report.html").read_text(encoding="utf-8")


def of_tuning(found):
    assert found["result"].compare(0.5).mean > 0
    assert found["wide"].compare(0.5, 0.5, of=found["narrow"]).mean > 0
    assert found["gain"].mean >= 0
    assert found["model"].training_state.epoch == 40
    assert Path("trials.db").is_file()


def of_uncertainty(found):
    assert (
        found["strange"].mutual_information.mean() > 2 * found["digits"].mutual_information.mean()
    )
    assert found["curve"].error[-1] < found["curve"].error[0] / 2
    labels = found["labels"][found["test"]]
    before, after = found["before"], found["after"]
    assert log_likelihood(after, labels) > log_likelihood(before, labels)
    assert reliability(after, labels).ece < reliability(before, labels).ece
    assert 0.15 < found["noise"] < 0.3
    assert 0.85 < found["found"].coverage(found["y"][400:]) < 0.97


CHECKS = {
    "README.md": of_readme,
    "data.md": of_data,
    "diagnosis.md": of_diagnosis,
    "mask-contract.md": of_mask_contract,
    "networks.md": of_networks,
    "performance.md": of_performance,
    "tuning.md": of_tuning,
    "uncertainty.md": of_uncertainty,
}


# Packages that have no wheels for free-threaded Python, or need one that has none.
NEEDS = {
    "README.md": ("safetensors", "optuna"),
    "howto.md": ("safetensors", "optuna"),
    "networks.md": ("safetensors",),
    "tuning.md": ("safetensors", "optuna"),
}


@pytest.mark.parametrize("name", sorted(PAGES.keys() - ELSEWHERE.keys()))
def test_blocks_of_a_page_run_as_written(name, tmp_path, monkeypatch):
    for package in NEEDS.get(name, ()):
        pytest.importorskip(package, reason=f"{package}, which {name} uses, is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "bench")
    found = run_page(name)
    CHECKS.get(name, lambda _: None)(found)


def test_files_of_defaults_have_options_of_the_command(tmp_path):
    found = 0
    for path in PAGES.values():
        for text in re.findall(r"^```toml\n(.*?)^```$", path.read_text("utf-8"), re.M | re.S):
            file = tmp_path / "defaults.toml"
            file.write_text(text, encoding="utf-8")
            words = with_defaults(["train", "a.csv", "-o", "m", "--config", str(file)], COMMANDS)
            assert parser().parse_args(words).units == (256, 128)
            found += 1
    assert found == 1


def test_every_page_is_tested_and_has_no_block_of_another_name():
    assert PAGES.keys() >= {*ELSEWHERE, *CHECKS}
    for name, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        fences = re.findall(r"^```(\w*)$", text, re.M)
        opened = fences[::2]
        assert not any(fences[1::2]), f"{name}: a block is not closed"
        assert set(opened) <= {"python", "console", "cython", "c", "toml", ""}, name
        assert opened.count("python") + opened.count("console") == len(blocks(name))


@pytest.mark.parametrize("target", ["demo", "test", "peers", "kernels", "check", "lint", "bench"])
def test_make_has_the_targets_that_are_named(target):
    makefile = README.with_name("Makefile").read_text(encoding="utf-8")
    assert re.search(rf"^{target}:", makefile, flags=re.M)
