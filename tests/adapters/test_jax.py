"""Dropout for JAX: the masks of the contract under every transformation."""

import os
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import dropcore
from dropcore import Key, Mask

jax = pytest.importorskip("jax")
jnp = jax.numpy

from dropcore.jax import dropout  # noqa: E402

KEY = jax.random.key(5)
OWN = Key.from_words(*np.asarray(jax.random.key_data(KEY)))
RATE = 0.3
X = np.random.default_rng(0).normal(size=(7, 53)).astype(np.float32)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def expected(x, key=OWN, rate=RATE, **more):
    return dropcore.dropout(np.asarray(x), rate, key=key, **more)


def equal(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("key", "own"),
    [
        (KEY, OWN),
        (jax.random.key_data(KEY), OWN),
        (np.array([3, 2**32 - 1], np.uint32), Key(2**64 - 2**32 + 3)),
        (7, Key(7)),
        (Key(2**64 - 1, 2**28 - 1, 2**32 - 1), Key(2**64 - 1, 2**28 - 1, 2**32 - 1)),
        (Key(9, 4, 2, domain=2), Key(9, 4, 2, domain=2)),
    ],
)
def test_the_mask_is_that_of_the_key(key, own, compiled):
    f = jax.jit(dropout, static_argnames=("rate", "key")) if isinstance(key, Key | int) else (
        jax.jit(dropout, static_argnames="rate")
    )  # fmt: skip
    equal((f if compiled else dropout)(X, rate=RATE, key=key), expected(X, own))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("shared", [(), 0, (0, 1)])
def test_every_dtype_and_shared_axes(x64, dtype, shared):
    x = X.astype(jnp.dtype(dtype))
    equal(dropout(x, RATE, key=KEY, shared_axes=shared), expected(x, shared_axes=shared))


@pytest.mark.parametrize("rate", [0.0, 0.25, 0.9, 1.0])
def test_rates_and_keeps(rate):
    equal(dropout(X, rate, key=KEY), expected(X, rate=rate))
    equal(dropout(X, keep=1 - rate, key=KEY, shared_axes=1), expected(X, rate=rate, shared_axes=1))


@pytest.mark.parametrize("shape", [(), (0,), (3, 0), (1,), (2, 3, 4, 5)])
def test_every_shape(shape):
    equal(dropout(jnp.ones(shape), RATE, key=KEY), expected(np.ones(shape, np.float32)))


@pytest.mark.parametrize("threads", [1, 2])
def test_many_elements_take_the_threads_of_dropcore(threads):
    before = dropcore.get_num_threads()
    dropcore.set_num_threads(threads)
    try:
        x = np.ones(1 << 21, np.float32)
        equal(dropout(x, 0.1, key=KEY), expected(x, rate=0.1))
    finally:
        dropcore.set_num_threads(before)


def test_dropped_infinities_and_small_numbers():
    for value in (np.nan, np.inf, 1e-40):  # XLA's threads flush the last one
        x = np.full(100, value, np.float32)
        equal(jax.jit(dropout, static_argnums=1)(x, RATE, key=KEY), expected(x))
    x = np.full((100, 2), np.nan, np.float32)
    equal(dropout(x, RATE, key=KEY, shared_axes=1), expected(x, shared_axes=1))


def test_step_and_offset_may_be_traced(x64):
    f = jax.jit(lambda x, step, offset: dropout(x, RATE, key=Key(3, 1), step=step, offset=offset))
    for step in (0, 1, 2**32 - 1):
        equal(f(X, step, 0), expected(X, Key(3, 1, step)))
        equal(dropout(X, RATE, key=Key(3, 1, 8), step=step), expected(X, Key(3, 1, step)))
    for offset in (0, 5, 2**40 + 1, 2**63 - X.size):
        equal(f(X, 0, jnp.uint64(offset)), expected(X, Key(3, 1), offset=offset))
        equal(dropout(X, RATE, key=KEY, offset=offset), expected(X, offset=offset))


def test_vmap_is_a_loop():
    keys = jax.random.split(KEY, 4)
    masked = {"in_axes": (0, None)}, {"in_axes": (None, 0)}, {"in_axes": (1, 0)}
    f = lambda x, key: dropout(x, RATE, key=key)  # noqa: E731
    for row, y in zip(X, jax.vmap(f, **masked[0])(X, KEY), strict=True):
        equal(y, expected(row))
    for key, y in zip(keys, jax.vmap(f, **masked[1])(X, keys), strict=True):
        equal(y, dropout(X, RATE, key=key))
    for column, key, y in zip(X.T[:4], keys, jax.vmap(f, **masked[2])(X[:, :4], keys), strict=True):
        equal(y, dropout(column, RATE, key=key))
    both = jax.jit(jax.vmap(jax.vmap(f, (None, 0)), (0, None)))(X, keys)
    for i, row in enumerate(X):
        for j, key in enumerate(keys):
            equal(both[i, j], dropout(row, RATE, key=key))
    shared = jax.vmap(lambda x, key: dropout(x, RATE, key=key, shared_axes=0))(X[None], keys[:1])
    equal(shared[0], dropout(X, RATE, key=keys[0], shared_axes=0))


