"""Functions of tensors, and the operators that PyTorch's compiler and transforms see."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C import _len_torch_dispatch_stack
from torch._C._functorch import is_legacy_batchedtensor, peek_interpreter_stack
from torch.autograd import forward_ad

from dropcore import functional
from dropcore._backends import memory
from dropcore._base.checks import check_axes, check_number, users_level
from dropcore._base.extras import require
from dropcore.key import Key, as_key

__all__ = [
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "max_norm_",
]

DTYPES: Final[dict[Any, str]] = {
    torch.float32: "float32",
    torch.float64: "float64",
    torch.float16: "float16",
    torch.bfloat16: "bfloat16",
}

POOLED: Final = 1 << 20
"""Bytes from which a result takes memory that earlier ones gave back: see `memory.empty`."""

SEEDS: Final = (1 << 63) - 1
"""A key that is drawn has a seed below this, the largest bound that PyTorch's generator takes."""

GRADIENTS: Final = {
    "dropout": "dropout",
    "alpha_dropout": "alpha_dropout_backward",
    "alpha_dropout_backward": "alpha_dropout_backward",
}
"""The array functions of dropcore that tensors use, and the linear function of their gradient."""


class Rule(NamedTuple):
    """What is done with a mask: all of a call but the tensor and the key."""

    p: float
    shared: tuple[int, ...] = ()
    function: str = "dropout"

    def of_gradient(self) -> Rule:
        """The same mask for a gradient or a tangent."""
        function = GRADIENTS[self.function]
        return self if function == self.function else self._replace(function=function)


def dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Zero each element with probability p, and multiply the others by 1 / (1 - p).

    `torch.nn.functional.dropout` with the mask of dropcore: ``dropcore.dropout`` draws the same one
    with the same key, whatever the strides of the tensor.

    Parameters
    ----------
    input : Tensor of float32, float64, float16 or bfloat16
        Any shape and strides.
    p : float, default 0.5
        Fraction dropped, in [0, 1].
    training : bool, default True
        False returns `input`.
    inplace : bool, default False
        Write the result into `input` and return it.
    key : Key or int, optional
        The address of the mask. Without one it is drawn from PyTorch's generator of the CPU.

    Returns
    -------
    Tensor
        Of the shape, dtype and strides of `input`. `input` itself if p = 0.

    Raises
    ------
    TypeError
        If `input` is not a tensor of one of these dtypes.
    ValueError
        If p is outside [0, 1].

    Warns
    -----
    UserWarning
        Once, if a tensor is on a device for which there are no kernels: on a GPU without CuPy. The
        mask is then PyTorch's, drawn with its generator from the same key.

    Notes
    -----
    Elements are selected, so that a dropped NaN becomes 0. The gradient draws the mask again and
    may be differentiated again. Under `torch.func.vmap` with a key, all samples have one mask;
    without a key, ``randomness=`` decides.

    Examples
    --------
    >>> import torch
    >>> y = dropout(torch.ones(4, 8), 0.5, key=7)
    >>> sorted(set(y.flatten().tolist()))
    [0.0, 2.0]
    """
    return _dropped(input, p, training, inplace, key, ())


# Messages about dimensions begin as PyTorch's do, for filters and tests that expect those.


def dropout1d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Drop whole channels of (batch, channels, length) or (channels, length).

    Parameters
    ----------
    input : Tensor
        Of two or three dimensions.
    p, training, inplace, key
        As for `dropout`. The mask has the shape (batch, channels, 1).

    Returns
    -------
    Tensor

    Raises
    ------
    RuntimeError
        If `input` has another number of dimensions, as in PyTorch.
    """
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input. It takes "
            "(batch, channels, length) or (channels, length)"
        )
    return _dropped(input, p, training, inplace, key, (input.dim() - 1,))


