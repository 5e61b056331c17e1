"""What holds for every layer that there is: a layer without an example here fails the tests."""

from __future__ import annotations

import copy
import inspect
import json
import operator
import pickle
from functools import partial

import numpy as np
import pytest

import dropcore
import dropcore.constraints
import dropcore.nn
import dropcore.nn.initializers
import dropcore.regularizers
from dropcore.nn import (
    LSTM,
    BatchNorm,
    Bidirectional,
    ConcreteDropout,
    Dense,
    Dropout,
    Embedding,
    EmbeddingDropout,
    GlobalMaxPool1D,
    Maxout,
    Parallel,
    Residual,
    Sequential,
)
from support.differences import check_gradients, differences
from support.layers import (
    EXAMPLES,
    KEY,
    batches,
    built,
    carrying,
    every_layer,
    leaves,
    mapped,
    names,
    with_weights,
)


def test_every_class_has_an_example():
    public = {
        name
        for name in dropcore.nn.__all__
        if inspect.isclass(found := getattr(dropcore.nn, name))
        and issubclass(found, dropcore.nn.Layer)
    }
    inside = set()
    for layer, _ in EXAMPLES:
        stack = [layer]
        while stack:
            one = stack.pop()
            inside.add(type(one).__name__)
            stack += one.children.values()
    # CrossAttention takes two arrays: test_attention is about it.
    assert public - inside == {"Layer", "Model", "CrossAttention"}


@every_layer
def test_gradients_equal_finite_differences(layer, sample):
    check_gradients(built(layer, *sample), batches(layer, sample), KEY)


@every_layer
def test_gradients_without_noise_equal_finite_differences(layer, sample):
    check_gradients(built(layer, *sample), batches(layer, sample))


@every_layer
def test_output_shape_is_the_shape_of_the_output(layer, sample):
    layer = built(layer, *sample, dtype=np.float32)
    x = batches(layer, sample, dtype=np.float32)
    y = layer(x, KEY)
    assert y.shape[1:] == layer.output_shape(sample)
    assert y.dtype == (np.float32 if layer.params or x.dtype == np.float32 else x.dtype)


def step(layer, x, key=KEY, row_offset=0):
    """Output, input gradient and parameter gradients of a training step, as arrays."""
    y, backward = layer.forward(x, key=key, row_offset=row_offset)
    dy = np.random.default_rng(3).normal(size=(50, *y.shape[1:]))[row_offset : row_offset + len(x)]
    dx, grads = backward(np.ascontiguousarray(dy, y.dtype))
    return [y, dx, *(np.asarray(grads[name]) for name in sorted(grads))]


def same(found, wanted):
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted):
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b)


@every_layer
def test_a_step_is_the_same_for_any_number_of_threads(layer, sample):
    layer = built(layer, *sample, dtype=np.float32)
    x = batches(layer, sample, 40, np.float32)
    before = dropcore.get_num_threads()
    try:
        steps = []
        for threads in (1, 2, 7):
            dropcore.set_num_threads(threads)
            steps.append(step(layer, x))
    finally:
        dropcore.set_num_threads(before)
    same(steps[1], steps[0])
    same(steps[2], steps[0])


@every_layer
def test_noise_does_not_depend_on_how_the_batch_is_cut(layer, sample):
    layer = built(layer, *sample)
    x = batches(layer, sample, 12)
    whole = layer(x, KEY)
    for start, end in ((0, 5), (5, 12)):
        part = layer(x[start:end], KEY, row_offset=start)
        np.testing.assert_allclose(part, whole[start:end], 1e-12, 1e-12)
        if layer.n_streams:
            assert ((part == 0) == (whole[start:end] == 0)).all()


