"""Dropout, forward and backward.

Precision of the decisions: dropcore exact to 32 bits, the NumPy idiom 8 bits (the rate is off by
up to 1/256), PyTorch 24 and JAX and TensorFlow 23 bits of a float32 uniform (in half precision
11 or 8), thinc 53.
"""

from __future__ import annotations

from functools import partial

import numpy as np

import dropcore

from .common import (
    TINY,
    Absent,
    Call,
    Case,
    Kernel,
    as_torch,
    keras_compiled,
    module,
    normal,
    numpy_dtype,
    ready,
    torch_compiled,
    touched,
)

SIZES = {"layer": 128 * 1024, "cache": 1 << 20, "memory": 1 << 24}
if TINY:
    SIZES = dict.fromkeys(SIZES, 4096)
KEEPS = (0.5, 0.9)
DTYPES = ("float32", "float64", "float16", "bfloat16")


# ---- forward -------------------------------------------------------------------------------------


def copy(size: int, keep: float, dtype: str = "float32") -> Call:
    """NumPy's copy of as many bytes, on one thread."""
    # As unsigned integers, because NumPy copies bfloat16 element by element.
    bits = f"u{numpy_dtype(dtype).itemsize}"
    x, y = normal(size, dtype=dtype).view(bits), touched(size, dtype=dtype).view(bits)
    return partial(np.copyto, y, x)


def copy_torch(size: int, keep: float, dtype: str = "float32") -> Call:
    """PyTorch's copy of as many elements, on as many threads as dropcore has."""
    x, y = as_torch(normal(size, dtype=dtype)), as_torch(touched(size, dtype=dtype))
    return partial(y.copy_, x)


def forward(size: int, keep: float, dtype: str = "float32") -> Call:
    """dropcore.dropout into an existing array."""
    x, y = normal(size, dtype=dtype), touched(size, dtype=dtype)
    return partial(dropcore.dropout, x, keep=keep, key=7, out=y)


