"""The part of the schema for what a run saves, loads, logs, recomputes and writes."""

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class CheckpointConfig:
    """Says where and when checkpoints are saved, and which one is loaded."""

    save: str | None = None
    load: str | None = None
    iteration: int | None = None  # which step to load; None is the newest
    every: int | None = None  # checkpoint-factor
    scale: Literal["linear", "log"] = "linear"
    extra_iters: tuple[int, ...] = ()
    keep_last: int | None = None
    finetune: bool = False  # weights only
    save_optimizer: bool = True
    load_optimizer: bool = True
    load_schedule: bool = False  # of the learning rate, in place of the YAML's
    base: str | None = None  # lora: the model beside which its matrices are trained
    save_base_shapes: bool = False  # muP's, instead of training
    base_width_scale: int = 2  # of the wider model, by which their widths are told


@dataclass(frozen=True)
class LogConfig:
    """Says what is logged, where and how often."""

    interval: int = 100
    tensorboard_dir: str | None = None
    log_dir: str | None = None
    wandb: dict[str, Any] | None = None  # project, group, team, host, name; None is off
    param_norm: bool = False
    profile: tuple[int, int] | None = None  # first and last step of a jax.profiler trace
    spike_factor: float = 6.0  # see train/reporting/spikes.py; 0 is never
    grad_pct_zeros: bool = False
    optimizer_norms: bool = False
    noise_scale: int | None = None  # steps of an estimate of the gradient noise scale
    peak_tflops: float | None = None  # of one device, for MFU; None is found by the device's name


@dataclass(frozen=True)
class GenerationConfig:
    """Says how `jaxneox generate` writes text; training does not use it."""

    kind: str | None = None  # text_gen_type
    temperature: float = 0.0
    top_p: float = 0.0
    top_k: int = 0
    max_tokens: int = 64
    prompt_end: str = "\n"
    input_file: str | None = None
    output_file: str | None = None
    samples: int = 1
    recompute: bool = False
    context: int | None = None  # tokens of a text when the model is used; None is seq_length


@dataclass(frozen=True)
class RematConfig:
    """Activation checkpointing: which values of a layer the backward pass computes again."""

    policy: Literal["none", "full", "dots"] = "none"
    in_cpu: bool = False  # what a layer keeps waits in the host's memory
