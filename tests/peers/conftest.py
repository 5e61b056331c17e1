"""The peers, imported once."""

from __future__ import annotations

import warnings

import pytest

from support.peers import ON_TENSORFLOW


@pytest.fixture(scope="session")
def torch():
    return pytest.importorskip("torch")


@pytest.fixture(scope="session")
def keras():
    if not ON_TENSORFLOW:
        pytest.importorskip("torch")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("KERAS_BACKEND", "tensorflow" if ON_TENSORFLOW else "torch")
        patch.setenv("KERAS_TORCH_DEVICE", "cpu")
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        if ON_TENSORFLOW:
            pytest.importorskip("tensorflow").config.set_visible_devices([], "GPU")
        return pytest.importorskip("keras")
