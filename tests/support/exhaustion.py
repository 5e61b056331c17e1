"""A script: calls in which memory runs out at one place after the other.

    python exhaustion.py once|on|space LEAST [CASE ...]

`once` and `on` need failing_allocations.c preloaded: the request for memory with a certain number
fails, alone or with all that follow; requests for less than LEAST bytes are not counted. `space`
lowers the limit of the address space instead, and grows it by LEAST bytes from call to call.
A call then ends with MemoryError, or as if nothing had been; it changes nothing or all, and the
next call gives what it always gives. Prints for each case the numbers of calls and of MemoryErrors,
as JSON.
"""

from __future__ import annotations

import copy
import ctypes
import gc
import json
import os
import resource
import sys
import tempfile
from functools import partial
from pathlib import Path

import numpy as np

try:
    from numpy._core._multiarray_umath import _ARRAY_API
except ImportError:  # NumPy 1
    from numpy.core._multiarray_umath import _ARRAY_API

import dropcore
from dropcore import Key, Mask, _core
from dropcore.attending import attention
from dropcore.constraints import MaxNorm, UnitNorm
from dropcore.nn import (
    LSTM,
    BatchNorm,
    Conv2D,
    Dense,
    Dropout,
    GlobalAveragePool2D,
    MultiHeadAttention,
    Sequential,
    UnitDropout,
)
from dropcore.optim import SGD, Adam, Clip
from dropcore.regularizers import L2
from dropcore.training import Callback

RNG = np.random.default_rng(0)


def normal(*shape):
    return RNG.normal(size=shape).astype(np.float32)


# --- calls ---------------------------------------------------------------------------------------


class Function:
    """A function of arrays, which stay as they are."""

    def __init__(self, function, *arrays):
        self.function, self.arrays = function, arrays
        self.before = [array.tobytes() for array in arrays]

    def fresh(self):
        return None

    def run(self, subject):
        found = self.function(*self.arrays)
        return [np.asarray(a).tobytes() for a in (found if isinstance(found, tuple) else (found,))]

    def check(self, subject):
        assert [array.tobytes() for array in self.arrays] == self.before


class InPlace:
    """A function that changes an array: all of it, or nothing."""

    def __init__(self, function, array):
        self.function, self.array = function, array
        changed = self.run(self.fresh())
        self.allowed = [array.tobytes(), changed]

    def fresh(self):
        return self.array.copy()

    def run(self, subject):
        self.function(subject)
        return subject.tobytes()

    def check(self, subject):
        assert subject.tobytes() in self.allowed


def both(layer, x):
    """A call of a layer: the output and the gradients."""
    layer.build(x.shape[1:], key=1)

    def function(x):
        out, backward = layer.forward(x, key=Key(3))
        dx, grads = backward(out)
        return (out, dx, *map(np.asarray, grads.values()))

    return Function(function, x)


def bits(model):
    """What `fit` decides: weights, moments, and the state of the optimiser."""
    state = model.training_state
    slots = {} if state is None else state.slots
    return [
        0 if state is None else state.step,
        *(array.tobytes() for array in model.params.values()),
        *(array.tobytes() for array in model.buffers.values()),
        *(array.tobytes() for slot in slots.values() for array in slot.values()),
    ]


class Recorder(Callback):
    """Notes what each update leaves."""

    def __init__(self):
        self.found = []

    def on_update_end(self, run):
        self.found.append(bits(run.model))


class Fit:
    """A run that is resumed where memory ended it."""

    def __init__(self, layers, x, y, optimizer, **options):
        self.model, self.x = Sequential(layers), x
        self.model.build(x.shape[1:], key=5)
        self.options = options | {
            "y": y, "optimizer": optimizer, "epochs": 2, "batch_size": 16, "key": 5,
            "loss": "softmax_cross_entropy", "progress": False, "resume": True,
        }  # fmt: skip
        recorder = Recorder()
        self.model_after(copy.deepcopy(self.model), recorder)
        self.allowed = [bits(self.model), *recorder.found]

    def model_after(self, model, *callbacks):
        model.fit(self.x, callbacks=callbacks, **self.options)
        return model

    def fresh(self):
        return copy.deepcopy(self.model)

    def run(self, subject):
        state = self.model_after(subject).training_state
        history = {name: values for name, values in state.history.items() if name != "seconds"}
        return [*bits(subject), history]

    def check(self, subject):
        found = bits(subject)
        assert found == self.allowed[found[0]], f"step {found[0]} was not a whole one"


