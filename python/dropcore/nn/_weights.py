"""The weights of a model alone, as a NumPy archive: methods of `Model`."""

from __future__ import annotations

import errno
import zipfile
from collections.abc import Mapping
from os import PathLike
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from dropcore._backends import to_device
from dropcore._base.files import checked_path, replacing
from dropcore.nn.layer import Layer

__all__ = ["load_weights", "save_weights"]

_HEADERS: Final = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def save_weights(self: Layer, path: str | PathLike[str]) -> None:
    """Write the parameters and the running moments to a NumPy archive, ``.npz``.

    `numpy.load` reads it: names are those of `params` and `buffers`. `save` writes the whole model.

    Parameters
    ----------
    path : str or path
        Any name; no suffix is added. The file is replaced atomically, as by `save`.

    Raises
    ------
    ValueError
        If the model is not built, or a buffer has the name of a parameter.
    OSError
        If the file cannot be written. The old file is unchanged.
    """
    target = checked_path("save_weights", path)
    arrays = {name: to_device(a, "cpu") for name, a in _own("save_weights", self).items()}
    with replacing("save_weights", target) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            # A fixed date, so that the same weights give the same bytes; no limit of 2 GiB.
            entry = zipfile.ZipInfo(f"{name}.npy")
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asarray(array), allow_pickle=False)


def load_weights(self: Layer, path: str | PathLike[str]) -> None:
    """Take the parameters and the running moments from a NumPy archive, ``.npz``.

    Nothing is changed unless everything fits. The numbers are written into the existing arrays, so
    that an optimiser can continue.

    Parameters
    ----------
    path : str or path
        Of `save_weights`, or of ``numpy.savez(path, **arrays)`` with the same names.

    Raises
    ------
    ValueError
        If the model is not built, the file is not such an archive, or names, shapes or dtypes
        differ from those of the model.
    FileNotFoundError, OSError
        If it cannot be read.
    MemoryError
        If its arrays do not fit into memory.
    """
    source = checked_path("load_weights", path)
    own = _own("load_weights", self)
    with open(source, "rb") as file:
        try:
            with zipfile.ZipFile(file) as archive:
                found = _read(archive, own)
        # Damaged archives make zipfile, zlib and Python's parser raise errors of many kinds, and
        # files be read at negative positions.
        except Exception as error:
            full = isinstance(error, MemoryError)
            if full or (isinstance(error, OSError) and error.errno != errno.EINVAL):
                raise
            message = str(error) or type(error).__name__
            raise ValueError(f"load_weights: {source}: {message:.1000}") from error
    for name, array in own.items():
        array[...] = to_device(found[name], self.device)


def _own(what: str, model: Layer) -> dict[str, NDArray[Any]]:
    """Parameters and buffers by name."""
    if not model.built:
        raise ValueError(f"{what}: call build(input_shape, key=...) first")
    params, buffers = model.params, model.buffers
    if params.keys() & buffers.keys():
        both = sorted(params.keys() & buffers.keys())
        raise ValueError(f"{what}: {both} are the names of parameters and of buffers: rename one")
    return dict(params) | dict(buffers)


def _read(archive: zipfile.ZipFile, own: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The arrays of an archive; shapes and dtypes are compared before memory is taken."""
    names = archive.namelist()
    given = {name.removesuffix(".npy") for name in names}
    for what, wrong in (("lacks", own.keys() - given), ("has unknown names:", given - own.keys())):
        if wrong:
            raise ValueError(
                f"it {what} {', '.join(map(repr, sorted(wrong)[:5]))}; the names are "
                f"{', '.join(map(repr, own))}"
            )
    if len(names) != len(own):
        raise ValueError("it has a name twice")
    return {name: _array(archive, name, array) for name, array in own.items()}


def _array(archive: zipfile.ZipFile, name: str, like: NDArray[Any]) -> NDArray[Any]:
    try:
        entry = archive.getinfo(f"{name}.npy")
    except KeyError:
        raise ValueError(f"{name!r} must be a .npy file in it") from None
    with archive.open(entry) as file:
        shape, fortran, dtype = _header(file, name)
        if shape != like.shape or dtype.newbyteorder("=") != like.dtype:
            raise ValueError(
                f"{name!r} must be {like.dtype} of shape {like.shape}, got {dtype} of shape {shape}"
            )
        data = file.read(like.nbytes + 1)
    if len(data) != like.nbytes:
        raise ValueError(f"{name!r} must have {like.nbytes} bytes")
    array = np.frombuffer(data, dtype)
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name!r} is in version {version} of the .npy format, which is not read")
    try:
        return _HEADERS[version](file)
    except MemoryError:  # of Python's parser, where brackets are nested deeply
        raise ValueError(f"the header of {name!r} cannot be read") from None
