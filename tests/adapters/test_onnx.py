"""Models as ONNX graphs beside onnxruntime, and ONNX's own tests of Dropout with our masks."""

import json
import warnings

import numpy as np
import pytest

from dropcore import Mask, nn
from dropcore.constraints import MaxNorm
from dropcore.data import Preprocessing
from dropcore.regularizers import L1

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from onnx import helper  # noqa: E402
from onnx.backend.test.case.node import collect_testcases  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from dropcore.onnx import Dropout, export  # noqa: E402


def run(proto, x):
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = runtime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    assert [i.name for i in session.get_inputs()] == ["x"]
    return session.run(["y"], {"x": x})[0]


def built(layers, shape):
    model = nn.Sequential(layers)
    model.build(shape, key=3)
    rng = np.random.default_rng(5)
    for name, array in (*model.params.items(), *model.buffers.items()):
        drawn = rng.normal(0, 0.4, array.shape)
        array[...] = abs(drawn) + 0.5 if name.endswith("variance") else drawn
    return model


def sample(model, shape, rows=3):
    rng = np.random.default_rng(7)
    if model.integer_input:
        return rng.integers(0, 11, (rows, *shape))
    return rng.normal(0, 1, (rows, *shape)).astype(np.float32)


def check(model, shape, free=None, **options):
    proto = export(model, input_shape=free, **options)
    for rows in (3, 1):
        x = sample(model, shape, rows)
        found, wanted = run(proto, x), model(x)
        assert found.dtype == wanted.dtype
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)
    return proto


VECTOR, SERIES, IMAGE, WORDS = (6,), (7, 4), (9, 8, 4), (5,)

LAYERS = [
    ([nn.Dense(5)], VECTOR),
    ([nn.Dense(5, use_bias=False, activation="relu")], SERIES),
    ([nn.Dense(5), nn.Dense(3)], IMAGE),
    ([nn.DropConnect(5, 0.5, activation="tanh")], VECTOR),
    ([nn.Maxout(5, pieces=3)], SERIES),
    ([nn.LeakyReLU(0.3)], VECTOR),
    ([nn.ELU(0.7)], VECTOR),
    ([nn.GELU("tanh")], VECTOR),
    *[([nn.Dense(8, activation=name)], VECTOR) for name in nn.activations.ACTIVATIONS],
    *[([kind()], IMAGE) for kind in nn.activations.ACTIVATIONS.values()],
    ([nn.Conv1D(3, 3, activation="softmax")], SERIES),
    ([nn.Conv1D(6, 2, stride=2, padding="same", dilation=1, groups=2)], SERIES),
    ([nn.Conv1D(6, 3, padding=(4, 0), dilation=2, activation="gelu")], SERIES),
    ([nn.Conv2D(5, (3, 2), stride=(2, 1), padding="same", use_bias=False)], IMAGE),
    ([nn.Conv2D(6, 3, padding=((0, 1), (2, 1)), dilation=(2, 1), groups=2)], IMAGE),
    ([nn.Conv2D(6, 3, padding=(1, 2)), nn.Conv2D(6, 2, padding=1), nn.Dense(2)], IMAGE),
    ([nn.MaxPool1D(3, stride=2, padding="same")], SERIES),
    ([nn.MaxPool1D(3, padding=(1, 2))], SERIES),
    ([nn.AveragePool1D(3, padding="same")], SERIES),
    ([nn.AveragePool1D(3, padding=1, count_include_pad=True)], SERIES),
    ([nn.MaxPool2D((3, 2), padding="same")], IMAGE),
    ([nn.AveragePool2D(3, stride=2, padding=((0, 1), (2, 1)))], IMAGE),
    ([nn.AveragePool2D((2, 3), padding="same", count_include_pad=True)], IMAGE),
    ([nn.GlobalMaxPool1D()], SERIES),
    ([nn.GlobalAveragePool1D(), nn.Dense(2)], SERIES),
    ([nn.Conv2D(3, 2), nn.GlobalMaxPool2D()], IMAGE),
    ([nn.GlobalAveragePool2D()], IMAGE),
    ([nn.Flatten(), nn.Dense(3)], IMAGE),
    ([nn.Conv2D(3, 2), nn.Reshape((-1, 3)), nn.Conv1D(2, 2), nn.Flatten()], IMAGE),
    ([nn.BatchNorm()], VECTOR),
    ([nn.Conv2D(3, 2), nn.BatchNorm(scale=False, epsilon=0.01), nn.ReLU()], IMAGE),
    ([nn.BatchNorm(center=False)], SERIES),
    ([nn.LayerNorm(epsilon=0.01)], SERIES),
    ([nn.Conv1D(5, 2), nn.LayerNorm(scale=False, center=False)], SERIES),
    ([nn.Embedding(11, 4, padding_index=2), nn.Dense(3)], WORDS),
    ([nn.EmbeddingDropout(nn.Embedding(11, 4), 0.3), nn.GlobalMaxPool1D()], WORDS),
    *[
        ([kind(5, dropout=0.2, **options)], SERIES)
        for kind in (nn.SimpleRNN, nn.GRU, nn.LSTM)
        for options in ({}, {"reverse": True, "return_sequences": True},
                        {"reverse": True, "use_bias": False})
    ],
    ([nn.SimpleRNN(5, activation="relu")], SERIES),
    ([nn.Bidirectional(nn.GRU(5, return_sequences=True)), nn.Dense(2)], SERIES),
    ([nn.Bidirectional(nn.LSTM(5), merge="mean")], SERIES),
    ([nn.Residual([nn.Conv2D(4, 3, padding="same"), nn.ReLU(), nn.DropPath(0.2)])], IMAGE),
    ([nn.Conv2D(4, 1), nn.Residual([nn.Conv2D(4, 3, padding="same")]), nn.Flatten()], IMAGE),
    ([nn.Parallel([nn.Conv2D(3, 1), nn.MaxPool2D(1)])], IMAGE),
    ([nn.Parallel([nn.Conv2D(4, 1), nn.Dense(3)])], IMAGE),
    ([nn.Parallel([nn.Dense(4), nn.Dense(4)], merge="mean")], VECTOR),
    ([nn.Dense(4), nn.Dropout(0.3), nn.Dropout(0.25, scaling="test")], VECTOR),
    ([nn.SpatialDropout2D(0.3), nn.Dropout(0.5, shared_axes=1)], IMAGE),
    ([nn.BlockDropout(0.1, block_size=3)], IMAGE),
    ([nn.UnitDropout(0.3), nn.AlphaDropout(0.1), nn.FeatureAlphaDropout(0.2)], SERIES),
    ([nn.GaussianDropout(0.3), nn.GaussianNoise(0.1), nn.ActivityRegularization(L1(0.1))], VECTOR),
    ([nn.VariationalDropout(data_points=9), nn.Dense(2)], VECTOR),
    ([], VECTOR),
]  # fmt: skip


