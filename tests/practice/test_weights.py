"""Weights to and from .npz archives and PyTorch's names; tests/peers compares with PyTorch."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from dropcore.constraints import MaxNorm
from dropcore.nn import (
    GRU,
    LSTM,
    BatchNorm,
    ConcreteDropout,
    Conv2D,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    Layer,
    LayerNorm,
    Maxout,
    Parallel,
    Reshape,
    Sequential,
    load_state_dict,
    to_state_dict,
)
from support.layers import build


def network(dtype=np.float32, seed=1):
    model = Sequential([Dense(4, constraint=MaxNorm(2.0)), BatchNorm(), Dropout(0.5), Dense(2)])
    return build(model, 3, dtype=dtype, seed=seed)


def numbers(model):
    return {name: array.copy() for name, array in (model.params | model.buffers).items()}


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], strict=True)


# --- .npz ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_come_back_from_an_archive(tmp_path, dtype):
    model, other = network(dtype), network(dtype, seed=2)
    model.save_weights(tmp_path / "weights.npz")
    with np.load(tmp_path / "weights.npz") as found:
        assert_equal(dict(found), numbers(model))
    before = other.params["0.weight"]
    other.load_weights(tmp_path / "weights.npz")
    assert_equal(numbers(other), numbers(model))
    assert other.params["0.weight"] is before
    model.save_weights(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "weights.npz").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["again", "weights.npz"]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", ["C", "F"])
def test_archives_of_numpy_are_taken(tmp_path, save, order):
    model, other = network(), network(seed=2)
    arrays = {name: np.asarray(array, order=order) for name, array in numbers(model).items()}
    save(tmp_path / "w.npz", **arrays)
    other.load_weights(tmp_path / "w.npz")
    assert_equal(numbers(other), numbers(model))


def test_archives_of_another_byte_order_are_taken(tmp_path):
    model, other = network(), network(seed=2)
    swapped = {name: a.astype(a.dtype.newbyteorder("S")) for name, a in numbers(model).items()}
    np.savez(tmp_path / "w.npz", **swapped)
    other.load_weights(tmp_path / "w.npz")
    assert_equal(numbers(other), numbers(model))


def test_weights_of_a_gpu(tmp_path, gpu):
    model, other = network(), network(seed=2)
    model.to("cuda")
    model.save_weights(tmp_path / "w")
    other.to("cuda")
    other.load_weights(tmp_path / "w")
    for one in (model, other):
        one.to("cpu")
    assert_equal(numbers(other), numbers(model))


@pytest.fixture
def refused(tmp_path):
    """Assert that an archive is refused with a message, and the model left as it is."""

    def check(data, message):
        path, model = tmp_path / "w.npz", network()
        before = numbers(model)
        path.write_bytes(data)
        tracemalloc.start()
        with pytest.raises(ValueError, match=message) as caught:
            model.load_weights(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 3e6
        assert str(path) in str(caught.value)
        assert_equal(numbers(model), before)

    return check


def archive(arrays=None, **changes):
    file = io.BytesIO()
    found = numbers(network()) | (arrays or {})
    found.update({name.replace("_", "."): array for name, array in changes.items()})
    np.savez(file, **{name: array for name, array in found.items() if array is not None})
    return file.getvalue()


def with_header(text, version=(1, 0)):
    """An archive whose first array has a header of one's own."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        for name, array in numbers(network()).items():
            inner = io.BytesIO()
            np.lib.format.write_array(inner, array)
            data = inner.getvalue()
            if name == "0.weight":
                head = text.encode()
                data = b"\x93NUMPY" + bytes(version) + struct.pack("<H", len(head)) + head
                data += bytes(48)
            made.writestr(f"{name}.npy", data)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a zip file"),
        (b"text", "not a zip file"),
        (archive()[:-30], "not a zip file"),
        (archive(**{"0_weight": None}), r"it lacks '0\.weight'; the names are '0\.weight', "),
        (archive({"9.weight": np.ones(2)}), r"it has unknown names: '9\.weight'"),
        (archive({"../evil": np.ones(2)}), "it has unknown names: '../evil'"),
        (archive(**{"0_weight": np.ones((4, 3), np.float32)}),
         r"'0\.weight' must be float32 of shape \(3, 4\), got float32 of shape \(4, 3\)"),
        (archive(**{"0_weight": np.ones((3, 4))}), "must be float32 of shape .* got float64"),
        (archive(**{"0_weight": np.ones((3, 4), ">f8")}), "must be float32 of shape .* got >f8"),
        (archive(**{"0_weight": np.full((3, 4), None)}), "must be float32 of shape .* got object"),
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(2**60,)}"), "malformed node"),
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(1152921504606846976,)}"),
         "got float32 of shape"),
        (with_header("{'descr':'<f4','fortran_order':False,'shape':(3, 4)}", (9, 0)), "version"),
        (with_header("(" * 9000), "w.npz"),
        (with_header("-" * 9000 + "1"), "w.npz"),
        (with_header("{'descr':'|V900000000','fortran_order':False,'shape':(3, 4)}"), "got |V9"),
    ],
    ids=range(16),
)  # fmt: skip
def test_archives_that_do_not_fit_are_refused(refused, data, message):
    refused(data, message)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_in_an_archive_twice_is_refused(refused):
    file = io.BytesIO(archive())
    with zipfile.ZipFile(file, "a") as made:
        made.writestr("0.weight.npy", b"")
    refused(file.getvalue(), "it has a name twice")


