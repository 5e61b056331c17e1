"""`dropcore.torch` beside PyTorch: masks, gradients, compilers and transforms, and models."""

import copy
import importlib
import io
import os
import pickle
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

from dropcore import Key, Mask

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.func import grad, jvp, vmap  # noqa: E402
from torch.nn import functional as F  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import dropcore  # noqa: E402
import dropcore.torch as dt  # noqa: E402

KEY = Key(2**64 - 3, stream=5, step=9)
DTYPES = ("float32", "float64", "float16", "bfloat16")

LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels_last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(0, 3).contiguous().transpose(0, 3),
    "every second": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
    "expanded": lambda x: x[:1, :1].expand(x.shape),
    "offset": lambda x: torch.cat([x[:1], x])[1:],
}

FEATURES = {
    dt.Dropout1d: (4, 5, 6),
    dt.Dropout2d: (4, 5, 6, 2),
    dt.Dropout3d: (4, 5, 6, 2, 3),
    dt.FeatureAlphaDropout: (4, 5, 6, 2),
}


def tensor(*shape, dtype="float32", seed=0):
    numbers = np.random.default_rng(seed).normal(size=shape)
    return torch.from_numpy(numbers).to(getattr(torch, dtype))


def kept(shape, p=0.3, key=KEY):
    return torch.from_numpy(Mask(shape, p, key=key).to_bool())


# The mask and the numbers


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mask_is_that_of_the_contract(dtype, layout):
    x = LAYOUTS[layout](tensor(4, 5, 6, 7, dtype=dtype))
    before = x.clone()
    y = dt.dropout(x, 0.3, key=KEY)
    wide = x.double() if dtype == "float64" else x.float()
    scale = 1 / 0.7 if dtype == "float64" else float(np.float32(1 / 0.7))
    assert torch.equal(y, torch.where(kept(x.shape), wide * scale, 0).to(x.dtype))
    assert y.dtype is x.dtype
    assert y.stride() == torch.empty_like(x).stride()
    assert torch.equal(x, before)


def test_the_bits_are_those_of_the_array_function():
    x = tensor(300, 1024)
    expected = dropcore.dropout(x.numpy(), 0.5, key=KEY)
    np.testing.assert_array_equal(dt.dropout(x, 0.5, key=KEY).numpy(), expected)


def test_an_integer_is_a_key():
    x = torch.ones(100)
    assert torch.equal(dt.dropout(x, key=7), dt.dropout(x, key=Key(7)))


def test_dropped_numbers_are_selected():
    x = torch.full((1000,), float("nan"))
    y = dt.dropout(x, 0.5, key=7)
    assert torch.equal(y == 0, ~kept(x.shape, 0.5, Key(7)))


def test_a_mean_and_a_fraction():
    x = torch.full((1000, 1000), 3.0)
    for p in (0.2, 0.5, 0.8):
        y = dt.dropout(x, p)
        assert abs(y.mean() - 3) < 0.05
        assert abs((y == 0).double().mean() - p) < 0.005


def test_nothing_and_all_is_dropped():
    x = tensor(50, 20).requires_grad_()
    assert dt.dropout(x, 0) is x
    assert dt.dropout(x, 0.7, training=False) is x
    y = dt.dropout(x, 1)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), ()])
def test_empty_tensors_and_numbers(shape):
    x = torch.ones(shape, requires_grad=True)
    y = dt.dropout(x, 0.5, key=7)
    y.sum().backward()
    assert y.shape == x.shape == x.grad.shape
    assert torch.equal(y, x.grad)


@pytest.mark.parametrize("layout", [name for name in LAYOUTS if name != "expanded"])
@pytest.mark.parametrize("call", [dt.dropout, dt.alpha_dropout])
def test_in_place(call, layout):
    leaf = LAYOUTS[layout](tensor(4, 5, 6, 7)).requires_grad_()
    expected = call(leaf.detach(), 0.5, True, key=7)
    x = leaf * 1
    where = x.data_ptr()
    y = call(x, 0.5, True, inplace=True, key=7)
    assert y is x
    assert y.data_ptr() == where
    assert torch.equal(y, expected)
    y.backward(torch.ones_like(y))
    dropped = ~kept(leaf.shape, 0.5, Key(7))
    assert not leaf.grad[dropped].any()
    assert leaf.grad[~dropped].all()


def test_in_place_writes_only_where_it_may():
    with pytest.raises(RuntimeError, match="leaf"):
        dt.dropout(torch.ones(9, requires_grad=True), inplace=True)
    with pytest.raises(ValueError, match="share memory"):
        dt.dropout(torch.ones(1).expand(9), inplace=True)


