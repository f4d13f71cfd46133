"""A run of Megatron-LM as the source of a conversion."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.casting import cast, chosen
from convert.checkpoint import Source
from convert.fate import Fate
from convert.hf.tokenizer import tokenizer_at
from convert.megatron.account import account, facts, left_out
from convert.megatron.config import ReadingChoices
from convert.megatron.training import as_ours, training_keys
from convert.ours.unsaid import OPTIMIZER_SAYS
from convert.parts import Leaves, Part, layer_of
from convert.readers.megatron import MegatronCheckpoint, open_megatron
from convert.readers.megatron_optimizer import open_optimizer
from convert.rules.megatron import rules_in
from convert.tokenizers import check_rows, notes_of, tokenizer_keys
from jaxneox.data import Tokenizer


@dataclass(frozen=True)
class Options:
    """What a user chooses.

    Attributes:
        step: of the run; the newest by default.
        reading: what neither tensors nor arguments say.
        tokenizer: a file; Megatron keeps none.
        optimizer: whether Adam's state comes along, and the master weights with it.
        dtype: the type in which parameters are returned, or `keep`.
    """

    step: int | None = None
    reading: ReadingChoices = field(default_factory=ReadingChoices)
    tokenizer: Path | None = None
    optimizer: bool = False
    dtype: str = "keep"


class MegatronSource(Source):
    """Raises UserError for files that are missing or damaged, and for a function that we do not
    have."""

    checkpoint: MegatronCheckpoint

    def __init__(self, src: Path, options: Options) -> None:
        weights = open_megatron(src, step=options.step, choices=options.reading)
        keys: dict[str, Any] = dict(weights.keys)
        notes: list[str] = []
        shards, self.checkpoint = weights.shards, weights
        if options.optimizer:
            optimizer = open_optimizer(weights)
            own, notes = training_keys(shards.args, optimizer, shards.step, keys["precision"])
            keys = {n: v for n, v in keys.items() if n not in OPTIMIZER_SAYS} | own
            self.checkpoint = optimizer.kinds["param"]  # the master weights
            self.training = as_ours(self.checkpoint, optimizer)
        self.path, self.step = src, shards.step
        self.title = f"Megatron-LM step {self.step}"
        self.dtypes = {
            name: chosen(options.dtype, self.checkpoint.dtype(name))
            for name in self.checkpoint.shapes
        }
        self.tokenizer, missing = its_tokenizer(self.checkpoint, options.tokenizer)
        self.keys = keys | tokenizer_keys(self.tokenizer)
        self.notes = [*self.checkpoint.notes, *missing, *notes]
        state = dict(self.training.facts) if self.training else {}
        self.facts = facts(self.checkpoint) | state
        self.files = shards.opened
        self.left_out: Sequence[Fate] = [*left_out(self.checkpoint)]
        self.conversion = self.checkpoint.choices.said()

    def layer(self, part: Part) -> tuple[Leaves, list[Fate]]:
        source, layer = self.checkpoint, layer_of(part)
        leaves, fates = Leaves(), []
        for rule in rules_in(part, source.model):
            for name, leaf in source.parameters(rule, layer).items():
                leaves[name] = cast(name, leaf, self.dtypes[name])
            if source.has(rule, layer):
                fates.append(account(source, rule, layer, leaves))
        source.forget()
        return leaves, fates


def its_tokenizer(
    source: MegatronCheckpoint, given: Path | None
) -> tuple[Tokenizer | None, list[str]]:
    """The given one, and what there is to say where there is none."""
    if given is None:
        return None, ["the checkpoint gets no tokenizer; give one with --tokenizer FILE"]
    tokenizer = tokenizer_at(given)
    check_rows(tokenizer, source.model.vocab_size, given)
    return tokenizer, notes_of(tokenizer)
