"""The samples of PyTorch's own tests, on which our functions and modules do what PyTorch's do.

PyTorch's test files are not part of its package. Its samples are: OpInfo of functions and
ModuleInfo of modules, in `torch.testing._internal`.
"""

import copy

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest")  # which torch.testing._internal imports
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.testing._internal.common_methods_invocations import op_db  # noqa: E402
from torch.testing._internal.common_modules import module_db  # noqa: E402

import dropcore.torch as dt  # noqa: E402
from dropcore.torch._attention import multi_head_attention_forward  # noqa: E402

DROPOUTS = {
    f"{op.name.rpartition('.')[2]} {op.variant_test_name}".strip(): op
    for op in op_db
    if op.name.startswith("nn.functional.") and "dropout" in op.name
}  # fmt: skip
C = -1.7580993408473766
NOTHING = 1e-13


def test_there_are_samples():
    assert sorted(DROPOUTS) == [
        "alpha_dropout",
        "dropout",
        "dropout2d",
        "dropout3d",
        "feature_alpha_dropout with_train",
        "feature_alpha_dropout without_train",
    ]


def ours_of(op):
    return getattr(dt, op.name.rpartition(".")[2])


def rate_and_training(sample, name):
    arguments = dict(zip(("p", "training", "inplace"), sample.args, strict=False))
    arguments |= sample.kwargs
    return arguments.get("p", 0.5), arguments.get("training", "alpha" not in name)


@pytest.mark.filterwarnings("ignore:dropout[23]d. Received a")
@pytest.mark.parametrize("name", DROPOUTS)
def test_outputs_are_those_that_pytorch_could_give(name):
    op, count = DROPOUTS[name], 0
    for dtype in op.dtypes:
        gradient = dtype.is_floating_point
        for sample in op.sample_inputs("cpu", dtype, requires_grad=gradient):
            p, training = rate_and_training(sample, name)
            x = sample.input
            expected = op(x, *sample.args, **sample.kwargs)
            y = ours_of(op)(x, *sample.args, **sample.kwargs)
            count += 1
            assert y.shape == expected.shape
            assert y.dtype is expected.dtype
            assert y.stride() == expected.stride()
            if p in (0, 1) or not training:
                assert torch.equal(y, expected)
                if not gradient:
                    continue
                dy = torch.ones_like(y)
                found, wanted = (
                    torch.autograd.grad(out, x, dy, allow_unused=True)[0] for out in (y, expected)
                )
                assert torch.equal(found, wanted)
                continue
            keep = 1 - p
            a, dropped = 1 / keep, 0.0
            shift = 0.0
            if "alpha" in name:
                a = (keep * (1 + p * C**2)) ** -0.5
                shift, dropped = -a * p * C, a * keep * C
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
            kept = dx != 0
            wanted = torch.where(kept, a * x.double() + shift, dropped).to(dtype)
            torch.testing.assert_close(y, wanted)
            torch.testing.assert_close(dx, torch.where(kept, a, 0.0).to(dtype))
    assert count >= 20


@pytest.mark.filterwarnings("ignore:dropout[23]d. Received a")
@pytest.mark.parametrize("name", [name for name in DROPOUTS if "without" not in name])
def test_gradients_of_samples(name):
    op = DROPOUTS[name]
    for sample in op.sample_inputs("cpu", torch.float64, requires_grad=True):
        if sample.input.numel() > 200:
            continue

        def call(x, sample=sample):
            return ours_of(op)(x, *sample.args, **sample.kwargs, key=7)

        assert torch.autograd.gradcheck(call, sample.input, check_forward_ad=True)
        assert torch.autograd.gradgradcheck(call, sample.input)


def named(name):
    return next(op for op in op_db if op.name == f"nn.functional.{name}")


def test_attention():
    drops = 0
    for sample in named("scaled_dot_product_attention").sample_inputs("cpu", torch.float64):
        arguments = dict(sample.kwargs)
        drops += arguments.pop("dropout_p", 0.0) > 0
        expected = F.scaled_dot_product_attention(sample.input, *sample.args, **arguments)
        for p in (0.0, NOTHING):
            y = dt.scaled_dot_product_attention(
                sample.input, *sample.args, **arguments, dropout_p=p
            )
            torch.testing.assert_close(y, expected)
    assert drops


def test_multi_head_attention_forward():
    count = 0
    for sample in named("multi_head_attention_forward").sample_inputs("cpu", torch.float32):
        # (key, value, embed_dim, heads, in_proj_weight, in_proj_bias, bias_k, bias_v,
        # add_zero_attn, dropout_p, ...)
        args = list(sample.args)
        args[9] = 0.0
        expected = F.multi_head_attention_forward(sample.input, *args, **sample.kwargs)
        args[9] = NOTHING
        y = multi_head_attention_forward(sample.input, *args, **sample.kwargs)
        torch.testing.assert_close(y, expected)
        count += 1
    assert count


KINDS = (
    nn.MultiheadAttention, nn.TransformerEncoderLayer, nn.RNN, nn.GRU, nn.LSTM,
)  # fmt: skip


def with_rate(module, p):
    for part in module.modules():
        if isinstance(getattr(part, "dropout", None), float):
            part.dropout = p
        if isinstance(part, nn.Dropout):
            part.p = p
    return module


@pytest.mark.filterwarnings("ignore:dropout option adds", "ignore:enable_nested_tensor")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("training", [False, True])
def test_modules(kind, training):
    info = next(info for info in module_db if info.module_cls is kind)
    samples = info.module_inputs_func(
        info, device="cpu", dtype=torch.float64, requires_grad=False, training=training
    )
    count = 0
    for sample in samples:
        made, given = sample.constructor_input, sample.forward_input
        plain = kind(*made.args, **made.kwargs).double().train(training)
        ours = with_rate(copy.deepcopy(plain), NOTHING)
        dt.replace_dropout(ours)
        if kind is nn.LSTM:  # also with one layer, step by step
            ours.__class__ = dt.LSTM
            ours.zoneout = NOTHING
        expected = with_rate(plain, 0.0)(*given.args, **given.kwargs)
        found = ours(*given.args, **given.kwargs)
        torch.testing.assert_close(found, expected)
        count += 1
    assert count >= 3