@pytest.mark.parametrize("call", [dt.dropout, dt.alpha_dropout])
@pytest.mark.parametrize("p", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("shape", [(0,), (3, 0, 2), (), (1,)])
def test_sizes_and_ends_in_place(call, p, shape):
    x = torch.ones(shape)
    expected = call(x, p, True, key=7)
    assert call(x, p, True, inplace=True, key=7) is x
    assert torch.equal(x, expected)


@pytest.mark.parametrize("dtype", [torch.int32, torch.bool, torch.complex64])
@pytest.mark.parametrize("call", [dt.dropout, dt.alpha_dropout])
def test_other_dtypes_are_only_passed_on(call, dtype):
    x = torch.ones(4, dtype=dtype)
    assert call(x, 0.5, False) is x
    assert call(x, 0.0, True) is x
    with pytest.raises(TypeError, match=f"strided tensors of float32, .* of {dtype}"):
        call(x, 0.5, True)


@pytest.mark.parametrize("call", [dt.dropout, dt.alpha_dropout, dt.dropout1d])
def test_meta_tensors(call):
    x = torch.empty(4, 5, device="meta", dtype=torch.float16, requires_grad=True)
    y = call(x, 0.5, True)
    assert y.is_meta
    assert y.shape == x.shape
    assert y.dtype is x.dtype
    y.backward(torch.empty_like(y))
    assert x.grad.is_meta


def test_negated_views_are_read_as_they_are():
    x = torch.complex(tensor(9), tensor(9, seed=1)).conj().imag
    assert x.is_neg()
    assert torch.equal(dt.dropout(x, 0.5, key=7), dt.dropout(x.clone(), 0.5, key=7))


# Gradients


@pytest.mark.parametrize("dy_layout", LAYOUTS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_gradient_has_the_mask_of_the_output(layout, dy_layout):
    x = LAYOUTS[layout](tensor(4, 5, 6, 7)).detach().requires_grad_()
    y = dt.dropout(x, 0.3)
    dy = LAYOUTS[dy_layout](torch.ones(4, 5, 6, 7))
    y.backward(dy)
    assert torch.equal(x.grad != 0, y != 0)


@pytest.mark.parametrize("layout", ["channels_last", "transposed"])
def test_large_results_have_the_strides_of_the_input(layout):
    x = LAYOUTS[layout](tensor(8, 16, 64, 64))
    y = dt.dropout(x, 0.3, key=KEY)
    assert y.stride() == x.stride()
    assert torch.equal(y != 0, kept(x.shape))


def test_large_gradients():
    x = torch.ones(1200, 1001, requires_grad=True)
    y = dt.dropout(x, 0.4)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad, y)


@pytest.mark.parametrize("shape", [(4, 5), (2, 3, 2, 2)])
@pytest.mark.parametrize("name", ["dropout", "dropout2d", "alpha_dropout", "feature_alpha_dropout"])
def test_gradients_are_those_of_differences(name, shape):
    if name == "dropout2d" and len(shape) == 2:
        shape = (2, 3, 4, 1)
    x = tensor(*shape, dtype="float64").requires_grad_()

    def call(x):
        return getattr(dt, name)(x, 0.5, True, key=KEY)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        assert torch.autograd.gradcheck(call, x, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: call(x) ** 2, x)


def test_no_mask_is_kept():
    x = torch.ones(1 << 16, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        y = dt.dropout(x, 0.5)
    assert y.requires_grad
    assert sum(t.numel() for t in saved) == 0


def test_gradients_from_other_threads():
    def work():
        x = torch.ones(1 << 20, requires_grad=True)
        for _ in range(5):
            y = dt.dropout(torch.relu(x), 0.5)
            (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
            found.append(torch.equal(dx, y))

    found = []
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 20


# Keys


def test_the_generator_of_pytorch_gives_the_key():
    x = torch.ones(1000)

    def three():
        return torch.stack([dt.dropout(x, 0.5) for _ in range(3)])

    torch.manual_seed(3)
    first = three()
    torch.manual_seed(3)
    assert torch.equal(first, three())
    assert not torch.equal(first, three())
    assert len({tuple(y.tolist()) for y in first}) == 3


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_draw_the_same_mask(reentrant):
    layer = nn.Sequential(nn.Linear(20, 30), dt.Dropout(0.5), nn.Linear(30, 10), dt.AlphaDropout())
    x = tensor(40, 20).requires_grad_()

    def gradients(run):
        torch.manual_seed(0)
        layer.zero_grad()
        run().square().sum().backward()
        return [w.grad.clone() for w in layer.parameters()]

    plain = gradients(lambda: layer(x))
    again = gradients(lambda: checkpoint(layer, x, use_reentrant=reentrant))
    for one, other in zip(plain, again, strict=True):
        assert torch.equal(one, other)


RANK = """
import os, sys
import torch, torch.distributed as dist
from torch import nn
import dropcore.torch as dt

rank, rendezvous = int(sys.argv[1]), sys.argv[2]
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method="file://" + rendezvous, rank=rank, world_size=2)
net = nn.Sequential(nn.Linear(64, 64), nn.Dropout(0.5))
dt.replace_dropout(net)
model = nn.parallel.DistributedDataParallel(net)
for seeds in (5, 5), (5, 6):
    torch.manual_seed(seeds[rank])
    y = model(torch.ones(4, 64))
    model.zero_grad()
    y.sum().backward()
    for mine in ((y != 0).float(), net[0].weight.grad):
        both = [torch.empty_like(mine) for _ in range(2)]
        dist.all_gather(both, mine)
        print(torch.equal(*both), flush=True)
dist.barrier()
os._exit(0)  # gloo's threads may end the process with an error while the interpreter ends
"""


def test_ranks_draw_masks_of_their_own_seeds(tmp_path):
    root = str(Path(dropcore.__file__).parents[1])
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n" + RANK,
             str(rank), str(tmp_path / "rendezvous")],
            env={**os.environ, "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    results = [rank.communicate(timeout=120) for rank in ranks]
    # Masks of the same seeds, and their averaged gradients; then of different seeds.
    for output, errors in results:
        assert output.split() == ["True", "True", "False", "True"], errors


# Operators, compilers and transforms


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize(("shared", "function"), [([], "dropout"), ([2, 3], "alpha_dropout")])
def test_opcheck_finds_nothing(shared, function, gradient):
    x = tensor(2, 3, 4, 5).requires_grad_(gradient)
    arguments = (x, torch.tensor(7), 0.5, 1, 2, shared, function)
    found = torch.library.opcheck(torch.ops.dropcore.dropout.default, arguments)
    assert set(found.values()) == {"SUCCESS"}


def test_opcheck_of_max_norm():
    found = torch.library.opcheck(torch.ops.dropcore.max_norm_.default, (tensor(4, 5), 0.5, [1]))
    assert set(found.values()) == {"SUCCESS"}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_operator_computes_what_eager_calls_do(layout):
    x = LAYOUTS[layout](tensor(4, 5, 6, 7))
    seed = torch.tensor(KEY.seed - 2**64)
    y = torch.ops.dropcore.dropout(x, seed, 0.3, KEY.stream, KEY.step, [], "dropout")
    assert torch.equal(y, dt.dropout(x, 0.3, key=KEY))
    y = torch.ops.dropcore.dropout(x, seed, 0.3, KEY.stream, KEY.step, [2, 3], "dropout")
    assert torch.equal(y, dt.dropout2d(x, 0.3, key=KEY))


def compiled(function):
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def test_compiled_without_a_break():
    @compiled
    def call(x):
        return dt.dropout(torch.relu(x), 0.5) * 2

    x = torch.ones(1000, requires_grad=True)
    torch.manual_seed(1)
    y = call(x)
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, y != 0)
    torch.manual_seed(1)
    assert torch.equal(call(x), y)
    assert not torch.equal(call(x), y)
    torch.manual_seed(1)
    assert torch.equal(dt.dropout(torch.relu(x), 0.5) * 2, y)


def test_compiled_for_every_step_with_a_key():
    @compiled
    def call(x, step):
        return dt.dropout(x, 0.5, key=Key(2**64 - 1, stream=3, step=step))

    x = torch.ones(1000)
    for step in range(4):
        expected = dt.dropout(x, 0.5, key=Key(2**64 - 1, stream=3, step=step))
        assert torch.equal(call(x, step), expected)


def test_compiled_in_place():
    def call(x):
        z = x * 1
        return dt.dropout(z, 0.5, inplace=True, key=5) + z

    x = torch.ones(100)
    assert torch.equal(compiled(call)(x), call(x))


@pytest.mark.parametrize("name", ["alpha_dropout", "feature_alpha_dropout", "dropout2d"])
def test_compiled_relatives(name):
    def call(x):
        return getattr(dt, name)(x, 0.5, True, key=5)

    x = tensor(4, 5, 6, 7)
    assert torch.allclose(compiled(call)(x), call(x))


def test_compiled_by_inductor():
    torch.compiler.reset()
    model = nn.Sequential(nn.Linear(20, 20), dt.Dropout(0.5))
    call = torch.compile(model, fullgraph=True)
    torch.manual_seed(0)
    y = call(torch.ones(50, 20))
    torch.manual_seed(0)
    assert torch.equal(call(torch.ones(50, 20)), y)
    assert 0.4 < (y == 0).double().mean() < 0.6


def test_exported():
    program = torch.export.export(dt.Dropout(0.5).train(), (torch.ones(4),))
    assert "dropcore.dropout" in program.graph_module.code


def test_fake_and_meta_tensors():
    assert dt.dropout(torch.empty(3, device="meta"), 0.5).device.type == "meta"
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        assert dt.dropout(torch.empty(3, 4), 0.5).shape == (3, 4)


def test_modes_see_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Recorder(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    seen, x = [], torch.ones(9)
    with Recorder():
        dt.dropout(x, 0.5, key=7)
    assert "dropcore.dropout.default" in seen


def test_vmap():
    x = torch.ones(5, 200)
    with_key = vmap(lambda row: dt.dropout(row, 0.5, key=7))(x)
    assert torch.equal(with_key, dt.dropout(x[0], 0.5, key=7).expand(5, 200))
    columns = vmap(lambda column: dt.dropout(column, 0.5, key=7), in_dims=1)(x)
    assert torch.equal(columns, dt.dropout(x[:, 0], 0.5, key=7).expand(200, 5))
    maps = vmap(lambda a: dt.dropout2d(a, 0.5, key=7))(torch.ones(5, 4, 6, 2, 2))
    assert torch.equal(maps[3], dt.dropout2d(torch.ones(4, 6, 2, 2), 0.5, key=7))
    same = vmap(lambda row: dt.dropout(row, 0.5), randomness="same")(x)
    assert torch.equal(same, same[:1].expand(5, 200))
    different = vmap(lambda row: dt.dropout(row, 0.5), randomness="different")(x)
    assert len({tuple(row.tolist()) for row in different}) == 5
    one = vmap(lambda i: i + dt.dropout(x[0], 0.5), randomness="different")(torch.zeros(5))
    assert len({tuple(row.tolist()) for row in one}) == 5
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(lambda row: dt.dropout(row, 0.5))(x)


def test_vmap_in_a_graph():
    x = torch.ones(5, 200)
    call = compiled(vmap(lambda row: dt.dropout(row, 0.5, key=7)))
    assert torch.equal(call(x), dt.dropout(x[0], 0.5, key=7).expand(5, 200))


def test_transforms():
    x = tensor(5, 20)

    def call(x):
        return dt.dropout(x, 0.5, key=7)

    ones = call(torch.ones(5, 20))
    assert torch.equal(grad(lambda x: call(x).sum())(x), ones)
    assert torch.equal(jvp(call, (x,), (torch.ones(5, 20),))[1], ones)
    squares = grad(lambda x: (call(x) ** 2).sum())
    assert torch.allclose(vmap(squares)(x), 2 * x * call(torch.ones(20)) ** 2)
    per_sample = vmap(grad(lambda x: dt.dropout(x, 0.5).sum()), randomness="different")(x)
    assert len({tuple(row.tolist()) for row in per_sample}) == 5
    y = torch.func.functional_call(dt.Dropout(0.5), {}, (x,))
    assert y.shape == x.shape


# Relatives


@pytest.mark.parametrize("kind", FEATURES)
def test_whole_channels_are_dropped(kind):
    shape = FEATURES[kind]
    x = tensor(*shape) + 9
    torch.manual_seed(0)
    y = kind(0.5)(x)
    gone = (y == 0) if "Alpha" not in kind.__name__ else (y == y.min())
    flat = gone.flatten(2)
    assert torch.equal(flat.all(2), flat.any(2))
    assert 0 < flat.all(2).sum() < 20


@pytest.mark.parametrize(
    ("call", "shape", "mask"),
    [
        (dt.dropout1d, (4, 5, 6), (4, 5, 1)),
        (dt.dropout1d, (5, 6), (5, 1)),
        (dt.dropout2d, (4, 5, 6, 7), (4, 5, 1, 1)),
        (dt.dropout3d, (4, 5, 6, 7, 2), (4, 5, 1, 1, 1)),
        (dt.dropout3d, (5, 6, 7, 2), (5, 1, 1, 1)),
    ],
)
def test_masks_of_channels(call, shape, mask):
    y = call(torch.ones(shape), 0.3, key=KEY)
    assert torch.equal(y != 0, kept(mask).expand(shape))


def test_other_numbers_of_dimensions():
    with pytest.warns(UserWarning, match=r"Received a 3-D input to dropout2d, which takes .*1D"):
        y = dt.dropout2d(torch.ones(4, 5, 6), 0.3, key=KEY)
    assert torch.equal(y != 0, kept((4, 5, 1)).expand(4, 5, 6))
    with pytest.warns(UserWarning, match=r"Received a 3-D input to dropout3d, which takes .*units"):
        y = dt.dropout3d(torch.ones(4, 5, 6), 0.3, key=KEY)
    assert torch.equal(y != 0, kept((4, 1, 1)).expand(4, 5, 6))
    with pytest.raises(RuntimeError, match=r"received a 4D input. It takes \(batch"):
        dt.dropout1d(torch.ones(1, 2, 3, 4))
    with pytest.raises(RuntimeError, match="feature_alpha_dropout takes"):
        dt.feature_alpha_dropout(torch.ones(3), training=True)
    with (
        pytest.warns(UserWarning, match="Received a 1-D input to dropout2d"),
        pytest.raises(RuntimeError, match=r"dropout2d takes .* got 1 dim"),
    ):
        dt.dropout2d(torch.ones(3))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_alpha_dropout(p, dtype):
    x = tensor(500, 400, dtype=dtype)
    y = dt.alpha_dropout(x, p, True, key=KEY)
    assert y.dtype is x.dtype
    keep, c = 1 - p, -1.7580993408473766
    a = (keep * (1 + p * c**2)) ** -0.5
    expected = a * torch.where(kept(x.shape, p), x.double(), c) - a * p * c
    close = {"float32": 1e-6, "float64": 1e-14, "float16": 2e-3, "bfloat16": 2e-2}[dtype]
    assert torch.allclose(y.double(), expected, rtol=close, atol=close)
    assert abs(y.double().mean()) < 0.02
    assert abs(y.double().std() - 1) < 0.02
    if x.element_size() == 2:  # rounded once
        assert torch.equal(y, dt.alpha_dropout(x.float(), p, True, key=KEY).to(x.dtype))
    assert not dt.alpha_dropout(x, 1.0, True).any()


def test_alpha_dropout_is_the_layer():
    from dropcore.nn import AlphaDropout

    x = tensor(40, 50)
    ours = AlphaDropout(0.3)(x.numpy(), KEY)
    assert np.allclose(dt.alpha_dropout(x, 0.3, True, key=KEY).numpy(), ours, atol=1e-6)


def test_drop_connect():
    layer = dt.DropConnect(30, 20, p=0.4)
    assert layer.state_dict().keys() == nn.Linear(30, 20).state_dict().keys()
    assert "p=0.4" in repr(layer)
    x = tensor(10, 30)
    torch.manual_seed(1)
    y = layer(x)
    torch.manual_seed(1)
    weight = dt.dropout(layer.weight, 0.4)
    assert torch.equal(y, F.linear(x, weight, layer.bias))
    y.sum().backward()
    assert torch.equal(layer.weight.grad == 0, weight == 0)
    layer.eval()
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))


# Max-norm


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_max_norm(layout, dtype):
    if layout == "expanded":
        return
    w = LAYOUTS[layout](tensor(4, 5, 6, 7, dtype=dtype))
    before = w.clone()
    if dtype == "bfloat16":
        expected = w.float().numpy().astype(pytest.importorskip("ml_dtypes").bfloat16)
    else:
        expected = w.numpy().copy()
    dropcore.max_norm_(expected, 3.0, axis=(1, 2, 3))
    assert dt.max_norm_(w, 3.0, dim=(1, 2, 3)) is w
    assert np.array_equal(w.double().numpy(), expected.astype(float))
    assert not torch.equal(w, before)
    assert (torch.linalg.vector_norm(w.double(), dim=(1, 2, 3)) <= 3).all()


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_max_norm_of_any_optimiser(kind):
    model = nn.Sequential(nn.Conv1d(3, 5, 2), nn.Flatten(), dt.DropConnect(20, 4), nn.Linear(4, 3))
    free = model[3].weight.detach().clone()
    optimizer = kind(model.parameters(), lr=0.5)
    optimizer.register_step_post_hook(dt.MaxNorm(model, 0.3, layers=["0", "2"]))
    x, y = tensor(8, 3, 5), torch.arange(8) % 3

    def closure():
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        return loss

    for _ in range(3):
        optimizer.step(closure)
    for layer, dim in ((model[0], (1, 2)), (model[2], 1)):
        norms = torch.linalg.vector_norm(layer.weight.double(), dim=dim)
        assert (norms <= 0.3).all()
        assert layer.weight.requires_grad
    assert not torch.equal(model[3].weight, free)
    assert torch.linalg.vector_norm(model[3].weight, dim=1).max() > 0.3


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_max_norm_of_whole_filters(kind):
    model = nn.Sequential(kind(3, 6, 2))
    dt.MaxNorm(model, 0.1)()
    norms = model[0].weight.double().flatten(1).norm(dim=1)
    assert torch.allclose(norms, torch.full((6,), 0.1, dtype=torch.float64))


# Models


def test_replace_dropout_keeps_everything():
    class Own(nn.Dropout):
        def forward(self, x):
            return x + 1

    model = nn.Sequential(
        nn.Linear(4, 4),
        nn.Dropout(0.25, inplace=True),
        nn.Sequential(nn.Dropout1d(0.1), nn.Dropout2d(0.2), nn.Dropout3d(0.3)),
        nn.AlphaDropout(0.4),
        nn.FeatureAlphaDropout(0.6),
        Own(0.5),
        nn.LSTM(4, 4, 2, dropout=0.3),
        nn.LSTM(4, 4, 2),
        nn.MultiheadAttention(4, 2, dropout=0.2),
    )
    shared = model[1]
    model.add_module("again", shared)
    model[2].eval()
    calls = []
    model[1].register_forward_hook(lambda *_: calls.append("forward"))
    state, modules = model.state_dict(), list(model.modules())
    done = dt.replace_dropout(model)
    assert done.replaced == {
        "1": "Dropout(p=0.25, inplace=True)",
        "2.0": "Dropout1d(p=0.1, inplace=False)",
        "2.1": "Dropout2d(p=0.2, inplace=False)",
        "2.2": "Dropout3d(p=0.3, inplace=False)",
        "3": "AlphaDropout(p=0.4, inplace=False)",
        "4": "FeatureAlphaDropout(p=0.6, inplace=False)",
        "6": "LSTM with dropout 0.3",
        "8": "MultiheadAttention with dropout 0.2",
    }
    assert done.left == {"5": "Own derives from Dropout"}
    assert str(done).endswith("5: left, Own derives from Dropout")
    assert model.again is model[1] is shared
    assert list(model.modules()) == modules
    assert all(torch.equal(state[name], w) for name, w in model.state_dict().items())
    assert [m.training for m in model[2]] == [False] * 3
    assert type(model[1]) is dt.Dropout
    assert isinstance(model[1], nn.Dropout)
    assert type(model[7]) is nn.LSTM
    x = torch.ones(100)
    assert model[1](x) is x
    assert (x == 0).any()
    assert calls == ["forward"]
    assert dt.replace_dropout(model) == dt.Replacement(left=done.left)
    for twin in (copy.deepcopy(model[2]), pickle.loads(pickle.dumps(model[2]))):
        assert [type(m) for m in twin] == [dt.Dropout1d, dt.Dropout2d, dt.Dropout3d]


def test_a_replaced_model_is_saved_copied_and_wrapped():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 2), nn.Dropout2d(0.5), nn.Flatten(), nn.Linear(16, 8), nn.Dropout(0.5),
        nn.AlphaDropout(0.3),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    names = list(model.state_dict())
    dt.replace_dropout(model)
    assert list(model.state_dict()) == names
    x = tensor(5, 3, 3, 3).contiguous(memory_format=torch.channels_last)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    torch.manual_seed(0)
    expected = model(x)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(pickle.dumps(model)),
        torch.load(file, weights_only=False),
        nn.DataParallel(model),
    ):
        torch.manual_seed(0)
        assert torch.equal(twin(x), expected)
    program = torch.export.export(model, (x,))
    torch.manual_seed(0)
    assert torch.equal(program.module(check_guards=False)(x), expected)