def dropout2d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Drop whole channels of (batch, channels, height, width).

    Parameters
    ----------
    input : Tensor
        Of four dimensions. As in PyTorch, other numbers of dimensions are taken with a warning; the
        first two are always batch and channels.
    p, training, inplace, key
        As for `dropout`. The mask has the shape (batch, channels, 1, 1).

    Returns
    -------
    Tensor
    """
    if input.dim() != 4:
        more = ", assuming that channel-wise 1D dropout behavior is desired"
        warnings.warn(
            f"dropout2d: Received a {input.dim()}-D input to dropout2d, which takes (batch, "
            "channels, height, width). The first two dimensions are used as batch and channels"
            f"{more if input.dim() == 3 else ''}. dropout1d is for (batch, channels, length), "
            "dropout for units",
            stacklevel=users_level(),
        )
    shared = _behind_channels("dropout2d", input, training and p > 0)
    return _dropped(input, p, training, inplace, key, shared)


def dropout3d(
    input: Tensor,
    p: float = 0.5,
    training: bool = True,
    inplace: bool = False,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Drop whole channels of (batch, channels, depth, height, width), also without the batch.

    Parameters
    ----------
    input : Tensor
        Of four or five dimensions. As in PyTorch, other numbers of dimensions are taken with a
        warning, and the first one is then the channels.
    p, training, inplace, key
        As for `dropout`. The mask has the shape (batch, channels, 1, 1, 1).

    Returns
    -------
    Tensor
    """
    if input.dim() not in (4, 5):
        warnings.warn(
            f"dropout3d: Received a {input.dim()}-D input to dropout3d, which takes (batch, "
            "channels, depth, height, width) or (channels, depth, height, width). The first "
            "dimension is used as channels. dropout is for units",
            stacklevel=users_level(),
        )
    shared = range(2 if input.dim() == 5 else 1, input.dim())
    return _dropped(input, p, training, inplace, key, tuple(shared))


def alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """Dropout for SELU that keeps mean 0 and variance 1.

    With c = -1.7581, where SELU saturates, and keep = 1 - p::

        y = a * (input if kept else c) + b
        a = (keep * (1 + p * c**2)) ** -0.5        b = -a * p * c

    Parameters
    ----------
    input, p
        As for `dropout`.
    training : bool, default False
        As in PyTorch, False is the default here.
    inplace, key
        As for `dropout`, whose mask of the same key is the same.

    Returns
    -------
    Tensor
        As by `dropcore.alpha_dropout`: zeros if p = 1; float16 and bfloat16 are computed in
        float32 and rounded once.

    References
    ----------
    Klambauer, Unterthiner, Mayr and Hochreiter 2017, "Self-normalizing neural networks".
    """
    return _dropped(input, p, training, inplace, key, (), "alpha_dropout")


def feature_alpha_dropout(
    input: Tensor,
    p: float = 0.5,
    training: bool = False,
    inplace: bool = False,
    *,
    key: Key | int | None = None,
) -> Tensor:
    """`alpha_dropout` of whole channels: one decision for each sample and channel.

    Parameters
    ----------
    input : Tensor
        (batch, channels, ...).
    p, training, inplace, key
        As for `alpha_dropout`.

    Returns
    -------
    Tensor
    """
    shared = _behind_channels("feature_alpha_dropout", input, training and p > 0)
    return _dropped(input, p, training, inplace, key, shared, "alpha_dropout")


@torch.no_grad()
def max_norm_(w: Tensor, max_norm: float, dim: int | Iterable[int]) -> Tensor:
    """Shorten all vectors longer than max_norm, in place and without a gradient.

    `dropcore.max_norm_` for tensors: a vector inside the ball does not change, and a second call
    changes nothing.

    Parameters
    ----------
    w : Tensor of float32, float64, float16 or bfloat16
        On the CPU, or on a GPU with CuPy. It may require a gradient.
    max_norm : float
        Largest norm, > 0.
    dim : int or tuple of int
        The dimensions that the norm runs over, as in `torch.linalg.vector_norm`: 1 for the weight
        of `torch.nn.Linear`, (1, 2, 3) for that of Conv2d. `torch.renorm` names the dimension
        that is kept instead.

    Returns
    -------
    Tensor
        w.

    Raises
    ------
    TypeError
        If w is not a tensor of one of these dtypes.
    ValueError
        If max_norm is not positive, or `dim` names no dimension of w.
    """
    _expect_tensor("max_norm_", w)
    bound = check_number("max_norm_: max_norm", max_norm, "(0, inf]")
    axes = check_axes("max_norm_: dim", dim, w.dim())
    if not axes:
        raise ValueError("max_norm_: dim must name the dimensions that the norm runs over, got ()")
    _max_norm_operator(w, bound, axes)
    return w


