"""What all subjects share: arrays, peers, and the words for a kernel and its cases."""

from __future__ import annotations

import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import dropcore

TINY = bool(os.environ.get("DROPCORE_BENCH_TINY"))  # does everything run? The times mean nothing.
AVAILABLE = dropcore.get_num_threads()  # before anybody sets a number

Call = Callable[[], object]
Builder = Callable[..., Call]


class Absent(Exception):
    """A peer cannot be measured here."""


@dataclass(frozen=True)
class Case:
    """What the builders of a kernel are called with, and how much work one call is.

    Attributes
    ----------
    name : str
    arguments : tuple
        Of every builder of the kernel.
    elements : int
        What a call's time is divided by.
    moved : int
        Bytes that a call has to read and write at least; 0 where that says little.
    operations : int
        Floating-point operations of the job without masks, two for a multiplication and an
        addition; 0 where that says little.
    tags : dict
        What the case can be chosen by: its "size", "keep" or "dtype".
    """

    name: str
    arguments: tuple[Any, ...]
    elements: int
    moved: int = 0
    operations: int = 0
    tags: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Kernel:
    """The candidates for one job.

    Attributes
    ----------
    reference, own : callable
        What every time is compared with: the limit (a copy, say), and dropcore.
    others : list of callable
    cases : list of Case
    """

    reference: Builder
    own: Builder
    others: list[Builder]
    cases: list[Case]

    @property
    def builders(self) -> list[Builder]:
        """All candidates, each once."""
        return list(dict.fromkeys([self.reference, self.own, *self.others]))


def named(builder: Builder, name: str, **arguments: Any) -> Builder:
    """The builder with some arguments given, under a name of its own."""

    def given(*positional: Any, **more: Any) -> Call:
        return builder(*positional, **arguments, **more)

    given.__name__ = name
    return given


# ---- arrays --------------------------------------------------------------------------------------


def normal(*shape: int, seed: int = 0, dtype: str = "float32") -> np.ndarray:
    """Standard normal numbers."""
    values = np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)
    return values.astype(numpy_dtype(dtype), copy=False)


def touched(*shape: int, dtype: str = "float32") -> np.ndarray:
    """An output array whose pages are there already."""
    return np.ones(shape, numpy_dtype(dtype))


def numpy_dtype(name: str) -> np.dtype:
    """NumPy's dtype of that name; bfloat16 is from ml_dtypes."""
    return np.dtype(module("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def as_torch(array: np.ndarray) -> Any:
    """A PyTorch tensor in the memory of the array."""
    torch = module("torch")
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


# ---- peers ---------------------------------------------------------------------------------------


def module(name: str) -> Any:
    """A peer's module, on as many threads as dropcore has, or Absent with the reason."""
    # For the peers' first import: no GPU, no greeting.
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = importlib.import_module(name)
    except Exception as error:  # a peer whose installation is broken is absent, whatever it raises
        raise Absent(f"{name} cannot be imported: {error}") from error
    threads = dropcore.get_num_threads()
    if name == "torch":
        found.set_num_threads(threads)
    elif name == "jax" and threads != AVAILABLE:
        raise Absent(f"JAX takes all {AVAILABLE} processors of its process and has no setting")
    elif name == "tensorflow":
        _tensorflow_threads(found, threads)
    elif name == "keras":
        module(found.config.backend())
    elif name in ("thinc.api", "sklearn.neural_network"):
        blas_threads()
    return found


def _tensorflow_threads(tensorflow: Any, threads: int) -> None:
    threading = tensorflow.config.threading
    if threading.get_intra_op_parallelism_threads() != threads:
        try:
            tensorflow.config.set_visible_devices([], "GPU")
            threading.set_intra_op_parallelism_threads(threads)
        except RuntimeError as error:
            raise Absent(f"TensorFlow cannot change its threads any more: {error}") from error


def blas_threads() -> None:
    """Give NumPy's BLAS as many threads as dropcore has."""
    threads = dropcore.get_num_threads()
    try:
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        if threads == AVAILABLE:  # what BLAS takes by itself
            return
        raise Absent("threadpoolctl is needed to set the threads of NumPy's BLAS") from error
    threadpool_limits(threads, user_api="blas")


def torch_compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function through torch.compile, for the shapes of its first call."""
    torch = module("torch")
    # PyTorch gives up compiling what it has compiled for a few other shapes and rates already.
    torch.compiler.reset()
    return torch.compile(function, dynamic=False)


def ready(call: Call) -> Call:
    """The call, made once here so that what compiles has compiled, or Absent.

    torch.compile needs a C++ compiler, which may be missing.
    """
    try:
        call()
    except RuntimeError as error:
        reason = str(error).strip().partition("\n")[0]
        raise Absent(f"it does not run here: {reason}") from error
    return call


def keras_compiled(function: Callable[..., Any], *arrays: np.ndarray) -> Call:
    """A function of Keras tensors as the backend compiles it, applied to the arrays."""
    keras = module("keras")
    backend = keras.config.backend()
    tensors = [keras.ops.convert_to_tensor(array) for array in arrays]
    if backend == "jax":
        compiled = module("jax").jit(function)
        return lambda: compiled(*tensors).block_until_ready()
    if backend == "tensorflow":
        compiled = module("tensorflow").function(function)
        return lambda: compiled(*tensors)
    if backend == "torch":
        torch = module("torch")

        def call():
            with torch.no_grad():
                return function(*tensors)

        return call
    raise Absent(f"Keras runs on {backend} here, which has no comparable compiler")