def test_vmap_over_offsets_is_one_mask():
    f = jax.vmap(lambda x, at: dropout(x, RATE, key=KEY, offset=at))
    equal(f(X, 53 * jnp.arange(7)), expected(X))


@pytest.mark.parametrize("shared", [(), 1])
@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, jax.checkpoint])
def test_the_gradient_draws_the_same_mask(shared, wrap):
    f = wrap(lambda x: dropout(x, RATE, key=KEY, shared_axes=shared))
    y, back = jax.vjp(f, X)
    dy = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    equal(back(dy)[0], dropcore.dropout_backward(dy, RATE, key=OWN, shared_axes=shared))
    np.testing.assert_array_equal(np.asarray(back(np.ones_like(X))[0]) != 0, np.asarray(y) != 0)
    equal(jax.jvp(f, (X,), (dy,))[1], expected(dy, shared_axes=shared))


def test_derivatives_by_differences(x64):
    from jax.test_util import check_grads

    x = np.linspace(-1, 1, 12).reshape(3, 4)
    check_grads(lambda x: jnp.sin(dropout(x, RATE, key=KEY)), (x,), order=2)
    check_grads(jax.vmap(lambda x: dropout(x, RATE, key=KEY) ** 3), (x,), order=2)
    hessian = jax.hessian(lambda x: (dropout(x, RATE, key=KEY) ** 2).sum())(x[0])
    mask = Mask(4, RATE, key=OWN).to_array(np.float64)
    np.testing.assert_allclose(hessian, np.diag(2 * mask**2))


def test_nothing_of_the_mask_is_kept():
    def of(x, key):
        return jax.vjp(lambda x: dropout(x, RATE, key=key), x)[1]

    kept = jax.tree.leaves(jax.eval_shape(of, X, KEY))
    assert sum(leaf.size for leaf in kept) <= 8, kept


def test_gradients_under_vmap_and_scan():
    keys = jax.random.split(KEY, 3)
    f = jax.grad(lambda x, key: (dropout(x, RATE, key=key) ** 2).sum())
    for dx, key in zip(jax.vmap(f, (None, 0))(X, keys), keys, strict=True):
        equal(dx, f(X, key))
    last, _ = jax.lax.scan(lambda x, key: (dropout(x, RATE, key=key), None), X, keys)
    y = X
    for key in keys:
        y = dropout(y, RATE, key=key)
    equal(last, y)


ON_TWO_DEVICES = """
    import jax, numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec
    import dropcore
    from dropcore import Key
    from dropcore.jax import dropout

    assert len(jax.devices()) == 2
    x = np.random.default_rng(0).normal(size=(8, 53)).astype(np.float32)
    y = dropcore.dropout(x, 0.3, key=Key(7, 1, 2))
    dx = dropcore.dropout(np.ones_like(x), 0.3, key=Key(7, 1, 2))

    def whole(x):
        return dropout(x, 0.3, key=Key(7, 1, 2))

    def part(x):
        return dropout(x, 0.3, key=Key(7, 1, 2), offset=x.size * jax.lax.axis_index("rows"))

    rows = PartitionSpec("rows")
    mesh = jax.make_mesh((2,), ("rows",), axis_types=(AxisType.Auto,))
    divided = jax.device_put(x, NamedSharding(mesh, rows))
    parts = jax.shard_map(part, mesh=mesh, in_specs=rows, out_specs=rows)
    for f in (whole, parts):
        np.testing.assert_array_equal(jax.jit(f)(divided), y)
        np.testing.assert_array_equal(jax.jit(jax.grad(lambda x: f(x).sum()))(divided), dx)
    assert jax.jit(parts)(divided).sharding.spec[0] == "rows"
    mapped = jax.pmap(part, axis_name="rows")(x.reshape(2, 4, 53))
    np.testing.assert_array_equal(np.asarray(mapped).reshape(8, 53), y)
    print("equal")
"""


def test_devices_that_share_an_array_draw_parts_of_one_mask():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(ON_TWO_DEVICES)],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stdout == "equal\n", done.stderr


def test_keys_steps_and_offsets_compile_once():
    traced = []

    @jax.jit
    def f(x, key, step, offset):
        traced.append(x)
        return dropout(x, RATE, key=key, step=step, offset=offset)

    for n in range(3):
        equal(f(X, jax.random.key(n), n, n), expected(X, Key(n << 32, step=n), offset=n))
    assert len(traced) == 1


