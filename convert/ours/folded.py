"""A model with multipliers as the source of a conversion: one without, whose weights have them.

Multipliers are those of `jaxneox.config.widths.Multipliers` and the scale of attention's scores.
Each stands before or after a product with a weight, or with what a norm learns, and becomes a part
of that. By a power of two nothing is rounded.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from convert.checkpoint import Checkpoint, Fidelity, Source
from convert.fate import Fate, laid_out
from convert.oracle import Forward
from convert.parts import Leaves, Part, layer_of
from convert.readers.jaxneox import JaxneoxCheckpoint, open_jaxneox
from jaxneox.config import Settings
from jaxneox.config.keys import KEYS
from jaxneox.config.schema import ModelConfig
from jaxneox.config.widths import Multipliers
from jaxneox.data import Tokenizer
from jaxneox.errors import UserError

FLOAT32 = np.dtype(np.float32)
QUERIES = ("layers.attention.qkv", "layers.attention.qkv_bias")
"""The parameters of which only the queries are multiplied; their axis is the last but one."""


class FoldedCheckpoint(Checkpoint):
    """A run's model without multipliers; its function is the run's, with them.

    Attributes:
        distances: by name and layer of each multiplied parameter that was read, the relative L2
            distance from what it was rounded from.
    """

    def __init__(self, source: JaxneoxCheckpoint) -> None:
        self._source, self.shapes = source, source.shapes
        self._factors = factors(source)
        self.model = plain(source.model)
        self.distances: dict[tuple[str, int], float] = {}

    @property
    def tokenizer(self) -> Tokenizer | None:
        return self._source.tokenizer

    @property
    def fidelity(self) -> Fidelity:
        exact = all(math.frexp(factor)[0] == 0.5 for factor in self._factors.values())
        return Fidelity(rounding=frozenset() if exact else frozenset({FLOAT32}))

    @property
    def forward(self) -> Forward:
        return self._source.forward

    def dtype(self, name: str) -> np.dtype:
        return FLOAT32

    def leaf(self, name: str, layer: int | None = None) -> np.ndarray:
        stored = self._source.leaf(name, layer)
        if not self.is_folded(name):
            return stored.astype(FLOAT32)
        exact = stored.astype(np.float64)
        part = exact[..., :-2, :] if name in QUERIES else exact
        part *= self._factors[name]
        rounded = exact.astype(FLOAT32)
        off = float(np.linalg.norm(rounded - exact))
        self.distances[name, layer or 0] = off / (float(np.linalg.norm(exact)) or 1.0)
        return rounded

    def is_folded(self, name: str) -> bool:
        return name in self._factors


class FoldedSource(Source):
    """A run with muP as a source, as a model in float32 that needs none of its multipliers.

    Args:
        path: the run, or one of its steps.
        step: which of its steps; the newest unless given.

    Raises:
        UserError: it cannot be read, has no multipliers, or has one that no weight can take.
    """

    checkpoint: FoldedCheckpoint

    def __init__(self, path: Path, step: int | None) -> None:
        source = open_jaxneox(path, step)
        if plain(source.model) == source.model:
            raise UserError(f"{path}: has no multipliers (use_mup), so that there is nothing to do")
        self.checkpoint = FoldedCheckpoint(source)
        self.path, self.step = source.location.folder, source.location.step
        self.title = f"jaxneox step {self.step}, its multipliers in its weights"
        self.keys: dict[str, Any] = plain_keys(source.keys)
        self.dtypes = dict.fromkeys(self.checkpoint.shapes, FLOAT32)
        self.tokenizer = self.checkpoint.tokenizer
        self.facts = {"kind": "jaxneox", "step": self.step}
        self.conversion = {**source.conversion, "folded": str(source.location.folder)}
        self.notes = [
            "the result trains on as an ordinary model: its learning rates and first values are "
            "no longer muP's"
        ]
        if Settings(self.keys).model(vocab_size=None) != self.checkpoint.model:
            raise UserError(f"{path}: its keys without muP's describe another model")

    def read(self, part: Part) -> tuple[Leaves, list[Fate]]:
        layer, leaves, fates = layer_of(part), self.checkpoint.leaves(part), []
        for name, leaf in leaves.items():
            fate = laid_out(name, layer, name, leaf, leaf)
            folded = self.checkpoint.is_folded(name)
            fates.append(replace(fate, fate="multiplied in float64" if folded else "as it is"))
        return leaves, fates

    def summary(self) -> str:
        """Say in one line what was multiplied, and how far it is from what it was rounded from."""
        distances = self.checkpoint.distances
        names = sorted({name for name, _ in distances})
        worst = max(distances.values(), default=0.0)
        rounded = f"rounded once to float32: relative L2 {worst:.1e} at most"
        return f"{', '.join(names) or 'nothing'} multiplied, {rounded if worst else 'exactly'}"


def beside(checkpoint: Checkpoint, other: Checkpoint) -> Checkpoint:
    """Return a checkpoint as it is compared with another: folded, if only it has multipliers."""
    multiplied = [m.multipliers != Multipliers() or m.attention.scale is not None
                  for m in (checkpoint.model, other.model)]  # fmt: skip
    if multiplied == [True, False] and isinstance(checkpoint, JaxneoxCheckpoint):
        return FoldedCheckpoint(checkpoint)
    return checkpoint


def plain(model: ModelConfig) -> ModelConfig:
    """Return a model without multipliers, whose first values are not muP's."""
    init = replace(model.init, scale=1.0, widths=None)
    attention = replace(model.attention, scale=None)
    return replace(model, init=init, attention=attention, multipliers=Multipliers())