def test_hooks_are_called():
    calls = []
    layer = nn.Dropout(0.5)
    layer.register_forward_pre_hook(lambda *_: calls.append("pre"))
    layer.register_forward_hook(lambda *_: calls.append("post"))
    layer.register_full_backward_hook(lambda *_: calls.append("back"))
    dt.replace_dropout(layer)
    layer(torch.ones(9, requires_grad=True)).sum().backward()
    assert calls == ["pre", "post", "back"]


@pytest.mark.parametrize(
    "layer", [dt.Dropout(), dt.AlphaDropout(), dt.DropConnect(2, 2), dt.LSTM(2, 2), dt.GRU(2, 2),
              dt.RNN(2, 2), dt.MultiheadAttention(2, 1)],
)  # fmt: skip
def test_torchscript_has_a_message(layer):
    name = type(layer).__name__
    with pytest.raises(TypeError, match=rf"TorchScript cannot call dropcore\.torch\.{name}: use"):
        torch.jit.script(nn.Sequential(layer))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))
    attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    dt.replace_dropout(model)
    dt.replace_dropout(attention)
    x = tensor(3, 4, 8)
    with torch.autocast("cpu", dtype=dtype):
        y = model(x)
        z, _ = attention(x, x, x)
    assert y.dtype is z.dtype is dtype
    (y.sum() + z.sum()).backward()
    assert torch.equal(model[0].bias.grad != 0, (y != 0).flatten(0, 1).any(0))
    assert attention.in_proj_weight.grad.isfinite().all()


