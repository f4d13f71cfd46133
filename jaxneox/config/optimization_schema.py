"""The part of the schema for precision, the optimizer and its schedule."""

from dataclasses import dataclass, field
from typing import Any, Literal

from jaxneox.config.widths import Widths

OptimizerKind = Literal["adam", "adamw", "sgd", "lion", "sm3", "adafactor", "muon"]
Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class LossScaleConfig:
    """The loss scale is `static`, or DeepSpeed's dynamic one where that is None."""

    static: float | None = None
    initial: float = 2.0**16
    window: int = 1000
    hysteresis: int = 2
    minimum: float = 1.0
    consecutive_hysteresis: bool = False  # every finite step makes the hysteresis full again


@dataclass(frozen=True)
class PrecisionConfig:
    """What is trained, its gradients and moments are float32; activations are `compute`."""

    compute: Dtype = "float32"
    loss_scale: LossScaleConfig | None = None  # float16 only
    loss_fp32: bool = True  # false only for fp16-lm-cross-entropy
    base: Dtype = "float32"  # of the parameters beside which LoRA's are trained


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer, with its weight decay and the clipping of gradients."""

    kind: OptimizerKind = "adam"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    momentum: float = 0.0
    weight_decay: float = 0.1
    grad_clip: float = 1.0  # 0 is none
    decoupled_decay: bool = True  # adam's; else it is added to the gradient (L2)
    bias_correction: bool = True  # of adam's moments
    lr_factors: dict[str, float] = field(default_factory=dict)  # of the learning rate, by parameter
    gradient_factors: dict[str, float] = field(default_factory=dict)  # before all else
    clip_leaves_out: dict[str, int] = field(default_factory=dict)  # parameter -> its first layer
    extra: dict[str, Any] = field(default_factory=dict)  # further params of `optimizer.params`
    widths: Widths | None = None  # beside muP's base


@dataclass(frozen=True)
class ScheduleConfig:
    """The learning rate's schedule: a warm-up, and `style` after it."""

    style: Literal["constant", "linear", "cosine", "exponential"] = "linear"
    lr: float = 1e-3
    min_lr: float = 0.0
    decay_iters: int = 1
    warmup_iters: float = 0.0  # a float, as in NeoX: warmup * decay_iters, not rounded
    neox_head: bool = False  # NeoX HEAD's first step of a warm-up, and its rate after the decay
    old: bool = False  # NeoX's formulas before 2023-08
