"""What attention and its backward pass refuse, and the messages."""

from __future__ import annotations

import numpy as np
import pytest

from dropcore import Mask, attention, attention_backward
from support.attention import arrays, same

WHOLE = Mask((5, 5), 0.5, key=1)
MASKED = "is a numpy.ma.MaskedArray"
ONE_RATE = "attention takes one rate for all weights, got"
OWN_RATE = "mask= has its own rate, key, shape and offset: give either mask or those"
NO_EFFECT = "key, offset and mask_heads have no effect without rate= or keep="


def not_writable(shape):
    array = np.empty(shape, np.float32)
    array.flags.writeable = False
    return array


def off_by_a_byte(shape):
    return np.empty(4 * int(np.prod(shape)) + 1, np.uint8)[1:].view(np.float32).reshape(shape)


# Changed arguments of a call, the error, and its message. A function is given the argument
# that it changes.
BAD = {
    "int": ({"q": lambda q: q.astype(int)}, TypeError, "q must be float32 or float64, got int64"),
    "bool": ({"k": lambda k: k > 0}, TypeError, "k must be float32 or float64, got bool"),
    "half": ({"v": lambda v: v.astype("f2")}, TypeError, "v must be .* float64, got float16"),
    "complex": ({"q": lambda q: q + 1j}, TypeError, "q must be .* float64, got complex64"),
    "objects": ({"q": lambda q: q.astype(object)}, TypeError, "got object; use .astype"),
    "text": ({"q": "abc"}, TypeError, "q must be float32 or float64, got <U3"),
    "none": ({"k": None}, TypeError, "k must be float32 or float64, got object from None"),
    "masked q": ({"q": np.ma.array}, TypeError, f"q {MASKED}"),
    "masked k": ({"k": np.ma.array}, TypeError, f"k {MASKED}"),
    "masked v": ({"v": np.ma.array}, TypeError, f"v {MASKED}"),
    "three axes": ({"q": lambda q: q[0]}, ValueError,
                   r"q must have the axes \(batch, heads, queries, size\), got shape \(4, 5, 8\); "
                   r"for one head use q\[:, None\]"),
    "five axes": ({"k": lambda k: k[None]}, ValueError,
                  r"k must have the axes \(batch, heads, keys, size\), got shape \(1, 2, 2, 5,"),
    "v of two": ({"v": lambda v: v[0, 0]}, ValueError, r"v must have the axes .*keys, size"),
    "a number": ({"q": 1.0}, ValueError, r"q must have the axes .*got shape \(\)"),
    "k of float64": ({"k": lambda k: k.astype(float)}, TypeError,
                     "q, k and v must have one dtype, got float32, float64 and float32"),
    "v of float64": ({"v": lambda v: v.astype(float)}, TypeError, "float32, float32 and float64"),
    "list among float32": ({"v": lambda v: v.tolist()}, TypeError, "float32, float32 and float64"),
    "batch of k": ({"k": lambda k: k[:1]}, ValueError,
                   r"q \(2, 4, 5, 8\) and k \(1, 2, 5, 8\) must have the same batch and the same"),
    "size of k": ({"k": lambda k: k[..., 1:]}, ValueError, "the same batch and the same size"),
    "batch of v": ({"v": lambda v: v[:1]}, ValueError,
                   r"k \(2, 2, 5, 8\) and v \(1, 2, 5, 6\) must have the same batch, heads and"),
    "heads of v": ({"v": lambda v: v[:, :1]}, ValueError, "the same batch, heads and keys"),
    "keys of v": ({"v": lambda v: v[:, :, 1:]}, ValueError, "the same batch, heads and keys"),
    "three heads": ({"q": lambda q: q[:, 1:]}, ValueError,
                    "the 2 heads of k and v must divide the 3 heads of q"),
    "fewer heads than k": ({"q": lambda q: q[:, :1]}, ValueError, "must divide the 1 heads of q"),
    "no key heads": ({"k": lambda k: k[:, :0], "v": lambda v: v[:, :0]}, ValueError,
                     "the 0 heads of k and v must divide the 4 heads of q"),
    "causal": ({"q": lambda q: q[:, :, :3], "causal": True}, ValueError,
               "causal=True needs as many queries as keys, got 3 and 5; .* give allowed="),
    "causal=1": ({"causal": 1}, TypeError, "causal must be True or False, got 1"),
    "causal=None": ({"causal": None}, TypeError, "causal must be True or False, got None"),
    "scale nan": ({"scale": np.nan}, ValueError, "scale must be finite, got nan"),
    "scale inf": ({"scale": np.inf}, ValueError, "scale must be finite, got inf"),
    "scale text": ({"scale": "1"}, TypeError, "scale must be a number, got '1'"),
    "scales": ({"scale": np.ones(4)}, TypeError, "scale must be a number"),
    "key alone": ({"key": 1}, ValueError, NO_EFFECT),
    "offset alone": ({"offset": 1}, ValueError, NO_EFFECT),
    "mask_heads alone": ({"mask_heads": 4}, ValueError, NO_EFFECT),
    "no key": ({"rate": 0.1}, TypeError, "needs key= .* with a rate; for inference leave"),
    "no key, none dropped": ({"keep": 1.0}, TypeError, "needs key="),
    "both": ({"rate": 0.1, "keep": 0.9, "key": 1}, ValueError, "give rate or keep, not both"),
    "rate 1.5": ({"rate": 1.5, "key": 1}, ValueError, r"rate .* in \[0, 1\], got 1.5"),
    "keep nan": ({"keep": np.nan, "key": 1}, ValueError, r"keep .* in \[0, 1\], got nan"),
    "rates": ({"rate": np.full((4, 1, 1), 0.1), "key": 1}, ValueError, f"{ONE_RATE} an array"),
    "rate text": ({"rate": "0.1", "key": 1}, TypeError, "rate must be a number"),
    "key text": ({"rate": 0.1, "key": "a"}, TypeError, "Key: key must be an integer"),
    "offset -1": ({"rate": 0.1, "key": 1, "offset": -1}, ValueError, "offset .* >= 0, got -1"),
    "offset 1.0": ({"rate": 0.1, "key": 1, "offset": 1.0}, TypeError, "offset must be an integer"),
    "offset at the end": ({"rate": 0.1, "key": 1, "offset": 2**63 - 199}, ValueError,
                          r"offset \+ size must be <= 2\*\*63"),
    "heads at the end": ({"rate": 0.1, "key": 1, "offset": 2**63 - 299, "mask_heads": 8},
                         ValueError, r"offset \+ size must be <= 2\*\*63, got .* \+ 300"),
    "mask_heads": ({"rate": 0.1, "key": 1, "mask_heads": 3}, ValueError,
                   "mask_heads must be an integer >= 4, got 3"),
    "mask_heads 4.0": ({"rate": 0.1, "key": 1, "mask_heads": 4.0}, TypeError, "mask_heads must be"),
    "array for mask": ({"mask": np.ones((5, 5), bool)}, TypeError,
                       r"mask must be a Mask \(of dropout\), got ndarray; allowed= takes"),
    "mask and rate": ({"mask": WHOLE, "rate": 0.5}, ValueError, OWN_RATE),
    "mask and keep": ({"mask": WHOLE, "keep": 0.5}, ValueError, OWN_RATE),
    "mask and key": ({"mask": WHOLE, "key": 1}, ValueError, OWN_RATE),
    "mask and offset": ({"mask": WHOLE, "offset": 1}, ValueError, OWN_RATE),
    "mask and mask_heads": ({"mask": WHOLE, "mask_heads": 4}, ValueError, OWN_RATE),
    "mask of queries": ({"mask": Mask((3, 5), 0.5, key=1)}, ValueError,
                        r"a mask of shape \(3, 5\) does not broadcast to the weights of shape "
                        r"\(2, 4, 5, 5\)"),
    "mask of five axes": ({"mask": Mask((1, 2, 4, 5, 5), 0.5, key=1)}, ValueError, "not broadcast"),
    "mask of rates": ({"mask": Mask((5, 5), np.full((5, 1), 0.5), key=1)}, ValueError,
                      f"{ONE_RATE} a mask with an array"),
    "bias of float64": ({"bias": np.zeros((5, 5))}, TypeError,
                        "bias must have the dtype of q, float32, got float64"),
    "bias of int": ({"bias": np.zeros((5, 5), int)}, TypeError, "bias must be .*, got int64"),
    "bias of bool": ({"bias": np.ones((5, 5), bool)}, TypeError, "bias must be .*, got bool"),
    "masked bias": ({"bias": np.ma.zeros((5, 5))}, TypeError, f"bias {MASKED}"),
    "shape of bias": ({"bias": np.zeros((3, 5), np.float32)}, ValueError,
                      r"bias must broadcast to \(batch, heads, queries, keys\) = \(2, 4, 5, 5\), "
                      r"got \(3, 5\)"),
    "bias enlarges": ({"bias": np.zeros((3, 2, 4, 5, 5), "f4")}, ValueError, "must broadcast"),
    "allowed of float": ({"allowed": np.ones((5, 5), np.float32)}, TypeError,
                         "allowed must be a boolean array .*, got float32; .* is bias="),
    "allowed of int": ({"allowed": [[1] * 5]}, TypeError, "allowed must be .*, got int64"),
    "masked allowed": ({"allowed": np.ma.ones((5, 5), bool)}, TypeError, f"allowed {MASKED}"),
    "shape of allowed": ({"allowed": np.ones((4, 5), bool)}, ValueError, "allowed must broadcast"),
    "lengths of float": ({"lengths": [5.0, 5.0]}, TypeError, "lengths .* integers, got float64"),
    "lengths of bool": ({"lengths": [True, False]}, TypeError, "lengths .* integers, got bool"),
    "masked lengths": ({"lengths": np.ma.array([5, 5])}, TypeError, f"lengths {MASKED}"),
    "one length": ({"lengths": 5}, ValueError,
                   r"lengths must be \(2,\), one for each sample, got \(\)"),
    "three lengths": ({"lengths": [5, 5, 5]}, ValueError, r"one for each sample, got \(3,\)"),
    "length -1": ({"lengths": [-1, 5]}, ValueError,
                  r"lengths must be in \[0, 5\], the number of keys, got -1 ... 5"),
    "length 6": ({"lengths": [1, 6]}, ValueError, "the number of keys, got 1 ... 6"),
    "huge length": ({"lengths": np.array([1, 2**63 + 1], np.uint64)}, ValueError, "got 1 ... 92"),
}  # fmt: skip

