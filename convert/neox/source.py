"""A GPT-NeoX run as the source of a conversion."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from convert.checkpoint import Source
from convert.fate import Fate
from convert.neox import training_in
from convert.neox.account import files_not_read, left_out, source_facts
from convert.neox.checkpoint import NeoxModel
from convert.neox.consistency import check_consistency
from convert.neox.join import merge_part
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices, MergePlan
from convert.neox.tokenizer_in import find_tokenizer, looked_for
from convert.neox.training_keys_in import training_keys
from convert.parts import Leaves, Part
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_open import open_neox
from convert.replaced_keys import replaced
from convert.tokenizers import check_rows, tokenizer_keys
from jaxneox.config import Settings
from jaxneox.data import Tokenizer

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


@dataclass(frozen=True)
class Opened:
    """A run's ranks, how they become one model, and the training that comes along."""

    ranks: NeoxCheckpoint
    plan: MergePlan
    choices: MergeChoices
    training: training_in.NeoxTraining | None


def open_run(src: Path, options: NeoxOptions) -> Opened:
    """Open a run and decide how its ranks become one model.

    Raises:
        UserError: a file is missing, damaged or contradicts the YAML; or NeoX computed something
            that no merge comes near.
    """
    ranks = open_neox(src, step=options.step, config=options.config)
    check_consistency(ranks)
    if not options.optimizer:
        return Opened(ranks, make_plan(ranks, options.merge), options.merge, None)
    training = training_in.open_training(ranks)
    ranks = training_in.masters(ranks, training)
    choices = options.merge
    if choices.norms == "fold":
        choices = replace(choices, norms="mean")
    plan = make_plan(ranks, choices)
    clean = options.clean_biases
    own = training_keys(ranks, training.optimizer, training.summed, clean=clean)
    plan.keys = replaced(plan.keys, own)
    plan.warnings += training_in.training_notes(ranks, training, plan)
    return Opened(ranks, plan, choices, training)


class NeoxSource(Source):
    """A GPT-NeoX run as the source of a conversion; its ranks are merged while they are read."""

    def __init__(self, src: Path, options: NeoxOptions) -> None:
        opened = open_run(src, options)
        ranks, plan = opened.ranks, opened.plan
        self._ranks, self._plan = ranks, plan
        self._room = threading.local()
        self.checkpoint = NeoxModel(ranks, plan)
        self.path, self.step, self.dp = ranks.files.folder, ranks.step, ranks.dp
        self.title = f"GPT-NeoX step {ranks.step}, model-parallel size {ranks.mp}"
        self.dtypes = plan.dtypes
        keys = destination_keys(ranks, plan)
        self.outside = looked_for(Settings(keys).tokenizer, ranks.files.folder)
        self.tokenizer, notes = its_tokenizer(ranks, plan, keys, options.tokenizer)
        if options.tokenizer is not None:  # that counts, not what the YAML names
            keys = {n: v for n, v in keys.items() if n not in ("vocab_file", "merge_file")}
            keys |= tokenizer_keys(self.tokenizer)
        self.keys = keys
        self.notes = [*plan.warnings, *notes]
        self.facts = source_facts(ranks, plan)
        self.files = [*ranks.yamls, *ranks.weight_files]
        self.unread = files_not_read(ranks)
        self.left_out: Sequence[Fate] = [*left_out(ranks)]
        self.conversion = {"from": "GPT-NeoX", **asdict(opened.choices)}
        if opened.training:
            self.training = training_in.as_ours(ranks, opened.training)
            self.facts |= self.training.facts
            self.files += opened.training.files

    def read(self, part: Part) -> tuple[Leaves, list[Fate]]:
        room = getattr(self._room, "leaves", {})
        leaves, fates = merge_part(self._ranks, self._plan, part, room)
        self._room.leaves = leaves if isinstance(part, int) else {}
        return leaves, fates


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
        check_rows(tokenizer, plan.model.vocab_size, named)
    return tokenizer, notes
