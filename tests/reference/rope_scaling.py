"""How rotary is scaled for longer texts, as the papers and transformers have it, in plain torch."""

import math

import torch
from torch import Tensor

from jaxneox.config.schema import PositionConfig


def base(T: int, width: int, cfg: PositionConfig) -> float:
    """dynamic (NTK): a base that grows with the text once it is beyond the original length."""
    scaling = cfg.scaling
    if scaling.type != "dynamic":
        return cfg.rotary_base
    share = max(T, scaling.original_max_position_embeddings)
    share /= scaling.original_max_position_embeddings
    return cfg.rotary_base * (1 + scaling.factor * (share - 1)) ** (width / (width - 2))


def slowed(width: int, cfg: PositionConfig, dtype: torch.dtype) -> Tensor:
    """[width / 2]: what each frequency is multiplied by, from 1 down to 1 / factor."""
    scaling, pairs = cfg.scaling, torch.arange(width // 2, dtype=dtype)
    if scaling.type in ("default", "dynamic"):
        return torch.ones_like(pairs)
    if scaling.type == "linear":
        return torch.full_like(pairs, 1 / scaling.factor)
    # How often a pair turns in the original length decides how much of its frequency is kept.
    turns = scaling.original_max_position_embeddings / (2 * math.pi)
    turns = turns * cfg.rotary_base ** (-2 * pairs / width)
    if scaling.type == "llama3":
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept = ((turns - low) / (high - low)).clamp(0, 1)
    else:
        # yarn's ramp is linear in the number of the pair, and its edges may be rounded outwards.
        per_pair = math.log(cfg.rotary_base) * 2 / width
        first, last = (
            math.log(turns[0].item() / edge) / per_pair
            for edge in (scaling.beta_fast, scaling.beta_slow)
        )
        if scaling.truncate:
            first, last = math.floor(first), math.ceil(last)
        first, last = max(0, first), min(width - 1, last)
        kept = 1 - ((pairs - first) / ((last - first) or 0.001)).clamp(0, 1)
    return kept + (1 - kept) / scaling.factor
