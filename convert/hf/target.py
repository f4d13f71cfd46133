"""A transformers model as the target of a conversion."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.casting import cast, chosen
from convert.checkpoint import Source, Target
from convert.fate import Fate, laid_out
from convert.hf.choice import choose
from convert.hf.config import config_of
from convert.hf.family import Family
from convert.hf.tokenizer import ids_of, save_tokenizer
from convert.parts import Leaves, Part, layer_of, names_in, parts_of
from convert.readers.hf import HfCheckpoint
from convert.refit import fit_rows
from convert.rules.rule import Rule, sizes_of
from convert.writers.hf import HfWriter, nbytes
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

FIRST_NORM, SECOND_NORM = "layers.norm1.", "layers.norm2."


class HfTarget(Target):
    """A transformers model as the target of a conversion.

    Args:
        source: the checkpoint to write.
        dtype: the type of the weights, or `keep`.
        trim: whether to leave out the padding rows of the vocabulary.
        copy_shared_norm: whether to write the one norm of a gpt_j_tied model twice.

    Raises:
        UserError: no architecture of transformers has exactly the model's function.
    """

    def __init__(
        self,
        source: Source,
        *,
        dtype: str = "keep",
        trim: bool = False,
        copy_shared_norm: bool = False,
    ) -> None:
        self._source, self._dtype = source, dtype
        self._model = model_to_write(source, trim, copy_shared_norm)
        self._family = choose(self._model, source.checkpoint.conversion.get("from"))
        self._rules = self._family.rules(self._model)
        self._sizes = sizes_of(self._model)
        self.title = self._family.architecture
        self._check_complete()
        self.notes = [*trimmed(source, self._model), *too_new(self._family, self._model)]
        self._tensors = {
            name: (rule.shape(self._sizes), self._dtype_of(rule))
            for part in parts_of(self._model)
            for name, rule in self._in_part(part)
        }
        self.nbytes = nbytes(self._tensors)

    def start(self, folder: Path) -> None:
        self._folder = folder
        self._writer = HfWriter(folder, self._tensors)

    def write(self, part: Part, leaves: Leaves) -> list[Fate]:
        rows, fates = self._model.vocab_size, []
        fitted = {name: fit_rows(name, leaf, rows) for name, leaf in leaves.items()}
        for name, rule in self._in_part(part):
            stored = {leaf: fitted[self._origin(leaf)] for leaf in rule.leaves}
            tensor = cast(name, rule.get(stored, self._sizes, rank=0), self._dtype_of(rule))
            fates.append(self._account(rule, layer_of(part), stored, tensor))
            self._writer.write(name, tensor)
        return fates

    def finish(self) -> list[str]:
        notes = write_tokenizer(self._source, self._model, self._folder)
        self._writer.finish(config_of(self._family, self._model) | self._loading())
        return notes

    def reopen(self) -> HfCheckpoint:
        return HfCheckpoint(self._folder)

    def result(self, dst: Path) -> tuple[str, str]:
        kind = "SequenceClassification" if self._family.rewards else "CausalLM"
        return (
            f"{dst}   {self.title}, {len(self._tensors)} tensors",
            f"Next: transformers.AutoModelFor{kind}.from_pretrained({str(dst)!r})",
        )

    def _in_part(self, part: Part) -> Iterator[tuple[str, Rule]]:
        """Return the tensors of a part by their names on disk."""
        for rule in self._rules:
            if names_in(part, rule.leaves, self._model):
                yield rule.theirs.format(layer_of(part)), rule

    def _dtype_of(self, rule: Rule) -> np.dtype:
        return chosen(self._dtype, self._source.dtypes[self._origin(rule.parts[0].leaf)])

    def _origin(self, leaf: str) -> str:
        """Return the parameter behind a written one; a shared norm may be written twice."""
        if leaf in self._source.checkpoint.shapes:
            return leaf
        return leaf.replace(SECOND_NORM, FIRST_NORM)

    def _check_complete(self) -> None:
        """Raise a UserError if a parameter of the source would be left behind."""
        there = set(self._source.checkpoint.shapes)
        taken = {self._origin(leaf) for rule in self._rules for leaf in rule.leaves}
        if taken != there:
            names = ", ".join(sorted(taken ^ there))
            raise UserError(f"{self.title} has no place for {names}")

    def _account(self, rule: Rule, layer: int | None, stored: Leaves, tensor: np.ndarray) -> Fate:
        regions = [stored[part.leaf][part.region(self._sizes, 0)] for part in rule.parts]
        ours = np.concatenate([np.ravel(region) for region in regions])
        leaf = " + ".join(part.leaf for part in rule.parts)
        return laid_out(rule.theirs.replace("{}", "*"), layer, leaf, ours, tensor)

    def _loading(self) -> dict[str, Any]:
        """Return config.json's further keys: the type and the tokens that end a document."""
        dtypes = {dtype.name for _, dtype in self._tensors.values()}
        dtype = dtypes.pop() if len(dtypes) == 1 else "float32"  # holds the others exactly
        return ids_of(self._source.tokenizer) | {"dtype": dtype, "torch_dtype": dtype}


def model_to_write(source: Source, trim: bool, copy_shared_norm: bool) -> ModelConfig:
    model = source.checkpoint.model
    if copy_shared_norm:
        model = replace(model, shared_norm=False)
    if trim:
        if source.tokenizer is None:
            raise UserError(
                f"{source.path}: has no tokenizer, so that --vocab trim cannot know which rows are "
                "padding; use --vocab keep"
            )
        model = replace(model, vocab_size=min(model.vocab_size, source.tokenizer.rows))
    return model


def trimmed(source: Source, model: ModelConfig) -> list[str]:
    left_out = source.checkpoint.model.vocab_size - model.vocab_size
    if not left_out:
        return []
    return [
        f"{left_out} padded rows of the vocabulary are left out: the other logits are the same, "
        "but the softmax no longer has theirs, so that every probability is a little larger"
    ]


def too_new(family: Family, model: ModelConfig) -> list[str]:
    config = config_of(family, model)
    return [
        f"transformers before {version} does not read {key}: it drops the biases that the key "
        "switches on"
        for key, version in family.since.items()
        if config[key]
    ]


def write_tokenizer(source: Source, model: ModelConfig, folder: Path) -> list[str]:
    """Write the tokenizer, and list what could not be written, one line each."""
    if source.tokenizer is None:
        return ["the checkpoint has no tokenizer: there is none beside the model"]
    nameless = [
        "nothing names the token that ends a document: eos_token_id is null, and transformers "
        "stops at none; set eod-token in the run's YAML and train on, or convert its source again"
    ]
    notes = [] if source.tokenizer.stops else nameless
    try:
        return notes + save_tokenizer(source.tokenizer, folder, model.positions.max_positions)
    except UserError as error:
        return [str(error)]