class Save:
    """A model becomes a file in place of an older one."""

    def __init__(self, write, read):
        self.write, self.read = write, read
        self.path = Path(tempfile.mkdtemp()) / "model"
        self.models = [Sequential([Dense(UNITS), Dense(UNITS)]) for _ in range(2)]
        for seed, model in enumerate(self.models):
            model.build((UNITS,), key=seed)
        self.written = []
        for model in self.models:
            self.write(model, self.path)
            self.written.append(self.path.read_bytes())

    def fresh(self):
        self.path.write_bytes(self.written[0])
        return self.models[1]

    def run(self, subject):
        self.write(subject, self.path)
        return os.path.getsize(self.path)  # the content is read where there is memory

    def check(self, subject):
        assert self.path.read_bytes() in self.written
        assert os.listdir(self.path.parent) == [self.path.name]


class Load(Save):
    """A file becomes a model, or the weights of one."""

    def fresh(self):
        self.write(self.models[1], self.path)
        return None

    def run(self, subject):
        return bits(self.read(self.path))

    def check(self, subject):
        pass


class LoadWeights(Save):
    """All weights of a model are replaced by those of a file, or none."""

    def fresh(self):
        self.write(self.models[1], self.path)
        return copy.deepcopy(self.models[0])

    def run(self, subject):
        subject.load_weights(self.path)
        return bits(subject)

    def check(self, subject):
        assert bits(subject) in list(map(bits, self.models))


def weights_of(path):
    model = Sequential([Dense(UNITS), Dense(UNITS)])
    model.build((UNITS,), key=7)
    model.load_weights(path)
    return model


def trained():
    model = Sequential([Dense(UNITS, activation="relu"), Dropout(0.5), Dense(3)])
    model.fit(X, LABELS, epochs=1, loss="softmax_cross_entropy", key=1, progress=False)
    return model


def half_then_all(w):
    """Wrong: it asks for memory when a part has changed."""
    w[0] = 0
    dropcore.dropout(w, 0.5, key=1, out=w)
    w[:] = np.ones((300, UNITS), np.float32)


