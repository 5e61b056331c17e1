"""The examples that need data or a GPU run on small ones."""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import dropcore
from dropcore import nn
from support.idx import write_mnist

EXAMPLES = Path(__file__).parents[2] / "examples"
SMALL = ["--units", "24", "--epochs", "3", "--samples", "300"]


@pytest.fixture
def mnist(tmp_path, monkeypatch):
    """The example, with digits that are a bright row each."""
    write_mnist(tmp_path / "MNIST", np.random.default_rng(0), train=400, test=10_000)
    monkeypatch.setenv("DROPCORE_DATA", str(tmp_path))
    spec = importlib.util.spec_from_file_location("mnist_8192", EXAMPLES / "mnist_8192.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_mnist_learns(mnist, capsys):
    x, _, x_test, y_test = mnist.digits()
    assert (len(x), len(x_test), x.dtype, x.max()) == (400, 10_000, np.float32, 1)
    assert (x_test.reshape(-1, 28, 28)[np.arange(10_000), 2 * y_test] == 1).all()
    assert mnist.main(["--device", "cpu", *SMALL]) < 50
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert all("0.95 %" in line for line in lines)


def test_mnist_stops_in_time(mnist, capsys):
    mnist.main(["--device", "cpu", "--minutes", "0", *SMALL])
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_mnist_on_a_device(mnist, host_graphs):
    wanted = mnist.main(["--device", "cpu", *SMALL])
    assert mnist.main(SMALL) == pytest.approx(wanted, abs=0.2)


def test_mnist_without_a_device(mnist, monkeypatch):
    from dropcore._backends.cuda import kernels

    kernels.forget()
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(SystemExit, match=r"pip install cupy-cuda12x.*--device cpu --units 256"):
        mnist.main(SMALL)
    kernels.forget()


TINY = [
    "--layers", "1", "--width", "16", "--heads", "2", "--context", "12", "--batch", "16",
    "--updates", "120", "--every", "40", "--learning-rate", "0.02", "--prompt", "ab",
    "--length", "200", "--top-k", "8",
]  # fmt: skip


@pytest.fixture
def gpt(monkeypatch):
    """The example of a GPT."""
    spec = importlib.util.spec_from_file_location("gpt", EXAMPLES / "gpt.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "gpt", module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def text(tmp_path):
    """A text in which nine of ten letters are those two before them, which no bigram knows."""
    rng = np.random.default_rng(0)
    letters = list("ab")
    for u, other in zip(rng.random(20_000), rng.choice(list("abcdefgh"), 20_000), strict=True):
        letters.append(letters[-2] if u < 0.9 else other)
    path = tmp_path / "text.txt"
    path.write_text("".join(letters), encoding="utf-8")
    return path


def test_gpt_learns_what_a_bigram_cannot(gpt, text, capsys):
    bigram, perplexity, sampled = gpt.main([str(text), *TINY])
    # The best is exp(-0.9125 log 0.9125 - 0.0875 log 0.0125) = 1.6, for windows without an end.
    assert 1.6 < perplexity < 2.5
    assert 6 < bigram < 10
    head, *lines, last = capsys.readouterr().out.splitlines()
    assert head.startswith("18002 tokens to train on, 9 of them different; perplexity of the 1992 ")
    assert [line.partition(",")[0] for line in lines] == [f"update {n}" for n in (0, 40, 80, 120)]
    assert last == sampled
    assert len(sampled) == 200
    assert np.mean([a == b for a, b in zip(sampled[2:], sampled, strict=False)]) > 0.7


def test_gpt_of_words(gpt, tmp_path, capsys):
    """In a folder, where the held-out part has a word of its own."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 600), ("valid", 60)):
        lines = [" a b\n" if u < 0.5 else " c d\n" for u in rng.random(n)]
        (tmp_path / f"ptb.{part}.txt").write_text("".join(lines) + f"{part} <unk>\n" * 3)
    options = [*TINY[:-4], "--prompt", "\n", "--length", "60"]
    bigram, perplexity, sampled = gpt.main([str(tmp_path), *options])
    assert 1.2 < bigram < 1.8  # one of three words is a choice between two: 2 ** (1 / 3) = 1.26
    assert 1.2 < perplexity < 1.8
    assert {" a b", " c d"} <= set(sampled.splitlines())
    assert "<unk>" not in sampled
    assert ", 7 of them different;" in capsys.readouterr().out  # with <eos> and <unk>


def test_gpt_takes_windows_by_the_seed(gpt, text, monkeypatch):
    found = []
    monkeypatch.setattr(gpt.training, "step", lambda *arguments, key: found.append(arguments[3:]))
    for seed in (0, 0, 1):
        gpt.main([str(text), *TINY, "--updates", "3", "--seed", str(seed)])
    x, y = np.moveaxis(np.array(found).reshape(3, 3, 2, 16, 12), 2, 0)
    assert (x[..., 1:] == y[..., :-1]).all()
    assert (x[0] == x[1]).all()
    updates = [x[0, 0], x[0, 1], x[0, 2], x[2, 0], x[2, 1], x[2, 2]]
    assert len({update.tobytes() for update in updates}) == 6


def test_gpt_takes_a_short_text_forty_times(gpt, text, monkeypatch):
    found = []
    monkeypatch.setattr(gpt, "train", lambda *arguments: found.append(arguments[3].updates))
    for length, batch in ((20_000, "16"), (2000, "16"), (2000, "100000")):
        text.write_text(text.read_text()[-length:])
        options = [*TINY[:8], "--length", "5", "--batch", batch]
        gpt.main([str(text), *options])
    assert found == [2000, 40 * 1800 // (16 * 12), 1]


@pytest.fixture
def saved(tmp_path):
    """A file for a run to save to."""
    pytest.importorskip("safetensors", reason="it has no free-threaded wheels")
    return tmp_path / "run.dropcore"


def test_gpt_repeats_for_any_number_of_threads(gpt, text, saved):
    def run(threads, seed):
        saved.unlink(missing_ok=True)
        before = dropcore.get_num_threads()
        dropcore.set_num_threads(threads)
        try:
            sampled = gpt.main([str(text), *TINY, "--save", str(saved), "--seed", seed])[2]
        finally:
            dropcore.set_num_threads(before)
        return sampled, saved.read_bytes()

    wanted = run(1, "0")
    assert run(2, "0") == wanted
    other = run(1, "1")
    assert other[0] != wanted[0]
    assert other[1] != wanted[1]


def test_gpt_continues_after_a_kill(gpt, text, saved, capsys):
    options = [str(text), *TINY, "--save", str(saved)]
    command = [sys.executable, str(EXAMPLES / "gpt.py"), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("update 80,"):
                process.kill()
                break
    done = dropcore.load(saved).training_state.step
    assert done in (40, 80)  # it was killed before the end, perhaps while it wrote
    found = gpt.main(options)
    assert capsys.readouterr().out.splitlines()[1].startswith(f"update {done},")
    stopped = saved.read_bytes()
    saved.unlink()
    assert gpt.main(options) == found
    assert saved.read_bytes() == stopped


def test_gpt_refuses_the_file_of_another_run(gpt, text, saved):
    options = [str(text), *TINY, "--save", str(saved)]
    gpt.main([*options, "--updates", "1"])
    gpt.main([*options, "--updates", "1", "--every", "7", "--length", "9"])
    for changed, message in (
        (["--updates", "2"], "another updates, 1 instead of 2: give --save another name"),
        (["--updates", "1", "--rate", "0.2"], "another rate, 0.1 instead of 0.2"),
        (["--updates", "1", "--seed", "3"], "another seed, 0 instead of 3"),
    ):
        with pytest.raises(SystemExit, match=message):
            gpt.main([*options, *changed])
    other = nn.Sequential([nn.Dense(1)])
    other.build((1,), key=0)
    other.save(saved.with_name("other.dropcore"))
    with pytest.raises(SystemExit, match="another words, None instead of False"):
        gpt.main([*options, "--save", str(saved.with_name("other.dropcore"))])
    text.write_text(text.read_text()[::-1])
    with pytest.raises(SystemExit, match="run with another text, "):
        gpt.main([*options, "--updates", "1"])


def test_gpt_refuses_texts(gpt, tmp_path):
    path = tmp_path / "text.txt"
    with pytest.raises(SystemExit, match=r"text\.txt cannot be read: No such file"):
        gpt.main([str(path), *TINY])
    with pytest.raises(SystemExit, match=r"ptb\.train\.txt cannot be read: No such file"):
        gpt.main([str(tmp_path), *TINY])
    for content, words in (
        ("", "0 characters to train on and 0 to hold out"),
        ("a" * 129, "117 characters to train on and 12 to hold out, and each must have more than"),
    ):
        path.write_text(content)
        with pytest.raises(SystemExit, match=f"{words}.* --context, 12: take a longer text or a"):
            gpt.main([str(path), *TINY])
    with pytest.raises(SystemExit, match="has 1 words to train on and 0"):
        gpt.main([str(path), *TINY, "--words"])
    path.write_bytes(b"\xe9" * 200)
    with pytest.raises(SystemExit, match=r"is not a text in utf-8: try --encoding latin-1"):
        gpt.main([str(path), *TINY])


def test_gpt_refuses_numbers(gpt, text, capsys):
    for name, value, message in (
        ("--temperature", "0", "argument --temperature: invalid float above 0 value: '0'"),
        ("--top-k", "-1", "argument --top-k: invalid int above 0 value: '-1'"),
        ("--updates", "1.5", "argument --updates: invalid int above 0 value: '1.5'"),
    ):
        with pytest.raises(SystemExit):
            gpt.main([str(text), *TINY, name, value])
        assert message in capsys.readouterr().err
    for name, value, message in (
        ("--heads", "3", "heads must divide the 16 units, got 3"),
        ("--rate", "1.5", "rate is the fraction dropped, in"),
    ):
        with pytest.raises(SystemExit, match=message):
            gpt.main([str(text), *TINY, name, value])


def test_gpt_draws_from_the_softmax_of_the_top(gpt):
    """Of a model that always returns the same logits."""
    logits = np.log(np.array([0.4, 0.1, 0.3, 0.15, 0.05], np.float32))

    def model(numbers):
        assert numbers.shape[1] <= 3
        return np.broadcast_to(logits, (*numbers.shape, 5)).copy()

    def shares(temperature, top_k):
        options = argparse.Namespace(
            length=4000, context=3, temperature=temperature, top_k=top_k, seed=1
        )
        return np.bincount(gpt.sample(model, [0, 1], options), minlength=5) / 4000

    # Number 0, the unknown token, is never drawn.
    assert shares(1.0, 40) == pytest.approx([0, 1 / 6, 3 / 6, 1.5 / 6, 0.5 / 6], abs=0.025)
    assert shares(1.0, 2) == pytest.approx([0, 0, 2 / 3, 1 / 3, 0], abs=0.025)
    assert shares(0.5, 3) == pytest.approx([0, 4 / 49, 36 / 49, 9 / 49, 0], abs=0.025)
    assert shares(1.0, 1).tolist() == [0, 0, 1, 0, 0]


def test_gpt_baselines(gpt):
    """Of probabilities that sum to 1, and of pairs that were counted by hand."""
    # 01 three times, 10 twice; 02, 20, 11 and 12 once.
    train = np.array([0, 1, 0, 1, 0, 2, 0, 1, 1, 2])
    size, d = 4, (4 + 1) / (4 + 2 * 1 + 2)

    def probability(before, after):
        unigram, bigram = gpt.baselines(train, np.array([before]), np.array([after]), size)
        return 1 / unigram, 1 / bigram

    for before in range(size):
        found = np.array([probability(before, after) for after in range(size)])
        assert found.sum(axis=0) == pytest.approx([1, 1])
    assert probability(0, 1) == pytest.approx([5 / 14, (3 - d + 2 * d * 3 / 10) / 4])
    assert probability(2, 3) == pytest.approx([1 / 14, d * 1 / 10])
    assert probability(3, 1)[1] == pytest.approx(3 / 10)  # nothing was seen to follow 3