@pytest.mark.parametrize("in_dim", [0, 1, 2])
def test_vmap_of_max_norm(in_dim):
    w = tensor(3, 4, 5) * 9
    expected = w.clone()
    for one in expected.unbind(in_dim):
        dt.max_norm_(one, 1.0, 0)
    assert not torch.equal(w, expected)
    vmap(lambda one: dt.max_norm_(one, 1.0, -2), in_dims=in_dim)(w)
    assert torch.equal(w, expected)


def test_replace_dropout_says_why_a_module_is_left():
    scripted = torch.jit.script(nn.Dropout(0.5))
    model = nn.ModuleDict({"one": nn.GRU(2, 2), "fixed": scripted})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model["single"] = nn.LSTM(2, 2, dropout=0.5)
    done = dt.replace_dropout(model)
    assert done.replaced == {}
    assert done.left == {
        "fixed": "its TorchScript code is fixed",
        "single": "one layer has no dropout between layers, in PyTorch neither",
    }
    assert str(dt.replace_dropout(nn.Linear(1, 1))) == "no module of the model has dropout"
    alone = nn.Dropout(0.5)
    assert str(dt.replace_dropout(alone)) == "(the model): Dropout(p=0.5, inplace=False)"


def test_a_replaced_model_learns_and_repeats():
    x, y = tensor(64, 10), torch.arange(64) % 3

    def losses():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(10, 64), nn.ReLU(), nn.Dropout(0.5), nn.Linear(64, 3))
        dt.replace_dropout(model)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        found = []
        for _ in range(60):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            found.append(loss.item())
        return found

    first = losses()
    assert losses() == first
    assert sum(first[-5:]) < 0.7 * sum(first[:5])


