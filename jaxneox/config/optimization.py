"""Build precision, optimizer and schedule from NeoX's keys and DeepSpeed's blocks.

Sources: megatron/neox_arguments/arguments.py and megatron/training.py (get_optimizer,
get_learning_rate_scheduler) of GPT-NeoX ea7aefd8; deepspeed/runtime/fp16/loss_scaler.py.
"""

import math
from typing import Any

from jaxneox.config.check import GREATEST, LEAST, CheckedKeys
from jaxneox.config.keys.training import OPTIMIZERS_ON_CPU
from jaxneox.config.mup import check_optimizer
from jaxneox.config.optimization_schema import Dtype, LossScaleConfig, OptimizerKind
from jaxneox.config.schema import OptimizerConfig, PrecisionConfig, ScheduleConfig
from jaxneox.errors import UserError

_DTYPES: dict[str, Dtype] = {"fp32": "float32", "fp16": "float16", "bfloat16": "bfloat16"}
PARAMS: dict[OptimizerKind, set[str]] = {  # of optimizer.params, besides lr and weight_decay
    "adam": {"betas", "eps"},
    "adamw": {"betas", "eps"},
    "sgd": {"momentum"},
    "lion": {"betas"},
    "sm3": {"momentum", "beta", "eps"},
    "adafactor": set(),
    "muon": {"betas", "momentum"},
}
BELOW_1 = 1 - 2.0**-25  # from here on float32 rounds to 1
SMALLEST_SCALE = 2.0**-24  # float16's smallest number
_COMMON = {"lr", "weight_decay"}
_FIELDS = {"betas", "eps", "momentum"}  # the rest goes to OptimizerConfig.extra
_TUNABLE = set.union(*PARAMS.values())


def precision_config(settings: CheckedKeys) -> PrecisionConfig:
    """Build the precision.

    Raises:
        UserError: `precision` and the fp16 and bf16 blocks ask for different things, or the loss
            scale is one that float16 cannot have.
    """
    asked = {name: dtype for name, dtype in _asked(settings).items() if dtype is not None}
    if len(set(asked.values())) > 1:
        parts = " but ".join(f"{name} asks for {dtype}" for name, dtype in asked.items())
        raise UserError(f"{parts}: keep one; a block is off with enabled: false")
    precision = next(iter(asked.values()), "fp32")
    if settings["fp16_lm_cross_entropy"] and precision != "fp16":
        raise UserError(
            f"fp16_lm_cross_entropy needs precision fp16, found {precision}: set it to false"
        )
    return settings.fill(
        PrecisionConfig,
        "precision",
        compute=_DTYPES[precision],
        loss_scale=_loss_scale(settings) if precision == "fp16" else None,
    )


def _asked(settings: CheckedKeys) -> dict[str, str | None]:
    for block, dtype in (("fp16", "fp16"), ("bf16", "bfloat16")):
        decided = settings["precision"] == dtype or settings.given(f"{block}.enabled")
        if settings[block] and not decided:
            raise UserError(f"{block}: enabled is missing: write enabled: true or false")
    # in old versions of NeoX, and so in some Pythia YAMLs, this block could mean bfloat16
    block_type = "fp16" if settings["neox_compat"] else settings["fp16.type"]
    return {
        "precision": settings["precision"],
        "the fp16 block": block_type if settings["fp16.enabled"] else None,
        "the bf16 block": "bfloat16" if settings["bf16.enabled"] else None,
    }


def _loss_scale(settings: CheckedKeys) -> LossScaleConfig:
    static = settings["fp16.loss_scale"] or None
    dynamic = settings["dynamic_loss_scale"]
    if dynamic is not None and dynamic == bool(static):
        raise UserError(
            f"dynamic_loss_scale is {dynamic} but loss_scale is "
            f"{static or 0:g}, where 0 is dynamic: keep one of the two"
        )
    minimum = settings["fp16.min_loss_scale"]
    for name, scale in (("loss_scale", static), ("min_loss_scale", minimum)):
        if scale is not None and scale < SMALLEST_SCALE:
            raise UserError(
                f"fp16.{name}: found {scale:g}, by which gradients vanish in float16: expected "
                f"{SMALLEST_SCALE:g} or more{' (0: dynamic)' if name == 'loss_scale' else ''}"
            )
    initial = 2.0 ** settings["fp16.initial_scale_power"]
    if static is None and minimum > initial:
        raise UserError(
            f"fp16.min_loss_scale {minimum:g} is above the first scale, {initial:g} = 2 ^ "
            f"initial_scale_power: lower the one or raise the other"
        )
    return settings.fill(LossScaleConfig, "precision.loss_scale")


def optimizer_config(settings: CheckedKeys) -> OptimizerConfig:
    """Build the optimizer; raise UserError for a parameter that it does not have."""
    named = settings["optimizer.type"]
    kind: Any = OPTIMIZERS_ON_CPU.get(named, named)
    if kind != named:
        settings.note(f"optimizer.type: {named} is {kind} on the training device here")
    check_optimizer(settings, kind)
    for name in sorted(_TUNABLE - PARAMS[kind]):
        if settings.given(f"optimizer.params.{name}"):
            raise UserError(
                f"optimizer.params.{name}: {kind} has no such parameter; it has "
                f"{', '.join(sorted(PARAMS[kind] | _COMMON))}"
            )
    _check_adams(settings, kind)
    return settings.fill(
        OptimizerConfig,
        "optimizer",
        kind=kind,
        betas=_betas(settings, kind),
        eps=_eps(settings, kind),
        momentum=_momentum(settings, kind),
        weight_decay=_weight_decay(settings, kind),
        grad_clip=_grad_clip(settings),
        lr_factors=_lr_factors(settings),
        gradient_factors=_factors(settings, "gradient_factors"),
        clip_leaves_out=_clip_leaves_out(settings),
        extra={
            name: _below_1(settings, name)
            for name in sorted(PARAMS[kind] - _FIELDS)
            if settings.given(f"optimizer.params.{name}")
        },
    )


