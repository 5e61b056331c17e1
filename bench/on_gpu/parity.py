"""Sections that compare the same calls on NumPy and on CuPy arrays."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from dropcore import (
    Key,
    Mask,
    attention,
    attention_backward,
    dropout,
    dropout_backward,
    masked_matmul,
    masked_matmul_backward,
)
from dropcore import max_norm_ as project_
from dropcore._backends.cuda import kernels
from dropcore.noise import normal

from .setting import KEEP, KEY, Absent, Setting, bfloat16, first_line, section, torch_on_device


class Checks:
    """The outcomes of a section of parity."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self.outcomes = setting, {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What raises is one outcome, and the rest goes on."""
        try:
            yield
        except Exception as error:
            self.outcomes[name] = {"ok": False, "failed": first_line(error)}
            traceback.print_exc()

    def bits(self, name: str, found: Any, wanted: np.ndarray) -> None:
        """The same bits."""
        found = self._setting.back(found)
        kind = np.dtype(f"u{wanted.dtype.itemsize}")
        same = found.dtype == wanted.dtype and found.shape == wanted.shape
        wrong = -1
        if same:
            pair = (np.ascontiguousarray(a).view(kind) for a in (found, wanted))
            wrong = int(np.count_nonzero(np.not_equal(*pair)))
        self.outcomes[name] = {"ok": wrong == 0, "elements_that_differ": wrong}

    def close(self, name: str, found: Any, wanted: Any, most: float) -> None:
        """||found - wanted|| <= most ||wanted||."""
        found, wanted = (np.asarray(self._setting.back(a), np.float64) for a in (found, wanted))
        error = float(np.linalg.norm(found - wanted) / (np.linalg.norm(wanted) or 1.0))
        self.outcomes[name] = {"ok": error <= most, "relative_error": error, "allowed": most}

    def result(self) -> dict[str, Any]:
        return {"ok": all(o["ok"] for o in self.outcomes.values()), "checks": self.outcomes}


