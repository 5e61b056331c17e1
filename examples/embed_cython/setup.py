"""Builds the example: ``python setup.py build_ext --inplace`` where dropcore is installed."""

from Cython.Build import cythonize
from setuptools import Extension, setup

import dropcore

extension = Extension("row_dropout", ["row_dropout.pyx"], include_dirs=[dropcore.get_include()])
setup(name="row_dropout", ext_modules=cythonize([extension], language_level=3))
