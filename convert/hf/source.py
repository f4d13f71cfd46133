"""A transformers model as the source of a conversion."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from convert.casting import PRECISION, cast, chosen
from convert.checkpoint import Source
from convert.fate import Fate, laid_out
from convert.hf.tokenizer import tokenizer_at, with_generation_of
from convert.parts import Leaves, Part, Shapes, layer_of
from convert.readers.hf import HfCheckpoint
from convert.refit import fit_rows, more_rows, rows_shape
from convert.tokenizers import check_rows, notes_of, tokenizer_keys
from jaxneox.data import Tokenizer
from jaxneox.data.companions import token_ids
from jaxneox.errors import UserError


class HfSource(Source):
    """A transformers model as the source of a conversion.

    Args:
        folder: a folder with a config.json.
        dtype: the type in which parameters are returned, or `keep`.
        tokenizer: a file to use in place of the tokenizer beside the model.
        vocab_multiple: the vocabulary gets rows of zeros until this divides their number.
    """

    checkpoint: HfCheckpoint

    def __init__(
        self,
        folder: Path,
        *,
        dtype: str = "keep",
        tokenizer: Path | None = None,
        vocab_multiple: int = 1,
    ) -> None:
        self.checkpoint = HfCheckpoint(folder)
        self.path = folder
        self.title = self.checkpoint.family.architecture
        names = self.checkpoint.shapes
        self.dtypes = {name: chosen(dtype, self.checkpoint.dtype(name)) for name in names}
        rows = self.checkpoint.model.vocab_size
        self.rows = -(-rows // vocab_multiple) * vocab_multiple
        self.tokenizer, notes = choose_tokenizer(self.checkpoint, self.rows, tokenizer)
        if self.rows != rows:
            notes.append(more_rows(rows, self.rows, f"so that {vocab_multiple} divides them"))
        keys = self.checkpoint.keys | {"precision": precision(self.dtypes)}
        keys["padded_vocab_size"] = self.rows
        self.keys = keys | tokenizer_keys(self.tokenizer)
        self.notes = [*self.checkpoint.warnings, *notes]
        self.facts = {"kind": "Hugging Face", "folder": folder.name}
        self.files = self.checkpoint.files
        self.conversion = {"from": self.title}

    @property
    def shapes(self) -> Shapes:
        there = self.checkpoint.shapes.items()
        return {name: rows_shape(name, shape, self.rows) for name, shape in there}

    def read(self, part: Part) -> tuple[Leaves, list[Fate]]:
        layer, leaves, fates = layer_of(part), Leaves(), []
        for name, leaf in self.checkpoint.leaves(part).items():
            stored = cast(name, leaf, self.dtypes[name])
            origin = self.checkpoint.origin(name)
            fates.append(laid_out(origin, layer, name, leaf, stored))
            leaves[name] = fit_rows(name, stored, self.rows)
        return leaves, fates


def choose_tokenizer(
    checkpoint: HfCheckpoint, rows: int, given: Path | None
) -> tuple[Tokenizer | None, list[str]]:
    """Return the given tokenizer or the one beside the model, and notes if there is none.

    Args:
        checkpoint: the model.
        rows: how many tokens the vocabulary has room for.
        given: a file to use in place of the tokenizer beside the model.
    """
    ids = token_ids(checkpoint.folder / "config.json", checkpoint.config)
    if given is not None:
        tokenizer = with_generation_of(tokenizer_at(given), checkpoint.folder)
        check_rows(tokenizer, rows, given)
        return tokenizer, notes_of(tokenizer)
    none = "the checkpoint gets no tokenizer; give one with --tokenizer FILE"
    if ids.get("eos_token_id") is not None:
        none += f". Generation stops at config.json's eos_token_id {ids['eos_token_id']} only then"
    try:
        beside = checkpoint.tokenizer
        if beside is None:
            return None, [f"{checkpoint.folder}: has no tokenizer that we know: {none}"]
        check_rows(beside, rows, checkpoint.folder)
    except UserError as error:
        return None, [f"{error}: {none}"]
    return beside, notes_of(beside)


def precision(dtypes: Mapping[str, np.dtype]) -> str:
    """Return NeoX's name of the type that all parameters share, or of float32 if they differ."""
    names = {dtype.name for dtype in dtypes.values()}
    return PRECISION[names.pop() if len(names) == 1 else "float32"]
