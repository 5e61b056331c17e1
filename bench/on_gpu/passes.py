"""Sections that time passes over memory: dropout, masks, projection and epilogues."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

import numpy as np

from dropcore import Mask, dropout, dropout_backward, masked_matmul
from dropcore import max_norm_ as project_
from dropcore._backends import cuda
from dropcore._backends.cuda.epilogue import apply_epilogue, apply_epilogue_backward
from dropcore.noise import normal

from .setting import KEEP, MI, Call, Setting, bfloat16, section, torch_on_device
from .timing import copying, fastest, measured, over, target


@section
def dropout_passes(s: Setting) -> dict[str, Any]:
    """Dropout of a large array, forward and backward: float32 and bfloat16."""
    out: dict[str, Any] = {"targets": []}
    for dtype, wanted in ((np.dtype(np.float32), 0.92), (bfloat16(), 0.85)):
        n = s.sizes.flat
        x, y = s.numbers(n, dtype=dtype), s.numbers(n, dtype=dtype, seed=2)

        def idiom(x: Any = x, y: Any = y, n: int = n) -> Call:
            scale = x.dtype.type(1 / KEEP)

            def call() -> None:
                kept = s.xp.random.random(n, dtype=np.float32) < KEEP
                s.xp.multiply(x, kept, out=y)
                s.xp.multiply(y, scale, out=y)

            return call

        def peer(compiled: bool, x: Any = x) -> Call:
            torch = torch_on_device()
            tensor = torch.from_dlpack(x.view(np.uint16 if x.itemsize == 2 else np.float32))
            tensor = tensor.view(torch.bfloat16) if x.itemsize == 2 else tensor

            def dropped(x: Any) -> Any:
                return torch.nn.functional.dropout(x, 1 - KEEP, True)

            run = torch.compile(dropped, dynamic=False) if compiled else dropped

            def call() -> Any:
                with torch.no_grad():
                    return run(tensor)

            return call

        bits = Mask.from_packed(Mask(n, keep=KEEP, key=7).packed(x), (n,), keep=KEEP)
        result = measured(
            s,
            {
                **copying(s, x, y),
                "forward": lambda x=x, y=y: partial(dropout, x, keep=KEEP, key=7, out=y),
                "forward_0.9": lambda x=x, y=y: partial(dropout, x, keep=0.9, key=7, out=y),
                "backward": lambda x=x, y=y: partial(dropout_backward, x, keep=KEEP, key=7, out=y),
                "given_bits": lambda x=x, y=y, bits=bits: partial(dropout, x, mask=bits, out=y),
                "in_place": lambda y=y: partial(dropout, y, keep=KEEP, key=7, out=y),
                "cupy": idiom,
                "torch": partial(peer, False),
                "torch_compiled": partial(peer, True),
            },
            moved=2 * x.nbytes,
            elements=n,
            own="forward",
        )
        out[dtype.name] = {"elements": n} | result
        copy = fastest(result, "copy", "copy_cupy", "copy_torch")
        if copy in result:
            s.found[f"copy {dtype.name}"] = result[copy]["GB/s"]
        out["targets"] += [
            target(f"dropout {way}, {dtype.name}, {n // MI} Mi: share of a copy's bandwidth",
                   over(result, copy, way), wanted)
            for way in ("forward", "backward")
        ]  # fmt: skip
        del x, y, bits
    return out


@section
def packed_masks(s: Setting) -> dict[str, Any]:
    """Masks alone, as bits, and standard normals."""
    n, like = s.sizes.mask, s.xp.zeros(1)
    out: dict[str, Any] = {"elements": n}
    masks = {keep: Mask(n, keep=keep, key=7) for keep in (0.5, 0.9)}
    result = measured(
        s,
        {f"packed_{keep}": lambda m=mask: partial(m.packed, like) for keep, mask in masks.items()}
        | {"cupy": lambda: lambda: s.xp.random.random(n, dtype=np.float32) < KEEP},
        elements=n,
        own="packed_0.5",
    )
    noise = measured(
        s,
        {
            "normal": lambda: partial(normal, n // 4, key=7, like=like),
            "cupy": lambda: partial(s.xp.random.standard_normal, n // 4, dtype=np.float32),
        },
        elements=n // 4,
        own="normal",
    )
    out |= {"bits": result, "normals": noise}
    out["targets"] = [
        target(f"packed mask alone, keep {keep}: ps an element",
               result.get(f"packed_{keep}", {}).get("ps_an_element"), 0.8, most=True)
        for keep in masks
    ]  # fmt: skip
    return out


@section
def max_norm(s: Setting) -> dict[str, Any]:
    """The projection where nothing is to be shortened, and where everything is."""
    out: dict[str, Any] = {"shape": s.sizes.matrix, "targets": []}
    w, flat = s.numbers(*s.sizes.matrix), None
    for axis, name in ((1, "rows"), (0, "columns")):
        length = float(w.shape[axis]) ** 0.5

        def idiom(axis: int = axis, bound: float = 2 * length) -> Call:
            def call() -> None:
                norms = s.xp.sqrt(s.xp.sum(w * w, axis=axis, keepdims=True))
                w.__imul__(s.xp.minimum(1, bound / norms))

            return call

        def peer(axis: int = axis, bound: float = 2 * length) -> Call:
            torch = torch_on_device()
            return partial(torch.from_dlpack(w).renorm_, 2, 1 - axis, bound)

        def clipping(axis: int = axis, length: float = length) -> Call:
            # Shortened once, vectors stay inside: each turn has a smaller bound.
            bounds = (0.999**i * length for i in itertools.count())
            own = w.copy()
            return lambda: project_(own, next(bounds), axis=axis)

        flat = w.reshape(-1)
        result = measured(
            s,
            {
                "read": lambda flat=flat: flat.sum,
                "read_torch": lambda flat=flat: torch_on_device().from_dlpack(flat).sum,
                name: lambda axis=axis, b=2 * length: partial(project_, w, b, axis=axis),
                f"{name}_shortened": clipping,
                "cupy": idiom,
                "torch_renorm": peer,
            },
            moved=w.nbytes,
            own=name,
        )
        out[name] = result
        read = fastest(result, "read", "read_torch")
        bandwidth = max(
            result.get(read, {}).get("GB/s", 0.0), s.found.get("copy float32", 0.0)
        )  # the faster of reading and copying
        own = result.get(name, {}).get("GB/s")
        share = own / bandwidth if own and bandwidth else None
        if name == "rows":
            out["targets"].append(target("max-norm rows: share of read bandwidth", share, 0.85))
        else:
            out["columns_share_of_read_bandwidth"] = share
    return out


@section
def fused_epilogue(s: Setting) -> dict[str, Any]:
    """Bias, ReLU and dropout behind a product, both ways; GB/s of one array in, one out."""
    out: dict[str, Any] = {"shape": s.sizes.epilogue, "targets": []}
    rows, columns = s.sizes.epilogue
    for dtype in (np.dtype(np.float32), bfloat16()):
        z, y = s.numbers(rows, columns, dtype=dtype), s.numbers(rows, columns, dtype=dtype, seed=2)
        bias, mask = s.numbers(columns, dtype=dtype, seed=3), Mask((rows, columns), KEEP, key=7)

        def peer(compiled: bool, z: Any = z, bias: Any = bias) -> Call:
            torch = torch_on_device()
            kind = torch.bfloat16 if z.itemsize == 2 else torch.float32
            a, b = (
                torch.from_dlpack(v.view(np.uint16 if v.itemsize == 2 else np.float32)).view(kind)
                for v in (z, bias)
            )

            def run(a: Any, b: Any) -> Any:
                return torch.nn.functional.dropout(torch.relu(a + b), 1 - KEEP, True)

            run = torch.compile(run, dynamic=False) if compiled else run

            def call() -> Any:
                with torch.no_grad():
                    return run(a, b)

            return call

        def idiom(z: Any = z, y: Any = y, bias: Any = bias) -> Call:
            scale = z.dtype.type(1 / KEEP)

            def call() -> None:
                s.xp.add(z, bias, out=y)
                s.xp.maximum(y, 0, out=y)
                kept = s.xp.random.random(z.shape, dtype=np.float32) < KEEP
                s.xp.multiply(y, kept, out=y)
                s.xp.multiply(y, scale, out=y)

            return call

        result = measured(
            s,
            {
                "copy": copying(s, z, y)["copy"],
                "forward": lambda z=z, y=y, bias=bias, mask=mask: partial(
                    apply_epilogue,
                    z,
                    bias,
                    activation="relu",
                    bits=cuda.decisions(mask),
                    scale=mask.scale,
                    out=y,
                ),
                "backward": lambda z=z, y=y, mask=mask: partial(
                    apply_epilogue_backward, z, y, activation="relu", scale=mask.scale, out=y
                ),
                "cupy": idiom,
                "torch": partial(peer, False),
                "torch_compiled": partial(peer, True),
            },
            moved=2 * z.nbytes,
            elements=z.size,
            own="forward",
        )
        out[dtype.name] = result
        out["targets"].append(
            target(f"bias + ReLU + dropout, {dtype.name}: times as fast as PyTorch eager",
                   over(result, "torch", "forward"), 2.5)
        )  # fmt: skip
    return out


@section
def small_calls(s: Setting) -> dict[str, Any]:
    """What a call costs where the work costs nothing: Python and the launches."""
    x, w = s.numbers(128, 128), s.numbers(128, 128, seed=2)
    y, mask = s.numbers(128, 128, seed=3), Mask((128, 128), KEEP, key=7)
    return {
        "128 x 128": measured(
            s,
            {
                "dropout": lambda: partial(dropout, x, keep=KEEP, key=7, out=y),
                "masked_matmul": lambda: partial(masked_matmul, x, w, y_mask=mask),
                "max_norm": lambda: partial(project_, w, 100.0, axis=0),
                "cupy_multiply": lambda: partial(s.xp.multiply, x, w, out=y),
                "cupy_matmul": lambda: partial(s.xp.matmul, x, w, out=y),
            },
            own="dropout",
        ),
        "targets": [],
    }