@section
def parity_masks(s: Setting) -> dict[str, Any]:
    """Bits, for any launch shape, any offset, and beyond the 32nd bit of an index."""
    checks, like, n = Checks(s), s.xp.zeros(1), s.sizes.parity
    before = kernels.BLOCKS
    for blocks, keep, offset in itertools.product((1, 3, before), (0.5, 0.9), (0, 31)):
        name = f"keep {keep}, offset {offset}, {blocks} blocks a processor"
        with checks.part(name):
            kernels.BLOCKS = blocks
            mask = Mask(n, keep=keep, key=KEY, offset=offset)
            checks.bits(name, mask.packed(like), mask.packed())
    kernels.BLOCKS = before
    with checks.part("rates"):
        rates = np.random.default_rng(0).uniform(size=(1, 1000))
        mask = Mask((n // 1000, 1000), rates, key=KEY)
        checks.bits("array of rates", mask.packed(like), mask.packed())
    with checks.part("far"):
        far = s.sizes.far
        packed = Mask(far, keep=KEEP, key=KEY).packed(like)
        tail = far // 8 * 8 - 800
        wanted = Mask(far - tail, keep=KEEP, key=KEY, offset=tail).packed()
        checks.bits(f"the end of {far} elements", packed[tail // 8 :], wanted)
    return checks.result()


@section
def parity_dropout(s: Setting) -> dict[str, Any]:
    """Forward and backward of four dtypes; in place, strided, shared, given, denormal."""
    checks, n = Checks(s), s.sizes.parity
    for dtype in (np.float32, np.float64, np.float16, bfloat16()):
        name = np.dtype(dtype).name
        with checks.part(name):
            rng = np.random.default_rng(1)
            x = (rng.normal(size=n) * 2.0 ** rng.integers(-20, 8, n)).astype(dtype)
            x[:6] = np.array([0, -0.0, np.inf, np.nan, 1e-40, -3e-39]).astype(dtype)
            for keep in (0.5, 0.9, 1.0):
                want = dropout(x, keep=keep, key=KEY)
                on = s.xp.asarray(x)
                checks.bits(f"{name}, keep {keep}", dropout(on, keep=keep, key=KEY), want)
                checks.bits(f"{name}, keep {keep}, backward",
                            dropout_backward(on, keep=keep, key=KEY), want)  # fmt: skip
                dropout(on[3:], keep=keep, key=KEY, out=on[3:])
                checks.bits(f"{name}, keep {keep}, in place, unaligned", on[3:],
                            dropout(x[3:], keep=keep, key=KEY))  # fmt: skip
            packed = Mask.from_packed(Mask(n, KEEP, key=KEY).packed(), (n,), keep=KEEP)
            checks.bits(f"{name}, given bits", dropout(s.xp.asarray(x), mask=packed),
                        dropout(x, mask=packed))  # fmt: skip
            rows = x[: n // 10 * 10].reshape(-1, 10)
            checks.bits(f"{name}, shared and strided",
                        dropout(s.xp.asarray(rows.T.copy()).T, KEEP, key=KEY, shared_axes=0),
                        dropout(rows, KEEP, key=KEY, shared_axes=0))  # fmt: skip
    with checks.part("a large array"):
        far = s.sizes.far
        x = s.xp.full(far, 1, np.float16)
        dropout(x, KEEP, key=KEY, out=x)
        tail = far - 1000
        want = dropout(np.ones(1000, np.float16), KEEP, key=KEY, offset=tail)
        checks.bits(f"the end of {far} elements", x[tail:], want)
    return checks.result()


@section
def parity_noise(s: Setting) -> dict[str, Any]:
    """Within 4 units in the last place of the CPU's normals; in fact the same operations."""
    checks, like = Checks(s), s.xp.zeros(1)
    for dtype in (np.float32, np.float64):
        name = np.dtype(dtype).name
        with checks.part(name):
            want = normal(s.sizes.parity, key=KEY, dtype=dtype)
            found = s.back(normal(s.sizes.parity, key=KEY, dtype=dtype, like=like))
            units = np.abs(found - want) / np.spacing(np.abs(want))
            checks.outcomes[name] = {"ok": bool(units.max() <= 4), "ulp": float(units.max())}
            checks.bits(f"{name}, the same bits", found, want)
            # Bits are more than is promised here.
            checks.outcomes[f"{name}, the same bits"]["ok"] = True
    return checks.result()


@section
def parity_max_norm(s: Setting) -> dict[str, Any]:
    """Rows, columns, kernels of convolutions; nothing is longer than the bound."""
    checks, rng = Checks(s), np.random.default_rng(2)
    for shape, axis in (((300, 700), 0), ((300, 700), 1), ((3, 3, 32, 48), (0, 1, 2))):
        for dtype in (np.float32, np.float64):
            name = f"{shape}, axis {axis}, {np.dtype(dtype).name}"
            with checks.part(name):
                w = rng.normal(size=shape).astype(dtype)
                bound = float(np.median(np.sqrt((w.astype(np.float64) ** 2).sum(axis))))
                own, want = s.xp.asarray(w), w.copy()
                project_(own, bound, axis=axis)
                project_(want, bound, axis=axis)
                checks.close(name, own, want, 1e-6 if dtype == np.float32 else 1e-13)
                norms = np.sqrt((s.back(own).astype(np.float64) ** 2).sum(axis))
                checks.outcomes[f"{name}, inside"] = {"ok": bool((norms <= bound).all())}
    return checks.result()


@section
def parity_products(s: Setting) -> dict[str, Any]:
    """masked_matmul and its gradients, with every kind of mask."""
    checks, rng = Checks(s), np.random.default_rng(3)
    m, k, n = s.sizes.product
    given = (rng.normal(size=shape) for shape in ((m, k), (k, n), (n,), (m, n)))
    x, w, bias, dy = given
    masks = {
        "plain": {}, "elements": {"x_mask": (m, k), "y_mask": (m, n)},
        "units": {"x_mask": (1, k), "y_mask": (1, n)}, "weights": {"w_mask": (k, n)},
        "a weight mask a sample": {"w_mask": (m, k, n)},
    }  # fmt: skip
    half = {np.dtype(np.float16): 4e-3, bfloat16(): 3e-2}
    for dtype in (np.float32, np.float64, np.float16, bfloat16()):
        dtype = np.dtype(dtype)
        most = half.get(dtype, 1e-5 if dtype == np.float32 else 1e-13)
        for kind, shapes in masks.items():
            name = f"{kind}, {dtype.name}"
            if dtype in half and kind == "a weight mask a sample":
                continue
            with checks.part(name):
                own = {n: Mask(shape, KEEP, key=Key(3, i)) for i, (n, shape) in
                       enumerate(shapes.items())}  # fmt: skip
                arrays = [a.astype(dtype) for a in (x, w, bias, dy)]
                wide = [a.astype(np.float64) for a in arrays]
                on = [s.xp.asarray(a) for a in arrays]
                want = masked_matmul(*wide[:3], activation="relu", **own)
                y = masked_matmul(*on[:3], activation="relu", **own)
                checks.close(name, y, want, most)
                # The same units are active, whatever was rounded where.
                active = s.xp.asarray(want.astype(dtype))
                wanted = masked_matmul_backward(wide[3], *wide[:2], want, activation="relu", **own)
                found = masked_matmul_backward(on[3], *on[:2], active, activation="relu", **own)
                for a, b, what in zip(found, wanted, ("dx", "dw", "dbias"), strict=True):
                    checks.close(f"{name}, {what}", a, b, most)
    return checks.result()


def attention_options(batch: int, heads: int, length: int) -> dict[str, dict[str, Any]]:
    """Arguments of attention, each kind once."""
    rng = np.random.default_rng(8)
    bias = np.where(rng.uniform(size=(heads, length, length)) < 0.2, -np.inf, 0.5)
    return {
        "plain": {},
        "dropout": {"rate": 0.1, "key": KEY, "offset": 77},
        "causal": {"rate": 0.1, "key": KEY, "causal": True},
        "lengths": {"rate": 0.1, "key": KEY, "lengths": np.arange(batch) * length // batch},
        "bias": {"rate": 0.1, "key": KEY, "bias": bias},
        "given": {"mask": Mask.given(rng.uniform(size=(heads, 1, length)) < 0.5, keep=0.5)},
    }


@section
def parity_attention(s: Setting) -> dict[str, Any]:
    """Forward and backward, with grouped heads, in float32 and float64; the masks bit for bit."""
    checks, rng = Checks(s), np.random.default_rng(7)
    batch, heads, length, size = s.sizes.scores
    key_heads = heads // 2
    shapes = (heads, size), (key_heads, size), (key_heads, size), (heads, size)
    given = [rng.normal(size=(batch, rows, length, n)) for rows, n in shapes]
    for dtype, (name, how) in itertools.product(
        (np.float32, np.float64), attention_options(batch, heads, length).items()
    ):
        most = 1e-5 if dtype == np.float32 else 1e-13
        label = f"{name}, {np.dtype(dtype).name}"
        with checks.part(label):
            ends = []
            for put in (np.asarray, s.xp.asarray):
                q, k, v, dy = (put(a.astype(dtype)) for a in given)
                own = how | ({"bias": put(how["bias"].astype(dtype))} if "bias" in how else {})
                y, sums = attention(q, k, v, return_logsumexp=True, **own)
                ends.append((y, *attention_backward(dy, q, k, v, y, sums, **own)))
            for what, wanted, found in zip(("y", "dq", "dk", "dv"), *ends, strict=True):
                checks.close(f"{label}, {what}", found, wanted, most)
    for offset, keys in itertools.product((0, 31, 1 << 36), (64, 200, 1025)):
        with checks.part(f"mask of {keys} keys, offset {offset}"):
            mask = Mask((2, 3, 5, keys), 0.1, key=KEY, offset=offset)
            q, k = s.xp.zeros((2, 3, 5, 1), np.float32), s.xp.zeros((2, 3, keys, 1), np.float32)
            one = np.broadcast_to(np.eye(keys, dtype=np.float32), (2, 3, keys, keys)).copy()
            kept = s.back(attention(q, k, s.xp.asarray(one), mask=mask)) != 0
            checks.bits(f"mask of {keys} keys, offset {offset}", kept, mask.to_bool())
    return checks.result()


@section
def parity_updates(s: Setting) -> dict[str, Any]:
    """Every optimiser's steps with projection."""
    from dropcore.constraints import MaxNorm
    from dropcore.optim import SGD, Adadelta, Adagrad, AdamW, RMSprop

    checks, rng = Checks(s), np.random.default_rng(4)
    rules = {
        "SGD": SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.1), "AdamW": AdamW(0.01),
        "RMSprop": RMSprop(0.01, momentum=0.5), "Adagrad": Adagrad(0.01), "Adadelta": Adadelta(),
    }  # fmt: skip
    for (name, rule), axis in itertools.product(rules.items(), (0, 1)):
        with checks.part(f"{name}, axis {axis}"):
            w = rng.normal(size=(200, 300)).astype(np.float32)
            grads = [rng.normal(size=w.shape).astype(np.float32) for _ in range(3)]
            ends = []
            for put in (np.array, s.xp.asarray):
                params = {"weight": put(w.copy())}
                state = rule.init(params)
                for step, g in enumerate(grads):
                    rule.apply(params, {"weight": put(g)}, state, step,
                               {"weight": MaxNorm(15.0, axis=axis)})  # fmt: skip
                ends.append(params["weight"])
            checks.close(f"{name}, axis {axis}", ends[1], ends[0], 1e-6)
    return checks.result()


def models() -> dict[str, tuple[Any, tuple[int, ...]]]:
    """One of each kind, and the shape of a sample."""
    from dropcore.constraints import MaxNorm
    from dropcore.nn import LSTM, Conv2D, Dense, Dropout, Flatten, MaxPool2D, Sequential

    return {
        "dense": (
            Sequential([Dropout(0.2), Dense(64, activation="relu", constraint=MaxNorm(1.0)),
                        Dropout(0.5), Dense(48, activation="tanh"), Dropout(0.5, shared_axes=0),
                        Dense(10)]), (40,),
        ),
        "convolution": (
            Sequential([Conv2D(16, 3, padding="same", activation="relu"), Dropout(0.2),
                        MaxPool2D(2), Flatten(), Dense(10)]), (12, 12, 3),
        ),
        "LSTM": (Sequential([LSTM(24), Dropout(0.3), Dense(10)]), (9, 12)),
    }  # fmt: skip


@section
def parity_training(s: Setting) -> dict[str, Any]:
    """Two epochs of each kind of network, weights against weights; also as a CUDA graph."""
    from dropcore.optim import SGD

    checks = Checks(s)
    for name, (_, sample) in models().items():
        rng = np.random.default_rng(5)
        x = rng.normal(size=(96, *sample)).astype(np.float32)
        y = rng.integers(0, 10, 96)
        ends = {}
        for kind in ("cpu", "cuda", "cuda_graph"):
            with checks.part(f"{name}, {kind}"):
                model = models()[name][0]
                put, options = (np.asarray, {}) if kind == "cpu" else (s.xp.asarray, {})
                if kind != "cpu":
                    model.to("cuda")
                if kind == "cuda_graph":
                    options["cuda_graph"] = True
                model.fit(put(x), put(y), epochs=2, batch_size=32, key=9, progress=False,
                          optimizer=SGD(0.05, momentum=0.9), **options)  # fmt: skip
                ends[kind] = model.params
        for kind in ("cuda", "cuda_graph"):
            if "cpu" in ends and kind in ends:
                for weight, wanted in ends["cpu"].items():
                    checks.close(f"{name}, {kind}, {weight}", ends[kind][weight], wanted, 1e-3)
    return checks.result()


@section
def parity_streams(s: Setting) -> dict[str, Any]:
    """Work on a stream of its own, behind work that takes a while; PyTorch's arrays by DLPack."""
    checks, n = Checks(s), s.sizes.parity
    x = np.random.default_rng(6).normal(size=n).astype(np.float32)
    want = dropout(x, KEEP, key=KEY)
    with checks.part("stream"):
        stream = s.xp.cuda.Stream(non_blocking=True)
        with stream:
            on = s.xp.asarray(x)
            for _ in range(20):
                y = dropout(on, KEEP, key=KEY)
            stream.synchronize()
        checks.bits("a stream", y, want)
    try:
        torch = torch_on_device()
    except Absent as absent:
        checks.outcomes["DLPack"] = {"ok": True, "absent": str(absent)}
        return checks.result()
    with checks.part("DLPack"):
        tensor = torch.from_numpy(x).cuda()
        y = torch.from_dlpack(dropout(s.xp.from_dlpack(tensor), KEEP, key=KEY))
        checks.bits("DLPack", y.cpu().numpy(), want)
    return checks.result()
