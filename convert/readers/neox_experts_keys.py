"""The keys by which a mixture of experts is here what NeoX computed."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxneox.config import Settings


def keys_of_experts(keys: Mapping[str, Any], ranks: int, dtype: np.dtype) -> dict[str, Any]:
    """Return NeoX's own choices, where ours would be others; none for a dense model.

    Its experts are never gated, its router computes in the parameters' type, sinkhorn balances a
    micro-batch, and `gpt_j_residual` drops the attention beside experts and adds their output once
    for each rank.
    """
    if (keys.get("moe_num_experts") or 1) == 1:
        return {}
    of_neox = Settings({**keys, "neox_compat": True}).model(vocab_size=None).experts
    if of_neox is None:
        return {}
    return {
        "moe_gated_experts": False,
        "moe_router_fp32": dtype.itemsize >= 4,
        "moe_attention_dropped": ranks if keys.get("gpt_j_residual") else 0,
        "moe_sinkhorn_rows": of_neox.sinkhorn_rows,
    }