KEPT_IN_FILES = """
    import sys
    import jax, numpy as np
    import dropcore
    from dropcore.jax import dropout

    jax.config.update("jax_compilation_cache_dir", sys.argv[1])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    hits = []
    jax.monitoring.register_event_listener(lambda name, **_: hits.append(name))
    x = np.ones(1000, np.float32)
    y = jax.jit(lambda x: 2 * dropout(x, 0.5, key=7))(x)
    np.testing.assert_array_equal(y, 2 * dropcore.dropout(x, 0.5, key=7))
    print(hits.count("/jax/compilation_cache/cache_hits"))
"""


def test_programs_that_jax_keeps_in_files_draw_the_same_masks(tmp_path):
    hits = [
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(KEPT_IN_FILES), tmp_path],
            capture_output=True, text=True, check=True,
        ).stdout
        for _ in range(2)
    ]  # fmt: skip
    assert hits == ["0\n", "1\n"]


def test_python_threads_may_call_at_once():
    f = jax.jit(lambda x, step: dropout(x, RATE, key=Key(1), step=step))
    x = np.ones(200_000, np.float32)
    with ThreadPoolExecutor(8) as pool:
        for step, y in enumerate(pool.map(lambda step: f(x, step), range(16))):
            equal(y, expected(x, Key(1, step=step)))


def test_steps_train_alike_in_jax_and_numpy():
    """A compiled step whose mask is that of the step of a Key."""

    @jax.jit
    def step(w, n):
        return w - 0.1 * jax.grad(lambda w: ((dropout(X, 0.5, key=Key(1), step=n) @ w) ** 2).sum())(
            w
        )

    w = own = np.ones(53, np.float32)
    for n in range(3):
        w = step(w, n)
        x = dropcore.dropout(X, 0.5, key=Key(1, step=n))
        own = own - 0.1 * 2 * x.T @ (x @ own)
    np.testing.assert_allclose(w, own, rtol=1e-3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: dropout(X, key=1), TypeError, "rate"),
        (lambda: dropout(X, 0.5, keep=0.5, key=1), ValueError, "rate"),
        (lambda: dropout(X, 1.5, key=1), ValueError, r"dropped, in \[0, 1\], got 1.5"),
        (lambda: dropout(X, np.full(53, 0.5), key=1), TypeError, r"one rate .* shape \(53,\)"),
        (
            lambda: jax.jit(lambda r: dropout(X, r, key=1))(0.5),
            TypeError,
            "rate must be known while the function is traced.*static_argnames",
        ),
        (lambda: dropout(np.arange(3), 0.5, key=1), TypeError, "x must be float32.*got int32"),
        (lambda: dropout(X, 0.5, key="a"), TypeError, "two words.*got str"),
        (lambda: dropout(X, 0.5, key=jax.random.split(KEY)), TypeError, r"one key .* \(2,\)"),
        (lambda: dropout(X, 0.5, key=jax.random.key(1, impl="rbg")), TypeError, "key<rbg>"),
        (lambda: dropout(X, 0.5, key=np.zeros(2)), TypeError, r"got float64 \(2,\)"),
        (lambda: dropout(X, 0.5, key=1, step=2**32), ValueError, "step must be an integer in"),
        (lambda: dropout(X, 0.5, key=1, step=jnp.ones(())), TypeError, "step must be an integer"),
        (lambda: dropout(X, 0.5, key=1, offset=-1), ValueError, "offset must be"),
        (lambda: dropout(X, 0.5, key=1, offset=jnp.arange(2)), TypeError, r"of shape \(2,\)"),
        (lambda: dropout(X, 0.5, key=1, shared_axes=2), ValueError, "shared_axes"),
        (lambda: dropout(X, 0.5, key=1, offset=2**63 - 1), ValueError, "offset must be.*5437"),
    ],
)
def test_mistakes(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_an_offset_that_is_known_when_it_runs_is_checked_by_the_core(x64):
    with pytest.raises(jax.errors.JaxRuntimeError, match=r"offset \+ size must be <= 2\*\*63"):
        dropout(X, 0.5, key=1, offset=jnp.uint64(2**63)).block_until_ready()


def test_another_platform_is_refused_in_words():
    traced = jax.jit(lambda x: dropout(x, 0.5, key=1)).trace(X)
    with pytest.raises(NotImplementedError, match=r"runs on the CPU.*cuda"):
        traced.lower(lowering_platforms=("cuda",))


def test_jax_is_imported_only_by_its_adapter_and_missing_in_words():
    code = (
        "import sys, dropcore, dropcore.nn; assert 'jax' not in sys.modules\n"
        "sys.modules['jax'] = None\n"
        "try: import dropcore.jax\n"
        "except ImportError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == (
        "dropcore.jax needs JAX, which is not installed: pip install 'dropcore[jax]'\n"
    )
