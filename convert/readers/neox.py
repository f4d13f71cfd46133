"""A GPT-NeoX checkpoint as named shards: which tensors there are, of which ranks, how laid out."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from convert.readers.neox_files import Files, find_files, missing_files
from convert.readers.torch_file import LazyTensor, TorchFile
from convert.rules.neox import EMBEDDING, FIRST_BLOCK, OLD_NAMES
from jaxneox.config import load_yaml, model_of, parallel_of
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError

Shards = list[dict[str, LazyTensor]]
"""One module's tensors by name (HEAD's), for every rank."""

PREFIX = "sequential."

FOREIGN = {
    "_extra_state": "a Transformer Engine checkpoint (its FP8 state is no function of weights)",
    "layer_norm_weight": "a Transformer Engine checkpoint",
    "fc1_weight": "a Transformer Engine checkpoint",
    "attention.proj.": "a Transformer Engine checkpoint",
    "experts": "a mixture of experts",
    "router": "a mixture of experts",
    "deepspeed_moe": "a mixture of experts",
    "A_log": "a Mamba model",
    "conv1d": "a Mamba model",
    "mixer.": "a Mamba model",
    "time_": "an RWKV model",
    "lora": "an RWKV model",
    "soft_embedding": "a soft-prompt model",
    "lm_head.reward": "a reward model",
}


@dataclass
class NeoxCheckpoint:
    """Raises UserError for files that are missing, of different steps or of another kind.

    Attributes:
        yamls: where the configuration was read.
        given: its keys.
        mp: model-parallel ranks, as the files have them.
        engine: which of NeoX's two layouts the files have.
    """

    files: Files
    yamls: list[Path]
    given: dict[str, Any]
    renamed: set[str] = field(default_factory=set)

    @property
    def engine(self) -> Literal["pipeline", "sequential"]:
        return "pipeline" if self.files.layers else "sequential"

    @property
    def mp(self) -> int:
        layers = self.files.layers
        return len(next(iter(layers.values()))) if layers else len(self.files.ranks)

    @property
    def pp(self) -> int:
        """Stages; 0 for the Sequential engine, and 1 where nothing tells."""
        if self.engine == "sequential":
            return 0
        return max(1, len(self.files.ranks) // self.mp)

    @property
    def dp(self) -> int:
        """Data-parallel ranks: part of the global batch; 1 where nothing tells."""
        said = [state.get("dp_world_size") for state in self.states]
        return max([n for n in said if isinstance(n, int)], default=1) or 1

    @property
    def half_angles(self) -> bool:
        """Whether rotary's angles were computed in half precision, as before 2024: then the buffer
        of frequencies was halved with the weights, and multiplied by positions in that type."""
        half = self.dtype.itemsize == 2
        return half and self.generation == "2023" and self.model.positions.kind == "rotary"

    @property
    def generation(self) -> str:
        if any(name.endswith("inv_freq") for shards in self.shards.values() for name in shards[0]):
            return "2023"
        return "before 2024-09" if self.renamed else "head"

    @property
    def step(self) -> int:
        said = {state["iteration"] for state in self.states if "iteration" in state}
        return self.files.step if self.files.step is not None else max(said, default=0)

    @property
    def layers(self) -> int:
        """Blocks, as the files have them."""
        return sum(index >= FIRST_BLOCK for index in self.shards) - self._tail

    @property
    def vocab_size(self) -> int:
        """Padded."""
        return sum(s["word_embeddings.weight"].shape[0] for s in self.shards[EMBEDDING])

    @property
    def dtype(self) -> np.dtype:
        return self.shards[EMBEDDING][0]["word_embeddings.weight"].dtype

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The YAML's, with what the files say better and what NeoX does otherwise than it says."""
        keys = self.given | {"padded_vocab_size": self.vocab_size}
        if any(name.endswith("norm.bias") for s in self.shards.values() for name in s[0]):
            keys["use_bias_in_norms"] = True  # NeoX never looks at it
        plain = model_of(keys, vocab_size=None)
        if plain.parallel_residual and plain.mlp.gated and not plain.mlp.bias:
            keys["attention_dropped"] = True  # the MLP's output overwrites it
        return keys

    @cached_property
    def model(self) -> ModelConfig:
        return model_of(self.keys, vocab_size=None)

    @cached_property
    def opened(self) -> list[TorchFile]:
        """Every file that the weights are read from, or that says something about them."""
        layers = [path for shards in self.files.layers.values() for path in shards]
        return [TorchFile(path) for path in layers + self.files.ranks]

    @cached_property
    def states(self) -> list[dict[str, Any]]:
        """What the mp_rank files say beside weights, in order."""
        opened = self.opened[len(self.opened) - len(self.files.ranks) :]
        return [_mapping(file) for file in opened]

    @cached_property
    def shards(self) -> dict[int, Shards]:
        """By Sequential index."""
        if self.engine == "sequential":
            ranks = [self._split_module(file) for file in self.opened]
            return {i: [rank.get(i, {}) for rank in ranks] for i in sorted(set().union(*ranks))}
        files = iter(self.opened)
        return {
            index: [self._named(_mapping(next(files)), where=index) for _ in paths]
            for index, paths in self.files.layers.items()
        }

    def ranks(self, index: int) -> list[Mapping[str, np.ndarray]]:
        """One module's tensors as views of the files, by rank: what the oracle reads."""
        return [{n: t.numpy() for n, t in rank.items()} for rank in self.shards.get(index, [])]

    def forget(self, index: int) -> None:
        """Give back the memory of the module's pages; they are read again where wanted."""
        for file in {
            t.file.path: t.file for s in self.shards.get(index, []) for t in s.values()
        }.values():
            file.forget()

    @property
    def weight_files(self) -> list[TorchFile]:
        """Those that the weights are read from."""
        return self.opened[: len(self.opened) - len(self.files.ranks)] or self.opened

    @property
    def nbytes(self) -> int:
        return sum(t.nbytes for s in self.shards.values() for rank in s for t in rank.values())

    @property
    def _tail(self) -> int:
        """Modules after the blocks."""
        after = ("norm.", "final_linear.")
        return sum(any(n.startswith(after) for n in s[0]) for s in self.shards.values())

    def _split_module(self, file: TorchFile) -> dict[int, dict[str, LazyTensor]]:
        module = _mapping(file).get("module")
        if not isinstance(module, Mapping):
            raise UserError(
                f"{file.path.parent}: {file.path.name} holds no weights and there are no "
                "layer_LL-model_MM-model_states.pt files; copy the whole checkpoint"
            )
        parts: dict[int, dict[str, Any]] = {}
        for name, tensor in module.items():
            index, _, rest = str(name).removeprefix(PREFIX).partition(".")
            if not str(name).startswith(PREFIX) or not index.isdecimal():
                raise unknown_tensors([f"{file.path}: {name}"])
            parts.setdefault(int(index), {})[rest] = tensor
        return {i: self._named(part, where=i) for i, part in parts.items()}

    def _named(self, tensors: Mapping[str, Any], where: int) -> dict[str, LazyTensor]:
        """By HEAD's names; every value has to be a tensor."""
        found = {}
        for name, tensor in tensors.items():
            self._refuse_foreign(name, where)
            if not isinstance(tensor, LazyTensor):
                raise unknown_tensors([f"{self.files.folder}: {name} (module {where})"])
            for old, new in OLD_NAMES.items():
                if name.startswith(old):
                    name = new + name.removeprefix(old)
                    self.renamed.add(old)
            found[name] = tensor
        return found

    def _refuse_foreign(self, name: str, where: int) -> None:
        for sign, kind in FOREIGN.items():
            if sign in name:
                raise UserError(
                    f"{self.files.folder}: is {kind}: it has {name} (module {where}); only dense "
                    "transformers without it are supported"
                )


