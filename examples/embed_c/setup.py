"""Builds the example: ``python setup.py build_ext --inplace`` where dropcore is installed."""

from setuptools import Extension, setup

import dropcore

extension = Extension("c_dropout", ["c_dropout.c"], include_dirs=[dropcore.get_include()])
setup(name="c_dropout", ext_modules=[extension])
