"""The compiled core. Private: see the modules that call it."""

from typing import Any, Self

from typing_extensions import disjoint_base

_C_API: Any
XLA_DROPOUT: Any

def isas() -> list[str]: ...
def isa() -> str: ...
def set_isa(name: str) -> None: ...
def has_openmp() -> bool: ...
def max_threads() -> int: ...
def set_threads(n: int) -> None: ...
def last_team_size() -> int: ...

POOL_BYTES: int

@disjoint_base
class PooledBuffer:
    def __new__(cls, bytes: int) -> Self: ...
    def __buffer__(self, flags: int) -> memoryview: ...

@disjoint_base
class Buffer: ...

def release_pool() -> int: ...
def release_scratch() -> int: ...
def waiting_bytes() -> int: ...
def threshold(keep: float) -> int: ...
def draw(
    bits: Any, n: int, seed: int, stream: int, step: int, domain: int, threshold: int, offset: int
) -> None: ...
def draw_each(
    bits: Any, thresholds: Any, seed: int, stream: int, step: int, domain: int, offset: int
) -> None: ...
def kept_at(
    kept: Any,
    indices: Any,
    seed: int,
    stream: int,
    step: int,
    domain: int,
    threshold: int,
    offset: int,
) -> None: ...
def words(seed: int, stream: int, step: int, domain: int, first_block: int, count: int) -> Any: ...
def uniform(seed: int, stream: int, step: int, domain: int, offset: int, count: int) -> Any: ...
def noise_words(out: Any, seed: int, stream: int, step: int, offset: int) -> None: ...
def permute(numbers: Any, n: int, seed: int, stream: int, step: int, backwards: bool) -> None: ...
def normal(out: Any, seed: int, stream: int, step: int, offset: int) -> None: ...
def uniforms(out: Any, seed: int, stream: int, step: int, domain: int, offset: int) -> None: ...
def dropout(
    out: Any,
    x: Any,
    dtype: int,
    seed: int,
    stream: int,
    step: int,
    domain: int,
    threshold: int,
    scale: float,
    offset: int,
) -> None: ...
def dropout_fast(
    x: Any, rate: object, keep: object, key: object, offset: object, out: object
) -> Any: ...
def apply(
    out: Any,
    x: Any,
    dtype: int,
    bits: Any,
    bit_strides: tuple[int, ...],
    scale: float,
    scales: Any,
) -> None: ...

@disjoint_base
class Weights:
    def __init__(self, w: Any, vectors: tuple[int, int, int], max_norm: float) -> None: ...

def max_norm(w: Any, vectors: tuple[int, int, int], max_norm: float) -> int: ...
def sgd(
    w: Any,
    g: Any,
    velocity: Any,
    rate: float,
    momentum: float,
    nesterov: bool,
    vectors: tuple[int, int, int],
    max_norm: float,
    kept_rows: Any = None,
    kept_columns: Any = None,
    lazy: bool = False,
    decay: float = 0.0,
) -> int: ...
def adam(
    w: Any,
    g: Any,
    mean: Any,
    square: Any,
    step: int,
    rate: float,
    beta_1: float,
    beta_2: float,
    epsilon: float,
    vectors: tuple[int, int, int],
    max_norm: float,
    kept_rows: Any = None,
    kept_columns: Any = None,
    keep: float = 1.0,
) -> int: ...
def rmsprop(
    w: Any,
    g: Any,
    square: Any,
    mean: Any,
    velocity: Any,
    rate: float,
    beta: float,
    momentum: float,
    epsilon: float,
    vectors: tuple[int, int, int],
    max_norm: float,
    kept_rows: Any = None,
    kept_columns: Any = None,
) -> int: ...
def adagrad(
    w: Any,
    g: Any,
    square: Any,
    rate: float,
    epsilon: float,
    vectors: tuple[int, int, int],
    max_norm: float,
    kept_rows: Any = None,
    kept_columns: Any = None,
) -> int: ...
def adadelta(
    w: Any,
    g: Any,
    square: Any,
    change: Any,
    rate: float,
    rho: float,
    epsilon: float,
    vectors: tuple[int, int, int],
    max_norm: float,
    kept_rows: Any = None,
    kept_columns: Any = None,
) -> int: ...
def sum_squares(array: Any) -> float: ...

@disjoint_base
class Factor:
    n_rows: int
    n_columns: int
    itemsize: int
    def __init__(
        self,
        array: Any,
        rows: Any = None,
        columns: Any = None,
        bits: Any = None,
        bit_strides: tuple[int, int] = (0, 0),
        scale: float = 1.0,
    ) -> None: ...

