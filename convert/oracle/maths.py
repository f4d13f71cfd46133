"""GPT-NeoX's mathematics in float64: norms, positions, attention and activations.

Source: GPT-NeoX at ea7aefd8,
`megatron/model/{norms,positional_embeddings,activations,transformer}.py`, `megatron/mpu/layers.py`
(rpe) and `megatron/utils.py` (the mask). Everything is computed in float64 except two tables that
depend on the positions alone. These are made in the steps of the run itself, because their rounding
is a systematic part of the function rather than noise: rotary angles and the edges of rpe's
buckets.
"""
# B batch, T queries, S keys, N query heads, K key-value heads, H head, D hidden
# P pairs of dimensions that rotary turns, I and O a matrix's inputs and outputs

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from scipy.special import erf, expit

from jaxneox.config.layer_schema import Activation
from jaxneox.config.schema import ModelConfig, NormConfig, PositionConfig

Array = NDArray[np.float64]

BLOCK = 1 << 20  # numbers of a matrix in float64 at a time, 8 MB


def f64(x: ArrayLike) -> Array:
    return np.asarray(x, dtype=np.float64)


def linear(x: Array, weight_OI: np.ndarray, bias_O: Array | float = 0.0) -> Array:
    """Compute `weight x + bias` over the last axis; the weight is cast to float64 in blocks."""
    x_NI = x.reshape(-1, x.shape[-1])  # one product, not one for each sequence
    y_NO = np.empty((len(x_NI), len(weight_OI)))
    some = min(len(weight_OI), max(1, BLOCK // max(1, weight_OI.shape[1])))
    block_OI = np.empty((some, weight_OI.shape[1]))  # one for all: new memory has to be cleared
    for start in range(0, len(weight_OI), max(1, some)):
        rows = slice(start, start + some)
        cast_OI = block_OI[: len(weight_OI[rows])]
        cast_OI[...] = weight_OI[rows]
        y_NO[:, rows] = x_NI @ cast_OI.T
    y_NO += bias_O
    return y_NO.reshape(*x.shape[:-1], len(weight_OI))


# Norms


class Affine(NamedTuple):
    """The parameters of a norm: `unit * scale + bias`. A scalenorm's number g is its scale."""

    scale: Array | float = 1.0
    bias: Array | float = 0.0


def normalize(x: Array, affine: Affine, cfg: NormConfig, joint_axes: int = 1) -> Array:
    """Normalise over the last axis, or, for layernorm kinds, jointly over `joint_axes` axes.

    Several joint axes are torch's `LayerNorm([heads, head_dim])`, which NeoX has for queries and
    keys; its other norms reduce the last axis alone whatever their shape.
    """
    if cfg.kind == "scalenorm":
        unit = x / np.maximum(np.linalg.norm(x, axis=-1, keepdims=True), cfg.epsilon)
    elif cfg.kind == "rmsnorm":
        unit = x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + cfg.epsilon)
    else:
        axes = tuple(range(-joint_axes, 0))
        centred = x - np.mean(x, axis=axes, keepdims=True)
        variance = np.mean(centred**2, axis=axes, keepdims=True)
        unit = centred / np.sqrt(variance + cfg.epsilon)
    return unit * affine.scale + affine.bias


# Activations

ACTIVATIONS: dict[Activation, Callable[[Array], Array]] = {
    "gelu": lambda x: x / 2 * (1 + erf(x / math.sqrt(2))),
    # bias-gelu-fusion, with NeoX's eight digits of sqrt(2 / pi)
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(0.79788456 * x * (1 + 0.044715 * x**2))),
    "relu": lambda x: np.maximum(x, 0),
    "silu": lambda x: x * expit(x),
    "mish": lambda x: x * np.tanh(np.logaddexp(0, x)),
    "softsign": lambda x: x / (1 + np.abs(x)),
    "sigmoid": expit,
    "identity": lambda x: x,
}


# Positions