BAD_OUT = {
    "list": (lambda out: out.tolist(), TypeError, "out must be a numpy.ndarray, got list"),
    "masked": (np.ma.array, TypeError, f"out {MASKED}"),
    "shape": (lambda out: out[:1], ValueError,
              r"out must have the shape and dtype of the result, \(2, 4, 5, 6\) float32, got \(1,"),
    "dtype": (lambda out: out.astype(float), ValueError, "got .* float64"),
    "byte order": (lambda out: out.astype(">f4"), ValueError, "got .* >f4"),
    "read-only": (lambda out: not_writable(out.shape), ValueError, "out is read-only"),
    "shared": (lambda out: np.lib.stride_tricks.as_strided(out, out.shape, (0, *out.strides[1:])),
               ValueError, "out has elements that share memory"),
    "strided": (lambda out: np.repeat(out, 2, 3)[..., ::2], ValueError,
                "the last axis of out must be contiguous"),
    "F": (np.asfortranarray, ValueError, "the last axis of out must be contiguous"),
    "misaligned": (lambda out: off_by_a_byte(out.shape), ValueError, "out is misaligned"),
}  # fmt: skip


def small():
    q, k, v, dout = arrays(2, 4, 5, 5, 8, 6, key_heads=2)
    return {"q": q, "k": k, "v": v}, dout


