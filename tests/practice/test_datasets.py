"""Public data sets: from a folder, from the cache, from the internet."""

import functools
import gzip
import hashlib
import http.server
import io
import os
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from dropcore import datasets
from support.idx import idx

pytest.importorskip("pooch", reason="pooch is not installed")


IMAGES = np.arange(5 * 2 * 3, dtype=np.uint8).reshape(5, 2, 3) * 8
LABELS = np.array([3, 0, 9, 1, 1], np.uint8)

FILES = {
    f"{folder}/{part}-{what}-ubyte.gz": gzip.compress(idx(array[:count]))
    for folder in ("MNIST", "FashionMNIST")
    for part, count in (("train", 5), ("t10k", 2))
    for what, array in (("images-idx3", IMAGES), ("labels-idx1", LABELS))
} | {
    "MR/rt-polarity.neg": b"simplistic , silly . \nna\xefve\x85 yes\n",
    "MR/rt-polarity.pos": b'a " conan " . \n\ngood .\ngreat\n',
    "PTB/ptb.train.txt": b" the cat saw the dog \n the end \n",
    "PTB/ptb.valid.txt": b" a \n".replace(b"a", b"cat dog"),
    "PTB/ptb.test.txt": b" the dog \n",
    "UCI/yacht/data.txt": b"\n".join(
        b" ".join(b"%d" % (7 * i + j) for j in range(7)) for i in range(30)
    ),
}


def write_all(folder):
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no folder of the user's."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(datasets, "cache_folder", lambda: folder)
    monkeypatch.delenv("DROPCORE_DATA", raising=False)
    return folder


@pytest.fixture
def data(tmp_path, monkeypatch, cache):
    """A folder with small files in place of the real ones."""
    folder = tmp_path / "data"
    write_all(folder)
    monkeypatch.setenv("DROPCORE_DATA", str(folder))
    return folder


