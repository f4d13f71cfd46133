"""A Megatron-LM run as the source of a conversion."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convert.casting import cast, chosen
from convert.checkpoint import Source
from convert.fate import Fate
from convert.hf.tokenizer import tokenizer_at
from convert.megatron.account import account, facts, left_out
from convert.megatron.arguments_in import ReadingChoices
from convert.megatron.training_in import as_ours, training_keys
from convert.ours.training_placeholders import OPTIMIZER_KEYS
from convert.parts import Leaves, Part, layer_of
from convert.readers.megatron import MegatronCheckpoint, open_megatron
from convert.readers.megatron_optimizer import open_optimizer
from convert.replaced_keys import replaced
from convert.rules.megatron import rules_in
from convert.tokenizers import check_rows, notes_of, tokenizer_keys
from jaxneox.data import Tokenizer


@dataclass(frozen=True)
class MegatronOptions:
    """A user's choices.

    Attributes:
        step: a step of the run; by default the newest.
        reading: answers to what neither tensors nor arguments say.
        tokenizer: a file, because Megatron saves none.
        optimizer: whether to carry over Adam's state, and with it the master weights.
        dtype: the type in which parameters are returned, or `keep`.
    """

    step: int | None = None
    reading: ReadingChoices = field(default_factory=ReadingChoices)
    tokenizer: Path | None = None
    optimizer: bool = False
    dtype: str = "keep"


class MegatronSource(Source):
    """A Megatron-LM run as the source of a conversion.

    Raises:
        UserError: files are missing or damaged, or we do not have the function.
    """

    checkpoint: MegatronCheckpoint

    def __init__(self, src: Path, options: MegatronOptions) -> None:
        weights = open_megatron(src, step=options.step, choices=options.reading)
        keys: dict[str, Any] = dict(weights.keys)
        notes: list[str] = []
        shards, self.checkpoint = weights.shards, weights
        if options.optimizer:
            optimizer = open_optimizer(weights)
            own, notes = training_keys(shards.args, optimizer, shards.step, keys["precision"])
            keys = replaced({n: v for n, v in keys.items() if n not in OPTIMIZER_KEYS}, own)
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
        self.conversion = self.checkpoint.choices.as_conversion()

    def read(self, part: Part) -> tuple[Leaves, list[Fate]]:
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
    """Open the given tokenizer, or note that there is none."""
    if given is None:
        return None, ["the checkpoint gets no tokenizer; give one with --tokenizer FILE"]
    tokenizer = tokenizer_at(given)
    check_rows(tokenizer, source.model.vocab_size, given)
    return tokenizer, notes_of(tokenizer)