def told(changes):
    arguments, _ = small()
    for name, value in changes.items():
        arguments[name] = value(arguments[name]) if callable(value) else value
    return arguments


@pytest.mark.parametrize("case", BAD)
def test_what_is_refused(case):
    changes, error, message = BAD[case]
    with pytest.raises(error, match=message):
        attention(**told(changes))
    given, dout = small()
    out, sums = attention(**given, return_logsumexp=True)
    with pytest.raises(error, match=message.replace("attention", "attention_backward", 1)):
        attention_backward(dout=dout, out=out, logsumexp=sums, **told(changes))


@pytest.mark.parametrize("case", ["causal", "scale nan", "no key", "bias of float64"])
def test_messages_name_the_function(case):
    changes, error, _ = BAD[case]
    given, dout = small()
    out, sums = attention(**given, return_logsumexp=True)
    with pytest.raises(error, match=r"^attention[: ]"):
        attention(**told(changes))
    with pytest.raises(error, match=r"^attention_backward[: ]"):
        attention_backward(dout=dout, out=out, logsumexp=sums, **told(changes))


@pytest.mark.parametrize("case", BAD_OUT)
def test_out_that_is_refused(case):
    make, error, message = BAD_OUT[case]
    given, _ = small()
    out = make(np.full((2, 4, 5, 6), 7, np.float32))
    with pytest.raises(error, match=message):
        attention(**given, out=out)


