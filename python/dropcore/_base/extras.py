"""Optional packages: which extra of dropcore brings them, and the error where one is missing."""

from __future__ import annotations

import importlib
from typing import Any, Final

__all__ = ["EXTRAS", "require"]

EXTRAS: Final[dict[str, tuple[str, ...]]] = {
    "practice": (
        "pandas",
        "pyarrow",
        "sklearn",
        "safetensors",
        "optuna",
        "joblib",
        "pooch",
        "matplotlib",
        "jinja2",
    ),
    "tables": ("pandas", "pyarrow", "sklearn"),
    "save": ("safetensors",),
    "tune": ("optuna", "joblib", "sklearn"),
    "cluster": ("dask", "distributed", "optuna", "joblib", "sklearn"),
    "datasets": ("pooch", "sklearn"),
    "report": ("matplotlib", "jinja2"),
    "plot": ("matplotlib",),
    "metrics": ("sklearn",),
    "tensorboard": ("tensorboardX",),
    "mpi": ("mpi4py", "greenlet"),
    "demo": ("sklearn", "matplotlib"),
    "jax": ("jax",),
    "keras": ("keras",),
    "numba": ("numba", "llvmlite"),
    "onnx": ("onnx",),
    "thinc": ("thinc",),
    "gpu": ("cupy",),
    "bf16": ("ml_dtypes",),
    "sklearn": ("sklearn",),
    "torch": ("torch", "ml_dtypes"),
}
"""The extras of pyproject.toml that users install, and the modules that they bring."""

_PACKAGES: Final = {
    "sklearn": "scikit-learn",
    "jinja2": "Jinja2",
    "cupy": "CuPy",
    "jax": "JAX",
    "keras": "Keras",
    "onnx": "ONNX",
    "torch": "PyTorch",
}
"""Names of packages that differ from those of their modules."""


def require(module: str, extra: str, what: str) -> Any:
    """Import an optional module when it is used.

    Parameters
    ----------
    module : str
        Such as "sklearn.preprocessing".
    extra : str
        The extra of dropcore that brings it.
    what : str
        What needs it, in the singular: "reading a CSV file".

    Raises
    ------
    ImportError
        If its package is missing. It names the package, and the command that installs it.
    """
    root = module.partition(".")[0]
    assert root in EXTRAS[extra], f"the extra {extra} does not bring {root}"
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != root:
            raise
        raise ImportError(
            f"{what} needs {_PACKAGES.get(root, root)}, which is not installed: "
            f"pip install 'dropcore[{extra}]'",
            name=root,
        ) from None