# The address space ends in pages, so that arrays have to be large there.
UNITS = 400 if sys.argv[1] == "space" else 40
X, LABELS, IMAGES = normal(32, UNITS), RNG.integers(0, 3, 32), normal(32, 9, 9, UNITS // 10)
DENSE = [
    Dense(UNITS, activation="relu", constraint=MaxNorm(1.0)),
    BatchNorm(),
    UnitDropout(0.5),
    Dense(UNITS, activation="tanh", constraint=UnitNorm(), regularizer=L2(1e-3)),
    Dropout(0.5),
    Dense(3),
]
CASES = {
    "dropout": lambda: Function(
        lambda x: dropcore.dropout(x[:, ::2], 0.3, key=1), normal(90, UNITS)
    ),
    "mask": lambda: Function(lambda x: Mask(x.shape, 0.3, key=1).to_bool(), normal(90, UNITS)),
    "planted": lambda: InPlace(half_then_all, normal(300, UNITS)),
    "max_norm": lambda: InPlace(lambda w: dropcore.max_norm_(w, 1.0, axis=0), normal(300, UNITS)),
    "product": lambda: Function(
        lambda a, b: dropcore.masked_matmul(a, b, x_mask=Mask((1, 80), 0.5, key=1)),
        normal(64, 80), normal(80, UNITS),
    ),
    "attention": lambda: Function(
        lambda q: attention(q, q, q, 0.2, key=1, causal=True), normal(2, 3, UNITS, 16)
    ),
    "attention layer": lambda: both(MultiHeadAttention(2, rate=0.2), normal(3, UNITS, 16)),
    "convolution layer": lambda: both(Conv2D(UNITS // 5, 3, activation="relu"), IMAGES),
    "recurrent layer": lambda: both(LSTM(16, dropout=0.2), normal(6, UNITS // 4, 8)),
    "predict": lambda: Function(trained().predict, X),
    "samples": lambda: Function(partial(trained().predict, key=1, samples=4), X),
    "fit": lambda: Fit(DENSE, X, LABELS, Adam(0.01)),
    "fit with clipping": lambda: Fit(
        DENSE, X, LABELS, Clip(SGD(0.1, momentum=0.9), norm=1.0), validation_split=0.25,
    ),
    "fit images": lambda: Fit(
        [Conv2D(UNITS // 5, 3, activation="relu", constraint=MaxNorm(1.0)), BatchNorm(),
         Dropout(0.3), GlobalAveragePool2D(), Dense(3)], IMAGES, LABELS, SGD(0.1, momentum=0.9),
    ),
    "save": lambda: Save(lambda model, path: model.save(path), dropcore.load),
    "save weights": lambda: Save(lambda model, path: model.save_weights(path), weights_of),
    "load": lambda: Load(lambda model, path: model.save(path), dropcore.load),
    "load weights": lambda: LoadWeights(lambda model, path: model.save_weights(path), weights_of),
}  # fmt: skip


# --- where memory runs out -----------------------------------------------------------------------


SET_HANDLER = 304
"""The place of PyDataMem_SetHandler in the table of NumPy's C API, since 1.22."""


class Refusals:
    """The request after so many others fails, and those that follow, too, if asked to."""

    def __init__(self, least, forever):
        self.library, self.least, self.forever = ctypes.CDLL(None), least, forever
        python, capsules = ctypes.pythonapi, ctypes.py_object
        python.PyCapsule_GetPointer.restype = ctypes.c_void_p
        python.PyCapsule_GetPointer.argtypes = [capsules, ctypes.c_char_p]
        python.PyCapsule_New.restype = capsules
        python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
        table = python.PyCapsule_GetPointer(_ARRAY_API, None)
        set_handler = (ctypes.c_void_p * (SET_HANDLER + 1)).from_address(table)[SET_HANDLER]
        own = ctypes.addressof(ctypes.c_char.in_dll(self.library, "handler"))
        capsule = python.PyCapsule_New(own, b"mem_handler", None)
        ctypes.PYFUNCTYPE(capsules, capsules)(set_handler)(capsule)

    def begin(self, served):
        self.library.arm(ctypes.c_long(served), ctypes.c_size_t(self.least), self.forever)

    def end(self):
        """Whether any failed."""
        return self.library.disarm() > 0


class AddressSpace:
    """A limit of the address space, a little above what is taken."""

    def __init__(self, least):
        self.least, self.before = least, resource.getrlimit(resource.RLIMIT_AS)

    def begin(self, served):
        with open("/proc/self/statm") as file:
            taken = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + served * self.least, self.before[1]))

    def end(self):
        """Whether the call may have found the limit."""
        resource.setrlimit(resource.RLIMIT_AS, self.before)
        return True


def exhausted(case, memory):
    """Let memory run out everywhere; the numbers of calls and of MemoryErrors."""
    expected = case.run(case.fresh())
    assert case.run(case.fresh()) == expected
    calls, errors, fine = 0, 0, 0
    while fine < 4:
        subject = case.fresh()
        gc.collect()
        _core.release_pool()
        _core.release_scratch()
        found = None
        memory.begin(calls)
        try:
            found = case.run(subject)
        except MemoryError:
            errors += 1
        finally:
            failed = memory.end()
        case.check(subject)
        if found is None:
            found, fine = case.run(subject), 0
            case.check(subject)
        else:
            fine += 1
        assert found == expected, f"call {calls} gives something else"
        calls += 1
        if not failed:
            break
    return calls, errors


if __name__ == "__main__":
    how, least, *names = sys.argv[1:]
    memory = AddressSpace(int(least)) if how == "space" else Refusals(int(least), how == "on")
    found = {}
    for name in names or set(CASES) - {"planted"}:
        print(name, file=sys.stderr, flush=True)
        found[name] = exhausted(CASES[name](), memory)
    print(json.dumps(found))