def counted_calls(monkeypatch):
    """A list that grows with every dropout of dropcore."""
    from dropcore.torch import _functions

    calls, drop = [], _functions._drop
    monkeypatch.setattr(_functions, "_drop", lambda *a: (calls.append(a), drop(*a)))
    return calls


ATTENTION = [
    {},
    {"batch_first": True},
    {"kdim": 6, "vdim": 5},
    {"add_bias_kv": True, "add_zero_attn": True},
]


@pytest.mark.parametrize("need_weights", [False, True])
@pytest.mark.parametrize("options", ATTENTION)
def test_multihead_attention(options, need_weights, monkeypatch):
    layer = dt.MultiheadAttention(8, 2, dropout=0.5, **options)
    inputs = [tensor(4, 4, n) for n in (8, options.get("kdim", 8), options.get("vdim", 8))]
    calls = counted_calls(monkeypatch)
    first = layer(*inputs, need_weights=need_weights)
    second = layer(*inputs, need_weights=need_weights)
    assert not torch.equal(first[0], second[0])
    assert len(calls) == (2 if need_weights else 0)  # without weights it is fused
    if need_weights:
        zeros = (layer(*inputs, average_attn_weights=False)[1] == 0).double().mean()
        assert 0.2 < zeros < 0.8
    plain = nn.MultiheadAttention(8, 2, **options)
    plain.load_state_dict(layer.state_dict())
    mask = torch.ones(4, 4).tril() == 0
    layer.dropout = 1e-13  # the path of dropout, which drops nothing
    for more in ({}, {"attn_mask": mask}, {"key_padding_mask": mask}):
        a = layer(*inputs, need_weights=need_weights, **more)
        b = plain(*inputs, need_weights=need_weights, **more)
        assert torch.allclose(a[0], b[0], atol=1e-6)
        assert a[1] is b[1] is None or torch.allclose(a[1], b[1], atol=1e-6)


