"""The docstring of an adapter's class has the parameters that it inherits, and their defaults.

The reference is built without the libraries, and takes the signatures of these classes from there.
"""

import ast
import importlib
import inspect
import re

import pytest

CLASSES = {
    "keras": ["AlphaDropout", "Dropout", "SpatialDropout1D", "SpatialDropout2D",
              "SpatialDropout3D"],
    "onnx": ["Dropout"],
    "thinc": ["DropcoreOps"],
    "torch": ["AlphaDropout", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d",
              "FeatureAlphaDropout", "GRU", "LSTM", "MultiheadAttention", "RNN"],
}  # fmt: skip

ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : (.*))?$", re.M)


@pytest.mark.parametrize("library", CLASSES)
def test_parameters_are_those_of_the_library(library, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    pytest.importorskip("torch")
    pytest.importorskip(library)
    module = importlib.import_module(f"dropcore.{library}")
    for name in CLASSES[library]:
        text = inspect.cleandoc(getattr(module, name).__doc__)
        section = text.split("Parameters\n----------\n")[1].split("\n\n")[0]
        found = {}
        for names, kind in ENTRY.findall(section):
            default = re.search(r"default (.+)$", kind)
            for one in names.split(", "):
                if default:
                    found[one.lstrip("*")] = ast.literal_eval(default[1])
                else:
                    found[one.lstrip("*")] = None if "optional" in kind else inspect._empty
        # Of the class itself some versions of Python give that of __new__, which takes anything.
        _, *real = inspect.signature(getattr(module, name).__init__).parameters.values()
        assert found == {parameter.name: parameter.default for parameter in real}, name