@pytest.mark.parametrize(("layers", "shape"), LAYERS, ids=lambda value: repr(value)[:60])
def test_layers_compute_what_ours_do(layers, shape):
    check(built(layers, shape), shape)


NETWORKS = [
    (nn.mlp((16, 8), 3, input_rate=0.2, max_norm=MaxNorm(2.0), activation="selu"), VECTOR),
    (nn.cnn((4, 6), 3, units=8), IMAGE),
    (nn.cnn(4, 3, units=8, input_shape=(4, 4, 2)), (32,)),
    (nn.lstm((8, 6), 2, recurrent_rate=0.2), SERIES),
    (nn.lstm(8, 11, vocabulary=11, padding_index=0, return_sequences=True), WORDS),
    (nn.autoencoder((8, 4), 6), VECTOR),
]


@pytest.mark.parametrize(("model", "shape"), NETWORKS, ids=lambda value: repr(value)[:40])
@pytest.mark.parametrize("opset", [17, 22])
def test_usual_networks_compute_what_ours_do(model, shape, opset):
    proto = check(built(model.layers, shape), shape, opset=opset)
    assert proto.opset_import[0].version == opset
    assert not any(node.op_type == "Dropout" for node in proto.graph.node)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [([nn.LSTM(5, return_sequences=True), nn.Conv1D(3, 2), nn.GlobalMaxPool1D()], SERIES),
     ([nn.Embedding(11, 4), nn.GRU(5, return_sequences=True), nn.Dense(2)], WORDS)],
    ids=["features", "words"],
)  # fmt: skip
def test_sequences_of_any_length(layers, shape):
    model = built(layers, shape)
    free = (None, *shape[1:])
    for steps in (3, 12):
        proto = check(model, (steps, *shape[1:]), free=free)
    axes = proto.graph.input[0].type.tensor_type.shape.dim
    assert [axis.dim_param for axis in axes[:2]] == ["batch", "time"]