def forward_numpy(size: int, keep: float, dtype: str = "float32") -> Call:
    """The fastest idiom in NumPy alone: bytes of its fastest generator below an 8-bit threshold."""
    x, y = normal(size, dtype=dtype), touched(size, dtype=dtype)
    bits = np.random.SFC64(7)
    kept = np.empty(size, np.bool_)
    threshold, scale = np.uint8(min(255, round(keep * 256))), x.dtype.type(1 / keep)

    def call():
        np.less(bits.random_raw(size // 8).view(np.uint8), threshold, out=kept)
        np.multiply(x, kept, out=y)
        np.multiply(y, scale, out=y)

    return call


def forward_torch(size: int, keep: float, dtype: str = "float32") -> Call:
    """torch.nn.functional.dropout, eager, without autograd. It has no out=."""
    torch = module("torch")
    x = as_torch(normal(size, dtype=dtype))

    def call():
        with torch.no_grad():
            return torch.nn.functional.dropout(x, 1 - keep, training=True)

    return call


def forward_torch_compiled(size: int, keep: float, dtype: str = "float32") -> Call:
    """torch.nn.functional.dropout through torch.compile, which brings its own generator."""
    torch = module("torch")
    x = as_torch(normal(size, dtype=dtype))
    dropped = torch_compiled(lambda x: torch.nn.functional.dropout(x, 1 - keep, training=True))

    def call():
        with torch.no_grad():
            return dropped(x)

    return ready(call)


def forward_jax(
    size: int, keep: float, dtype: str = "float32", generator: str = "threefry2x32"
) -> Call:
    """Bernoulli and where, compiled, as Flax writes dropout."""
    jax = module("jax")
    if dtype == "float64":
        raise Absent("JAX computes in float32 unless a global switch is set")
    x = jax.numpy.asarray(normal(size), dtype=getattr(jax.numpy, dtype))
    with jax.default_prng_impl(generator):
        key = jax.random.key(7)

    @jax.jit
    def dropped(key, x):
        kept = jax.random.bernoulli(key, keep, x.shape)
        return jax.numpy.where(kept, x / keep, 0)

    return lambda: dropped(key, x).block_until_ready()


def forward_jax_rbg(size: int, keep: float, dtype: str = "float32") -> Call:
    """The same with XLA's own generator, which JAX promises less of."""
    return forward_jax(size, keep, dtype, generator="rbg")


def forward_keras(size: int, keep: float, dtype: str = "float32") -> Call:
    """keras.random.dropout, compiled, on the backend that is configured."""
    keras = module("keras")
    if dtype != "float32":
        raise Absent("Keras is measured in float32 only")
    return ready(keras_compiled(lambda x: keras.random.dropout(x, 1 - keep, seed=7), normal(size)))


def forward_tensorflow(size: int, keep: float, dtype: str = "float32") -> Call:
    """tf.nn.dropout in a tf.function."""
    tensorflow = module("tensorflow")
    x = tensorflow.cast(tensorflow.constant(normal(size)), dtype)
    dropped = tensorflow.function(lambda x: tensorflow.nn.dropout(x, rate=1 - keep))
    return ready(lambda: dropped(x))


def forward_thinc(size: int, keep: float, dtype: str = "float32") -> Call:
    """thinc's Dropout layer while training, on one thread."""
    thinc = module("thinc.api")
    if dtype != "float32":
        raise Absent("thinc's masks are float32")
    with thinc.use_ops("numpy"):
        layer = thinc.Dropout(1 - keep)
    x = normal(size)
    return lambda: layer(x, is_train=True)


# ---- in place ------------------------------------------------------------------------------------
# The arrays hold zeros, which stay what they are call after call.


def scale_in_place(size: int, keep: float) -> Call:
    """NumPy's product by one number over its input, on one thread."""
    x = touched(size)
    return partial(np.multiply, x, np.float32(1), out=x)


def scale_in_place_torch(size: int, keep: float) -> Call:
    """PyTorch's product by one number over its input, on as many threads as dropcore has."""
    return partial(as_torch(touched(size)).mul_, 1.0)


def forward_in_place(size: int, keep: float) -> Call:
    """dropcore.dropout over its input."""
    x = touched(size)
    x[...] = 0
    return partial(dropcore.dropout, x, keep=keep, key=7, out=x)


def forward_in_place_numpy(size: int, keep: float) -> Call:
    """The NumPy idiom of `forward_numpy` over its input."""
    x = touched(size)
    x[...] = 0
    bits = np.random.SFC64(7)
    kept = np.empty(size, np.bool_)
    threshold, scale = np.uint8(min(255, round(keep * 256))), np.float32(1 / keep)

    def call():
        np.less(bits.random_raw(size // 8).view(np.uint8), threshold, out=kept)
        np.multiply(x, kept, out=x)
        np.multiply(x, scale, out=x)

    return call


def forward_in_place_torch(size: int, keep: float) -> Call:
    """torch.nn.functional.dropout with inplace=True, without autograd."""
    torch = module("torch")
    x = torch.zeros(size)

    def call():
        with torch.no_grad():
            return torch.nn.functional.dropout(x, 1 - keep, training=True, inplace=True)

    return call


# ---- backward ------------------------------------------------------------------------------------


def backward(size: int, keep: float) -> Call:
    """dropcore.dropout_backward, which draws the mask again from its key."""
    dy, dx = normal(size), touched(size)
    return partial(dropcore.dropout_backward, dy, keep=keep, key=7, out=dx)


def backward_packed(size: int, keep: float) -> Call:
    """dropcore.dropout_backward from a packed mask."""
    dy, dx = normal(size), touched(size)
    drawn = dropcore.Mask((size,), keep=keep, key=7)
    mask = dropcore.Mask.from_packed(drawn.packed(), drawn.shape, keep=keep)
    return partial(dropcore.dropout_backward, dy, mask=mask, out=dx)


def backward_numpy(size: int, keep: float) -> Call:
    """Two multiplications with the mask of the forward pass at hand, a byte an element."""
    dy, dx = normal(size), touched(size)
    kept, scale = normal(size) < 0, np.float32(1 / keep)

    def call():
        np.multiply(dy, kept, out=dx)
        np.multiply(dx, scale, out=dx)

    return call


def backward_torch(size: int, keep: float) -> Call:
    """PyTorch's autograd of its dropout."""
    torch = module("torch")
    x = torch.from_numpy(normal(size)).requires_grad_()
    y = torch.nn.functional.dropout(x, 1 - keep, training=True)
    dy = torch.from_numpy(normal(size, seed=1))
    return lambda: torch.autograd.grad(y, x, dy, retain_graph=True)


def backward_jax(size: int, keep: float) -> Call:
    """Where, compiled, with the mask of the forward pass at hand, a byte an element."""
    jax = module("jax")
    dy = jax.numpy.asarray(normal(size))
    kept = jax.random.bernoulli(jax.random.key(7), keep, (size,))
    dropped = jax.jit(lambda kept, dy: jax.numpy.where(kept, dy / keep, 0))
    return lambda: dropped(kept, dy).block_until_ready()


def backward_tensorflow(size: int, keep: float) -> Call:
    """Where in a tf.function, with the mask of the forward pass at hand, a byte an element."""
    tensorflow = module("tensorflow")
    dy, kept = tensorflow.constant(normal(size)), tensorflow.constant(normal(size) < 0)
    dropped = tensorflow.function(
        lambda kept, dy: tensorflow.where(kept, dy * (1 / keep), tensorflow.zeros_like(dy))
    )
    return ready(lambda: dropped(kept, dy))


def backward_thinc(size: int, keep: float) -> Call:
    """The backward pass of thinc's Dropout: a product with its float32 mask."""
    thinc = module("thinc.api")
    with thinc.use_ops("numpy"):
        layer = thinc.Dropout(1 - keep)
    _, backprop = layer(normal(size), is_train=True)
    return partial(backprop, normal(size, seed=1))


# ---- the table -----------------------------------------------------------------------------------


def elementwise(
    sizes: dict[str, int], keeps: tuple[float, ...], dtype: str | None = None
) -> list[Case]:
    """Every size with every keep; without a dtype the builders are not told one."""
    itemsize = numpy_itemsize(dtype or "float32")
    return [
        Case(
            name=f"{where}, keep {keep}" + (f", {dtype}" if dtype else ""),
            arguments=(size, keep, dtype) if dtype else (size, keep),
            elements=size,
            moved=2 * itemsize * size,
            tags={"keep": keep, "dtype": dtype or "float32"}
            | ({"size": where} if where in SIZES else {}),
        )
        for where, size in sizes.items()
        for keep in keeps
    ]


def numpy_itemsize(dtype: str) -> int:
    """Bytes of an element, also where ml_dtypes is missing."""
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


LARGE = {where: size for where, size in SIZES.items() if where != "layer"}

KERNELS = {
    "forward": Kernel(
        reference=copy,
        own=forward,
        others=[
            copy_torch,
            forward_numpy,
            forward_torch,
            forward_torch_compiled,
            forward_jax,
            forward_jax_rbg,
            forward_keras,
            forward_tensorflow,
            forward_thinc,
        ],
        cases=elementwise(SIZES, KEEPS)
        + [case for dtype in DTYPES[1:] for case in elementwise(LARGE, (0.5,), dtype)],
    ),
    "forward_in_place": Kernel(
        reference=copy,
        own=forward_in_place,
        others=[
            scale_in_place,
            scale_in_place_torch,
            forward_in_place_numpy,
            forward_in_place_torch,
        ],
        cases=elementwise(SIZES, KEEPS),
    ),
    "backward": Kernel(
        reference=copy,
        own=backward,
        others=[
            copy_torch,
            backward_packed,
            backward_numpy,
            backward_torch,
            backward_jax,
            backward_tensorflow,
            backward_thinc,
        ],
        cases=elementwise(SIZES, KEEPS),
    ),
}