def angles(T: int, width: int, base: float, dtype: DTypeLike) -> Array:
    """Return angles [T, width / 2]: position t turns pair i by `t * base ** (-2i / width)`.

    NeoX computes the frequencies in float32 and multiplies them by the position in `dtype`: float32
    at HEAD, and in 2023 the parameters' own type, to which it also rounded the frequencies. These
    errors grow with the position, so they belong to the function: for the 20B's width of 24, up to
    position 2047, float32 is off by up to 6e-5 and float16 by up to 0.34. The power is rounded
    once, as torch's nearly always is; numpy's float32 power misses the last bit more often. float64
    is the formula itself.
    """
    steps: DTypeLike = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    exponents = np.arange(0, width, 2).astype(steps) / np.asarray(width, steps)
    powers = (base ** f64(exponents)).astype(steps)
    frequencies = (1 / powers).astype(dtype)
    return f64(np.arange(T).astype(dtype)[:, None] * frequencies[None, :])


def slowdown(P: int, T: int, cfg: PositionConfig) -> Array:
    """Return by how much rope scaling slows each of P pairs down, from 1 to its factor.

    A pair that makes many turns in the original length is unchanged, and one that makes few is
    slowed down by the whole factor. Between the two, the share of a pair's speed that is kept grows
    evenly with the turns in llama3; in yarn it grows with the index of the pair, which is the
    logarithm of the turns. For a text of length T, dynamic slows pair i down by
    s ** (i / (P - 1)), which is the effect of a base that is s ** (P / (P - 1)) times as large.
    Sources: Peng et al. 2023 (yarn), Llama 3.1; transformers, modeling_rope_utils.py.
    """
    scaling, pairs_P = cfg.scaling, np.arange(P)
    if scaling.type in ("default", "linear"):
        return np.full(P, scaling.factor)
    original = scaling.original_max_position_embeddings
    if scaling.type == "dynamic":
        excess = max(0, T - original) / original
        return (1 + scaling.factor * excess) ** (pairs_P / (P - 1))
    turns_P = original / (2 * math.pi * cfg.rotary_base ** (pairs_P / P))
    if scaling.type == "llama3":
        low, high = scaling.low_freq_factor, scaling.high_freq_factor
        kept_P: np.ndarray = (turns_P - low) / (high - low)
    else:
        fast, slow = (
            P * math.log(turns_P[0] / edge) / math.log(cfg.rotary_base)
            for edge in (scaling.beta_fast, scaling.beta_slow)
        )
        if scaling.truncate:
            fast, slow = math.floor(fast), math.ceil(slow)
        fast, slow = max(fast, 0), min(slow, 2 * P - 1)
        kept_P = 1 - (pairs_P - fast) / (slow - fast if slow != fast else 1e-3)
    share_P = f64(np.clip(kept_P, 0, 1))
    return 1 / (share_P + (1 - share_P) / scaling.factor)