def test_float64_models():
    model = nn.Sequential([nn.Dense(5, activation="tanh"), nn.Dropout(0.5), nn.Dense(2)])
    model.build((4,), key=1, dtype=np.float64)
    x = np.random.default_rng(0).normal(size=(3, 4))
    np.testing.assert_allclose(run(export(model), x), model(x), rtol=1e-12)


def test_transposes_stand_where_the_layout_changes():
    block = [nn.Conv2D(4, 3, padding="same"), nn.BatchNorm(), nn.ReLU(), nn.Dropout(0.2)]
    layers = [*block, nn.Residual(nn.Conv2D(4, 1)), nn.MaxPool2D(), nn.Flatten(), nn.Dense(2)]
    nodes = export(built(layers, IMAGE)).graph.node
    assert sum(node.op_type == "Transpose" for node in nodes) == 2


@pytest.mark.parametrize("scaling", ["inverted", "test"])
def test_dropout_stays_in_training_mode(scaling):
    model = nn.Sequential([nn.Dropout(0.25, scaling=scaling)])
    model.build((1000,), key=0)
    y = run(export(model, training=True), np.ones((40, 1000), np.float32))
    kept = 1.0 if scaling == "test" else 1 / 0.75
    np.testing.assert_allclose(np.unique(y), [0, kept], rtol=1e-6)
    assert abs((y == 0).mean() - 0.25) < 0.01


def test_files(tmp_path):
    model = built([nn.Dense(3)], VECTOR)
    path = tmp_path / "model.onnx"
    proto = export(model, path)
    assert onnx.load(path) == proto
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        export(model, tmp_path / "none" / "model.onnx")
    with pytest.raises(TypeError, match="path must be a str"):
        export(model, 3)


def test_what_is_not_in_the_graph_is_named():
    rng = np.random.default_rng(0)
    x = rng.normal(5, 2, (40, 3))
    labels = np.where(x[:, 0] > 5, "yes", "no")
    model = nn.mlp(4, 2)
    model.fit(x, labels, preprocessing=Preprocessing(), epochs=1, key=0)
    with pytest.warns(UserWarning, match="the preprocessing of the model is not part of the graph"):
        proto = export(model)
    props = {entry.key: json.loads(entry.value) for entry in proto.metadata_props}
    assert props["classes"] == ["no", "yes"]
    state = model.training_state
    again = Preprocessing.from_config(props["preprocessing"])
    np.testing.assert_array_equal(again.transform(x), state.preprocessing.transform(x))
    prepared = again.transform(x).astype(np.float32)
    chosen = run(proto, prepared).argmax(axis=1)
    assert (np.array(props["classes"])[chosen] == model.predict_labels(x)).all()


class Own(nn.Dense):
    def forward(self, x, **options):
        return super().forward(2 * x, **options)


@pytest.mark.parametrize(
    ("layers", "options", "message"),
    [
        ([nn.Dense(2), Own(3)], {}, r"layer 1, Own\(3\): it has no counterpart in ONNX: replace"),
        ([nn.Residual(Own(6))], {}, r"layer 0\.0, Own\(6\): it has no counterpart"),
        ([nn.DropConnect(3, 0.5, inference="gaussian")], {}, "no inference='gaussian': set infer"),
        ([nn.DropConnect(3, 0.5)], {"training": True}, "no operator for its noise: export with"),
        ([nn.GaussianNoise(0.5)], {"training": True}, "no operator for its noise: export with"),
        ([nn.UnitDropout(0.5)], {"training": True}, "drops elements at one rate: export with"),
        ([nn.Dropout([0.5] * 6)], {"training": True}, "drops elements at one rate: export with"),
        ([nn.Dropout(0.5, shared_axes=1)], {"training": True}, "drops elements at one rate"),
        ([nn.Dropout(mask=[True] * 6)], {"training": True}, "drops elements at one rate"),
        ([nn.Dropout(1.0)], {"training": True}, "takes rates below 1"),
        ([nn.Dropout([0.5] * 6, scaling="test")], {}, r"call set_scaling_\(model, 'inverted'\)"),
        ([nn.Reshape((3, 2)), nn.LSTM(3, zoneout=0.1)], {}, "no zoneout, which inference needs"),
        ([nn.Reshape((3, 2)), nn.LSTM(3, zoneout_cell=0.1)], {}, "no zoneout_cell, which"),
        ([nn.Reshape((3, 2)), nn.GRU(3, dropout=0.1)], {"training": True}, "for its noise"),
        ([nn.Dense(2)], {"opset": 16}, "opset must be .*17"),
        ([nn.Dense(2)], {"input_shape": (5,)}, "expects samples of shape"),
    ],
)  # fmt: skip
def test_what_onnx_lacks_is_refused(layers, options, message):
    with pytest.raises(ValueError, match=message):
        export(built(layers, VECTOR), **options)


