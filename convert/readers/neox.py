"""A GPT-NeoX checkpoint as named shards: its tensors, their ranks and their layouts."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convert.readers.neox_experts_keys import keys_of_experts
from convert.readers.neox_files import NeoxFiles
from convert.readers.torch_file import LazyTensor, TorchFile
from convert.rules.neox import EMBEDDING, FIRST_BLOCK, LLAMA_MLP, OLD_NAMES, REWARD
from jaxneox.config import Settings
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError, listed
from jaxneox.model.positions import alibi_slopes

Shards = list[dict[str, LazyTensor]]
"""One module's tensors by HEAD's names, for every rank."""

PREFIX = "sequential."

RWKV = "an RWKV model (NeoX runs its recurrence over a micro-batch's rows instead of time)"
FOREIGN = {
    "_extra_state": "a Transformer Engine checkpoint (its FP8 state is no function of weights)",
    "layer_norm_weight": "a Transformer Engine checkpoint",
    "fc1_weight": "a Transformer Engine checkpoint",
    "attention.proj.": "a Transformer Engine checkpoint",
    "deepspeed_moe": "a mixture of DeepSpeed's experts, which NeoX left in 2024",
    "time_": RWKV,
    "lora": RWKV,
    "soft_embedding": "a soft-prompt model",
}


@dataclass
class NeoxCheckpoint:
    """A GPT-NeoX checkpoint whose tensors are read lazily.

    Attributes:
        yamls: the files that the configuration was read from.
        given: the configuration's keys.
        notes: what a user should know about the YAML, one line each.
        mp: the number of model-parallel ranks in the files.
        engine: which of NeoX's two layouts the files have.

    Raises:
        UserError: files are missing, of different steps or of another kind.
    """

    files: NeoxFiles
    yamls: list[Path]
    given: dict[str, Any]
    renamed: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    @property
    def engine(self) -> Literal["pipeline", "sequential"]:
        return "pipeline" if self.files.layers else "sequential"

    @property
    def mp(self) -> int:
        layers = self.files.layers
        return len(next(iter(layers.values()))) if layers else len(self.files.ranks) or 1

    @property
    def pp(self) -> int:
        """The number of stages; 0 for the Sequential engine, and 1 if no file tells."""
        if self.engine == "sequential":
            return 0
        return max(1, len(self.files.ranks) // self.mp)

    @property
    def dp(self) -> int:
        """The number of data-parallel ranks, a factor of the global batch; 1 if no file tells."""
        world_sizes = [state.get("dp_world_size") for state in self.states]
        return max([n for n in world_sizes if isinstance(n, int)], default=1) or 1

    @property
    def half_angles(self) -> bool:
        """Whether rotary's angles were computed in half precision, as before 2024.

        Then the buffer of frequencies was cast with the weights, and multiplied by positions in
        that type.
        """
        half = self.dtype.itemsize == 2
        return half and self.generation == "2023" and self.model.positions.kind == "rotary"

    @property
    def half_slopes(self) -> bool:
        """Whether alibi's slopes were rounded to other numbers when the weights were cast."""
        if self.dtype.itemsize != 2 or self.model.positions.kind != "alibi":
            return False
        slopes = np.asarray(alibi_slopes(self.model.attention.num_heads))
        return bool((slopes.astype(self.dtype).astype(np.float64) != slopes).any())

    @property
    def generation(self) -> str:
        if any(name.endswith("inv_freq") for shards in self.shards.values() for name in shards[0]):
            return "2023"
        return "before 2024-09" if self.renamed or self.llama_mlp else "head"

    @property
    def llama_mlp(self) -> bool:
        """Whether the MLP is that of `mlp_type: llama`, according to its tensors."""
        names = {name for shards in self.shards.values() for name in shards[0]}
        return f"{next(iter(LLAMA_MLP))}.weight" in names

    @property
    def step(self) -> int:
        iterations = {
            state["iteration"] for state in self.states if type(state.get("iteration")) is int
        }
        return self.files.step if self.files.step is not None else max(iterations, default=0)

    @property
    def layers(self) -> int:
        """The number of blocks in the files."""
        return sum(index >= FIRST_BLOCK for index in self.shards) - self._tail

    @property
    def vocab_size(self) -> int:
        """The vocabulary size, including padding."""
        return sum(s["word_embeddings.weight"].shape[0] for s in self.shards[EMBEDDING])

    @property
    def dtype(self) -> np.dtype:
        return self.shards[EMBEDDING][0]["word_embeddings.weight"].dtype

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The YAML's keys, corrected by the files and by what NeoX does against its YAML."""
        for name in ("attention_dropped", "logit_bias", "mamba_groups"):
            if name in self.given:
                raise UserError(f"{self.yamls[0]}: {name} is not a key of NeoX; leave it out")
        keys = self._of_its_head() | {"padded_vocab_size": self.vocab_size}
        added = keys.get("pos_emb", "learned") in ("learned", "sinusoidal")
        multiplied = added and keys.get("mup_rp_embedding_mult") not in (None, 1)
        if keys.get("use_mup") or multiplied:
            keys["neox_compat"] = True  # NeoX's muP is not what its keys say
        if any(name.endswith("norm.bias") for s in self.shards.values() for name in s[0]):
            keys["use_bias_in_norms"] = True  # NeoX never looks at it
        if self.mp > 1 and any("mixer.A_log" in s[0] for s in self.shards.values()):
            keys["mamba_groups"] = self.mp  # every rank selects from its own channels
        keys |= keys_of_experts(keys, self.mp, self.dtype)
        plain = Settings(keys).model(vocab_size=None)
        if plain.parallel_residual and plain.mlp.gated and not plain.mlp.bias:
            keys["attention_dropped"] = True  # the MLP's output overwrites it
        return keys

    @property
    def has_reward_head(self) -> bool:
        return any(REWARD in shards[0] for shards in self.shards.values())

    def _of_its_head(self) -> dict[str, Any]:
        """Return the YAML's keys with the `train_impl` that the files have the head for.

        NeoX loads a language model as a reward model and keeps a head that is not in the files, so
        that its YAML alone does not tell one from the other.
        """
        stated = self.given.get("train_impl") == "rm"
        if stated == self.has_reward_head:
            return self.given
        keys = {n: v for n, v in self.given.items() if n not in ("train_impl", "dataset_impl")}
        return keys | ({"train_impl": "rm"} if self.has_reward_head else {})

    @cached_property
    def model(self) -> ModelConfig:
        return Settings(self.keys).model(vocab_size=None)

    @cached_property
    def opened(self) -> list[TorchFile]:
        """Every file that holds weights, or that says something about them."""
        layers = [path for shards in self.files.layers.values() for path in shards]
        return [TorchFile(path) for path in layers + self.files.ranks + self.files.merged]

    @cached_property
    def states(self) -> list[dict[str, Any]]:
        """The contents of the mp_rank files besides weights, in order."""
        first = sum(map(len, self.files.layers.values()))
        return [_mapping(file) for file in self.opened[first : first + len(self.files.ranks)]]

    @cached_property
    def shards(self) -> dict[int, Shards]:
        """The shards by Sequential index."""
        if self.engine == "sequential":
            ranks = [self._by_index(file, self._module(file)) for file in self.opened]
            if self.files.merged:
                ranks = [self._one_rank(ranks)]
            modules = {i: [rank.get(i, {}) for rank in ranks] for i in sorted(set().union(*ranks))}
        else:
            files = iter(self.opened)
            modules = {
                index: [self._named(_mapping(next(files)), where=index) for _ in paths]
                for index, paths in self.files.layers.items()
            }
        return {index: shards for index, shards in modules.items() if any(shards)}

    def ranks(self, index: int) -> list[Mapping[str, np.ndarray]]:
        """Return one module's tensors by rank, as views of the files for the oracle."""
        shards = self.shards.get(index, [{}] * self.mp)
        return [{n: t.numpy() for n, t in rank.items()} for rank in shards]

    def forget(self, index: int) -> None:
        """Give back the memory of the module's pages; they are read again when needed."""
        for file in {
            t.file.path: t.file for s in self.shards.get(index, []) for t in s.values()
        }.values():
            file.forget()

    @property
    def weight_files(self) -> list[TorchFile]:
        """The files that hold the weights."""
        return self.opened[: len(self.opened) - len(self.files.ranks)] or self.opened

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for s in self.shards.values() for rank in s for t in rank.values())

    @property
    def _tail(self) -> int:
        """Return the number of modules after the blocks."""
        after = ("norm.", "final_linear.", "rm_linear.")
        others = [s[0] for s in self.shards.values() if "mixer.A_log" not in s[0]]  # has a norm too
        return sum(any(n.startswith(after) for n in names) for names in others)

    def _module(self, file: TorchFile) -> Mapping[Any, Any]:
        """Return a rank's state of the Sequential."""
        module = _mapping(file) if self.files.merged else _mapping(file).get("module")
        if not isinstance(module, Mapping):
            raise UserError(
                f"{file.path.parent}: {file.path.name} holds no weights and there are no "
                "layer_LL-model_MM-model_states.pt files; copy the whole checkpoint"
            )
        return module

    def _by_index(
        self, file: TorchFile, module: Mapping[Any, Any]
    ) -> dict[int, dict[str, LazyTensor]]:
        parts: dict[int, dict[str, Any]] = {}
        for name, tensor in module.items():
            index, _, rest = str(name).removeprefix(PREFIX).partition(".")
            known = str(name).startswith(PREFIX) or self.files.merged
            if not known or not index.isdecimal() or len(index) > 6:
                raise unknown_tensors([f"{file.path}: {name}"])
            parts.setdefault(int(index), {})[rest] = tensor
        return {i: self._named(part, where=i) for i, part in parts.items()}

    def _one_rank(
        self, parts: list[dict[int, dict[str, LazyTensor]]]
    ) -> dict[int, dict[str, LazyTensor]]:
        """Merge the files over which one rank's modules were spread."""
        modules: dict[int, dict[str, LazyTensor]] = {}
        for part in parts:
            for index, tensors in part.items():
                modules.setdefault(index, {}).update(tensors)
        return modules

    def _named(self, tensors: Mapping[Any, Any], where: int) -> dict[str, LazyTensor]:
        """Rename tensors to HEAD's names, and check that every value is a tensor."""
        named = {}
        for key, tensor in tensors.items():
            name = str(key)
            self._refuse_foreign(name, where)
            if not isinstance(tensor, LazyTensor):
                raise unknown_tensors([f"{self.files.folder}: {name} (module {where})"])
            for old, new in OLD_NAMES.items():
                if name.startswith(old):
                    name = new + name.removeprefix(old)
                    self.renamed.add(old)
            if name in named:
                raise UserError(
                    f"{self.files.folder}: {name} is there twice, by its old name and its new "
                    f"(module {where})"
                )
            named[name] = tensor
        return named

    def _refuse_foreign(self, name: str, where: int) -> None:
        for sign, kind in FOREIGN.items():
            if sign in name:
                raise UserError(
                    f"{self.files.folder}: is {kind}: it has {name} (module {where}), "
                    "which is not supported"
                )


def _mapping(file: TorchFile) -> dict[str, Any]:
    if not isinstance(file.content, Mapping):
        raise UserError(f"{file.path}: holds {type(file.content).__name__}, expected tensors")
    return dict(file.content)


def unknown_tensors(names: list[str]) -> UserError:
    return UserError(f"{len(names)} unknown tensors: {listed(names, separator='; ')}")
