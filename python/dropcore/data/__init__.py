"""Data: tables and arrays from files, preprocessing, splits, and prefetched batches.

==================  =======================================================================
`_tables`           tables from CSV and Parquet files: read_table, split_target
`_parquet`          rows of Parquet files that need not fit into memory: ParquetRows
`_arrays`           arrays from .npy, .npz and idx files, memory-mapped: read_arrays
`_preprocessing`    Preprocessing: mixed tables as arrays, by scikit-learn's transformers
`_learned`          what a preprocessing has learned, also as plain data
`_transformers`     scikit-learn's transformers, and how they are restored
`_scaling`          TargetScaling: standardised targets of a regression
`_files`            paths of files, and similar names where there is no such file
`_splits`           parts for training, validation and testing: split, split_rows
`_prefetch`         batches that a thread reads ahead: prefetch
`_columns`          columns of data frames and arrays as plain numbers or plain text
==================  =======================================================================
"""

from dropcore.data._arrays import read_arrays
from dropcore.data._parquet import ParquetRows
from dropcore.data._prefetch import prefetch
from dropcore.data._preprocessing import Preprocessing
from dropcore.data._scaling import TargetScaling
from dropcore.data._splits import split, split_rows
from dropcore.data._tables import read_table, split_target

__all__ = [
    "ParquetRows",
    "Preprocessing",
    "TargetScaling",
    "prefetch",
    "read_arrays",
    "read_table",
    "split",
    "split_rows",
    "split_target",
]