def test_wrong_arguments():
    with pytest.raises(TypeError, match="export takes a layer or a model, got int"):
        export(3)
    with pytest.raises(ValueError, match="call build"):
        export(nn.mlp(3, 2))
    with pytest.raises(TypeError, match="training must be"):
        export(built([], VECTOR), training="yes")


# --- the operator --------------------------------------------------------------------------------


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of the modules with the cases of other operators
    CASES = [case for case in collect_testcases("Dropout") if "_dropout" in case.name]


def test_there_are_cases_of_training_and_of_inference():
    assert len(CASES) >= 11
    assert sum("training_dropout" in case.name for case in CASES) >= 6


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_onnx_own_cases(case):
    node = case.model.graph.node[0]
    (inputs, wanted), *others = case.data_sets
    assert not others
    names = [value.name for value in case.model.graph.input]
    evaluator = ReferenceEvaluator(case.model, new_ops=[Dropout])
    found = evaluator.run(None, dict(zip(names, inputs, strict=True)))
    assert [(a.shape, a.dtype) for a in found] == [(a.shape, a.dtype) for a in wanted]
    x, ratio = inputs[0], float(inputs[1]) if len(inputs) > 1 else 0.5
    if len(inputs) < 3 or not inputs[2] or ratio == 0.0:
        for array, expected in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(array, expected)
        return
    seed = next(a.i for a in node.attribute if a.name == "seed")
    kept = Mask(x.shape, ratio, key=seed).to_bool()
    np.testing.assert_allclose(found[0], np.where(kept, x / (1 - ratio), 0), rtol=1e-6)
    if len(found) == 2:
        np.testing.assert_array_equal(found[1], kept)


def model_of(**attributes):
    node = helper.make_node("Dropout", ["x", "ratio", "mode"], ["y"], **attributes)
    kinds = [("x", onnx.TensorProto.FLOAT, ["n"]), ("ratio", onnx.TensorProto.FLOAT, []),
             ("mode", onnx.TensorProto.BOOL, [])]  # fmt: skip
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info(*kind) for kind in kinds],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


@pytest.mark.parametrize("seed", [0, -3, 12])
def test_a_seed_is_a_key(seed):
    feeds = {"x": np.ones(500, np.float32), "ratio": np.float32(0.25), "mode": np.array(True)}
    found = ReferenceEvaluator(model_of(seed=seed), new_ops=[Dropout]).run(None, feeds)
    wanted = Mask((500,), np.float32(0.25), key=seed % 2**64).to_array()
    np.testing.assert_array_equal(found[0], wanted)


def test_inputs_may_be_left_out_and_the_mode_may_be_inference():
    x = np.arange(500, dtype=np.float32)
    feeds = {"x": x, "ratio": np.float32(0.5), "mode": np.array(False)}
    (found,) = ReferenceEvaluator(model_of(seed=1), new_ops=[Dropout]).run(None, feeds)
    np.testing.assert_array_equal(found, x)
    proto = model_of(seed=1)
    proto.graph.node[0].input[1] = ""  # half of the elements, by ONNX's default
    feeds["mode"] = np.array(True)
    (found,) = ReferenceEvaluator(proto, new_ops=[Dropout]).run(None, feeds)
    np.testing.assert_array_equal(found, x * Mask(500, 0.5, key=1).to_array())


def test_without_a_seed_runs_differ_and_numpy_seed_repeats_them():
    feeds = {"x": np.ones(500, np.float32), "ratio": np.float32(0.5), "mode": np.array(True)}
    evaluator = ReferenceEvaluator(model_of(), new_ops=[Dropout])
    runs = []
    for _ in range(2):
        np.random.seed(4)  # noqa: NPY002
        runs.append([evaluator.run(None, feeds)[0] for _ in range(2)])
    np.testing.assert_array_equal(*runs)
    assert (runs[0][0] != runs[0][1]).any()