@pytest.mark.parametrize(
    ("layer", "sample"),
    # The moments of BatchNorm are those of a piece.
    [example for example in EXAMPLES if not isinstance(example[0], BatchNorm)],
    ids=names,
)
def test_gradients_of_the_pieces_of_a_batch_add_up_to_those_of_the_whole(layer, sample):
    layer = built(layer, *sample)
    x = batches(layer, sample, 12)
    y, dx, *grads = step(layer, x)
    sums = [0.0] * len(grads)
    for start, end in ((0, 5), (5, 6), (6, 12)):
        part_y, part_dx, *parts = step(layer, x[start:end], row_offset=start)
        np.testing.assert_allclose(part_y, y[start:end], 1e-12, 1e-12)
        if dx is not None:
            np.testing.assert_allclose(part_dx, dx[start:end], 1e-11, 1e-12)
        sums = [total + part for total, part in zip(sums, parts)]
    for total, whole in zip(sums, grads):
        np.testing.assert_allclose(total, whole, 1e-10, 1e-12)


@every_layer
def test_a_step_is_the_same_for_any_layout_and_leaves_its_input_alone(layer, sample):
    layer = built(layer, *sample, dtype=np.float32)
    x = batches(layer, sample, 10, np.float32)
    wanted = step(layer, x)
    strided = np.empty((10, *sample[:-1], 2 * sample[-1]), x.dtype)[..., ::2]
    strided[...] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    fortran = np.asfortranarray(x)
    for other in (strided, read_only, fortran):
        same(step(layer, other), wanted)
        np.testing.assert_array_equal(other, x)


def step_from(layer, x, state, lengths, dy, dstate, row_offset=0):
    """What depends on the rows, and the gradients of the parameters."""
    y, last, backward = layer.forward_from(
        x, state, key=KEY, row_offset=row_offset, lengths=lengths
    )
    dx, grads, dfirst = backward(dy, dstate)
    by_rows = [y, *leaves(last), *([] if dx is None else [dx]), *leaves(dfirst)]
    return by_rows, [np.asarray(grads[name]) for name in sorted(grads)]


@carrying
def test_a_step_from_a_state_does_not_depend_on_how_the_batch_is_cut(layer, sample):
    layer, rng = built(layer, *sample), np.random.default_rng(6)
    assert layer.carries_state
    x, lengths = batches(layer, sample, 7), np.array([5, 0, 3, 1, 5, 2, 4])
    y, state, _ = layer.forward_from(x, key=KEY)
    dy, dstate = rng.normal(size=y.shape), mapped(state, lambda a: rng.normal(size=a.shape))
    whole, grads = step_from(layer, x, state, lengths, dy, dstate)
    for other in ((None, lengths, dstate), (state, None, dstate), (state, lengths, None)):
        found, _ = step_from(layer, x, other[0], other[1], dy, other[2])
        changed = [not np.allclose(a, b) for a, b in zip(found, whole)]
        assert any(changed)  # state, lengths and the gradient of the state arrive
    pieces, sums = [], [0.0] * len(grads)
    for rows in (slice(0, 3), slice(3, 7)):
        keep_for_rows = partial(mapped, change=operator.itemgetter(rows))
        arrays, parts = step_from(
            layer,
            x[rows],
            keep_for_rows(state),
            lengths[rows],
            dy[rows],
            keep_for_rows(dstate),
            rows.start,
        )
        pieces.append(arrays)
        sums = [total + part for total, part in zip(sums, parts)]
    for all_rows, first, last in zip(whole, *pieces):
        np.testing.assert_allclose(np.concatenate((first, last)), all_rows, 1e-11, 1e-12)
    for total, gradient in zip(sums, grads):
        np.testing.assert_allclose(total, gradient, 1e-10, 1e-12)


@carrying
def test_gradients_from_a_state_equal_finite_differences(layer, sample):
    layer, rng = built(layer, *sample), np.random.default_rng(6)
    x, lengths = batches(layer, sample, 4), np.array([5, 2, 0, 3])
    y, state, _ = layer.forward_from(x, key=KEY)
    dy, dlast = rng.normal(size=y.shape), mapped(state, lambda a: rng.normal(size=a.shape))

    def scalar():
        y, last, _ = layer.forward_from(x, state, key=KEY, lengths=lengths)
        of_state = sum((a * b).sum() for a, b in zip(leaves(last), leaves(dlast)))
        return float((y * dy).sum() + of_state)

    _, last, backward = layer.forward_from(x, state, key=KEY, lengths=lengths)
    dx, grads, dfirst = backward(dy, dlast)
    assert len(leaves(last)) == len(leaves(state)) == len(leaves(dfirst)) > 0
    arrays = [*leaves(state), *layer.params.values(), *([] if dx is None else [x])]
    found = [*leaves(dfirst), *(grads[name] for name in layer.params), dx]
    for array, gradient in zip(arrays, found):
        np.testing.assert_allclose(np.asarray(gradient), differences(scalar, array), 1e-6, 1e-7)