def require_modules(found: NeoxCheckpoint, modules: Iterable[int]) -> None:
    """Raises UserError with the files of all modules that are not there."""
    absent = sorted(set(modules) - found.shards.keys())
    if absent and found.engine == "pipeline":
        raise missing_files(found.files.folder, _files_of(found, absent, range(found.mp)))


def open_neox(src: Path, *, step: int | None = None, config: list[Path] | None = None):
    """The checkpoint at `src` with its YAML, or the given ones; its files agree with each other."""
    files = find_files(src, step)
    yamls = config or files.yamls
    if not yamls:
        raise UserError(
            f"{files.folder}: has no YAML (NeoX saves one under configs/), and the architecture is "
            "nowhere else; give it with --config FILE.yml"
        )
    found = NeoxCheckpoint(files, yamls, load_yaml(yamls))
    _check_embedding(found)
    _check_ranks(found)
    return found


def _check_embedding(found: NeoxCheckpoint) -> None:
    """By its shards the number of ranks, the vocabulary and the type are known."""
    name = "word_embeddings.weight"
    if EMBEDDING not in found.shards and found.engine == "pipeline":
        raise missing_files(found.files.folder, _files_of(found, [EMBEDDING], range(found.mp)))
    for rank, tensors in enumerate(found.shards.get(EMBEDDING, [{}])):
        if name not in tensors or len(tensors[name].shape) != 2:
            raise UserError(
                f"{found.files.folder}: module {EMBEDDING} of rank {rank} has no matrix {name}; "
                f"it has {', '.join(sorted(tensors)) or 'nothing'}"
            )


def _check_ranks(found: NeoxCheckpoint) -> None:
    files, mp = found.files, found.mp
    steps = {
        path.name: state["iteration"]
        for path, state in zip(files.ranks, found.states, strict=True)
        if "iteration" in state
    }
    if files.step is not None:
        steps[files.folder.name] = files.step
    if len(set(steps.values())) > 1:
        said = ", ".join(f"{name} of step {step}" for name, step in steps.items())
        raise UserError(f"{files.folder}: its files are of different steps: {said}")
    wanted = max([parallel_of(found.given).tp, *_said(found, "model_parallel_size")])
    if wanted > mp:
        names = _files_of(found, found.files.layers, range(mp, wanted))
        raise missing_files(files.folder, names)
    for state in found.states if found.engine == "pipeline" else []:
        total = state.get("mp_world_size")  # the pipeline engine counts stages * ranks
        if isinstance(total, int) and total > len(files.ranks):
            absent = range(len(files.ranks), total)
            raise missing_files(files.folder, [f"mp_rank_{n:02d}_model_states.pt" for n in absent])


def _files_of(found: NeoxCheckpoint, modules: Iterable[int], ranks: Iterable[int]) -> list[str]:
    if found.engine == "sequential":
        return [f"mp_rank_{rank:02d}_model_states.pt" for rank in ranks]
    return [
        f"layer_{index:02d}-model_{rank:02d}-model_states.pt" for index in modules for rank in ranks
    ]


def _said(found: NeoxCheckpoint, name: str) -> list[Any]:
    """What the files' own arguments say of a key; not all versions have them."""
    args = [state.get("args") for state in found.states]
    return [a[name] for a in args if isinstance(a, Mapping) and isinstance(a.get(name), int)]


def _mapping(file: TorchFile) -> dict[str, Any]:
    if not isinstance(file.content, Mapping):
        raise UserError(f"{file.path}: holds {type(file.content).__name__}, expected tensors")
    return dict(file.content)


def unknown_tensors(names: list[str]) -> UserError:
    return UserError(f"{len(names)} unknown tensors: {'; '.join(names)}")