def _check_adams(settings: CheckedKeys, kind: str) -> None:
    """Refuse variants of Adam for other optimizers; AdamW is the one with the decoupled decay."""
    for name in ("adam_w_mode", "bias_correction"):
        has_it = kind == "adam" or (kind == "adamw" and name == "bias_correction")
        if not settings[f"optimizer.params.{name}"] and not has_it:
            raise UserError(
                f"optimizer.params.{name}: false is for optimizer.type: adam, found {kind}: leave "
                "it out, or take adam"
            )


def _clip_leaves_out(settings: CheckedKeys) -> dict[str, int]:
    firsts = settings["clip_leaves_out"] or {}
    for name, first in firsts.items():
        if type(first) is not int or first < 0:
            raise UserError(f"clip_leaves_out: {name} has {first!r}, expected a layer from 0 on")
    return dict(firsts)


def _lr_factors(settings: CheckedKeys) -> dict[str, float]:
    factors = _factors(settings, "lr_factors")
    for name, factor in factors.items():
        settings.note(
            f"{name} moves with {factor:g} x the learning rate (lr_factors), as the copies of "
            "NeoX's ranks do together"
        )
    return factors


def _factors(settings: CheckedKeys, key: str) -> dict[str, float]:
    """Return numbers by the names of parameters."""
    factors = settings[key] or {}
    for name, factor in factors.items():
        if not isinstance(factor, int | float) or not LEAST <= factor <= GREATEST:
            raise UserError(f"{key}: {name} has {factor!r}, expected a number above 0")
    return {name: float(factor) for name, factor in factors.items()}


def _eps(settings: CheckedKeys, kind: str) -> float:
    eps = settings["optimizer.params.eps"]
    if eps is None:
        return 1e-30 if kind == "sm3" else 1e-8
    if not eps:
        raise UserError(
            "optimizer.params.eps: found 0, by which parameters without a gradient become 0 / 0: "
            "expected a number above 0, such as 1e-8"
        )
    return float(eps)


def _momentum(settings: CheckedKeys, kind: str) -> float:
    if kind == "muon" and not settings.given("optimizer.params.momentum"):
        return 0.95
    return _below_1(settings, "momentum")


def _below_1(settings: CheckedKeys, name: str) -> float:
    """Return the share of the past that a running mean keeps; with 1 or more nothing would fade."""
    share = float(settings[f"optimizer.params.{name}"])
    if share >= BELOW_1:
        raise UserError(f"optimizer.params.{name}: found {share:g}, expected a number below 1")
    return share


def _betas(settings: CheckedKeys, kind: str) -> tuple[float, float]:
    betas = settings["optimizer.params.betas"]
    if betas is None:
        return (0.9, 0.99) if kind == "lion" else (0.9, 0.999)
    if len(betas) != 2 or not all(0 <= beta < BELOW_1 for beta in betas):
        raise UserError(
            f"optimizer.params.betas: found {betas}, expected two numbers from 0 to below 1 in "
            "float32"
        )
    return betas[0], betas[1]


def _weight_decay(settings: CheckedKeys, kind: str) -> float:
    # NeoX's SM3 never looks at the decay of its groups
    return 0.0 if settings["neox_compat"] and kind == "sm3" else float(settings["weight_decay"])


def _grad_clip(settings: CheckedKeys) -> float:
    clip = float(settings["gradient_clipping"])
    # NeoX HEAD hands only what differs from its default to DeepSpeed, whose default is no clipping
    return 0.0 if settings["neox_compat"] and clip == 1.0 else clip


def schedule_config(settings: CheckedKeys, lr: float) -> ScheduleConfig:
    """Build the schedule; raise UserError if min_lr is above lr or the warm-up is too long."""
    decay_iters = _decay_iters(settings)
    min_lr = settings["min_lr"]
    if settings.given("decay_lr_to"):
        if settings.given("min_lr"):
            raise UserError("min_lr and decay_lr_to are both set: keep one of the two")
        min_lr = settings["decay_lr_to"] * lr
    if min_lr > lr:
        raise UserError(
            f"min_lr {min_lr:g} is above lr {lr:g} (optimizer.params.lr): lower the first to it"
        )
    return settings.fill(
        ScheduleConfig,
        "schedule",
        lr=lr,
        min_lr=min_lr,
        decay_iters=decay_iters,
        warmup_iters=_warmup_iters(settings, decay_iters),
        neox_head=settings["neox_compat"],
    )


def _decay_iters(settings: CheckedKeys) -> int:
    iters, fraction = settings["lr_decay_iters"], settings["lr_decay_fraction"]
    if iters is not None and fraction is not None:
        raise UserError("lr_decay_iters and lr_decay_fraction are both set: keep one of the two")
    if iters is None:
        train_iters = settings.needed("train_iters")
        iters = train_iters if fraction is None else math.floor(train_iters * fraction)
    return max(1, int(iters))


def _warmup_iters(settings: CheckedKeys, decay_iters: int) -> float:
    if not settings.given("warmup_iters"):
        return float(settings["warmup"] * decay_iters)
    warmup = float(settings["warmup_iters"])
    if settings.given("warmup"):
        raise UserError("warmup and warmup_iters are both set: keep one of the two")
    if warmup > decay_iters:
        raise UserError(
            f"warmup_iters {warmup:g} is more than the {decay_iters} steps of the decay; "
            "lower it, or raise lr_decay_iters or train_iters"
        )
    return warmup
