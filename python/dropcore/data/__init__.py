"""Data: tables and arrays of files, preprocessing, splits, and batches read ahead.

==================  =======================================================================
`_preprocessing`    Preprocessing: mixed tables as arrays, by scikit-learn's transformers
`_scaling`          TargetScaling: targets of a regression in units of their deviation
`_columns`          columns of data frames and arrays as plain numbers or plain text
==================  =======================================================================
"""

from dropcore.data._preprocessing import Preprocessing
from dropcore.data._scaling import TargetScaling

__all__ = ["Preprocessing", "TargetScaling"]