@pytest.fixture
def offline(monkeypatch):
    """Addresses at which nothing answers."""
    for path, download in datasets.DOWNLOADS.items():
        nowhere = tuple(f"http://127.0.0.1:9/{i}/{path}" for i in range(len(download.addresses)))
        monkeypatch.setitem(datasets.DOWNLOADS, path, datasets._Download(download.sha256, nowhere))


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of a folder, which replaces the internet."""

    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            super().do_GET()

        def log_message(self, *args):
            pass

    folder = tmp_path / "served"
    write_all(folder)
    packed = folder / "MR/rt-polaritydata.tar.gz"
    with tarfile.open(packed, "w:gz") as archive:
        for name in ("neg", "pos"):
            content = FILES[f"MR/rt-polarity.{name}"]
            info = tarfile.TarInfo(f"rt-polaritydata/rt-polarity.{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    running = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    home = f"http://127.0.0.1:{running.server_address[1]}"
    for path in datasets.DOWNLOADS:
        served = folder / path
        if served.exists():
            sha256 = hashlib.sha256(served.read_bytes()).hexdigest()
            addresses = (f"{home}/missing/{path}", f"{home}/{path}")
            monkeypatch.setitem(datasets.DOWNLOADS, path, datasets._Download(sha256, addresses))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield requests, folder
    running.shutdown()
    thread.join()
    running.server_close()


# --- contents ------------------------------------------------------------------------------------


@pytest.mark.parametrize("load", [datasets.load_mnist, datasets.load_fashion_mnist])
def test_images(data, load):
    found = load()
    assert found.x_train.shape == (5, 2, 3, 1)
    assert found.x_test.shape == (2, 2, 3, 1)
    assert found.x_train.dtype == np.float32
    np.testing.assert_array_equal(found.x_train[..., 0], IMAGES / np.float32(255))
    assert found.y_train.dtype == np.int64
    np.testing.assert_array_equal(found.y_train, LABELS)
    np.testing.assert_array_equal(found.y_test, LABELS[:2])
    assert len(found.class_names) == 10
    assert found.class_names[9] == ("9" if load is datasets.load_mnist else "ankle boot")


def test_images_that_do_not_fit_their_labels_are_refused(data):
    (data / "MNIST/train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:4])))
    with pytest.raises(
        ValueError, match=r"must hold uint8 images and as many labels below 10, got"
    ):
        datasets.load_mnist()
    (data / "MNIST/train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS + 1)))
    with pytest.raises(ValueError, match="labels below 10"):
        datasets.load_mnist()


def test_movie_reviews(data):
    found = datasets.load_mr()
    assert found.texts == (
        "simplistic , silly .",
        "naïve\x85 yes",
        'a " conan " .',
        "good .",
        "great",
    )
    assert found.y.tolist() == [0, 0, 1, 1, 1]
    assert found.class_names == ("negative", "positive")


def test_penn_treebank(data):
    found = datasets.load_ptb()
    assert found.vocabulary == ("the", "<eos>", "cat", "dog", "end", "saw")
    assert found.train.dtype == np.int64
    words = " ".join(found.vocabulary[i] for i in found.train)
    assert words == "the cat saw the dog <eos> the end <eos>"
    assert [found.vocabulary[i] for i in found.valid] == ["cat", "dog", "<eos>"]
    assert found.test.tolist() == [0, 3, 1]
    (data / "PTB/ptb.test.txt").write_text("the zebra\n")
    with pytest.raises(ValueError, match=r"ptb\.test\.txt has the word 'zebra', which"):
        datasets.load_ptb()


def test_regressions(data):
    found = datasets.load_uci("yacht")
    np.testing.assert_array_equal(found.x, np.arange(210.0).reshape(30, 7)[:, :6])
    np.testing.assert_array_equal(found.y, np.arange(30.0) * 7 + 6)
    assert len(found.feature_names) == 6
    assert len(found.splits) == 20
    for train, test in found.splits:
        assert (len(train), len(test)) == (27, 3)
        assert sorted([*train, *test]) == list(range(30))
    with pytest.raises(
        ValueError, match="name must be one of concrete, energy, yacht, got 'boston'"
    ):
        datasets.load_uci("boston")
    for content in ("1 2 3\n4 5 6\n", "1 2 3 4 5 6 7\n"):
        (data / "UCI/yacht/data.txt").write_text(content)
        with pytest.raises(ValueError, match="must hold 6 features and the target in each line"):
            datasets.load_uci("yacht")
    (data / "UCI/yacht/data.txt").write_text("a b c\n")
    with pytest.raises(ValueError, match="is not a table of numbers"):
        datasets.load_uci("yacht")


def test_digits():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    found = datasets.load_digits()
    assert found.x_train.shape == (1437, 8, 8, 1)
    assert found.x_test.shape == (360, 8, 8, 1)
    assert found.x_train.dtype == np.float32
    assert (found.x_train.min(), found.x_train.max()) == (0, 1)
    assert np.bincount(found.y_test).tolist() == [36, 36, 35, 37, 36, 37, 36, 36, 35, 36]
    other = datasets.load_digits(key=1)
    assert not np.array_equal(found.y_test, other.y_test)
    np.testing.assert_array_equal(found.x_test, datasets.load_digits(key=0).x_test)


# --- where files come from -----------------------------------------------------------------------


def test_files_are_fetched_once(cache, server):
    requests, _ = server
    found = datasets.load_mnist()
    np.testing.assert_array_equal(found.y_train, LABELS)
    assert len(requests) == 8  # the first address of each file has nothing
    assert (cache / "MNIST/train-images-idx3-ubyte.gz").exists()
    np.testing.assert_array_equal(datasets.load_mnist().x_train, found.x_train)
    assert len(requests) == 8
    assert datasets.load_mr().texts[2] == 'a " conan " .'
    assert datasets.load_ptb().test.tolist() == [0, 3, 1]
    assert len(datasets.load_uci("yacht").x) == 30


def test_a_file_with_another_checksum_is_not_used(cache, server):
    _, folder = server
    (folder / "UCI/yacht/data.txt").write_bytes(FILES["UCI/yacht/data.txt"] + b"\n1 2 3 4 5 6 7")
    with pytest.raises(FileNotFoundError, match="another file: its SHA-256 differs"):
        datasets.load_uci("yacht")
    assert not (cache / "UCI/yacht/data.txt").exists()


def test_the_folder_of_the_user_comes_first(data, offline):
    assert len(datasets.load_uci("yacht").x) == 30
    (data / "UCI/yacht/data.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"UCI/yacht/data\.txt is not here"):
        datasets.load_uci("yacht")


def test_a_missing_file_is_named_with_its_place(cache, offline, monkeypatch):
    target = cache / "FashionMNIST" / "train-images-idx3-ubyte.gz"
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load_fashion_mnist()
    text = str(caught.value)
    assert "FashionMNIST/train-images-idx3-ubyte.gz is not here and could not be fetched" in text
    assert "from http://127.0.0.1:9/0/FashionMNIST/train-images-idx3-ubyte.gz (Connection" in text
    assert "or http://127.0.0.1:9/1/" in text
    assert f"Put it at {target}, or put FashionMNIST/train-images-idx3-ubyte.gz into a fold" in text
    assert text.endswith("name that by the environment variable DROPCORE_DATA")
    with pytest.raises(FileNotFoundError, match=r"put MR/rt-polarity\.neg and MR/rt-polarity\.pos"):
        datasets.load_mr()
    monkeypatch.setenv("DROPCORE_DATA", "no/such/folder")
    with pytest.raises(NotADirectoryError, match="must name a folder, got 'no/such/folder'"):
        datasets.load_mr()


def test_archives_of_other_content_are_refused(cache, server, monkeypatch):
    _, folder = server
    path = "MR/rt-polaritydata.tar.gz"
    for content in (FILES["PTB/ptb.test.txt"], gzip.compress(bytes(10240))):
        (folder / path).write_bytes(content)
        home = datasets.DOWNLOADS[path].addresses
        sha256 = hashlib.sha256(content).hexdigest()
        monkeypatch.setitem(datasets.DOWNLOADS, path, datasets._Download(sha256, home))
        with pytest.raises(ValueError, match=r"has no rt-polaritydata/rt-polarity\.neg"):
            datasets.load_mr()


def test_the_cache_is_that_of_pooch():
    import pooch

    assert datasets.cache_folder() == Path(pooch.os_cache("dropcore"))


def test_every_file_has_a_checksum_and_an_address():
    for path, download in datasets.DOWNLOADS.items():
        assert len(bytes.fromhex(download.sha256)) == 32, path
        assert download.addresses, path
        for address in download.addresses:
            assert address.startswith("http")
            assert Path(address).name == Path(path).name
    assert len({download.sha256 for download in datasets.DOWNLOADS.values()}) == 15


# --- the real files ------------------------------------------------------------------------------


@pytest.fixture
def real(request):
    folder = os.environ.get("DROPCORE_DATA")
    if not folder:
        pytest.skip("DROPCORE_DATA does not name a folder with the data sets")

    def need(*paths):
        missing = [path for path in paths if not (Path(folder) / path).exists()]
        if missing:
            pytest.skip(f"DROPCORE_DATA has no {missing[0]}")
        return Path(folder)

    return need


@pytest.mark.parametrize("path", [path for path in datasets.DOWNLOADS if "tar" not in path])
def test_real_files_have_the_checksums(real, path):
    content = (real(path) / path).read_bytes()
    assert hashlib.sha256(content).hexdigest() == datasets.DOWNLOADS[path].sha256


def test_real_mnist(real):
    real("MNIST")
    found = datasets.load_mnist()
    assert found.x_train.shape == (60000, 28, 28, 1)
    assert found.x_test.shape == (10000, 28, 28, 1)
    assert found.y_train[:5].tolist() == [5, 0, 4, 1, 9]
    assert np.bincount(found.y_test).tolist() == [
        980,
        1135,
        1032,
        1010,
        982,
        892,
        958,
        1028,
        974,
        1009,
    ]


def test_real_text(real):
    real("MR", "PTB")
    reviews = datasets.load_mr()
    assert np.bincount(reviews.y).tolist() == [5331, 5331]
    words = datasets.load_ptb()
    assert [len(part) for part in (words.train, words.valid, words.test)] == [929589, 73760, 82430]
    assert len(words.vocabulary) == 10000


@pytest.mark.parametrize(
    ("name", "shape"), [("concrete", (1030, 8)), ("energy", (768, 8)), ("yacht", (308, 6))]
)
def test_real_regressions_have_the_published_splits(real, name, shape):
    folder = real(f"UCI/{name}") / "UCI" / name
    found = datasets.load_uci(name)
    assert found.x.shape == shape
    assert len(found.feature_names) == shape[1]
    for number, rows in enumerate(found.splits):
        for part, found_rows in zip(("train", "test"), rows, strict=True):
            wanted = np.loadtxt(folder / f"index_{part}_{number}.txt")
            np.testing.assert_array_equal(found_rows, wanted.astype(int))
