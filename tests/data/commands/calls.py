"""A command called in this process, and datasets to call it with."""

import pathlib
from typing import NamedTuple

import numpy as np
import pytest

from jaxneox.cli import main
from jaxneox.data.writer import write_index


class Outcome(NamedTuple):
    code: int
    out: list[str]
    err: str

    def refusal(self) -> str:
        """The one line of a UserError."""
        assert self.code == 2 and not self.out and self.err.count("\n") == 1, self
        assert self.err.startswith("error: ")
        return self.err[len("error: ") : -1]


def call(capsys: pytest.CaptureFixture[str], *words: object) -> Outcome:
    with pytest.raises(SystemExit) as ended:
        main(["data", *map(str, words)])
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return Outcome(ended.value.code, said.out.splitlines(), said.err)


def write(
    prefix: pathlib.Path, documents: list[list[list[int]]], dtype: str = "uint16"
) -> pathlib.Path:
    """Documents of sequences of tokens."""
    sequences = [sequence for document in documents for sequence in document]
    bounds = np.cumsum([0, *map(len, documents)])
    tokens = np.concatenate([np.zeros(0), *sequences]).astype(dtype)
    prefix.with_name(prefix.name + ".bin").write_bytes(tokens.tobytes())
    with prefix.with_name(prefix.name + ".idx").open("wb") as file:
        write_index(file, np.dtype(dtype), np.array([len(s) for s in sequences], int), bounds)
    return prefix
