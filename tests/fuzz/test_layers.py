"""Every layer with random settings: its outputs, gradients, pieces and refusals."""

from __future__ import annotations

import pytest

from support import fuzz, fuzz_layers

ABSTRACT = {"Layer", "Model"}
NAMES = sorted(set(fuzz_layers.layer_classes()) - ABSTRACT)


def test_every_layer_has_a_case():
    assert set(NAMES) == set(fuzz_layers.LAYERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_layer_is_right_or_refuses(name):
    target = fuzz.public(f"dropcore.nn.{name}")
    fuzz.repeat(lambda draw: fuzz_layers.check_layer(draw, target), 12)