@pytest.mark.parametrize("need_weights", [False, True])
def test_attention_compiled_without_a_break(need_weights):
    layer = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=True)
    dt.replace_dropout(layer)
    x = tensor(3, 4, 8)

    def call(x):
        return layer(x, x, x, need_weights=need_weights)[0]

    torch.manual_seed(0)
    expected = call(x)
    graph = compiled(call)
    torch.manual_seed(0)
    assert torch.allclose(graph(x), expected, atol=1e-6)  # eager attention stores no weights
    assert not torch.allclose(graph(x), expected, atol=1e-6)


def test_a_transformer_compiled_and_exported():
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.5, batch_first=True)
    assert len(dt.replace_dropout(model).replaced) == 4
    x = tensor(3, 4, 8)
    torch.manual_seed(0)
    expected = model(x)
    graph = compiled(model)
    torch.manual_seed(0)
    assert torch.allclose(graph(x), expected, atol=1e-6)
    code = torch.export.export(model, (x,)).graph_module.code
    assert code.count("dropcore.dropout") == 4
    assert "aten.dropout" not in code
    model.eval()
    assert torch.allclose(model(x), compiled(model)(x), atol=1e-6)


def test_a_block_inside_of_a_graph():
    def call(x):
        with dt.fast_dropout():
            return F.dropout(x, 0.5) * 2

    x = torch.ones(1000)
    torch.manual_seed(0)
    expected = 2 * dt.dropout(x, 0.5)
    torch.manual_seed(0)
    assert torch.equal(compiled(call)(x), expected)


SDPA = [
    {},
    {"is_causal": True},
    {"attn_mask": torch.ones(4, 4).tril(-1) == 1},
    {"attn_mask": tensor(4, 4)},
    {"scale": 0.3},
]


@pytest.mark.parametrize("options", SDPA)
def test_attention_without_and_with_dropout(options):
    q, k, v = (tensor(2, 3, 4, 5, seed=seed).requires_grad_() for seed in range(3))
    expected = F.scaled_dot_product_attention(q, k, v, **options)
    for p in (0.0, 1e-13):
        y = dt.scaled_dot_product_attention(q, k, v, dropout_p=p, **options)
        assert torch.allclose(y, expected, atol=1e-6)
        for one, other in zip(
            torch.autograd.grad(y.sum(), (q, k, v)),
            torch.autograd.grad(expected.sum(), (q, k, v), retain_graph=True),
            strict=True,
        ):
            assert torch.allclose(one, other, atol=1e-5)
    mean = sum(
        dt.scaled_dot_product_attention(q, k, v, dropout_p=0.3, **options) for _ in range(400)
    )
    assert torch.allclose(mean / 400, expected, atol=0.35)


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (3, 4, 5), (4, 5)])
@pytest.mark.parametrize("options", SDPA)
def test_fused_attention_is_the_composition(shape, options, monkeypatch):
    def call():
        torch.manual_seed(1)
        y = dt.scaled_dot_product_attention(q, k, v, dropout_p=0.4, **options)
        return y, torch.autograd.grad(y.square().sum(), (q, k, v))

    q, k, v = (tensor(*shape, seed=seed).requires_grad_() for seed in range(3))
    y, grads = call()
    assert type(y.grad_fn).__name__ == "_FusedBackward"
    monkeypatch.setattr("dropcore.torch._attention._fuses", lambda *_: False)
    z, others = call()
    for one, other in zip((y, *grads), (z, *others), strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=0)
    assert (y - v.mean(-2, keepdim=True)).abs().max() > 0.1


def test_fused_attention_has_the_mask_of_the_weights():
    q = tensor(2, 6, 4, 5).double()
    k = tensor(2, 2, 4, 5, seed=1).double()
    torch.manual_seed(2)
    y = dt.scaled_dot_product_attention(q, k, k, dropout_p=0.4, enable_gqa=True)
    torch.manual_seed(2)
    seed = torch.randint((1 << 63) - 1, ()).item()
    wanted = dropcore.attention(q.numpy(), k.numpy(), k.numpy(), 0.4, key=seed)
    assert np.array_equal(y.numpy(), wanted)


