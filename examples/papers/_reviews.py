"""What the experiments with the sentences of movie reviews share."""

import re
from collections import Counter

TOKEN = re.compile(r"[a-z0-9]+?(?=n't)|n't|'(?:s|ve|re|d|ll)\b|[a-z0-9]+|[(),!?']")


def tokens_of(texts):
    """The words of each text, in lower case, split as in Kim 2014: "does n't", "it 's"."""
    return [TOKEN.findall(text.lower()) for text in texts]


def vocabulary_of(tokens, size=None):
    """A number from 1 for each word, or for the most common ones."""
    counts = Counter(word for words in tokens for word in words)
    common = sorted(counts, key=lambda word: (-counts[word], word))[:size]
    return {word: number for number, word in enumerate(common, 1)}
