"""The record beside a reference model's log-probabilities: of which rows they are, by which model.

`<tokens>_<name>.json` is written by `jaxneox precompute` before the dataset, so that where there
are both, the one describes the other. NeoX's files have none, and are taken as they are.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxneox.data.atomic import atomic_file
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.storage import Prefix, Url
from jaxneox.errors import UserError
from jaxneox.reading import read_json

ROWS, MODEL = "rows", "model"


def identity_of_rows(texts: IndexedDataset, seq_length: int, *more: NDArray[Any]) -> dict[str, Any]:
    """Return what decides the rows of texts, one for each document, as JSON.

    Args:
        texts: the tokens.
        seq_length: tokens of a row, less one.
        more: arrays that decide them besides.
    """
    digest = hashlib.sha256(json.dumps(texts.content, sort_keys=True).encode())
    for values in more:
        digest.update(np.ascontiguousarray(values).tobytes())
    return {"seq_length": seq_length, "sha256": digest.hexdigest()}


def path_of(prefix: Prefix) -> Path | None:
    """Return where the record of a dataset lies; None if that is behind a URL."""
    return None if isinstance(prefix, Url) else prefix.with_name(f"{prefix.name}.json")


def read(prefix: Prefix) -> dict[str, Any] | None:
    """Read the record of a dataset; None if there is none.

    Raises:
        UserError: the file is no record.
    """
    path = path_of(prefix)
    if path is None or not path.exists():
        return None
    record = read_json(path)
    if not isinstance(record, dict) or not {ROWS, MODEL} <= record.keys():
        raise UserError(
            f"{path}: is no record of log-probabilities; move it away if it is a file of your own, "
            "or make them again with `jaxneox precompute --again`"
        )
    return record


def write(prefix: Path, rows: dict[str, Any], model: str) -> None:
    """Write the record of a dataset that is about to be written.

    Args:
        prefix: of the log-probabilities.
        rows: see `identity_of_rows`.
        model: a fingerprint of the reference model.
    """
    path = path_of(prefix)
    assert path is not None
    with atomic_file(path) as file:
        file.write(json.dumps({ROWS: rows, MODEL: model}, indent=1).encode() + b"\n")