def _dropped(
    x: Tensor,
    p: float,
    training: bool,
    inplace: bool,
    key: Key | int | None,
    shared: tuple[int, ...],
    function: str = "dropout",
) -> Tensor:
    """A function of dropcore, with decisions shared along some dimensions."""
    expect_probability(p)
    if not training or p == 0 or x.numel() == 0:
        return x
    return _masked(x, key, Rule(float(p), shared, function), inplace)


def expect_probability(p: float) -> None:
    """ValueError unless p is in [0, 1]."""
    if not 0.0 <= p <= 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")


def _expect_tensor(what: str, x: object) -> None:
    if not isinstance(x, Tensor):
        raise TypeError(f"{what} takes a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES or x.layout is not torch.strided:
        raise TypeError(
            f"{what} takes strided tensors of {', '.join(DTYPES.values())}, got {x.layout} of "
            f"{x.dtype}"
        )


def _behind_channels(what: str, x: Tensor, dropping: bool) -> tuple[int, ...]:
    """The dimensions behind (batch, channels), which must be there if something is dropped."""
    if dropping and x.dim() < 2:
        raise RuntimeError(f"{what} takes (batch, channels, ...), got {x.dim()} dimensions")
    return tuple(range(2, x.dim()))


def _masked(x: Tensor, key: Key | int | None, rule: Rule, inplace: bool) -> Tensor:
    """The function of the rule, with a key that is given or drawn.

    Eager calls and those under the transforms of `torch.func` go through an autograd function. It
    costs a third of a registered operator, which for a thousand elements takes longer than the
    dropout, and an operator with a gradient cannot be transformed by `torch.func.grad`. Compilers,
    fake tensors and other subclasses need the operator.
    """
    _expect_tensor("dropout", x)
    if key is not None:
        key = as_key(key)
        if key.domain:
            raise ValueError(f"dropout of tensors takes keys of domain 0 (training), got {key!r}")
    if _is_plain(x):
        if peek_interpreter_stack() is None:
            address = drawn_address() if key is None else key
            eager: Tensor = _EAGER(x, address, rule, inplace)
            return eager
        y = _UNDER_TRANSFORMS(x, _drawn_seed() if key is None else key, rule)
    elif key is None:
        y = _operator(x, _drawn_seed(), rule.p, 0, 0, rule.shared, rule.function)
    else:
        signed = key.seed if key.seed <= SEEDS else key.seed - (1 << 64)
        seed = torch.full((), signed, dtype=torch.int64, device="cpu")
        y = _operator(x, seed, rule.p, key.stream, key.step, rule.shared, rule.function)
    return x.copy_(y) if inplace else y


def drawn_address() -> int:
    """A seed of PyTorch's generator, known at once."""
    return int(torch.randint(SEEDS, (), device="cpu").item())


def is_eager(x: Tensor) -> bool:
    """Whether nothing but autograd looks at the call: no compiler, transform or tangent."""
    return _is_plain(x) and peek_interpreter_stack() is None and not is_dual(x)


def is_dual(x: Tensor) -> bool:
    """Whether x carries a tangent of forward-mode differentiation."""
    unpack: Callable[[Tensor], Any] = forward_ad.unpack_dual
    return unpack(x).tangent is not None


def _drawn_seed() -> Tensor:
    """A seed of PyTorch's generator: one that a compiler records, and vmap may make several of."""
    return torch.randint(SEEDS, (), device="cpu")


def _is_plain(x: Tensor) -> bool:
    """Whether nothing looks at the call but autograd and the transforms of torch.func."""
    return (
        not torch.compiler.is_compiling()
        and (type(x) is Tensor or type(x) is torch.nn.Parameter)
        and x.is_cpu
        and not is_legacy_batchedtensor(x)
        and not _len_torch_dispatch_stack()
    )


class _Dropout(torch.autograd.Function):
    """A function of tensors that are on the CPU, with a mask."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, key: Key | int | Tensor, rule: Rule, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
        ctx.arguments = key, rule.of_gradient()
        y = x if inplace else _empty_like(x)
        _drop(x, y, _known(key), rule)
        return y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return _again(dy, *ctx.arguments), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return _again(tangent, *ctx.arguments)


class _Transformed(torch.autograd.Function):
    """The same under the transforms of torch.func. A seed that vmap has drawn is a tensor.

    They need `setup_context`, with which PyTorch takes three times as long for a call.
    """

    @staticmethod
    def forward(x: Tensor, key: Key | Tensor, rule: Rule) -> Tensor:
        y = _empty_like(x)
        _drop(x, y, _known(key), rule)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, key, rule = inputs
        ctx.arguments = key, rule.of_gradient()

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
        return _again(dy, *ctx.arguments), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:
        return _again(tangent, *ctx.arguments)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[Any, ...], x: Tensor, key: Any, rule: Rule
    ) -> tuple[Tensor, int]:
        def call(x: Tensor, key: Any, shared: tuple[int, ...]) -> Tensor:
            return _again(x, key, rule._replace(shared=shared))

        return _batched(call, info, in_dims, x, key, rule.shared)


_EAGER: Final[Any] = _Dropout.apply
_UNDER_TRANSFORMS: Final[Any] = _Transformed.apply


def _known(key: Any) -> Any:
    """A key whose seed may have been drawn as a tensor."""
    return int(key) if isinstance(key, Tensor) else key


def _again(x: Tensor, key: Any, rule: Rule) -> Tensor:
    """The mask of a known key on another tensor, which may be transformed or not."""
    if not _is_plain(x):
        return _masked(x, _known(key), rule, False)
    if peek_interpreter_stack() is None:
        eager: Tensor = _EAGER(x, key, rule, False)
        return eager
    transformed: Tensor = _UNDER_TRANSFORMS(x, key, rule)
    return transformed


def _batched(
    call: Callable[..., Tensor],
    info: Any,
    in_dims: tuple[Any, ...],
    x: Tensor,
    seed: Any,
    shared: Sequence[int],
) -> tuple[Tensor, int]:
    """Dropout of a batch of tensors under vmap: with one mask, or with a seed for each."""
    of_x, of_seed = in_dims[:2]
    if of_seed is None:
        assert of_x is not None, "vmap calls a rule only if something is batched"
        return call(x.movedim(of_x, 0), seed, (0, *(d + 1 for d in shared))), 0
    samples = [x] * info.batch_size if of_x is None else x.unbind(of_x)
    seeds = seed.unbind(of_seed)
    return torch.stack([call(a, s, shared) for a, s in zip(samples, seeds, strict=True)]), 0


def _drop(x: Tensor, y: Tensor, key: Key | int, rule: Rule) -> None:
    """The function of the rule applied to x, written to y, which may be x."""
    function = getattr(functional, rule.function)
    with _on_stream_of(x):
        source, target = _array(x.resolve_neg()), _array(y)
        function(source, rule.p, key=key, shared_axes=rule.shared, out=target)


def _array(x: Tensor) -> Any:
    """The memory of a tensor as an array of NumPy or CuPy."""
    x = x.detach()
    if x.is_cuda:
        return importlib.import_module("cupy").from_dlpack(x)
    if x.dtype is torch.bfloat16:  # which NumPy does not have
        bfloat16 = require("ml_dtypes", "torch", "bfloat16 on the CPU").bfloat16
        return x.view(torch.int16).numpy().view(bfloat16)
    return x.numpy()


def _on_stream_of(x: Tensor) -> AbstractContextManager[Any]:
    """Where kernels of CuPy run in the order of PyTorch's."""
    if not x.is_cuda:
        return nullcontext()
    cupy = importlib.import_module("cupy")
    stream = torch.cuda.current_stream(x.device).cuda_stream
    place: AbstractContextManager[Any] = cupy.cuda.ExternalStream(stream, x.device.index)
    return place


def _empty_like(x: Tensor) -> Tensor:
    """`torch.empty_like`, from memory that was used before if it is large."""
    large = x.numel() * x.element_size() >= POOLED
    if large and x.is_cpu and x.is_contiguous() and x.dtype is not torch.bfloat16:
        return torch.from_numpy(memory.empty(tuple(x.shape), DTYPES[x.dtype]))
    return torch.empty_like(x)


def _has_kernels(x: Tensor) -> bool:
    """Whether the kernels of dropcore work on the device of x. Warns once if not."""
    if x.is_cpu:
        return True
    if x.is_cuda:
        try:
            importlib.import_module("cupy")
            return True
        except ImportError:
            pass
    if not _warned:
        _warned.append(x.device)
        what = "pip install 'dropcore[gpu]' brings CuPy" if x.is_cuda else "they are for CUDA"
        warnings.warn(
            f"dropcore has no kernels for {x.device}, and its masks there are PyTorch's: {what}",
            stacklevel=users_level(),
        )
    return False


_warned: list[Any] = []


def _drop_without_kernels(x: Tensor, key: Key, rule: Rule) -> Tensor:
    """The function of the rule by PyTorch, with a mask of its generator that can be drawn again."""
    words = np.random.SeedSequence([key.seed, key.stream, key.step]).generate_state(1, np.uint64)
    generator = torch.Generator(x.device).manual_seed(int(words[0] >> np.uint64(1)))
    shape = tuple(1 if d in rule.shared else n for d, n in enumerate(x.shape))
    kept = torch.empty(shape, dtype=torch.bool, device=x.device)
    keep = 1.0 - rule.p
    kept.bernoulli_(keep, generator=generator)
    scale, shift, dropped = 1.0 / keep if keep else 0.0, 0.0, 0.0
    if rule.function != "dropout":
        scale = functional.alpha_scale(keep)
    if rule.function == "alpha_dropout":
        dropped = scale * keep * functional.SELU_SATURATION
        shift = dropped - scale * functional.SELU_SATURATION
    wide = x.float() if x.element_size() == 2 else x
    y = torch.empty_like(x)
    y.copy_(torch.where(kept, wide * scale + shift, dropped))
    return y


@torch.library.custom_op(
    "dropcore::dropout",
    mutates_args=(),
    schema="(Tensor x, Tensor seed, float p, SymInt stream, SymInt step, int[] shared, "
    "str function) -> Tensor",
)
def _operator(
    x: Tensor,
    seed: Tensor,
    p: float,
    stream: int,
    step: int,
    shared: Sequence[int],
    function: str,
) -> Tensor:
    """The registered operator. The seed is a tensor, so that a graph can draw it."""
    key, rule = Key(int(seed.item()) % (1 << 64), stream, step), Rule(p, tuple(shared), function)
    if not _has_kernels(x):
        return _drop_without_kernels(x, key, rule)
    y = _empty_like(x)
    _drop(x, y, key, rule)
    return y


@_operator.register_fake
def _(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, seed, *address, function = inputs
    ctx.save_for_backward(seed)
    ctx.arguments = *address, GRADIENTS[function]


def _backward(ctx: Any, dy: Tensor) -> tuple[Any, ...]:
    return _operator(dy, *ctx.saved_tensors, *ctx.arguments), None, None, None, None, None, None


_operator.register_autograd(_backward, setup_context=_setup_context)


@_operator.register_vmap
def _(
    info: Any,
    in_dims: tuple[Any, ...],
    x: Tensor,
    seed: Tensor,
    p: float,
    stream: int,
    step: int,
    shared: Sequence[int],
    function: str,
) -> tuple[Tensor, int]:
    def call(x: Tensor, seed: Tensor, shared: Sequence[int]) -> Tensor:
        return _operator(x, seed, p, stream, step, shared, function)

    return _batched(call, info, in_dims, x, seed, shared)


@torch.library.custom_op(
    "dropcore::max_norm_",
    mutates_args=("w",),
    schema="(Tensor(a!) w, float max_norm, int[] dim) -> ()",
)
def _max_norm_operator(w: Tensor, max_norm: float, dim: Sequence[int]) -> None:
    if not (w.is_cpu or (w.is_cuda and "cupy" in sys.modules)):
        require("cupy", "gpu", f"max_norm_ on {w.device}")
    with _on_stream_of(w):
        functional.max_norm_(_array(w), max_norm, axis=tuple(dim))


@_max_norm_operator.register_fake
def _(w: Tensor, *_: Any) -> None:
    return None


@_max_norm_operator.register_vmap
def _(
    info: Any, in_dims: tuple[Any, ...], w: Tensor, max_norm: float, dim: Sequence[int]
) -> tuple[None, None]:
    _max_norm_operator(w.movedim(in_dims[0], 0), max_norm, [d + 1 for d in dim])
    return None, None
