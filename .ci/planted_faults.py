"""planted_faults.py address|thread [FAULT]: a program with a fault that a sanitizer has to find.

Without a FAULT their names are printed.
"""

import ctypes
import sys
import threading

N = 1 << 20


def use_after_free():
    """The core reads the memory of an array that it has freed."""
    import numpy as np

    import dropcore
    from dropcore import _core

    room = _core.PooledBuffer(4 * N)
    x = np.ctypeslib.as_array(
        (ctypes.c_float * N).from_address(np.frombuffer(room, "u1").ctypes.data)
    )
    del room
    assert _core.release_pool() >= 4 * N
    dropcore.dropout(x, 0.5, key=1)


def overflow():
    """The core writes behind the end of an array."""
    import numpy as np

    import dropcore

    short = (ctypes.c_float * 1000)()
    out = np.ctypeslib.as_array((ctypes.c_float * 2000).from_address(ctypes.addressof(short)))
    dropcore.dropout(np.ones(2000, np.float32), 0.5, key=1, out=out)


def undefined():
    """The core writes a number where none of its kind may be."""
    from dropcore._backends.c_api import c_addresses

    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_double, ctypes.c_void_p)
    room = (ctypes.c_byte * 64)()
    kind(c_addresses()["threshold"])(0.5, ctypes.addressof(room) + 1)


def race():
    """Two threads write to one array at once.

    It is small, so that the sanitizer still knows where the other access was.
    """
    import numpy as np

    import dropcore

    x, out = np.ones(1 << 15, np.float32), np.empty(1 << 15, np.float32)
    start = threading.Barrier(2)

    def work(key):
        start.wait()
        for _ in range(300):
            dropcore.dropout(x, 0.5, key=key, out=out)

    threads = [threading.Thread(target=work, args=(key,)) for key in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


FAULTS = {"address": [use_after_free, overflow, undefined], "thread": [race]}

if __name__ == "__main__":
    kind, *names = sys.argv[1:]
    faults = {fault.__name__: fault for fault in FAULTS[kind]}
    if not names:
        print(*faults)
    for name in names:
        faults[name]()
