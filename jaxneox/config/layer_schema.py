"""The kinds of layers that a model is made of, and the settings of their parts."""

from dataclasses import dataclass
from typing import Literal

from jaxneox.errors import UserError

NormKind = Literal["layernorm", "rmsnorm", "scalenorm", "non_parametric_layernorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "mish", "softsign", "sigmoid", "identity"]
Kernel = Literal["einsum", "blocked", "cudnn", "splash"]
LoraTarget = Literal["qkv", "out", "up", "gate", "down"]

LayerKind = Literal["dense", "experts", "mamba"]
"""Attention and an MLP; attention and a mixture of experts; a selective state space alone."""


def shortest_pattern(kinds: tuple[LayerKind, ...]) -> tuple[LayerKind, ...]:
    """Return the shortest pattern of kinds that makes all of these by being repeated."""
    count = len(kinds)
    for length in range(1, count):
        if count % length == 0 and kinds[:length] * (count // length) == kinds:
            return kinds[:length]
    return kinds


@dataclass(frozen=True)
class NormConfig:
    """The kind of all norms of the model, with their epsilon and bias."""

    kind: NormKind = "layernorm"
    epsilon: float = 1e-5
    bias: bool = True  # layernorm only; the other kinds have none


@dataclass(frozen=True)
class AttentionConfig:
    """There are kv_heads * group query heads, and query head n reads key-value head n // group."""

    num_heads: int
    kv_heads: int
    head_dim: int
    bias: bool = True
    output_bias: bool = True  # where there is a bias: of the output as well
    qk_norm: bool = False  # NeoX's: every query head has a key and scales of its own
    qk_norm_per_head: bool = False  # over a head's dimensions, one scale for all heads
    window: int | None = None  # a query sees itself and `window` positions before it
    dropout: float = 0.0
    softmax_fp32: bool = False
    kernel: Kernel | Literal["auto"] = "auto"  # auto: what is best on the devices

    def __post_init__(self) -> None:
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"num-kv-heads {self.kv_heads} does not divide num-attention-heads {self.num_heads}"
            )
        if self.qk_norm and self.qk_norm_per_head:
            raise UserError(
                "use_qk_layernorm and qk_norm_per_head are two norms of the same queries and keys: "
                "keep one of the two"
            )

    @property
    def group(self) -> int:
        return self.num_heads // self.kv_heads

    @property
    def biased_output(self) -> bool:
        return self.bias and self.output_bias


@dataclass(frozen=True)
class MlpConfig:
    """The MLP is `down(activation(gate(x)) * up(x))` if gated, else `down(activation(up(x)))`."""

    size: int
    activation: Activation = "gelu"
    gated: bool = False
    bias: bool = True


@dataclass(frozen=True)
class LoraConfig:
    """Matrices of low rank that are trained beside the layers' matrices (LoRA)."""

    rank: int
    alpha: float
    targets: tuple[LoraTarget, ...]
    dropout: float = 0.0  # of what A reads
    stabilized: bool = True  # alpha / sqrt(rank) scales, else alpha / rank

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.stabilized else self.rank)