def test_an_archive_changed_at_random_is_refused_or_loads(tmp_path):
    rng, data, path = random.Random(3), archive(), tmp_path / "w.npz"
    refusals = 0
    for _ in range(300):
        changed = bytearray(data)
        for _ in range(rng.choice((1, 3))):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        path.write_bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed))))])
        try:
            network().load_weights(path)
        except ValueError:
            refusals += 1
    assert 100 < refusals < 300


def test_wrong_use_of_archives(tmp_path):
    model = Sequential([Dense(3)])
    for method in (model.save_weights, model.load_weights):
        name = method.__name__
        with pytest.raises(ValueError, match=rf"{name}: call build\(input_shape, key=...\) first"):
            method(tmp_path / "w")
        with pytest.raises(TypeError, match=f"{name}: path must be a str or a pathlib"):
            method(3)
        with pytest.raises(AttributeError, match=f"Dense has no {name}, which models have"):
            getattr(Dense(3), name)
    with pytest.raises(FileNotFoundError):
        network().load_weights(tmp_path / "nothing")

    class Twice(Layer):
        def _build(self, input_shape, rng, dtype):
            self._params["a"] = self._buffers["a"] = np.ones(2, dtype)

        def output_shape(self, input_shape):
            return input_shape

    model = build(Sequential([Twice()]), 2)
    with pytest.raises(ValueError, match=r"\['0.a'\] are the names of parameters and of buffers"):
        model.save_weights(tmp_path / "w")


# --- PyTorch's names -----------------------------------------------------------------------------


def test_names_and_shapes_are_those_of_pytorch():
    model = Sequential(
        [Conv2D(4, (3, 2)), BatchNorm(), Flatten(), Dense(5, use_bias=False), Reshape((5, 1)),
         GRU(3), Maxout(2)]
    )  # fmt: skip
    build(model, 4, 3, 2, dtype=np.float32)
    found = to_state_dict(model)
    assert {name: array.shape for name, array in found.items()} == {
        "0.weight": (4, 2, 3, 2), "0.bias": (4,), "1.weight": (4,), "1.bias": (4,),
        "1.running_mean": (4,), "1.running_var": (4,), "1.num_batches_tracked": (),
        "3.weight": (5, 16), "5.weight_ih_l0": (9, 1), "5.weight_hh_l0": (9, 3),
        "5.bias_ih_l0": (9,), "5.bias_hh_l0": (9,), "6.linear.weight": (4, 3),
        "6.linear.bias": (4,),
    }  # fmt: skip
    assert {a.dtype for n, a in found.items() if "batches" not in n} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(found["0.weight"][1, 0], model.params["0.weight"][:, :, 0, 1])
    for array in found.values():
        array[...] = 0  # a copy
    assert model.params["0.weight"].any()


@pytest.mark.parametrize(
    "layers",
    [[Dense(4), BatchNorm(scale=False)], [LSTM(3)], [LayerNorm(center=False)], [Embedding(5, 2)]],
    ids=repr,
)
def test_weights_come_back_from_pytorchs_names(layers):
    sample = (6,) if isinstance(layers[0], Embedding) else (6, 3)
    model = build(Sequential(layers), *sample, dtype=np.float32)
    before, found = numbers(model), to_state_dict(model)
    for array in (*model.params.values(), *model.buffers.values()):
        array[...] = 0
    load_state_dict(model, dict(reversed(found.items())))  # by name, in any order
    for name, array in numbers(model).items():
        np.testing.assert_allclose(array, before[name], rtol=1e-6)
    load_state_dict(model, {f"module.{name}x.{n}": array for name, n, array in (
        (*key.split("."), array) for key, array in found.items())})  # fmt: skip
    load_state_dict(model, {k: a.astype(np.float64) for k, a in found.items()})
    assert {a.dtype for a in model.params.values()} == {np.dtype(np.float32)}