@carrying
def test_forward_and_a_call_begin_where_sequences_do(layer, sample):
    layer = built(layer, *sample)
    x, lengths = batches(layer, sample, 4), np.array([5, 2, 0, 3])
    for given in ({}, {"lengths": lengths}):
        wanted, _, way_back = layer.forward_from(x, key=KEY, row_offset=9, **given)
        y, backward = layer.forward(x, key=KEY, row_offset=9, **given)
        np.testing.assert_array_equal(y, wanted)
        np.testing.assert_array_equal(layer(x, KEY, row_offset=9, **given), wanted)
        dx, grads = backward(y, for_update=True)
        other_dx, others, _ = way_back(y, for_update=True)
        assert [type(grad) for grad in grads.values()] == [type(grad) for grad in others.values()]
        same([dx, *map(np.asarray, grads.values())], [other_dx, *map(np.asarray, others.values())])


@carrying
def test_nothing_behind_the_end_of_a_sequence_is_looked_at(layer, sample):
    layer, lengths = built(layer, *sample), np.array([5, 2, 0, 3])
    x = batches(layer, sample, 4)
    other = x.copy()
    for sequence, length in zip(other, lengths):
        sequence[length:] = 10
    found, wanted = (layer.forward_from(each, key=KEY, lengths=lengths) for each in (other, x))
    same(leaves(found[1]), leaves(wanted[1]))
    if wanted[0].ndim == 2:
        np.testing.assert_array_equal(found[0], wanted[0])
        np.testing.assert_array_equal(layer(other, KEY, lengths=lengths), wanted[0])


class Witness(Dense):
    """A layer with streams of its own that notes how it is called."""

    own_streams = 2

    def __init__(self, units):
        super().__init__(units)
        self.calls = []

    def forward(self, x, *, key=None, row_offset=0):
        y, inner = super().forward(x)
        self.calls.append((key, row_offset))

        def backward(dy, *, input_gradient=True, for_update=False):
            self.calls.append((input_gradient, for_update))
            return inner(dy, input_gradient=input_gradient, for_update=for_update)

        return y, backward


class WitnessOfWords(Embedding):
    """An embedding that draws."""

    own_streams = 3

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.call = self.asked = None

    def forward(self, x, *, key=None, row_offset=0):
        self.call = key, row_offset
        y, inner = super().forward(x)

        def backward(dy, **how):
            self.asked = how
            return inner(dy, **how)

        return y, backward


def test_containers_number_the_sites_depth_first_and_hand_everything_on():
    witnesses = [Witness(4) for _ in range(6)]
    words = WitnessOfWords(11, 4)
    model = Sequential(
        [
            EmbeddingDropout(words, 0.3),  # 5, then words: 6 7 8
            Parallel([witnesses[0], Sequential([Dropout(0.2), witnesses[1]])], merge="sum"),
            Residual(ConcreteDropout(witnesses[2], data_points=2.0), witnesses[3]),
            Bidirectional(LSTM(2, return_sequences=True)),  # 19 ... 28
            Sequential([Sequential([]), Maxout(4), witnesses[4]]),
            GlobalMaxPool1D(),
            witnesses[5],
        ]
    )
    model.build((3,), key=1)
    assert model.n_streams == 28
    key, x = KEY.at(stream=5), batches(model, (3,))
    streams = [9, 12, 15, 17, 29, 31]
    model(x, key, row_offset=4)
    y, backward = model.forward(x, key=key, row_offset=4)
    assert words.call == (key.at(stream=6), 4)
    backward(y, input_gradient=False, for_update=True)
    assert words.asked == {"input_gradient": False, "for_update": True}
    backward(y)
    for witness, stream in zip(witnesses, streams):
        address = key.at(stream=stream), 4
        assert witness.calls == [address, address, (True, True), (True, False)]
    # Nothing wants the gradient of the input of the first layer with weights.
    witness = Witness(4)
    model = Sequential([Dropout(0.5), witness, Dense(2)])
    model.build((3,), key=1)
    y, backward = model.forward(np.zeros((2, 3), np.float32))
    assert backward(y, input_gradient=False)[0] is None
    assert witness.calls == [(None, 0), (False, False)]


