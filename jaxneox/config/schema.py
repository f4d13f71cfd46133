"""The parts of a run as frozen values, which `Settings` builds from NeoX's keys.

Every part of the program takes the one sub-config that it needs. Derived values are properties;
what can be checked without a mesh or a tokenizer is checked in `__post_init__`.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxneox.config.data_schema import (
    BatchConfig,
    DataConfig,
    DataRun,
    TokenizerConfig,
    TrainConfig,
)
from jaxneox.config.layer_schema import (
    AttentionConfig,
    ExpertsConfig,
    LayerKind,
    LoraConfig,
    MlpConfig,
    NormConfig,
)
from jaxneox.config.mamba_schema import MambaConfig
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.config.optimization_schema import (
    OptimizerConfig,
    PrecisionConfig,
    ScheduleConfig,
)
from jaxneox.config.running_schema import CheckpointConfig, GenerationConfig, LogConfig, RematConfig
from jaxneox.config.widths import Multipliers, Widths
from jaxneox.errors import UserError

PositionKind = Literal["learned", "rotary", "sinusoidal", "rpe", "alibi", "none"]
RopeType = Literal["default", "linear", "dynamic", "yarn", "llama3"]
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
Head = Literal["tokens", "reward"]


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
class InitConfig:
    """The methods by which the initial weights are drawn."""

    method: InitMethod = "normal"
    output_method: InitMethod = "scaled_normal"  # attention's and the MLP's output matrices
    std: float = 0.02
    scale: float = 1.0  # mup_init_scale
    widths: Widths | None = None  # beside muP's base


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
    norm: NormConfig = field(default_factory=NormConfig)
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
    experts: ExpertsConfig | None = None
    pattern: tuple[LayerKind, ...] = ("dense",)  # of the layers' kinds, repeated to the last layer
    mamba: MambaConfig | None = None  # of the layers of that kind, if there are any

    @property
    def kinds(self) -> tuple[LayerKind, ...]:
        """The kind of every layer."""
        return self.pattern * (self.num_layers // len(self.pattern))

    @property
    def attending(self) -> tuple[int, ...]:
        """The numbers of the layers whose attention has an effect."""
        dropped = {
            "dense": self.attention_dropped,
            "experts": self.experts is not None and self.experts.residual_quirk > 0,
            "mamba": True,  # they have none
        }
        return tuple(number for number, kind in enumerate(self.kinds) if not dropped[kind])

    def __post_init__(self) -> None:
        if self.num_layers % len(self.pattern):
            raise UserError(
                f"num_layers {self.num_layers} is no multiple of the {len(self.pattern)} layers "
                "that repeat"
            )
        if "mamba" in self.pattern and self.mamba is None:
            raise UserError("there are layers of kind mamba, but nothing says how wide they are")
        if "experts" in self.pattern and self.experts is None:
            raise UserError("there are layers of kind experts, but nothing says how many they are")
        if self.head == "reward" and (self.tied_embedding or self.logit_bias):
            raise UserError(
                "a reward model has no unembedding: expected neither a tied embedding nor a bias "
                "of the logits; set no_weight_tying to true, and leave logit_bias out"
            )
        of_queries = self.attention.qk_norm_per_head or self.attention.qk_norm_joint
        if of_queries and self.norm.kind != "rmsnorm":
            name = "qk_norm_joint" if self.attention.qk_norm_joint else "qk_norm_per_head"
            raise UserError(
                f"{name} needs norm: rmsnorm, found {self.norm.kind}: use rmsnorm, or "
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
