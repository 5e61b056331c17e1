"""Data: tables and arrays of files, preprocessing, splits, and batches read ahead.

==================  =======================================================================
`_tables`           tables of CSV and Parquet files: read_table, split_target
`_arrays`           arrays of .npy, .npz and idx files, memory-mapped: read_arrays
`_preprocessing`    Preprocessing: mixed tables as arrays, by scikit-learn's transformers
`_scaling`          TargetScaling: targets of a regression in units of their deviation
`_files`            paths of files, and the nearest one if there is none
`_splits`           parts for training, validation and testing: split, split_rows
`_prefetch`         batches that a thread reads ahead: prefetch
`_columns`          columns of data frames and arrays as plain numbers or plain text
==================  =======================================================================
"""

from dropcore.data._arrays import read_arrays
from dropcore.data._prefetch import prefetch
from dropcore.data._preprocessing import Preprocessing
from dropcore.data._scaling import TargetScaling
from dropcore.data._splits import split, split_rows
from dropcore.data._tables import read_table, split_target

__all__ = [
    "Preprocessing",
    "TargetScaling",
    "prefetch",
    "read_arrays",
    "read_table",
    "split",
    "split_rows",
    "split_target",
]
