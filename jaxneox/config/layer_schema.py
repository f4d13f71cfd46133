"""The kinds of layers that a model is made of, and the settings of their parts."""

import math
from dataclasses import dataclass
from typing import Literal

from jaxneox.errors import UserError

NormKind = Literal["layernorm", "rmsnorm", "scalenorm", "non_parametric_layernorm"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "mish", "softsign", "sigmoid", "identity"]
Kernel = Literal["einsum", "blocked", "cudnn", "splash"]
RouterKind = Literal["sinkhorn", "topk"]
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
    qk_norm_joint: bool = False  # over all heads' dimensions together
    window: int | None = None  # a query sees itself and `window` positions before it
    dropout: float = 0.0
    softmax_fp32: bool = False
    kernel: Kernel | Literal["auto"] = "auto"  # auto: what is best on the devices
    scale: float | None = None  # of the scores; None is 1 / sqrt(head_dim)

    def __post_init__(self) -> None:
        if self.num_heads % self.kv_heads:
            raise UserError(
                f"num-kv-heads {self.kv_heads} does not divide num-attention-heads {self.num_heads}"
            )
        kinds = {
            "use_qk_layernorm": self.qk_norm,
            "qk_norm_per_head": self.qk_norm_per_head,
            "qk_norm_joint": self.qk_norm_joint,
        }
        asked = [name for name, value in kinds.items() if value]
        if len(asked) > 1:
            raise UserError(
                f"{' and '.join(asked)} are norms of the same queries and keys: keep one of them"
            )

    @property
    def group(self) -> int:
        return self.num_heads // self.kv_heads

    @property
    def score_scale(self) -> float:
        return 1 / math.sqrt(self.head_dim) if self.scale is None else self.scale

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


@dataclass(frozen=True)
class ExpertsConfig:
    """A mixture of `count` experts, of which each token passes through `top_k`."""

    count: int
    size: int  # the inner width of one expert
    top_k: int = 1
    router: RouterKind = "sinkhorn"
    activation: Activation = "gelu"
    gated: bool = False
    shared: int = 0  # how many experts' widths all tokens pass through besides
    normalized: bool = False  # the weights of a token's experts are divided by their sum
    jitter: float = 0.0  # in training the router reads x * (1 - jitter to 1 + jitter)
    balance_loss: float = 0.0  # the coefficient of the loss that spreads tokens over experts
    z_loss: float = 0.0  # the coefficient of the loss that keeps the router's logits small
    capacity_factor: float | None = None  # of an expert's even share of a row; None drops none
    sinkhorn_rows: int = 1  # sequences that Sinkhorn balances together
    exact: bool = True  # the router computes in float32, else in the dtype of activations
    residual_quirk: int = 0  # NeoX's parallel residual: x + this many times the mixture alone

    def __post_init__(self) -> None:
        if self.top_k > self.count:
            raise UserError(
                f"moe_top_k {self.top_k} is more than moe_num_experts {self.count}: a token "
                "cannot choose more experts than there are; lower moe_top_k"
            )
        if self.jitter and self.router != "topk":
            raise UserError(
                "moe_jitter_eps: only the router topk reads it, as in NeoX, and moe_router_type "
                f"is {self.router}: set moe_router_type to topk, or leave moe_jitter_eps out"
            )

    @property
    def has_losses(self) -> bool:
        """Whether the router adds losses of its own to the training loss."""
        return self.balance_loss > 0 or self.z_loss > 0

    @property
    def trains_apart(self) -> bool:
        """Whether the function is another one in training than in evaluation."""
        return self.router == "sinkhorn" or self.jitter > 0 or self.capacity_factor is not None
