"""The parts of a run as frozen values, which `Settings` builds from NeoX's keys.

Every part of the program takes the one sub-config that it needs. Derived values are properties;
what can be checked without a mesh or a tokenizer is checked in `__post_init__`.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxneox.config.data_schema import (
    BatchConfig,
    DataConfig,
    DataRun,
    TokenizerConfig,
    TrainConfig,
)
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.config.optimization_schema import (
    OptimizerConfig,
    PrecisionConfig,
    ScheduleConfig,
)
from jaxneox.config.running_schema import CheckpointConfig, GenerationConfig, LogConfig, RematConfig
from jaxneox.config.widths import Multipliers, Widths
from jaxneox.errors import UserError

NormKind = Literal["layernorm", "rmsnorm", "scalenorm", "non_parametric_layernorm"]
PositionKind = Literal["learned", "rotary", "sinusoidal", "rpe", "alibi", "none"]
RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "mish", "softsign", "sigmoid", "identity"]
InitMethod = Literal[
    "normal",
    "scaled_normal",
    "orthogonal",
    "scaled_orthogonal",
    "xavier_uniform",
    "xavier_normal",
    "wang_init",
    "small_init",
    "single_residual_scaled_normal",
]
Kernel = Literal["einsum", "blocked", "cudnn", "splash"]
Head = Literal["tokens", "reward"]
LoraTarget = Literal["qkv", "out", "up", "gate", "down"]


@dataclass(frozen=True)
class NormConfig:
    """The kind of all norms of the model, with their epsilon and bias."""

    kind: NormKind = "layernorm"
    epsilon: float = 1e-5
    bias: bool = True  # layernorm only; the other kinds have none


@dataclass(frozen=True)
class RopeScaling:
    """Says how rotary's frequencies change for texts longer than those of pretraining.

    The names are those of Hugging Face's config.json. A field that `type` does not read has its
    default, so that equal functions are equal values.
    """

    type: RopeType = "default"
    factor: float = 1.0
    original_max_position_embeddings: int = 0  # of pretraining; linear does not read it
    attention_factor: float = 1.0  # yarn multiplies queries and keys by it
    beta_fast: float = 32.0  # yarn's: turns in the original length above which nothing changes
    beta_slow: float = 1.0  # yarn's: turns below which a frequency is divided by the factor
    truncate: bool = True  # yarn's: the edges of the ramp between the two are whole numbers
    low_freq_factor: float = 1.0  # the same two edges in llama3
    high_freq_factor: float = 4.0

    @property
    def grows(self) -> bool:
        """Whether the angles of all positions depend on how long their text is."""
        return self.type == "dynamic"


@dataclass(frozen=True)
class PositionConfig:
    """The kind of positions, and the settings of each kind."""

    kind: PositionKind = "learned"
    max_positions: int = 2048  # rows of a learned table
    offset: int = 0  # OPT adds 2 to every learned position
    rotary_fraction: float = 1.0
    rotary_base: float = 10000.0
    scaling: RopeScaling = RopeScaling()
    rpe_buckets: int = 32
    rpe_max_distance: int = 128


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
    scale: float | None = None  # of the scores; None is 1 / sqrt(head_dim)

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
class InitConfig:
    """The methods by which the initial weights are drawn."""

    method: InitMethod = "normal"
    output_method: InitMethod = "scaled_normal"  # attention's and the MLP's output matrices
    std: float = 0.02
    scale: float = 1.0  # mup_init_scale
    widths: Widths | None = None  # beside muP's base


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
class ModelConfig:
    """The model's architecture: its sizes, and the kinds of its parts.

    A reward model's head turns the last hidden state after each token into one number. It has no
    unembedding, so that its embedding is not tied.
    """

    num_layers: int
    hidden_size: int
    vocab_size: int  # padded
    seq_length: int
    attention: AttentionConfig
    mlp: MlpConfig
    norm: NormConfig = NormConfig()
    positions: PositionConfig = PositionConfig()
    init: InitConfig = InitConfig()
    multipliers: Multipliers = field(default_factory=Multipliers)
    parallel_residual: bool = False  # gpt-j-residual
    shared_norm: bool = False  # gpt-j-tied: one norm feeds both branches
    tied_embedding: bool = True
    logit_bias: bool = False
    attention_dropped: bool = False  # the layers' attention has parameters but no effect
    hidden_dropout: float = 0.0
    lora: LoraConfig | None = None
    head: Head = "tokens"

    def __post_init__(self) -> None:
        if self.head == "reward" and (self.tied_embedding or self.logit_bias):
            raise UserError(
                "a reward model has no unembedding: expected neither a tied embedding nor a bias "
                "of the logits; set no_weight_tying to true, and leave logit_bias out"
            )
        if self.attention.qk_norm_per_head and self.norm.kind != "rmsnorm":
            raise UserError(
                f"qk_norm_per_head needs norm: rmsnorm, found {self.norm.kind}: use rmsnorm, or "
                "use_qk_layernorm, which is NeoX's norm of queries and keys"
            )
        if self.attention_dropped and not self.parallel_residual:
            raise UserError(
                "attention_dropped needs gpt_j_residual: NeoX drops the attention of layers with a "
                "parallel residual only; set gpt_j_residual to true or leave attention_dropped out"
            )


@dataclass(frozen=True)
class ParallelConfig:
    """The mesh that the YAML asks for; `--mesh` overrides the sizes."""

    tp: int = 1
    pp: int = 1
    zero_stage: Literal[0, 1, 2, 3] = 0
    sequence_parallel: bool = False
    cp: int = 1
    chunks: int = 1  # of layers for each pipeline stage
    attention: Literal["auto", "gather", "ring"] = "auto"  # over cp
    offload_optimizer: bool = False  # moments wait in the host's memory


@dataclass(frozen=True)
class Config:
    """A whole run. `keys` are the merged YAML keys with `_`, as given: what is saved and shown."""

    model: ModelConfig
    precision: PrecisionConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    parallel: ParallelConfig
    batch: BatchConfig
    remat: RematConfig
    tokenizer: TokenizerConfig
    data: DataConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    train: TrainConfig
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    neox_compat: bool = False
    keys: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a reader of the YAML should know, one line each

    @property
    def data_run(self) -> DataRun:
        model = self.model
        sizes = (model.seq_length, model.vocab_size)
        return DataRun(self.data, self.batch, self.train, *sizes, self.objective)
