"""The block `lora`: which matrices get others of low rank beside them."""

from typing import get_args

from jaxneox.config.check import CheckedKeys
from jaxneox.config.layer_schema import LoraTarget
from jaxneox.config.schema import LoraConfig
from jaxneox.errors import UserError

TARGETS: tuple[LoraTarget, ...] = get_args(LoraTarget)

ALL = "all-linear"
"""PEFT's word for all matrices of the layers."""

OTHER_NAMES: dict[str, LoraTarget] = {
    "query_key_value": "qkv",
    "dense": "out",
    "dense_h_to_4h": "up",
    "dense_4h_to_h": "down",
    "o_proj": "out",
    "up_proj": "up",
    "gate_proj": "gate",
    "down_proj": "down",
}
"""Names of the same matrices in GPT-NeoX and in transformers."""

OF_QKV = {"q_proj", "k_proj", "v_proj"}


OF_MLP = ("up", "gate", "down")


def lora_config(settings: CheckedKeys, gated: bool, experts: bool) -> LoraConfig | None:
    """Build what LoRA adds to the layers; None without the block.

    Args:
        settings: the checked keys.
        gated: whether the MLPs have a gate.
        experts: whether there are layers with experts, whose matrices LoRA has none beside.

    Raises:
        UserError: the rank is missing, or a target is no matrix of the layers.
    """
    if settings["lora"] is None:
        return None
    rank = settings["lora.rank"]
    if rank is None:
        raise UserError("lora: rank is missing: add it to the block, as in lora: {rank: 16}")
    if settings["lora.base_dtype"] != "float32":
        settings.note(
            f"lora.base_dtype: the base's parameters are rounded to {settings['lora.base_dtype']}, "
            "beside which the matrices are trained; elsewhere they stand beside what is not rounded"
        )
    there = tuple(name for name in TARGETS if gated or name != "gate")
    if experts:
        there = tuple(name for name in there if name not in OF_MLP)
    asked = settings["lora.targets"] or [ALL]
    found = {name for word in asked for name in _matrices(word, there)}
    return LoraConfig(
        rank=rank,
        alpha=settings["lora.alpha"],
        targets=tuple(name for name in there if name in found),
        dropout=settings["lora.dropout"],
        stabilized=settings["lora.rslora"],
    )


def _matrices(word: str, there: tuple[LoraTarget, ...]) -> tuple[LoraTarget, ...]:
    """Return the matrices that a word of the YAML names."""
    if word == ALL:
        return there
    name = OTHER_NAMES.get(word, word)
    if name in there:
        return (name,)
    one = ": queries, keys and values are one matrix here, qkv" if word in OF_QKV else ""
    raise UserError(f"lora.targets: found {word!r}, expected {', '.join(there)} or {ALL}{one}")
