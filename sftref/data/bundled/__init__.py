"""Paraphrase pairs that come with the package, in QQP's columns: question1, question2, label (1 = paraphrase), idx.

A paraphrase is one Bible verse in two English translations; a non-paraphrase is two verses of the same book that share
many words. All four translations are in the public domain. `README.md` in this folder is the data card.
"""

import importlib.resources
import pathlib

SPLITS = ("train", "validation")


def path(split: str) -> pathlib.Path:
    """The Parquet file of one split.

    Raises:
        ValueError: there is no such split.

    Example:
        >>> path("validation").name
        'validation.parquet'
    """
    if split not in SPLITS:
        raise ValueError(f"split = {split!r}, should be one of {SPLITS}")
    return pathlib.Path(str(importlib.resources.files(__name__) / f"{split}.parquet"))
