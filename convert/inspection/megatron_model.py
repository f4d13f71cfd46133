"""Megatron-LM's model from its tensors; arguments are trusted only where no tensor tells.

Matrices are split over tensor-parallel ranks by columns (`word_embeddings`, `linear_qkv`,
`linear_fc1` and `output_layer`: their first axis) or by rows (`linear_proj`, `linear_fc2`: their
last); every other tensor is whole on each rank. Older names are those in brackets below.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convert.inspection.facts import Architecture
from convert.inspection.megatron_files import TensorHeader

QKV = r"(?:linear_qkv|query_key_value)"
PROJ = r"(?:linear_proj|self_attention\.dense)"
FC1 = r"(?:linear_fc1|dense_h_to_4h)"
FC2 = r"(?:linear_fc2|dense_4h_to_h)"
EMBEDDING = r"embedding\.word_embeddings\.weight"
HEAD = r"output_layer\.weight|word_embeddings_for_head\.weight"
COLUMNS = re.compile(rf"(.*\.)?({EMBEDDING}|{HEAD}|.*{QKV}\.(weight|bias)|.*{FC1}\.(weight|bias))")
ROWS = re.compile(rf".*({PROJ}|{FC2})\.weight")
LAYER = re.compile(r".*layers\.\d+\..*")


@dataclass(frozen=True)
class RankTensors:
    """Tensors put together from ranks; `wholes` is by name and, if there are stages, by stage."""

    wholes: dict[str, TensorHeader]

    @staticmethod
    def of_files(
        models: Mapping[tuple[int, int], Mapping[str, TensorHeader]], tp: int
    ) -> "RankTensors":
        """Put together the ranks' tensors, given by (tensor, pipeline) rank."""
        wholes = {}
        for (rank, stage), tensors in models.items():
            for name, tensor in tensors.items() if rank == 0 else ():
                if not name.endswith("_extra_state"):
                    wholes[f"stage {stage}: {name}"] = _whole(name, tensor, tp)
        return RankTensors(wholes)

    @staticmethod
    def of_wholes(tensors: Mapping[str, TensorHeader]) -> "RankTensors":
        return RankTensors({n: t for n, t in tensors.items() if "_extra_state" not in n})

    def without_tied_copy(self) -> "RankTensors":
        return RankTensors(
            {n: t for n, t in self.wholes.items() if not re.fullmatch(rf".*({HEAD})", n)}
        )

    def named(self, pattern: str) -> list[tuple[str, TensorHeader]]:
        whole = re.compile(rf"(.*[. ])?{pattern}")
        return [(name, t) for name, t in self.wholes.items() if whole.fullmatch(name)]

    def side(self, pattern: str, axis: int) -> int:
        """Return the size of an axis, counted from the last, of the first match, or 0."""
        matches = self.named(pattern)
        shape = matches[0][1].shape if matches else ()
        return shape[axis] if len(shape) >= -axis else 0

    @property
    def layers(self) -> int:
        """Count the layers; torch_dist may stack all tensors of a kind on an axis of their own."""
        kinds = self.named(rf".*{QKV}\.weight")
        return sum(1 if LAYER.fullmatch(name) else t.shape[0] for name, t in kinds)


def _whole(name: str, tensor: TensorHeader, tp: int) -> TensorHeader:
    shape = tensor.shape
    if shape and COLUMNS.fullmatch(name):
        shape = (shape[0] * tp, *shape[1:])
    elif shape and ROWS.fullmatch(name):
        shape = (*shape[:-1], shape[-1] * tp)
    return tensor._replace(shape=shape)


def is_tied(ranks: RankTensors, args: Mapping[str, Any]) -> bool:
    """Tell whether the embedding is tied; with several stages only the arguments can tell."""
    own = ranks.named(r"output_layer\.weight")
    return not own or args.get("untie_embeddings_and_output_weights") is False


def architecture(ranks: RankTensors, args: Mapping[str, Any]) -> Architecture:
    heads = _int(args, "num_attention_heads")
    inner = ranks.side(rf".*{PROJ}\.weight", -1)  # heads * head_dim
    width = ranks.side(rf".*{FC2}\.weight", -1)
    head_dim = inner // heads if heads else None
    groups = None
    if heads and head_dim:
        groups = (ranks.side(rf".*{QKV}\.weight", -2) // head_dim - heads) // 2
    table = ranks.named(r"embedding\.position_embeddings\.weight")
    return Architecture(
        layers=ranks.layers,
        hidden=ranks.side(EMBEDDING, -1),
        heads=heads,
        groups=groups,
        head_dim=head_dim,
        residual="sequential",
        norm="layernorm" if ranks.named(r".*norm(\.|_)bias") else "rmsnorm",
        positions="learned" if table else _positions(args),
        mlp=_mlp(args, gated=ranks.side(rf".*{FC1}\.weight", -2) == 2 * width),
        mlp_width=width,
        tied=is_tied(ranks, args),
        vocabulary=ranks.side(EMBEDDING, -2),
        sequence=_int(args, "seq_length"),
    )


def _positions(args: Mapping[str, Any]) -> str | None:
    kind, share = args.get("position_embedding_type"), args.get("rotary_percent")
    if kind != "rope":
        return kind if isinstance(kind, str) else None
    return f"rotary {100 * share:g}%" if isinstance(share, int | float) else "rotary"


def _mlp(args: Mapping[str, Any], gated: bool) -> str:
    """Describe the MLP; only the arguments tell gelu's form, which is tanh or erf."""
    if gated:
        return "gated silu" if args.get("swiglu") else "gated"
    return "relu squared" if args.get("squared_relu") else "gelu"


def _int(args: Mapping[str, Any], name: str) -> int | None:
    value = args.get(name)
    return value if type(value) is int and value > 0 else None
