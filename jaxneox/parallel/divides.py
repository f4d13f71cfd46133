"""What the sizes of a mesh must divide: heads, widths, experts, and layers among stages."""

import math

from jaxneox.config.divisors import divisors
from jaxneox.config.schema import ModelConfig, ParallelConfig
from jaxneox.errors import UserError, listed
from jaxneox.parallel.mesh import EXPERTS, Sizes


def check_divides(sizes: Sizes, cfg: ModelConfig, parallel: ParallelConfig, ring: bool) -> None:
    """Check that the mesh divides all that it splits, with the layers among the pipeline's stages.

    Raises:
        UserError: names everything that the size of an axis would have to divide and does not, and
            the nearest smaller size that divides it all.
    """
    tp, cp, sequence = sizes["tp"], sizes["cp"], parallel.sequence_parallel
    _check("cp", cp, {"seq-length": cfg.seq_length})
    if ring and cfg.seq_length % (2 * cp):
        raise UserError(
            f"seq-length {cfg.seq_length} must be a multiple of 2 x cp = {2 * cp} (a ring splits "
            "it into that many blocks); change it, or set context-parallel-attention: gather"
        )
    length = {"seq-length, split by sequence-parallel,": cfg.seq_length // cp} if sequence else {}
    _check("tp", tp, _split_in_layers(cfg) | length)
    _check_experts(sizes.get(EXPERTS, 1), cfg)
    _check_groups(tp, cfg)
    _check_stages(sizes["pp"], parallel.chunks, cfg.num_layers, len(cfg.pattern))


def _split_in_layers(cfg: ModelConfig) -> dict[str, int]:
    """Return the sizes within layers that tp splits, by the names of the keys that set them."""
    heads, split = cfg.attention, {}
    if set(cfg.pattern) != {"mamba"}:
        split["num-kv-heads" if heads.group > 1 else "num-attention-heads"] = heads.kv_heads
        if "dense" in cfg.pattern:
            split["the MLP's width"] = cfg.mlp.size
    if cfg.experts is not None:
        split["the experts' width"] = cfg.experts.size
    if cfg.mamba is not None:
        split["the channels of a mamba layer"] = cfg.mamba.channels
    return split


def _check_experts(ep: int, cfg: ModelConfig) -> None:
    """Check that there are experts to be split, and that they divide."""
    if ep > 1 and cfg.experts is None:
        raise UserError(
            f"the mesh's ep={ep} splits the experts of a mixture, and this model has none "
            f"(moe_num_experts is 1); use dp={ep}, which splits the batch alike"
        )
    if cfg.experts is not None:
        _check(EXPERTS, ep, {"moe-num-experts": cfg.experts.count})


def _check_groups(tp: int, cfg: ModelConfig) -> None:
    """Check that devices have whole groups of mamba channels, or parts of a single group."""
    groups = 1 if cfg.mamba is None else cfg.mamba.groups
    if groups > 1 and groups % tp:
        raise UserError(
            f"the mesh's tp={tp} does not divide mamba_groups {groups}: a device would have a part "
            f"of a group; these do: {_divisors(groups)}"
        )


def _check_stages(pp: int, chunks: int, layers: int, pattern: int) -> None:
    """Check that the layers divide among the stages of the pipeline, in chunks of equal length."""
    rounds = f"num-layers, in {chunks} chunks for each stage," if chunks > 1 else "num-layers"
    if layers % chunks:
        raise UserError(
            f"pipe-parallel-chunks {chunks} does not divide num-layers {layers}; "
            f"these do: {_divisors(layers)}"
        )
    if (layers // chunks) % pp:
        raise UserError(
            f"the mesh's pp={pp} does not divide {rounds} {layers // chunks}; "
            f"these do: {_divisors(layers // chunks)}"
        )
    if layers // chunks // pp % pattern:
        raise UserError(
            f"the mesh's pp={pp} gives a stage {layers // chunks // pp} layers at a time, which is "
            f"no multiple of the {pattern} layers whose kinds repeat; expected pp x chunks to "
            f"divide {layers // pattern}: {_divisors(layers // pattern)}"
        )


def _check(axis: str, size: int, split: dict[str, int]) -> None:
    wrong = [f"{name} {n}" for name, n in split.items() if n % size]
    if wrong:
        nearest = max(n for n in divisors(math.gcd(*split.values())) if n < size)
        raise UserError(
            f"the mesh's {axis}={size} does not divide {' and '.join(wrong)}; "
            f"the nearest smaller that divides all it splits is {axis}={nearest}"
        )


def _divisors(number: int) -> str:
    return listed(divisors(number), most=32)
