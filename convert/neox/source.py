"""A GPT-NeoX run as the source of a conversion."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from convert.checkpoint import Source
from convert.fate import Fate
from convert.neox import training as neox_training
from convert.neox.account import files_not_read, left_out, source_facts
from convert.neox.checkpoint import NeoxModel
from convert.neox.consistency import check_consistency
from convert.neox.join import merge_part
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices, MergePlan
from convert.neox.tokenizer import find_tokenizer
from convert.neox.training_keys import training_keys
from convert.parts import Leaves, Part
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_open import open_neox
from convert.tokenizers import check_rows
from jaxneox.config import Settings
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError

OF_ITS_RUN = ("save", "load", "iteration", "finetune")
"""Keys that would make a run of ours continue in NeoX's folders."""

BATCH_KEYS = {"train_batch_size", "train_micro_batch_size_per_gpu", "batch_size"}


@dataclass(frozen=True)
class NeoxOptions:
    """A user's choices.

    Attributes:
        step: a step of the run; by default the one that `latest` names.
        config: YAML files in place of the checkpoint's own.
        tokenizer: a file in place of the YAML's.
        merge: how the ranks' copies become one.
        optimizer: whether to carry over Adam's state. Norms that drifted are then averaged,
            because a folded norm cannot be trained further.
        clean_biases: whether merged output biases move by a single step at a time.
    """

    step: int | None = None
    config: list[Path] | None = None
    tokenizer: Path | None = None
    merge: MergeChoices = field(default_factory=MergeChoices)
    optimizer: bool = False
    clean_biases: bool = False


class NeoxSource(Source):
    """A GPT-NeoX run as the source of a conversion.

    Raises:
        UserError: files are missing, damaged or contradict their YAML, or no merge has the
            ranks' function.
    """

    def __init__(self, src: Path, options: NeoxOptions) -> None:
        ranks = open_neox(src, step=options.step, config=options.config)
        check_consistency(ranks)
        choices = options.merge
        training = neox_training.open_training(ranks) if options.optimizer else None
        if training:
            ranks = neox_training.masters(ranks, training)
            choices = replace(choices, norms="mean" if choices.norms == "fold" else choices.norms)
        plan = make_plan(ranks, choices)
        if training:
            clean = options.clean_biases
            plan.keys |= training_keys(ranks, training.optimizer, training.summed, clean=clean)
            plan.warnings += neox_training.training_notes(ranks, training, plan)
            self.training = neox_training.as_ours(ranks, training)
        self._ranks, self._plan = ranks, plan
        self.checkpoint = NeoxModel(ranks, plan)
        self.path = ranks.files.folder
        self.title = f"GPT-NeoX step {ranks.step}, model-parallel size {ranks.mp},"
        self.step, self.dp = ranks.step, ranks.dp
        self.dtypes = plan.dtypes
        keys = destination_keys(ranks, plan)
        self.tokenizer, notes = its_tokenizer(ranks, plan, keys, options.tokenizer)
        self.keys = with_tokenizer(keys, self.tokenizer, given=options.tokenizer is not None)
        self.notes = [*plan.warnings, *notes]
        self.facts = source_facts(ranks, plan) | dict(self.training.facts if self.training else {})
        more = training.files if training else []
        self.files = [*ranks.yamls, *ranks.weight_files, *more]
        self.unread = files_not_read(ranks)
        self.left_out: Sequence[Fate] = [*left_out(ranks)]
        self.conversion = {"from": "GPT-NeoX", **asdict(choices)}

    def layer(self, part: Part) -> tuple[Leaves, list[Fate]]:
        return merge_part(self._ranks, self._plan, part)


def destination_keys(source: NeoxCheckpoint, plan: MergePlan) -> dict[str, Any]:
    """Return the source's YAML keys as merged; a YAML without training gets placeholders for it."""
    keys = {name: value for name, value in plan.keys.items() if name not in OF_ITS_RUN}
    keys.setdefault("train_iters", max(1, source.step))
    if not keys.keys() & BATCH_KEYS:
        keys["train_micro_batch_size_per_gpu"] = 1
    return keys


def its_tokenizer(
    source: NeoxCheckpoint, plan: MergePlan, keys: Mapping[str, Any], given: Path | None
) -> tuple[Tokenizer | None, list[str]]:
    """Return the given tokenizer or the YAML's, and notes about it.

    Raises:
        UserError: the tokenizer has more tokens than the model has rows.
    """
    tokenizer, notes = find_tokenizer(Settings(keys).tokenizer, given, source.files.folder)
    if tokenizer is not None:
        named = given or keys.get("vocab_file") or tokenizer.name
        rows = plan.model.vocab_size
        if tokenizer.vocab_size > rows:
            raise UserError(
                f"{named}: has {tokenizer.vocab_size} tokens, the model {rows} rows; use the "
                "tokenizer it was trained with"
            )
        check_rows(tokenizer, rows, named)
    return tokenizer, notes


def with_tokenizer(
    keys: dict[str, Any], tokenizer: Tokenizer | None, *, given: bool
) -> dict[str, Any]:
    """Return the keys for a given tokenizer, which replaces the one that the YAML names."""
    if tokenizer is None or not given:
        return keys
    rest = {n: v for n, v in keys.items() if n not in ("vocab_file", "merge_file")}
    return rest | {"tokenizer_type": tokenizer.name}