def rotate(x_BTNH: Array, cfg: PositionConfig, dtype: DTypeLike) -> Array:
    """Turn the first `int(H * fraction)` dimensions, pairing i with i + P; yarn stretches them."""
    T, P = x_BTNH.shape[1], int(x_BTNH.shape[-1] * cfg.rotary_fraction) // 2
    angles_TP = angles(T, 2 * P, cfg.rotary_base, dtype)
    if cfg.scaling.type != "default":
        angles_TP = angles_TP / slowdown(P, T, cfg)
    cos, sin = (
        cfg.scaling.attention_factor * x[:, None, :] for x in (np.cos(angles_TP), np.sin(angles_TP))
    )
    a, b, rest = np.split(x_BTNH, [P, 2 * P], axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def sinusoids(T: int, D: int, dtype: DTypeLike) -> Array:
    """Return [T, D]: all sines, then all cosines; NeoX ignores the positions' offset here."""
    angles_TP = angles(T, D, 10000.0, dtype)
    return np.concatenate([np.sin(angles_TP), np.cos(angles_TP)], axis=-1)


def alibi_slopes(N: int) -> Array:
    """Return [N] slopes `2 ** (-8 (n + 1) / N)`, in float32 as in NeoX (Press et al. 2022).

    Heads beyond a power of two take the slopes that lie halfway between those of the first.
    """
    power = 2 ** math.floor(math.log2(N))
    at = np.concatenate([np.arange(power) + 1.0, np.arange(N - power) + 0.5])
    return f64((2.0 ** (-8 * at / power)).astype(np.float32))


def relative_buckets(T: int, cfg: PositionConfig) -> NDArray[np.int64]:
    """Return each distance's bucket [T]: exact for the first half, then logarithmic (T5, causal).

    The computation is in float32 like NeoX's: if a logarithm is nearly whole, rounding decides its
    bucket.
    """
    exact = cfg.rpe_buckets // 2
    ratio = np.maximum(np.arange(T), exact).astype(np.float32) / np.float32(exact)
    share = np.log(ratio) / np.float32(math.log(cfg.rpe_max_distance / exact))
    far = exact + (share * np.float32(cfg.rpe_buckets - exact)).astype(np.int64)
    return np.where(np.arange(T) < exact, np.arange(T), np.minimum(far, cfg.rpe_buckets - 1))


# What is added to a score depends on the head and on how far back the key lies, on nothing else.


def alibi(slopes_N: Array, T: int) -> Array:
    """Return score biases [N, T]; every head falls off with the distance by its own slope."""
    return -slopes_N[:, None] * np.arange(T)


def relative(table_N: np.ndarray, T: int, model: ModelConfig) -> Array:
    """Look up a table [buckets, N] as [N, T], times sqrt(H) like an unscaled score."""
    buckets_T = relative_buckets(T, model.positions)
    return math.sqrt(model.attention.head_dim) * f64(table_N)[buckets_T].T


# Attention


class Heads(NamedTuple):
    """Query heads and the key-value heads, as many or fewer, that they share in order."""

    q_BTNH: Array
    k_BTKH: Array
    v_BTKH: Array


def attend(
    heads: Heads, model: ModelConfig, qk_norm: Affine, bias_NT: Array | float, dtype: DTypeLike
) -> Array:
    """Attend with one set of heads, a rank's or all; return [B, T, N, H].

    `bias_NT` is added to the scores by distance; `dtype` is that of rotary's angles. With qk_norm
    NeoX first repeats each key for its queries, so that every query head has a scale of its own.
    """
    q, k, v = heads
    if model.attention.qk_norm:
        k = np.repeat(k, q.shape[2] // k.shape[2], axis=2)
        q, k = (normalize(x, qk_norm, model.norm, joint_axes=2) for x in (q, k))
    if model.positions.kind == "rotary":
        q, k = (rotate(x, model.positions, dtype) for x in (q, k))
    T, window = q.shape[1], model.attention.window
    # A query sees itself and `window` positions before it: NeoX's triu(mask, diagonal=-window).
    unseen_T = np.arange(T) > (T if window is None else window)
    bias = np.where(unseen_T, -np.inf, bias_NT)
    return softmax_mixed(Heads(q, k, v), bias, model.attention.scale)


def softmax_mixed(heads: Heads, bias: Array, scale: float | None = None) -> Array:
    """Compute `softmax(scale q k + bias[distance]) v` over the past, one head at a time.

    `bias` is [N, T], or [T] for all heads; the result is [B, T, N, H]. The scale is 1 / sqrt(H)
    unless given.
    """
    q_BTNH, k_BSKH, v_BSKH = heads
    _, T, N, H = q_BTNH.shape
    bias_NT = np.broadcast_to(bias, (N, T))
    distance_TS = np.arange(T)[:, None] - np.arange(T)[None, :]
    mixed_BTNH = np.empty_like(q_BTNH)
    for n in range(N):
        k_BSH, v_BSH = (x[:, :, n * x.shape[2] // N] for x in (k_BSKH, v_BSKH))
        products_BTS = q_BTNH[:, :, n] @ k_BSH.swapaxes(1, 2)
        scores_BTS = products_BTS / math.sqrt(H) if scale is None else scale * products_BTS
        scores_BTS += np.where(distance_TS < 0, -np.inf, bias_NT[n][distance_TS])
        weights_BTS = np.exp(scores_BTS - scores_BTS.max(axis=-1, keepdims=True))
        mixed_BTNH[:, :, n] = weights_BTS @ v_BSH / weights_BTS.sum(axis=-1, keepdims=True)
    return mixed_BTNH