@every_layer
def test_an_empty_batch_goes_through(layer, sample):
    layer = built(layer, *sample)
    x = batches(layer, sample, 0)
    y, backward = layer.forward(x, key=KEY)
    assert y.shape == (0, *layer.output_shape(sample))
    dx, grads = backward(y.copy())
    assert dx is None or dx.shape == x.shape
    for name, gradient in grads.items():
        assert np.shape(gradient) == layer.params[name].shape
        assert not np.asarray(gradient).any()


@every_layer
def test_inference_is_without_noise_and_changes_nothing(layer, sample):
    layer = built(layer, *sample)
    x = batches(layer, sample)
    before = pickle.dumps((layer.params, layer.buffers))
    first = layer(x)
    layer(x, KEY)
    layer.forward(x, key=KEY)[1](np.ones_like(first))
    np.testing.assert_array_equal(layer(x), first)
    assert pickle.dumps((layer.params, layer.buffers)) == before


@every_layer
def test_pickles_and_copies_have_weights_of_their_own(layer, sample):
    layer = built(layer, *sample)
    x = batches(layer, sample)
    wanted = layer(x, KEY)
    for twin in (pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)):
        np.testing.assert_array_equal(twin(x, KEY), wanted)
        assert repr(twin) == repr(layer)
        for name, array in twin.params.items():
            assert not np.shares_memory(array, layer.params[name])


def namespace():
    """What a repr may name."""
    found = {"np": np}
    for module in (dropcore, dropcore.nn, dropcore.nn.initializers, dropcore.constraints,
                   dropcore.regularizers):  # fmt: skip
        found |= {name: getattr(module, name) for name in module.__all__}
    return found


@every_layer
def test_the_repr_and_the_config_build_it_again(layer, sample):
    config = json.loads(json.dumps(layer.to_config()))
    for twin in (eval(repr(layer), namespace()), dropcore.nn.Layer.from_config(config)):
        assert type(twin) is type(layer)
        assert repr(twin) == repr(layer)
        twin.build(sample, key=1)
        layer = copy.deepcopy(layer)
        layer.build(sample, key=1)
        assert twin.params.keys() == layer.params.keys()
        x = batches(layer, sample, dtype=np.float32)
        np.testing.assert_array_equal(twin(x, KEY), layer(x, KEY))


@every_layer
def test_the_summary_tells_what_building_makes_and_builds_nothing(layer, sample):
    fresh = Sequential([copy.deepcopy(layer)])
    twin = built(Sequential([layer]), *sample)
    table = fresh.summary(sample)
    assert not fresh.params
    assert str(table) == str(twin.summary())
    # The numbers that the weights hold, and the addresses that a step takes.
    trained = np.concatenate([np.zeros(0), *(array.ravel() for array in twin.params.values())])
    assert table.parameters == trained.size
    assert f"{trained.size:,} parameters" in str(table)
    *_, (_, _, behind) = Sequential([twin, Dropout(0.5)]).children_with_keys(dropcore.Key(0))
    assert table.n_streams == behind.stream
    (top,) = (row for row in table.rows if "." not in row.path)
    assert (top.path, top.parameters) == ("0", trained.size)
    assert top.output_shape == twin(batches(twin, sample)).shape[1:]


@with_weights
def test_a_wrong_sample_is_refused_with_the_place_of_the_layer(layer, sample):
    network = built(Sequential([Sequential([layer])]), *sample)
    wrong = np.zeros((2, *(n + 1 for n in sample)))
    if layer.integer_input:
        wrong = np.full((2, *sample), 11)
    with pytest.raises((TypeError, ValueError), match=r"layer 0\.0.*(, got |\[0, 11\))"):
        network(wrong)