def product(
    c: Any,
    a: Factor,
    b: Factor,
    transpose_a: bool = False,
    transpose_b: bool = False,
    bias: Any = None,
    relu: bool = False,
    bits: Any = None,
    scale: float = 1.0,
) -> None: ...

@disjoint_base
class Attention:
    def __init__(
        self,
        q: Any,
        k: Any,
        v: Any,
        scale: float,
        causal: bool = False,
        lengths: Any = None,
        bias: Any = None,
        address: tuple[int, int, int, int, int] | None = None,
        bits: Any = None,
        offset: int = 0,
        bit_strides: tuple[int, ...] = (0, 0, 0, 0),
        keep_scale: float = 1.0,
    ) -> None: ...
    def forward(self, out: Any, logsumexp: Any = None) -> None: ...
    def backward(self, dout: Any, out: Any, logsumexp: Any, dq: Any, dk: Any, dv: Any) -> None: ...

def epilogue_backward(dz: Any, y: Any, dy: Any, scale: float, dbias: Any) -> None: ...

@disjoint_base
class Patches:
    positions: int
    depth: int
    groups: int
    itemsize: int
    def __init__(
        self,
        images: Any,
        out: tuple[int, ...],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        dilation: tuple[int, ...],
        pad_before: tuple[int, ...],
        groups: int = 1,
    ) -> None: ...

def convolution(
    c: Any,
    a: Patches,
    w: Any,
    bias: Any = None,
    relu: bool = False,
    bits: Any = None,
    scale: float = 1.0,
) -> None: ...
def kernel_gradient(dw: Any, a: Patches, dz: Any) -> None: ...

@disjoint_base
class Windows:
    batch: int
    def __init__(
        self,
        images: tuple[int, ...],
        out: tuple[int, ...],
        kernel: tuple[int, ...],
        stride: tuple[int, ...],
        pad_before: tuple[int, ...],
        count_padding: bool = False,
        lengths: Any = None,
    ) -> None: ...

def pool(y: Any, x: Any, windows: Windows, argmax: Any = None) -> None: ...
def pool_back(dx: Any, dy: Any, windows: Windows, argmax: Any = None) -> None: ...
def dropconnect_matmul(
    which: str,
    out: Any,
    a: Any,
    b: Any,
    bits: Any,
    seed: int,
    stream: int,
    step: int,
    domain: int,
    threshold: int,
    offset: int,
) -> None: ...
def sparse_product(out: Any, data: Any, starts: Any, columns: Any, b: Any) -> None: ...
def activate(name: str, a: float, x: Any, out: Any, dy: Any = None) -> None: ...
def softmax(x: Any, out: Any, dy: Any = None) -> None: ...
def batch_moments(x: Any, mean: Any, variance: Any) -> None: ...
def batch_normalize(
    x: Any, y: Any, mean: Any, variance: Any, epsilon: float, gamma: Any, beta: Any
) -> None: ...
def batch_normalize_back(
    x: Any,
    dy: Any,
    dx: Any,
    mean: Any,
    variance: Any,
    epsilon: float,
    gamma: Any,
    sums: Any,
    count: float,
) -> None: ...
def batch_sums(x: Any, dy: Any, mean: Any, variance: Any, epsilon: float, sums: Any) -> None: ...
def layer_normalize(
    x: Any, y: Any, mean: Any, scale: Any, epsilon: float, gamma: Any, beta: Any
) -> None: ...
def layer_normalize_back(
    x: Any, dy: Any, dx: Any, mean: Any, scale: Any, gamma: Any, dgamma: Any, dbeta: Any
) -> None: ...

@disjoint_base
class Recurrence:
    def __init__(
        self,
        cell: str,
        weights: Factor,
        gates: Any,
        entering: Any,
        kept: Any = None,
        extra: Any = None,
        bias: Any = None,
        lengths: Any = None,
        reverse: bool = False,
        state_mask: tuple[Any, Any] | None = None,
        zone_h: tuple[Any, float] | None = None,
        zone_c: tuple[Any, float] | None = None,
    ) -> None: ...
    def forward(self, h: Any, c: Any, y: Any) -> None: ...
    def backward(self, dy: Any, dh: Any, dc: Any, dgates: Any, dback: Any) -> None: ...

def sum_columns(a: Any, out: Any) -> None: ...