def state_of(*layers, sample=(3,)):
    return to_state_dict(build(Sequential(layers), *sample, dtype=np.float32))


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (state_of(Dense(4)), "there are 1 layers with weights, 0, and the model has 3: layer 0"),
        (state_of(Dense(4), Dense(4), Dense(2)), r"layer 1, BatchNorm\(\) takes weight, bias, r"),
        (state_of(Dense(4), LayerNorm(), Dense(2)), "layer 1, .* takes .* got 1.weight, 1.bias"),
        (state_of(Dense(4), BatchNorm(), Dropout(0.1), Dense(3)),
         r"layer 3, Dense\(2\) takes '3.weight' of shape \(2, 4\), got \(3, 4\)"),
        (state_of(Dense(4, use_bias=False), BatchNorm(), Dense(2)), "layer 0, .* bias, got 0.w"),
        ({}, "there are 0 layers with weights, none"),
    ],
)  # fmt: skip
def test_other_layers_are_refused(state, message):
    model = network()
    before = numbers(model)
    with pytest.raises(ValueError, match=f"load_state_dict: {message}"):
        load_state_dict(model, state)
    with pytest.raises(ValueError, match=f"to_state_dict: {message}"):
        to_state_dict(model, state)
    assert_equal(numbers(model), before)


def test_wrong_use_of_state_dicts():
    model = network()
    for given in (3, [np.ones(2)], {3: np.ones(2)}):
        with pytest.raises(TypeError, match="state_dict must be a mapping of names to arrays"):
            load_state_dict(model, given)
    state = to_state_dict(model)
    with pytest.raises(TypeError, match=r"'0.bias' must hold floating-point numbers, got int64"):
        load_state_dict(model, state | {"0.bias": np.arange(4)})
    with pytest.raises(TypeError, match=r"'0.bias' must hold floating-point numbers, got <U"):
        load_state_dict(model, state | {"0.bias": "word"})
    before = numbers(model)
    with pytest.raises(ValueError, match=r"'weight' of layer 3, Dense\(2\) has .* for float32"):
        load_state_dict(model, state | {"3.weight": state["3.weight"].astype(float) * 1e300})
    assert_equal(numbers(model), before)
    load_state_dict(model, state | {"0.bias": np.full(4, np.inf)})  # as it is in the module
    assert np.isinf(model.params["0.bias"]).all()
    for function, rest in ((to_state_dict, ()), (load_state_dict, (state,))):
        with pytest.raises(ValueError, match=rf"{function.__name__}: call build\(input_shape"):
            function(Sequential([Dense(3)]), *rest)


def test_layers_that_pytorch_does_not_have_are_named():
    model = build(Sequential([ConcreteDropout(Dense(3), data_points=9)]), 2)
    with pytest.raises(
        ValueError, match=r"layer 0, ConcreteDropout.* has no counterpart in PyTorch"
    ):
        to_state_dict(model)

    class Scaled(Dense):
        def _build(self, input_shape, rng, dtype):
            super()._build(input_shape, rng, dtype)
            self._params["scale"] = np.ones(1, dtype)

    model = build(Sequential([Scaled(3)]), 2)
    with pytest.raises(ValueError, match=r"layer 0, Scaled.* has no counterpart in PyTorch"):
        load_state_dict(model, {})


@pytest.mark.parametrize(
    ("layers", "sample", "message"),
    [
        ([Parallel([Flatten(), Sequential([Conv2D(2, 2), Flatten()])]), Dense(2)], (3, 3, 2),
         "layer 0, Parallel.* merges flattened maps"),
        ([Reshape((9, 2, 2)), Conv2D(2, 2)], (36,), "layer 0, Reshape.* in another order"),
        ([Conv2D(4, 2), Reshape((2, 8)), Dense(2)], (3, 3, 2), "layer 1, Reshape.* another order"),
    ],
)  # fmt: skip
def test_orders_that_are_not_converted_are_named(layers, sample, message):
    with pytest.raises(ValueError, match=message):
        to_state_dict(build(Sequential(layers), *sample))


def test_a_norm_without_a_parameter_takes_only_what_it_computes():
    model = build(Sequential([BatchNorm(scale=False)]), 3, dtype=np.float32)
    state = to_state_dict(model)
    np.testing.assert_array_equal(state["0.weight"], np.ones(3, np.float32), strict=True)
    with pytest.raises(ValueError, match="has no gamma, and 'weight' is not 1 everywhere: create"):
        load_state_dict(model, state | {"0.weight": np.array([1, 1, 2], np.float32)})
    model = build(Sequential([LayerNorm(center=False)]), 3, dtype=np.float32)
    state = to_state_dict(model)
    with pytest.raises(ValueError, match=r"has no beta, and 'bias' is not 0 .* with center=True"):
        load_state_dict(model, state | {"0.bias": np.ones(3, np.float32)})