@pytest.mark.parametrize("name", ["q", "k", "v", "bias"])
def test_out_must_not_overlap_an_argument(name):
    q, k, v, _ = arrays(2, 4, 5, 5, 5)
    given = {"q": q, "k": k, "v": v, "bias": np.zeros((2, 4, 5, 5), np.float32)}
    before = {key: array.copy() for key, array in given.items()}
    for out in (given[name], given[name][::-1]):
        with pytest.raises(ValueError, match=f"attention: out overlaps {name}; give a separate"):
            attention(**given, out=out)
    same(given.values(), before.values())


def test_return_logsumexp_is_a_bool():
    given, _ = small()
    with pytest.raises(TypeError, match="return_logsumexp must be True or False, got 1"):
        attention(**given, return_logsumexp=1)


@pytest.mark.parametrize("name", ["dout", "out", "logsumexp"])
def test_what_the_backward_pass_refuses(name):
    given, dout = small()
    out, sums = attention(**given, return_logsumexp=True)
    arguments = {"dout": dout, "out": out, "logsumexp": sums, **given}
    good, shape = arguments[name], ", ".join(map(str, arguments[name].shape))
    for bad, error, message in [
        (good[:1], ValueError, rf"backward: {name} must be \({shape}\) of float32, got \(1,"),
        (good.astype(float), ValueError, f"{name} must be .* of float32, got .* of float64"),
        (good.tolist(), ValueError, f"{name} must be .* of float32, got .* of float64"),
        (good.astype(int), TypeError, f"{name} must be float32 or float64, got int64"),
        (np.ma.array(good), TypeError, f"{name} {MASKED}"),
        (None, TypeError, f"{name} must be float32 or float64, got object from None"),
    ]:  # fmt: skip
        with pytest.raises(error, match=message):
            attention_backward(**arguments | {name: bad})


@pytest.mark.parametrize(
    "name", ["q", "k", "v", "bias", "allowed", "lengths", "out", "dout", "logsumexp"]
)
def test_tensors_are_refused(name):
    torch = pytest.importorskip("torch")
    given, dout = small()
    if name in ("dout", "logsumexp"):
        out, sums = attention(**given, return_logsumexp=True)
        arguments = {"dout": dout, "out": out, "logsumexp": sums, **given}
        call = attention_backward
    else:
        more = {"bias": np.zeros((5, 5), np.float32), "allowed": np.ones((5, 5), bool),
                "lengths": np.array([5, 5]), "out": np.empty_like(dout)}  # fmt: skip
        arguments, call = given | more, attention
    with pytest.raises(TypeError, match=rf"{name} is a torch.Tensor: .*detach\(\).numpy\(\)"):
        call(**arguments | {name: torch.tensor(arguments[name])})


def test_a_mask_without_weights_may_lie_at_the_end_of_the_contract():
    q = np.ones((0, 2, 3, 4), np.float32)
    for heads in ({}, {"mask_heads": 5}):
        assert attention(q, q, q, 0.5, key=7, offset=2**63, **heads).shape == q.shape
    mask = Mask((0, 2, 3, 3), 0.5, key=7, offset=2**63)
    assert attention(q, q, q, mask=mask).shape == q.shape


def test_misaligned_heads_that_share_memory():
    memory = np.zeros(2 * 5 * 4 * 8 + 1, np.uint8)[1:].view(np.float64).reshape(2, 1, 5, 4)
    memory[...] = np.random.default_rng(0).normal(size=memory.shape)
    shared = np.broadcast_to(memory, (2, 3, 5, 4))
    wanted = attention(*[np.ascontiguousarray(shared)] * 3)
    np.testing.assert_array_equal(attention(shared, shared, shared), wanted)
