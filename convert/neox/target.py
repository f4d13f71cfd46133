"""GPT-NeoX's own files as the target of a conversion."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from convert.checkpoint import Source, Target, Training
from convert.fate import Fate
from convert.neox.checkpoint import NeoxModel
from convert.neox.grid import NeoxGrid, default_expert_size
from convert.neox.merge import make_plan
from convert.neox.plan import MergeChoices
from convert.neox.split import Split
from convert.neox.tokenizer_out import for_neox
from convert.neox.training_out import NeoxState, collect, prepare
from convert.parts import Leaves, Part
from convert.readers.neox_mlp_keys import keys_of_gated
from convert.readers.neox_open import open_neox
from convert.replaced_keys import replaced
from convert.writers.neox import NeoxWriter
from jaxneox.config import Settings
from jaxneox.config.keys.model import GATED_ACTIVATIONS
from jaxneox.config.keys.undocumented import OURS
from jaxneox.config.present import in_present_names
from jaxneox.config.schema import ModelConfig
from jaxneox.data import Tokenizer


class NeoxTarget(Target):
    """GPT-NeoX's own files as the target of a conversion.

    Args:
        source: the checkpoint to write, whose keys the YAML will have.
        grid: the ranks and stages to write for.
        dst: the path at which NeoX will find the files; the YAML contains it.
        dp: the number of data-parallel ranks, which the optimizer's state depends on.
    """

    def __init__(self, source: Source, grid: NeoxGrid, dst: Path, dp: int = 1) -> None:
        self._source, self._grid, self._dst, self._dp = source, grid, dst, dp
        self._split = Split(source.checkpoint, grid)
        self._tokenizer, notes = self._its_tokenizer(source)
        self.notes: list[str] = [*self._split.warnings, *notes]
        before = source.checkpoint.model.attention
        if before.bias and not before.biased_output:
            self.notes.append(
                "NeoX has a bias on the attention's output where queries, keys and values have "
                "one: it is written as zeros, and NeoX would train it"
            )
        self.title = f"GPT-NeoX, {grid}"
        self.facts = {"written for": str(grid), "dtype": self._split.dtype.name}
        self.nbytes = self._split.nbytes * (3 if source.training else 1)
        self._state: NeoxState | None = None
        self._state_keys: dict[str, Any] = {}

    def start(self, folder: Path) -> None:
        grid, source = self._grid, self._source
        self._folder = folder
        if source.training:
            kept = folder / ".moments"  # where they lie until their files are written
            kept.mkdir()
            self._state, self._state_keys, notes = prepare(
                source, source.training, grid, kept, self._dp
            )
            self.notes = [*self.notes, *notes]
        self._writer = NeoxWriter(
            folder, source.step, mp=grid.mp, pp=grid.pp, old_names=grid.old_names
        )

    def write(self, part: Part, leaves: Leaves) -> list[Fate]:
        fates = []
        for index, ranks, account in self._split.cut(part, leaves):
            fates += account
            for rank, tensors in enumerate(ranks):
                self._writer.write(index, rank, tensors)
        return fates

    def write_training(self, training: Training, advance: Callable[[int], None]) -> None:
        assert self._state is not None
        collect(self._state, self._source, training, self._grid, advance)

    def finish(self) -> list[str]:
        if self._tokenizer is not None:
            self._tokenizer.save(self._folder / "tokenizer")
        keys = replaced(self._keys(), self._state_keys)
        if self._state is not None:
            keys.pop("finetune")
        self._writer.finish(keys, self._args(), self._state)
        if self._state is not None:
            self._state.adam.remove()
        return []

    def reopen(self) -> NeoxModel:
        ranks = open_neox(self._folder)
        return NeoxModel(ranks, make_plan(ranks, MergeChoices()))

    def result(self, dst: Path) -> tuple[str, str]:
        loads = (
            "NeoX goes on with it" if self._state else "finetune loads the weights, at iteration 0"
        )
        return (
            f"{dst}   NeoX's checkpoint for {self._grid}",
            f"{dst}/neox_config.yml   its YAML: {loads}",
        )

    def _its_tokenizer(self, source: Source) -> tuple[Tokenizer | None, list[str]]:
        if source.tokenizer is not None:
            return for_neox(source.tokenizer)
        named = source.keys.get("vocab_file")
        stays = f"vocab-file stays {named}" if named else "has no vocab-file"
        return None, [f"there is no tokenizer here: the YAML {stays}"]

    def _keys(self) -> dict[str, Any]:
        """Return the YAML: the run's keys, with the changes that these files need.

        `finetune` is set if there are weights alone: with `no_load_optim`, NeoX HEAD would train
        the first parameter only, by its get_optimizer.
        """
        source, dst = self._source, self._dst
        keys = {n: v for n, v in source.keys.items() if n not in (*OURS, "padded_vocab_size")}
        keys = in_present_names(keys)  # without mlp_type, which HEAD lacks
        mlp = source.checkpoint.model.mlp
        if mlp.gated and Settings(keys)["activation"] not in GATED_ACTIVATIONS:
            keys |= keys_of_gated(mlp)
        keys |= keys_of_experts(source.checkpoint.model, keys)
        if "max_micro_batch_size" in source.keys:
            keys["train_micro_batch_size_per_gpu"] = source.keys["max_micro_batch_size"]
        keys |= {
            "model_parallel_size": self._grid.mp,
            "pipe_parallel_size": self._grid.pp,
            "make_vocab_size_divisible_by": self._multiple(),
            "use_bias_in_norms": True,
            "load": str(dst),
            "finetune": True,
        }
        if source.checkpoint.model.head == "reward":
            keys["no_weight_tying"] = True  # NeoX HEAD makes no reward head otherwise
        if self._tokenizer is not None:
            files = [str(dst / "tokenizer" / name) for name in self._tokenizer.files]
            keys = {n: v for n, v in keys.items() if n not in ("vocab_file", "merge_file")}
            keys |= dict(zip(("vocab_file", "merge_file"), files, strict=False))
            keys["tokenizer_type"] = self._tokenizer.name
        return keys

    def _args(self) -> dict[str, Any]:
        """Return the arguments that NeoX compares with the YAML when it loads."""
        model = self._split.model
        return {
            "num_layers": model.num_layers,
            "hidden_size": model.hidden_size,
            "num_attention_heads": model.attention.num_heads,
            "max_position_embeddings": model.positions.max_positions,
            "make_vocab_size_divisible_by": self._multiple(),
            "padded_vocab_size": model.vocab_size,
            "model_parallel_size": self._grid.mp,
        }

    def _multiple(self) -> int:
        """Return make-vocab-size-divisible-by such that NeoX pads its vocabulary to our size."""
        keys, rows, mp = self._source.keys, self._split.model.vocab_size, self._grid.mp
        multiple = keys.get("make_vocab_size_divisible_by", 128)
        tokenizer = self._tokenizer
        known = tokenizer is not None and -(-tokenizer.vocab_size // (multiple * mp)) == rows / (
            multiple * mp
        )
        same = keys.get("model_parallel_size", 1) == mp and rows % (multiple * mp) == 0
        return multiple if known or same else rows // mp


def keys_of_experts(model: ModelConfig, keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys by which NeoX's experts are as wide as the model's."""
    if model.experts is None:
        return {}
    size = model.experts.size
    by_default = "intermediate_size" not in keys and size == default_expert_size(model)
    return {} if by_default else {"intermediate_size": size}