def plain_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's keys without those of muP."""
    of_mup = {name for name in KEYS if name.startswith("mup_")}
    of_mup |= {"use_mup", "base_shapes_file", "save_base_shapes"}
    return {name: value for name, value in keys.items() if name not in of_mup}


def factors(source: JaxneoxCheckpoint) -> dict[str, float]:
    """Return by what each parameter is multiplied; those that stay as they are are left out.

    Raises:
        UserError: there is no parameter that could take a multiplier.
    """
    model, where = source.model, source.location.folder
    own = model.multipliers
    if model.positions.kind == "sinusoidal" and own.positions != 1.0:
        raise UserError(
            f"{where}: its sinusoidal positions are multiplied by {own.positions:g} "
            "(mup_rp_embedding_mult), which no weight can take"
        )
    head = own.output
    found = {"embed.tokens": own.embedding, "embed.positions": own.positions}
    if model.head == "reward":
        found["reward.weight"] = head
    elif not model.tied_embedding:
        found["unembed.weight"] = head
    else:  # the embedding is the head as well, so that the last norm has the rest
        found |= _norm(source, "final_norm", head / own.embedding)
    found |= _scores(source)
    return {n: factor for n, factor in found.items() if n in source.shapes and factor != 1.0}


def _scores(source: JaxneoxCheckpoint) -> dict[str, float]:
    a = source.model.attention
    factor = a.score_scale * math.sqrt(a.head_dim)
    if a.qk_norm:  # one norm for both
        return _norm(source, "layers.attention.qk_norm", math.sqrt(factor))
    if a.qk_norm_per_head:
        return _norm(source, "layers.attention.q_norm", factor)
    return dict.fromkeys(QUERIES, factor)


def _norm(source: JaxneoxCheckpoint, name: str, factor: float) -> dict[str, float]:
    learned = [n for n in source.shapes if n.startswith(f"{name}.")]
    if not learned and factor != 1.0:
        raise UserError(
            f"{source.location.folder}: {name} would have to take the factor {factor:g}, and a "
            f"{source.model.norm.kind} has no parameters"
        )
    return dict.fromkeys(learned, factor)
