"""Reads a Megatron-LM checkpoint as our parameters, layer by layer."""
# D hidden, R ranks, H head

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from convert.casting import PRECISION
from convert.checkpoint import Checkpoint, Fidelity, UserProgram
from convert.fate import Drift, differ, drift_of
from convert.megatron.arguments_in import ReadingChoices, reading_of
from convert.megatron.consistency import check_tensors
from convert.megatron.sizes import sizes_of_tensors
from convert.oracle import Forward, MegatronForward
from convert.oracle.megatron import Conventions
from convert.ours.training_placeholders import TRAINING
from convert.parts import STACKED, Shapes, layers_with
from convert.readers.megatron_files import find_files
from convert.readers.megatron_shards import Shards, open_shards
from convert.readers.torch_file import TorchFile
from convert.replaced_keys import replaced
from convert.rules.megatron import HEAD, QKV, WORDS, joined, rules
from convert.rules.rule import Role, Rule, sizes_of
from jaxneox.config import Settings
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError


class MegatronCheckpoint(Checkpoint):
    """A Megatron-LM checkpoint whose tensors are joined and converted when they are read.

    Attributes:
        reading: what arguments, tensors and choices together determine.
        keys: NeoX's keys, as few as `resolve` accepts.
        notes: what a person should look at, one line each.

    Raises:
        UserError: the function is not supported, or tensors are missing, unknown or of another
            shape than the others require; the message names them all.
    """

    def __init__(self, shards: Shards, choices: ReadingChoices) -> None:
        self.shards, self.choices = shards, choices
        self.folder = shards.files.folder
        try:
            self.reading = reading_of(shards.args, sizes_of_tensors(shards), choices)
            plain = {"no_weight_tying": not self.tied} | self.reading.keys
            self.keys: dict[str, Any] = replaced(plain, self._precision() | TRAINING)
            self.keys |= {"train_iters": max(1, shards.step)}
            self.model: ModelConfig = Settings(self.keys).model(vocab_size=None)
        except UserError as error:
            if str(error).startswith(str(self.folder)):
                raise
            raise UserError(f"{self.folder}: {error}") from error
        self.sizes = sizes_of(self.model)
        self.shapes = self._shapes()
        check_tensors(shards, self.model)
        self.notes = [*self.reading.notes, *self._untied(), *self._drifted()]

    @property
    def tp(self) -> int:
        return self.shards.tp

    @property
    def zero_centered(self) -> bool:
        return self.reading.zero_centered

    @cached_property
    def tied(self) -> bool:
        """Whether the embedding is tied.

        Several stages then have a copy of it in place of an output layer.
        """
        if HEAD not in self.shards.layers[None][0]:
            return True
        if self.shards.args.get("untie_embeddings_and_output_weights"):
            return False
        return not any(
            differ([rank[HEAD].numpy(), rank[WORDS].numpy()]) for rank in self.shards.layers[None]
        )

    def _shapes(self) -> Shapes:
        L, shapes = self.model.num_layers, {}
        for inside in (False, True):
            for part in (p for r in rules(self.model, inside=inside) for p in r.parts):
                shapes[part.leaf] = (L,) * inside + part.whole(self.sizes)
        return shapes

    def dtype(self, name: str) -> np.dtype:
        """Return the tensors' own type; float32 for the weight of a norm that 1 is added to."""
        rule = next(r for r in self.rules_of(name) if name in r.leaves)
        layer = 0 if name.startswith(STACKED) else None
        if self.zero_centered and rule.role is Role.NORM and rule.theirs.endswith(".weight"):
            return np.dtype(np.float32)
        if not self.has(rule, layer):
            return self.dtype("layers.attention.qkv_bias")
        return self.shards.layers[layer][0][rule.theirs].dtype

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        if name.startswith(STACKED) and layer is None:
            return np.stack([self.leaf(name, i) for i in layers_with(name, self.model)])
        rule = next(r for r in self.rules_of(name) if name in r.leaves)
        return self.parameters(rule, layer)[name]

    def parameters(self, rule: Rule, layer: int | None) -> dict[str, np.ndarray]:
        """Convert one Megatron-LM tensor to our parameters."""
        leaves = {
            part.leaf: np.empty(part.whole(self.sizes), self.dtype(part.leaf))
            for part in rule.parts
        }
        rule.put(self.whole(rule, layer), leaves, self.sizes, rank=0)
        return leaves

    def whole(self, rule: Rule, layer: int | None) -> np.ndarray:
        """Join a tensor of all ranks, in the order of checkpoint version 3 and rope by halves."""
        shards = self.read(rule, layer)
        if rule.role is not Role.SPLIT:
            return self._one(rule, shards)
        if rule.theirs.startswith(QKV):
            shards = [self._in_order(shard) for shard in shards]
        whole = joined(rule, shards)
        if rule.theirs.startswith(QKV) and self.reading.interleaved:
            return self._by_halves(whole)
        return whole

    def read(self, rule: Rule, layer: int | None) -> list[np.ndarray]:
        """Read each rank's tensor as it is.

        With add_qkv_bias, only queries, keys and values have a bias; the output's is then zero.
        """
        ranks = self.shards.layers[layer]
        if not self.has(rule, layer):
            return [np.zeros(rule.shape(self.sizes), self.dtype("layers.attention.qkv_bias"))]
        return [rank[rule.theirs].numpy() for rank in ranks]

    def has(self, rule: Rule, layer: int | None) -> bool:
        return rule.theirs in self.shards.layers[layer][0]

    def ranks(self, layer: int | None) -> list[Mapping[str, np.ndarray]]:
        """Return each rank's tensors of a layer, or outside layers, as views of the files."""
        return [{n: t.numpy() for n, t in rank.items()} for rank in self.shards.layers[layer]]

    @property
    def forward(self) -> Forward:
        """The function of the checkpoint's own ranks, side by side."""
        interleaved = self.reading.interleaved
        conventions = Conventions(self.shards.version, self.zero_centered, interleaved)
        return MegatronForward(self.model, self.ranks, conventions)

    @property
    def fidelity(self) -> Fidelity:
        """The rounding of 1 + weight, which Megatron-LM and we both compute."""
        rounding = frozenset({np.dtype(np.float32)}) if self.zero_centered else frozenset()
        return Fidelity(rounding, exact=not self.drifted, mergeable=not self.drifted)

    def program(self) -> UserProgram | str:
        return "not run: Megatron-LM itself is not here"

    def drift(self, rule: Rule, layer: int | None) -> Drift | None:
        """Measure the drift of a tensor's copies; None for a tensor that is split."""
        if rule.role is Role.SPLIT:
            return None
        return drift_of(np.stack([s.astype(np.float64) for s in self.read(rule, layer)]))

    def forget(self) -> None:
        """Give back the memory of the pages that were read."""
        for file in self.shards.opened:
            if isinstance(file, TorchFile):
                file.forget()

    @cached_property
    def drifted(self) -> bool:
        """Tell whether ranks' copies of a tensor differ: then no single model is theirs."""
        return any(
            differ(self.read(rule, layer))
            for inside in (False, True)
            for rule in rules(self.model, inside=inside)
            if rule.role is not Role.SPLIT and self.tp > 1
            for layer in (range(self.model.num_layers) if inside else [None])
        )

    def rules_of(self, leaf: str) -> tuple[Rule, ...]:
        return rules(self.model, inside=leaf.startswith(STACKED))

    def _one(self, rule: Rule, copies: list[np.ndarray]) -> np.ndarray:
        """Merge the ranks' copies, by their mean if they drifted apart."""
        first = copies[0]
        if differ(copies):
            first = np.mean([copy.astype(np.float64) for copy in copies], axis=0).astype(
                first.dtype
            )
        if self.zero_centered and rule.role is Role.NORM and rule.theirs.endswith(".weight"):
            return first.astype(np.float32) + np.float32(1)
        return first

    def _in_order(self, shard: np.ndarray) -> np.ndarray:
        """Reorder rows as in version 2: `[q, k, v]` for each head; older heads were never grouped.

        Version 1.0 has q, k and v innermost, version 0 outermost (read in Megatron's
        `fix_query_key_value_ordering`).
        """
        H, tail = self.sizes["H"], shard.shape[1:]
        if self.shards.version == 0:
            return shard.reshape(3, -1, H, *tail).swapaxes(0, 1).reshape(shard.shape)
        if self.shards.version == 1:
            return shard.reshape(-1, H, 3, *tail).swapaxes(1, 2).reshape(shard.shape)
        return shard

    def _by_halves(self, whole: np.ndarray) -> np.ndarray:
        """Reorder queries and keys for rope by halves; their products stay the same.

        Of dimensions that are turned in pairs of neighbours, pair i becomes (i, i + half).
        """
        width = int(self.sizes["H"] * self.model.positions.rotary_fraction)
        rows = whole.reshape(self.sizes["K"], self.sizes["R"], self.sizes["H"], -1).copy()
        turned = rows[:, :-1, :width]
        rows[:, :-1, :width] = np.concatenate([turned[:, :, 0::2], turned[:, :, 1::2]], axis=2)
        return rows.reshape(whole.shape)

    def _precision(self) -> dict[str, Any]:
        dtype = self.shards.layers[None][0][WORDS].dtype
        if dtype.name not in PRECISION:
            raise UserError(f"{WORDS} is {dtype}, which is none of {[*PRECISION]}")
        return {"precision": PRECISION[dtype.name]}

    def _untied(self) -> Iterator[str]:
        untied = self.shards.args.get("untie_embeddings_and_output_weights")
        if untied is False and not self.tied:
            yield (
                "args say that the embedding is tied, but the last stage has another copy: both "
                "are kept, untied, as they were computed with"
            )

    def _drifted(self) -> Iterator[str]:
        if self.drifted:
            yield (
                "the ranks' copies of norms, output biases or positions differ: their mean is "
                "taken; the certificate says what that costs"
            )


def open_megatron(
    src: Path, *, step: int | None = None, choices: ReadingChoices | None = None
) -> MegatronCheckpoint:
    return MegatronCheckpoint(open_shards(find_files(src, step)), choices or ReadingChoices())
