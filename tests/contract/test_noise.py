"""Noise of the mask contract: words, uniforms and normals."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from scipy.special import kolmogorov
from scipy.stats import norm

from dropcore import Key, Mask, _core, reference
from dropcore.nn import GaussianDropout, GaussianNoise
from dropcore.noise import decision_uniform, normal, uniform
from support.arrays import ulps

DATA = Path(__file__).parents[1] / "data"
KEY = Key(0x0123456789ABCDEF, stream=5, step=1000)
PLACE = KEY.seed, KEY.stream, KEY.step
OFFSETS = (0, 1, 3, 63, 64, 65, 4095, 2**34 - 77, 2**34, 2**40 + 13, 2**62 + 5)
SIZES = (0, 1, 5, 64, 1023, 4097)
LARGE = 2**18 + 77  # several chunks for each of seven threads


def indices(offset, n):
    return np.uint64(offset) + np.arange(n, dtype=np.uint64)


def words(offset, n):
    out = np.empty(n, np.uint32)
    _core.noise_words(out, *PLACE, offset)
    return out


# --- equal to the reference ----------------------------------------------------------------------


def test_words(isa):
    for offset in OFFSETS:
        for n in SIZES:
            np.testing.assert_array_equal(
                words(offset, n), reference.noise_words(*PLACE, indices(offset, n))
            )


def test_decision_uniforms(isa):
    for offset in (0, 1, 127, 128, 2**34 - 100, 2**36 - 100, 2**62 + 5):
        for n in SIZES:
            found = np.empty(n, np.uint32)
            for domain in (0, 2):
                _core.uniforms(found, *PLACE, domain, offset)
                expected = reference.uniforms(*PLACE, offset, n, domain=domain)
                np.testing.assert_array_equal(found, expected)


def test_normals_are_the_inverse_cdf(isa):
    for offset in OFFSETS:
        for n in SIZES:
            exact = reference.normal(*PLACE, indices(offset, n))
            single = normal(n, key=KEY, offset=offset)
            assert single.dtype == np.float32
            assert ulps(single, exact).max(initial=0) <= 4
            double = normal(n, key=KEY, offset=offset, dtype=np.float64)
            np.testing.assert_allclose(double, exact, 4e-15, 0)


def test_the_error_is_small_for_a_million_words(isa):
    exact = reference.normal(*PLACE, indices(11, 10**6))
    assert np.abs(exact).max() > 4.5  # the ends are among them
    assert np.abs(exact).min() < 1e-5  # and the middle
    assert ulps(normal(10**6, key=KEY, offset=11), exact).max() <= 3.5
    double = normal(10**6, key=KEY, offset=11, dtype=np.float64)
    np.testing.assert_allclose(double, exact, 4e-15, 0)


def test_frozen_normals(isa):
    checked = 0
    for line in (DATA / "frozen_normals.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        seed, stream, step, index, word, value = line.split()
        key = Key(int(seed, 16), int(stream), int(step))
        out = np.empty(1, np.uint32)
        _core.noise_words(out, key.seed, key.stream, key.step, int(index))
        assert out[0] == int(word, 16), line
        found = normal(1, key=key, offset=int(index)).astype(np.float64)
        assert ulps(found, np.array([float.fromhex(value)]))[0] <= 4, line
        checked += 1
    assert checked == 80


# --- the same everywhere -------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_from_every_instruction_set(isa, dtype):
    before = _core.isa()
    found = normal(LARGE, key=KEY, offset=9, dtype=dtype)
    try:
        _core.set_isa("scalar")
        plain = normal(LARGE, key=KEY, offset=9, dtype=dtype)
    finally:
        _core.set_isa(before)
    assert found.tobytes() == plain.tobytes()


@pytest.mark.parametrize("draw", [normal, uniform])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_parts_and_teams_make_the_same_whole(assert_team, draw, dtype):
    whole = draw((LARGE // 7, 7), key=KEY, offset=2**34 - 500, dtype=dtype)
    assert_team()
    whole = whole.reshape(-1)
    for start, end in ((0, 1), (1, 64), (63, 5000), (4096, 4097), (4999, len(whole))):
        part = draw(end - start, key=KEY, offset=2**34 - 500 + start, dtype=dtype)
        assert part.tobytes() == whole[start:end].tobytes()


def test_every_address_has_its_own_noise():
    found = [
        normal(1000, key=key)
        for key in (KEY, KEY.at(stream=6), KEY.at(step=1001), Key(KEY.seed + 1, 5, 1000))
    ]
    correlation = np.corrcoef(found) - np.eye(4)
    assert np.abs(correlation).max() < 5 / np.sqrt(1000)
    kept = Mask(1000, 0.5, key=KEY).to_bool()
    assert abs(np.corrcoef(kept, found[0])[0, 1]) < 5 / np.sqrt(1000)


# --- as random numbers ---------------------------------------------------------------------------


def test_moments_and_distribution_of_normals():
    n = 2**20
    z = normal(n, key=3, dtype=np.float64)
    for power, mean, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((z**power).mean() - mean) < 5 * np.sqrt(variance / n), power
    ordered = np.sort(norm.cdf(z))
    distance = np.abs(ordered - (np.arange(n) + 0.5) / n).max()
    assert kolmogorov(distance * np.sqrt(n)) > 1e-4
    for lag in (1, 2, 3, 4, 64):
        assert abs((z[lag:] * z[:-lag]).mean()) < 5 / np.sqrt(n), lag


def test_uniforms_are_inside_and_made_of_the_words():
    w = words(5, 10000).astype(np.float64)
    double = uniform(10000, key=KEY, offset=5, dtype=np.float64)
    np.testing.assert_array_equal(double, (w + 0.5) / 2**32)
    single = uniform(10000, key=KEY, offset=5)
    assert single.dtype == np.float32
    np.testing.assert_array_equal(single, (np.floor(w / 512) + 0.5) / 2**23)
    n = 2**20
    for dtype in (np.float32, np.float64):
        u = uniform(n, key=4, dtype=dtype)
        assert 0 < u.min() < 1e-5
        assert 1 - 1e-5 < u.max() < 1
        assert abs(u.mean(dtype=np.float64) - 0.5) < 5 * np.sqrt(1 / 12 / n)


def test_the_largest_words_stay_inside_in_float32():
    found = (np.array([0, 2**32 - 1], np.uint32) >> 9) + 0.5  # what `uniform` does to them
    single = found.astype(np.float32) * np.float32(2.0**-23)
    assert 0 < single[0] < single[1] < 1


def test_decision_uniforms_decide():
    for keep in (0.1, 0.5, 0.75):
        kept = Mask((40, 50), keep=keep, key=KEY, offset=77).to_bool()
        np.testing.assert_array_equal(decision_uniform((40, 50), KEY, 77) < keep, kept)


# --- arguments -----------------------------------------------------------------------------------


def test_shapes():
    assert normal((), key=1).shape == ()
    assert normal((2, 0, 3), key=1).shape == (2, 0, 3)
    flat = normal(24, key=1)
    np.testing.assert_array_equal(normal((2, 3, 4), key=1).reshape(-1), flat)
    np.testing.assert_array_equal(normal(24, key=Key(1)), flat)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_low_precision(isa, dtype):
    for offset in (0, 5, 2**40):
        options = {"key": KEY, "offset": offset}
        found = normal((7, 1001), dtype=dtype, **options)
        assert found.dtype == dtype
        np.testing.assert_array_equal(found, normal((7, 1001), **options).astype(dtype))
        u, exact = uniform(7001, dtype=dtype, **options), uniform(7001, dtype=float, **options)
        assert u.dtype == dtype
        bits = {np.float16: 10}.get(dtype, 7)
        np.testing.assert_array_equal(u.astype(float), (exact * 2**bits // 1 + 0.5) / 2**bits)
        assert u.min() > 0
        assert u.max() < 1


@pytest.mark.parametrize("layer", [GaussianNoise(0.3), GaussianDropout(0.4)], ids=repr)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_layers_of_low_precision_round_once(layer, dtype):
    x = normal((5, 7, 11), key=3, dtype=dtype)
    y, backward = layer.forward(x, key=KEY)
    wide, wide_backward = layer.forward(x.astype(np.float32), key=KEY)
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, wide.astype(dtype))
    dx = backward(x)[0]
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx, wide_backward(x.astype(np.float32))[0].astype(dtype))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_underflow_does_not_raise(dtype):
    tiny = np.full((3, 50), np.finfo(dtype).smallest_subnormal)
    with np.errstate(all="raise"):
        normal(5000, key=1, dtype=dtype)
        uniform(5000, key=1, dtype=dtype)
        for layer in (GaussianNoise(float(np.finfo(dtype).tiny)), GaussianDropout(0.5)):
            y, backward = layer.forward(tiny, key=1)
            assert np.isfinite(y).all()
            assert np.isfinite(backward(tiny)[0]).all()


@pytest.mark.parametrize("draw", [normal, uniform])
def test_what_is_refused(draw):
    with pytest.raises(TypeError, match="float16 or bfloat16, got int32"):
        draw(3, key=1, dtype=np.int32)
    with pytest.raises(TypeError, match=r"got [<>]f4"):
        draw(3, key=1, dtype=np.dtype(np.float32).newbyteorder())
    with pytest.raises(ValueError, match="offset must be an integer >= 0, got -1"):
        draw(3, key=1, offset=-1)
    with pytest.raises(ValueError, match=r"offset \+ size must be <= 2\*\*63"):
        draw(3, key=1, offset=2**63 - 2)
    assert draw(2, key=1, offset=2**63 - 2).shape == (2,)
    with pytest.raises(TypeError, match="shape must be an integer"):
        draw(2.5, key=1)
    with pytest.raises(TypeError, match="key must be an integer"):
        draw(2, key="x")
    with pytest.raises(TypeError, match="out must be an array of float32 or float64, got int64"):
        _core.normal(np.empty(4, np.int64), 1, 0, 0, 0)
    with pytest.raises(ValueError, match="out must be contiguous"):
        _core.normal(np.empty(8, np.float32)[::2], 1, 0, 0, 0)
