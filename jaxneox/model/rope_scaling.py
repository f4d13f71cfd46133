"""Rotary's frequencies, changed for texts longer than those of pretraining.

The formulas and the order of their float32 steps are those of transformers 5.23,
modeling_rope_utils.py: linear (kaiokendev 2023), dynamic (NTK-aware, emozilla 2023), yarn (Peng et
al. 2023) and llama3 (Llama 3.1).
"""
# B rows, P pairs of dimensions that rotary turns

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxneox.config.schema import RopeScaling

F32 = np.float32


def periods(width: int, base: float) -> np.ndarray:
    """`base ** (2i / width)`, float32 [P], in the float32 steps of the torch models.

    The power is rounded once, as torch's is; NumPy's own in float32 often misses the last bit.
    """
    exponent = np.arange(0, width, 2, dtype=F32) / F32(width)
    return np.power(np.float64(base), exponent.astype(np.float64)).astype(F32)


def scaled(width: int, base: float, cfg: RopeScaling) -> np.ndarray:
    """Return the frequencies by which positions are multiplied, float32 [P].

    Those of `dynamic` are for texts no longer than the original length.
    """
    periods_P = periods(width, base)
    match cfg.type:
        case "linear":
            return F32(1) / periods_P / F32(cfg.factor)
        case "yarn":
            return _yarn(periods_P, base, cfg)
        case "llama3":
            return _llama3(F32(1) / periods_P, cfg)
    return F32(1) / periods_P


def _yarn(periods_P: np.ndarray, base: float, cfg: RopeScaling) -> np.ndarray:
    """Divide the frequency of pairs that turn seldom in the original length by the factor.

    Those that turn often keep theirs, and between the two edges there is a ramp.
    """
    pairs = len(periods_P)

    def edge(turns: float) -> float:
        """Return the pair that turns so often, counted from 0."""
        original = cfg.original_max_position_embeddings
        return pairs * math.log(original / (turns * 2 * math.pi)) / math.log(base)

    first, last = edge(cfg.beta_fast), edge(cfg.beta_slow)
    if cfg.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    ramp_P = (np.arange(pairs, dtype=F32) - F32(first)) / F32(last - first or 0.001)
    kept_P = F32(1) - np.clip(ramp_P, F32(0), F32(1))
    divided_P = F32(1) / (F32(cfg.factor) * periods_P)
    return divided_P * (F32(1) - kept_P) + F32(1) / periods_P * kept_P


def _llama3(frequencies_P: np.ndarray, cfg: RopeScaling) -> np.ndarray:
    """Do the same by wavelengths: those that are short beside the original length are kept."""
    original, factor = cfg.original_max_position_embeddings, F32(cfg.factor)
    low, high = cfg.low_freq_factor, cfg.high_freq_factor
    lengths_P = F32(1) / frequencies_P * F32(2 * math.pi)
    kept_P = (F32(1) / lengths_P * F32(original) - F32(low)) / F32(high - low)
    mixed_P = (F32(1) - kept_P) * frequencies_P / factor + kept_P * frequencies_P
    long_P, short_P = lengths_P > F32(original / low), lengths_P < F32(original / high)
    return np.where(long_P, frequencies_P / factor, np.where(short_P, frequencies_P, mixed_P))


def stretched_base(base: float, width: int, length: int, cfg: RopeScaling) -> float:
    """Return dynamic's base for a text of `length` positions.

    It grows beyond the original length.
    """
    original = cfg.original_max_position_embeddings
    if length <= original:
        return base
    stretch = F32(cfg.factor) * F32(length) / F32(original) - F32(cfg.factor - 1)
    return float(F32(base) * F32(np.float64(stretch) ** (width / (width - 2))))


def stretched(frequencies_P: np.ndarray, lengths_B: jax.Array, cfg: RopeScaling) -> jax.Array:
    """Return dynamic's frequencies for rows that grow: [B, P], as `stretched_base` for each length.

    With the base multiplied by s, pair i of P turns `s ** (-i / P)` times as fast.
    """
    pairs, original = len(frequencies_P), cfg.original_max_position_embeddings
    reached_B = jnp.maximum(lengths_B, original).astype(jnp.float32)
    stretch_B = cfg.factor * reached_B / original - (cfg.factor - 1)
    share_P = np.arange(pairs, dtype=F32) / F32(pairs - 1)
    return jnp.exp(-share_P[None] * jnp.log(stretch_B)[:, None]) * frequencies_P[None]
