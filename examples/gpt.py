"""A small GPT, trained on a text of your own: it predicts the next character, or the next word.

A causal transformer with the normalisation first in each branch, as in GPT-2 (Radford et al. 2019,
"Language models are unsupervised multitask learners"), and with dropout on the embeddings, on the
weights of attention and at the end of each branch.

    python examples/gpt.py book.txt                         # characters, for about two minutes
    python examples/gpt.py book.txt --save book.dropcore    # continues where it was stopped
    python examples/gpt.py book.txt --words --rate 0.3
    python examples/gpt.py PTB                              # a folder with the Penn Treebank

The last tenth of a text is held out, at most 100,000 characters or words. The folder of the Penn
Treebank has ptb.train.txt to train on and ptb.valid.txt to hold out. The perplexity of the held-out
text is printed beside those of a unigram and a bigram model. All randomness is a function of the
seed: the same call gives the same weights and the same sample, for any number of threads.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np

import dropcore
from dropcore import Key, noise, training
from dropcore.nn import transformer
from dropcore.optim import AdamW
from dropcore.schedules import Cosine, WarmUp

HELD_OUT, MOST_COMMON = 100_000, 10_000
UPDATES, PASSES = 2000, 40
LOSS = "softmax_cross_entropy"
WINDOWS, SAMPLE = 0, 1  # the streams of noise
OF_THE_RUN = ("words", "layers", "width", "heads", "context", "rate", "updates", "batch",
              "learning_rate", "seed")  # fmt: skip


# --- text ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Vocabulary:
    """The tokens that have a number: characters or words. Number 0 is any other token."""

    tokens: list[str]
    words: bool

    def numbers(self, tokens):
        """The number of each token (n,), as int64."""
        known = {token: number for number, token in enumerate(self.tokens)}
        return np.array([known.get(token, 0) for token in tokens], np.int64)

    def text(self, numbers):
        """The tokens of these numbers as a string."""
        tokens = [self.tokens[number] for number in numbers]
        if self.words:
            tokens = ["\n" if token == "<eos>" else f" {token}" for token in tokens]
        return "".join(tokens)


def tokens_of(text, words):
    """The characters of a text, or its words and the ends of its lines."""
    return text.replace("\n", " <eos> ").split() if words else list(text)


def read(path, options):
    """The tokens of a file; exit with the reason if it cannot be read."""
    try:
        return tokens_of(path.read_text(encoding=options.encoding), options.words)
    except OSError as error:
        sys.exit(f"{path} cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        sys.exit(f"{path} is not a text in {options.encoding}: try --encoding latin-1")


def load(options):
    """Numbers to train on, numbers that are held out, and the vocabulary of the former."""
    if options.path.is_dir():
        options.words = True
        train, valid = (read(options.path / f"ptb.{n}.txt", options) for n in ("train", "valid"))
    else:
        whole = read(options.path, options)
        end = len(whole) - min(len(whole) // 10, HELD_OUT)
        train, valid = whole[:end], whole[end:]
    if min(len(train), len(valid)) <= options.context:
        sys.exit(
            f"{options.path} has {len(train)} {'words' if options.words else 'characters'} to "
            f"train on and {len(valid)} to hold out, and each must have more than --context, "
            f"{options.context}: take a longer text or a smaller --context"
        )
    unknown = "<unk>" if options.words else "\N{REPLACEMENT CHARACTER}"
    common = [token for token, _ in Counter(train).most_common(MOST_COMMON) if token != unknown]
    vocabulary = Vocabulary([unknown, *common], options.words)
    return vocabulary.numbers(train), vocabulary.numbers(valid), vocabulary


def windows(numbers, context):
    """Each window of a text (n, context), and the token that follows each of its tokens."""
    longer = np.lib.stride_tricks.sliding_window_view(numbers, context + 1)
    return longer[:, :-1], longer[:, 1:]


# --- models --------------------------------------------------------------------------------------


def baselines(train, before, after, size):
    """Perplexity of the tokens `after` by a unigram model, and by a bigram model of those `before`.

    The unigram adds one to each count. The bigram is an interpolated Kneser-Ney model, whose
    discount follows from the training text (Chen and Goodman 1999, "An empirical study of smoothing
    techniques for language modeling"). Held-out text chooses nothing.
    """
    unigram = (np.bincount(train, minlength=size) + 1) / (len(train) + size)
    pairs, counts = np.unique(train[:-1] * size + train[1:], return_counts=True)
    first, second = np.divmod(pairs, size)
    once, twice = (np.count_nonzero(counts == n) for n in (1, 2))
    discount = (once + 1) / (once + 2 * twice + 2)  # of a small text both may be 0
    lower = (np.bincount(second, minlength=size) + 1) / (len(pairs) + size)
    wanted = before * size + after
    at = np.minimum(np.searchsorted(pairs, wanted), len(pairs) - 1)
    count = np.where(pairs[at] == wanted, counts[at], 0)
    total = np.bincount(train[:-1], minlength=size)[before]
    rest = np.where(total, discount * np.bincount(first, minlength=size)[before], 1)
    total = np.maximum(total, 1)
    bigram = np.maximum(count - discount, 0) / total + rest / total * lower[after]
    return tuple(float(np.exp(-np.log(p).mean())) for p in (unigram[after], bigram))


def model_of(size, numbers, options):
    """The network that a run with this text and these options has saved, or a new one.

    From the numbers of tokens (batch, time) it computes logits (batch, time, size) of those that
    follow.
    """
    run = {name: vars(options)[name] for name in OF_THE_RUN} | {"text": zlib.crc32(numbers)}
    if options.save and options.save.exists():
        model = dropcore.load(options.save)
        saved = getattr(model.training_state, "notes", {})
        for name, value in run.items():
            if saved.get(name) != value:
                sys.exit(
                    f"{options.save} is of a run with another {name}, {saved.get(name)} instead of "
                    f"{value}: give --save another name, or repeat the options of that run"
                )
        return model
    try:
        model = transformer(
            options.width, size, depth=options.layers, heads=options.heads, vocabulary=size,
            max_length=options.context, causal=True, return_sequences=True, rate=options.rate,
            input_rate=options.rate,
        )  # fmt: skip
        model.build((options.context,), key=options.seed)
    except ValueError as error:
        sys.exit(str(error))
    model.training_state = training.TrainingState(notes=run)
    return model


# --- training and sampling -----------------------------------------------------------------------


def train(model, numbers, held_out, options):
    """Train a model from where it is to its last update; return the perplexity of held-out text.

    The windows of an update are a function of the seed and the number of the update.
    """
    x, y = windows(numbers, options.context)
    rise = options.updates // 20
    fall = Cosine(options.learning_rate, steps=max(options.updates - rise, 1))
    optimizer, started = AdamW(WarmUp(fall, rise)), perf_counter()
    for step in range(model.training_state.step, options.updates + 1):
        if step % options.every == 0 or step == options.updates:
            loss = model.evaluate(*held_out, loss=LOSS, batch_size=options.batch)["loss"]
            perplexity, seconds = float(np.exp(loss)), perf_counter() - started
            print(f"update {step}, {seconds:.0f} s: perplexity {perplexity:.2f}", flush=True)
            if options.save:
                model.save(options.save)
        if step < options.updates:
            u = noise.uniform(options.batch, key=Key(options.seed, WINDOWS, step), dtype="float64")
            rows = (u * len(x)).astype(np.int64)
            training.step(model, optimizer, LOSS, x[rows], y[rows], key=options.seed)
    return perplexity


def sample(model, numbers, options):
    """The known tokens that follow, drawn from softmax(logits / temperature) of the top k.

    Such a draw is the largest of the logits after Gumbel noise is added, which is a function of the
    seed and the position.
    """
    found = list(numbers)
    for position in range(options.length):
        logits = model(np.array([found[-options.context :]]))[0, -1] / options.temperature
        logits[0] = -np.inf  # the unknown token
        top = min(options.top_k, len(logits))
        logits[logits < np.partition(logits, -top)[-top]] = -np.inf
        u = noise.uniform(len(logits), key=Key(options.seed, SAMPLE, position), dtype="float64")
        found.append(int(np.argmax(logits - np.log(-np.log(u)))))
    return found[len(numbers) :]


def above_zero(kind):
    """For argparse: a number of some kind that is above zero."""

    def number(text):
        if not (value := kind(text)) > 0:
            raise ValueError
        return value

    number.__name__ = f"{kind.__name__} above 0"  # in the message
    return number


def main(arguments=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    whole, real = above_zero(int), above_zero(float)
    parser.add_argument("path", type=Path, help="a text, or the folder of the Penn Treebank")
    parser.add_argument("--encoding", default="utf-8", help="of the text")
    parser.add_argument("--words", action="store_true", help="predict words")
    parser.add_argument("--save", type=Path, help="a file to save to and to continue from")
    parser.add_argument("--layers", type=whole, default=3)
    parser.add_argument("--width", type=whole, default=128)
    parser.add_argument("--heads", type=whole, default=4)
    parser.add_argument("--context", type=whole, default=64, help="tokens that the model sees")
    parser.add_argument("--rate", type=float, default=0.1, help="of dropout")
    parser.add_argument("--updates", type=whole, help=f"{UPDATES}, or {PASSES} times a short text")
    parser.add_argument("--every", type=whole, default=200, help="updates from print to print")
    parser.add_argument("--batch", type=whole, default=32, help="windows in an update")
    parser.add_argument("--learning-rate", type=real, default=3e-3, help="at its highest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prompt", default="\n", help="what the sample follows")
    parser.add_argument("--length", type=whole, default=500, help="tokens of the sample")
    parser.add_argument("--temperature", type=real, default=0.8)
    parser.add_argument("--top-k", type=whole, default=40)
    options = parser.parse_args(arguments)

    numbers, valid, vocabulary = load(options)
    passes = PASSES * len(numbers) // (options.batch * options.context)
    options.updates = options.updates or max(min(passes, UPDATES), 1)
    held_out = [part[:: options.context] for part in windows(valid, options.context)]
    size, (before, after) = len(vocabulary.tokens), (part.ravel() for part in held_out)
    unigram, bigram = baselines(numbers, before, after, size)
    print(
        f"{len(numbers)} tokens to train on, {size} of them different; perplexity of the "
        f"{len(after)} held out: unigram {unigram:.2f}, bigram {bigram:.2f}",
        flush=True,
    )
    model = model_of(size, numbers, options)
    perplexity = train(model, numbers, held_out, options)
    prompt = vocabulary.numbers(tokens_of(options.prompt, options.words))
    text = vocabulary.text(sample(model, prompt, options))
    print(text)
    return bigram, perplexity, text


if __name__ == "__main__":
    main()
