"""The model's sizes, read from the tensors of a Megatron-LM checkpoint."""
# D hidden, F width of an MLP branch, V padded vocabulary, N query heads, K groups, H head

from collections.abc import Iterator
from dataclasses import dataclass

from convert.readers.megatron_shards import Ranks, Shards
from convert.rules.megatron import FC1, FC2, FINAL, HEAD, POSITIONS, PROJ, QKV, WORDS
from jaxneox.errors import UserError

NEEDED = (f"{QKV}.weight", f"{PROJ}.weight", f"{FC1}.weight", f"{FC2}.weight")
"""Tensors of every layer that the model's sizes are taken from."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of all ranks together.

    Attributes:
        qkv: the rows of queries, keys and values.
        positions: the rows of a table of positions; 0 without one.
    """

    layers: int
    hidden: int
    vocab: int
    positions: int
    qkv: int
    attended: int  # N H
    ffn: int
    gated: bool
    norm_bias: bool
    qkv_bias: bool
    mlp_bias: bool
    head: bool  # whether there is an output layer of its own

    def groups(self, heads: int) -> int:
        """Return the number of key-value heads; raise a UserError if `qkv` does not fit."""
        size = self.attended // heads
        groups, rest = divmod(self.qkv - self.attended, 2 * size or 1)
        if self.attended % heads or rest or groups < 1 or heads % groups:
            raise UserError(
                f"{QKV}.weight has {self.qkv} rows and {PROJ}.weight {self.attended} columns, "
                f"which is not possible with {heads} heads"
            )
        return groups


def sizes_of_tensors(shards: Shards) -> Sizes:
    """Read the sizes from the tensors.

    Raises:
        UserError: tensors that the sizes are taken from are missing; the message names them
            all.
    """
    missing = [*_missing(shards)]
    if missing:
        raise UserError(f"{shards.files.folder}: missing {_some(missing)}; copy the whole "
                        "checkpoint")  # fmt: skip
    outside, first = shards.layers[None], shards.layers[0]

    def total(ranks: Ranks, name: str, axis: int) -> int:
        return sum(rank[name].shape[axis] for rank in ranks)

    ffn = total(first, f"{FC2}.weight", 1)
    return Sizes(
        layers=len(shards.layers) - 1,
        hidden=outside[0][WORDS].shape[1],
        vocab=total(outside, WORDS, 0),
        positions=outside[0][POSITIONS].shape[0] if POSITIONS in outside[0] else 0,
        qkv=total(first, f"{QKV}.weight", 0),
        attended=total(first, f"{PROJ}.weight", 1),
        ffn=ffn,
        gated=total(first, f"{FC1}.weight", 0) == 2 * ffn,
        norm_bias=f"{FINAL}.bias" in outside[0],
        qkv_bias=f"{QKV}.bias" in first[0],
        mlp_bias=f"{FC2}.bias" in first[0],
        head=HEAD in outside[0],
    )


def _missing(shards: Shards) -> Iterator[str]:
    for rank, tensors in enumerate(shards.layers[None]):
        for name in (WORDS, f"{FINAL}.weight"):
            if name not in tensors:
                yield f"{name} of rank {rank}"
            elif name == WORDS and len(tensors[name].shape) != 2:
                yield f"a matrix {name} of rank {rank}"
    layers = [index for index in shards.layers if index is not None]
    if not layers:
        yield "all layers"
    for index in range(max(layers, default=-1) + 1):
        for rank in range(shards.tp):
            tensors = shards.layers[index][rank] if index in shards.layers else {}
            for name in NEEDED:
                if name not in tensors or len(tensors[name].shape) != 2:
                    yield f"{name} of layer {index}, rank {rank}"


def _some(missing: list[str]) -> str:
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return ", ".join(missing[:8]) + more