def test_derivatives_of_fused_attention():
    def call(q, k, v):
        torch.manual_seed(3)
        return dt.scaled_dot_product_attention(q, k, v, dropout_p=0.3)

    operands = [tensor(2, 2, 4, 3, seed=n).double().requires_grad_() for n in range(3)]
    assert torch.autograd.gradcheck(call, operands, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, operands)
    q, k, v = (x.detach() for x in operands)
    _, tangent = torch.func.jvp(lambda q: call(q, k, v), (q,), (q,))
    assert tangent.isfinite().all()


@pytest.mark.parametrize(
    "change",
    [
        lambda q, k, v: ((q.half(), k.half(), v.half()), {}),
        lambda q, k, v: ((q, k[:, :, :3], v[:, :, :3]), {"is_causal": True}),
        lambda q, k, v: ((q, k, v), {"attn_mask": torch.zeros(4, 4, requires_grad=True)}),
        lambda q, k, v: ((q[None], k[None], v[None]), {}),
    ],
)
def test_what_attention_composes(change):
    operands, options = change(*(tensor(2, 3, 4, 5, seed=seed) for seed in range(3)))
    y = dt.scaled_dot_product_attention(*operands, dropout_p=1e-13, **options)
    expected = F.scaled_dot_product_attention(*operands, **options)
    torch.testing.assert_close(y, expected, atol=2e-3, rtol=0)


def test_attention_of_grouped_heads():
    q, k = tensor(2, 6, 4, 5), tensor(2, 2, 4, 5, seed=1)
    expected = F.scaled_dot_product_attention(q, k, k, enable_gqa=True)
    y = dt.scaled_dot_product_attention(q, k, k, dropout_p=1e-13, enable_gqa=True)
    assert torch.allclose(y, expected, atol=1e-6)
    with pytest.raises(ValueError, match="give attn_mask or is_causal"):
        dt.scaled_dot_product_attention(q, q, q, torch.ones(4, 4), dropout_p=0.5, is_causal=True)


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers(kind, both, monkeypatch):
    options = {"num_layers": 3, "bidirectional": both}
    layer = getattr(dt, kind)(3, 4, dropout=1e-13, **options)  # the path of dropout
    plain = getattr(nn, kind)(3, 4, **options)
    plain.load_state_dict(layer.state_dict())
    x = tensor(5, 2, 3)

    def tensors(result):
        output, state = result
        return [output.data, *(state if isinstance(state, tuple) else (state,))]

    state = None
    for _ in range(2):
        for given in (x, x[:, 0], nn.utils.rnn.pack_padded_sequence(x, [5, 3])):
            start = state if state is None or given is not x[:, 0] else None
            if given.data.dim() == 2 and not hasattr(given, "batch_sizes"):
                start = None
            for one, other in zip(
                tensors(layer(given, start)), tensors(plain(given, start)), strict=True
            ):
                assert one.shape == other.shape
                assert torch.allclose(one, other, atol=1e-6)
        state = plain(x)[1]
    layer.dropout = 0.5
    calls = counted_calls(monkeypatch)
    torch.manual_seed(0)
    first = layer(x)[0]
    assert len(calls) == 2
    torch.manual_seed(0)
    assert torch.equal(layer(x)[0], first)
    assert not torch.equal(layer(x)[0], first)
    layer.eval()
    assert torch.equal(layer(x)[0], plain(x)[0])


@pytest.mark.parametrize(
    "name",
    ["dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"],
)
def test_fast_dropout_is_a_block(name):
    x = torch.ones((200, 6, *{"dropout1d": (2,), "dropout3d": (1, 2, 2)}.get(name, (2, 2))))
    torch.manual_seed(0)
    expected = getattr(dt, name)(x, 0.5, True)
    theirs = getattr(F, name)
    torch.manual_seed(0)
    with dt.fast_dropout():
        y = theirs(x, 0.5, training=True)
    assert torch.equal(y, expected)
    torch.manual_seed(0)
    assert not torch.equal(theirs(x, 0.5, training=True), expected)


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN", "MultiheadAttention"])
def test_modules_of_pytorch_in_a_block(kind, monkeypatch):
    calls = counted_calls(monkeypatch)
    if kind == "MultiheadAttention":
        layer, inputs = nn.MultiheadAttention(4, 2, dropout=0.5), [tensor(5, 2, 4)] * 3
    else:
        layer, inputs = getattr(nn, kind)(4, 4, 2, dropout=0.5), [tensor(5, 2, 4)]
    layer(*inputs)
    assert not calls
    with dt.fast_dropout():
        layer(*inputs)
    assert len(calls) == 1


# Devices without kernels


def test_devices_without_kernels_have_pytorchs_masks(monkeypatch):
    from dropcore.torch import _functions

    monkeypatch.setattr(_functions, "_warned", [])
    with pytest.warns(UserWarning, match="no kernels for meta"):
        assert not _functions._has_kernels(torch.empty(0, device="meta"))
    assert not _functions._has_kernels(torch.empty(0, device="meta"))  # once
    monkeypatch.setattr(_functions, "_has_kernels", lambda x: False)
    seed = torch.tensor(3)
    x = tensor(400, 300).requires_grad_()
    y = torch.ops.dropcore.dropout(x, seed, 0.3, 0, 0, [], "dropout")
    y.backward(torch.ones_like(y))
    assert torch.equal(x.grad != 0, y != 0)
    assert abs((y == 0).double().mean() - 0.3) < 0.01
    assert torch.allclose(y[y != 0], x[y != 0] / 0.7)
    assert not torch.equal(y != 0, kept(x.shape, key=Key(3)))
    for stream, step in ((0, 1), (1, 0)):
        other = torch.ops.dropcore.dropout(x, seed, 0.3, stream, step, [], "dropout")
        assert not torch.equal(other != 0, y != 0)
    other = torch.ops.dropcore.dropout(x, seed, 0.3, 0, 1, [1], "dropout")
    assert len({tuple(row.tolist()) for row in (other != 0).T}) == 1
    assert not torch.ops.dropcore.dropout(x, seed, 1.0, 0, 0, [], "dropout").any()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_alpha_dropout_without_kernels(dtype, monkeypatch):
    from dropcore.torch import _functions

    x = tensor(40, 300, dtype=dtype).requires_grad_()
    operator, seed = torch.ops.dropcore.dropout, torch.tensor(3)
    monkeypatch.setattr(_functions, "_has_kernels", lambda x: False)
    masked = operator(torch.ones_like(x), seed, 0.3, 0, 0, [], "dropout") != 0
    y = operator(x, seed, 0.3, 0, 0, [], "alpha_dropout")
    y.backward(torch.ones_like(y))
    assert not operator(x, seed, 1.0, 0, 0, [], "alpha_dropout").any()
    for numbers, wanted in (
        (y, dropcore.alpha_dropout(x.detach().numpy(), mask=Mask.given(masked.numpy(), keep=0.7))),
        (x.grad, dropcore.alpha_dropout_backward(
            torch.ones_like(x).numpy(), mask=Mask.given(masked.numpy(), keep=0.7))),
    ):  # fmt: skip
        assert numbers.dtype is x.dtype
        assert np.allclose(
            numbers.detach().numpy(), wanted, atol=1e-3 if dtype[-2:] == "16" else 1e-6
        )


# Wrong use


@pytest.mark.parametrize(
    "call",
    [dt.dropout, dt.dropout1d, dt.dropout2d, dt.dropout3d, dt.alpha_dropout,
     dt.feature_alpha_dropout],
)  # fmt: skip
@pytest.mark.parametrize("p", [-0.1, 1.1, float("nan")])
def test_probabilities(call, p):
    shape = (2, 2, 2, 2, 2) if call is dt.dropout3d else (2, 2, 2, 2)
    shape = (2, 2, 2) if call is dt.dropout1d else shape
    with pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        call(torch.ones(shape), p, True)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dt.Dropout(2.0), ValueError, "between 0 and 1"),
        (lambda: dt.DropConnect(2, 2, p=2.0), ValueError, r"DropConnect: p must be in \[0, 1\]"),
        (lambda: dt.dropout(torch.ones(2, dtype=torch.int64)), TypeError, "torch.int64"),
        (lambda: dt.dropout(torch.ones(2, 2).to_sparse()), TypeError, "torch.sparse_coo"),
        (lambda: dt.dropout(torch.ones(2), key=Key(1, domain=2)), ValueError, "domain 0"),
        (lambda: dt.dropout(torch.ones(2), key=-1), ValueError, r"2\*\*64"),
        (lambda: dt.max_norm_(np.ones((2, 2)), 1.0, 0), TypeError, "torch.Tensor, got ndarray"),
        (lambda: dt.max_norm_(torch.ones(2, 2), -1.0, 0), ValueError, "must be positive"),
        (lambda: dt.max_norm_(torch.ones(2, 2), 1.0, ()), ValueError, "dim must name"),
        (lambda: dt.max_norm_(torch.ones(2, 2), 1.0, 2), ValueError, "none numbered 2"),
        (lambda: dt.MaxNorm(3, 1.0), TypeError, "torch.nn.Module, got int"),
        (lambda: dt.MaxNorm(nn.ReLU(), 1.0), ValueError, "in this model"),
        (lambda: dt.MaxNorm(nn.Linear(1, 1), 0.0), ValueError, "must be positive"),
        (lambda: dt.MaxNorm(nn.Linear(1, 1), 1.0, layers=["a"]), ValueError, r"got \['a'\]"),
        (lambda: dt.replace_dropout("model"), TypeError, "torch.nn.Module, got str"),
    ],
)
def test_wrong_use(call, error, message):
    with pytest.raises(error, match=message):
        call()


X, A = torch.ones(4, 4), np.ones((4, 4), np.float32)


@pytest.mark.parametrize(
    "call",
    [
        lambda: dropcore.dropout(X, 0.5, key=1),
        lambda: dropcore.dropout(nn.Parameter(X), 0.5, key=1),
        lambda: dropcore.dropout_backward(X, 0.5, key=1),
        lambda: dropcore.alpha_dropout(X, 0.5, key=1),
        lambda: dropcore.alpha_dropout_backward(X, 0.5, key=1),
        lambda: dropcore.dropout(A, 0.5, key=1, out=X),
        lambda: dropcore.alpha_dropout(A, 0.5, key=1, out=X),
        lambda: dropcore.alpha_dropout(A.astype("f2"), 0.5, key=1, out=X.half()),
        lambda: dropcore.masked_matmul(X, A),
        lambda: dropcore.masked_matmul(A, X),
        lambda: dropcore.masked_matmul(A, A, X[0]),
        lambda: dropcore.masked_matmul_backward(X, A, A),
        lambda: dropcore.max_norm_(X, 1.0, axis=0),
        lambda: Mask.given(X > 0),
        lambda: Mask.from_packed(torch.ones(2, dtype=torch.uint8), 16),
        lambda: dropcore.noise.normal(3, key=1, like=X),
    ],
)
def test_array_functions_refuse_tensors(call):
    with pytest.raises(TypeError, match=r"is a torch.Tensor: dropcore\.torch has"):
        call()


def test_the_bench_script_runs(monkeypatch, capsys):
    monkeypatch.setenv("DROPCORE_BENCH_TINY", "1")
    monkeypatch.setattr(sys, "argv", ["torch_dropout.py", "--rounds", "1"])
    bench = importlib.import_module("torch_dropout")
    bench.main()
    lines = capsys.readouterr().out.splitlines()
    for candidate in ("F.dropout", "dropcore.torch.dropout", "after replace_dropout", "after, in"):
        assert any(line.strip().startswith(candidate) for line in lines), candidate
    losses = [line.split()[1:] for line in lines if line.strip().startswith(("before ", "after "))]
    assert all(float(x) > 0 for x in losses[-1])
