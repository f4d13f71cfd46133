"""NeoX's optimizers by name, as optax chains over the flat dictionary of parameters."""

from collections.abc import Callable, Mapping

import optax
from optax.contrib import muon

from jaxneox.config.optimization_schema import OptimizerKind
from jaxneox.config.schema import OptimizerConfig, ScheduleConfig
from jaxneox.errors import UserError
from jaxneox.optim.adam import scale_by_adam
from jaxneox.optim.chain import Chain, decays
from jaxneox.optim.clip import clip_by_norm
from jaxneox.optim.matrices import Axes, by_matrix, matrix_dimensions
from jaxneox.optim.mup import by_width, l2_decay
from jaxneox.optim.schedule import build_schedule
from jaxneox.optim.sm3 import scale_by_sm3


def build_optimizer(
    cfg: OptimizerConfig, schedule: ScheduleConfig, axes: Axes
) -> optax.GradientTransformation:
    """Build the chain that clips by the global norm, then updates.

    "Adam" decouples its weight decay, as the fused Adam that NeoX runs: it is AdamW. Without
    `decoupled_decay` the decay is added to the gradient, after clipping and before the moments.

    Args:
        cfg: the optimizer.
        schedule: the learning rate.
        axes: the logical axes of the parameters that are trained, by name.

    Raises:
        UserError: a key names a parameter that is not among them.
    """
    _check_names(cfg, axes)
    clip = [clip_by_norm(cfg.grad_clip, cfg.clip_leaves_out)] if cfg.grad_clip else []
    rate = optax.scale_by_learning_rate(build_schedule(schedule))
    before, after = _scaled(cfg.gradient_factors), _scaled(cfg.lr_factors)
    return optax.chain(*before, *clip, *UPDATES[cfg.kind](cfg, axes), rate, *after)


def _check_names(cfg: OptimizerConfig, axes: Axes) -> None:
    by_name: dict[str, Mapping[str, float]] = {
        "lr_factors": cfg.lr_factors,
        "gradient_factors": cfg.gradient_factors,
        "clip_leaves_out": cfg.clip_leaves_out,
    }
    for key, named in by_name.items():
        unknown = named.keys() - axes.keys()
        if unknown:
            names = ", ".join(sorted(unknown))
            raise UserError(f"{key}: {names}: no such parameter is trained")


def _scaled(factors: Mapping[str, float]) -> Chain:
    """Multiply the updates of some parameters; gradients are the first updates."""
    if not factors:
        return []

    def scale(updates: optax.Updates, params: optax.Params | None) -> optax.Updates:
        return {name: u * factors.get(name, 1.0) for name, u in updates.items()}

    return [optax.stateless(scale)]


def _decay(cfg: OptimizerConfig, axes: Axes) -> Chain:
    mask = {name: decays(name) for name in axes}
    return [optax.add_decayed_weights(cfg.weight_decay, mask)] if cfg.weight_decay else []


def _adam(cfg: OptimizerConfig, axes: Axes) -> Chain:
    adam, rates, decay = scale_by_adam(cfg), by_width(cfg.widths, axes), _decay(cfg, axes)
    if cfg.widths is not None and cfg.widths.as_neox:
        return [*l2_decay(cfg, axes), adam, *rates]
    return [adam, *rates, *decay] if cfg.decoupled_decay else [*decay, adam, *rates]


def _sgd(cfg: OptimizerConfig, axes: Axes) -> Chain:
    """Build torch's SGD, whose decay enters the momentum."""
    momentum = [optax.trace(cfg.momentum)] if cfg.momentum else []
    return [*_decay(cfg, axes), *momentum]


def _lion(cfg: OptimizerConfig, axes: Axes) -> Chain:
    return [optax.scale_by_lion(*cfg.betas), *by_width(cfg.widths, axes), *_decay(cfg, axes)]


def _sm3(cfg: OptimizerConfig, axes: Axes) -> Chain:
    sm3 = scale_by_sm3(cfg.momentum, cfg.extra.get("beta", 0.0), cfg.eps)
    return [by_matrix(sm3, axes), *_decay(cfg, axes)]


def _adafactor(cfg: OptimizerConfig, axes: Axes) -> Chain:
    """Build Shazeer and Stern's (2018) with a given learning rate, not relative to the weights."""
    factored = optax.chain(optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0))
    return [by_matrix(factored, axes), *_decay(cfg, axes)]


def _muon(cfg: OptimizerConfig, axes: Axes) -> Chain:
    """Build orthogonalised momentum for the layers' matrices, Adam for everything else."""
    numbers = {name: matrix_dimensions(a) for name, a in axes.items()}
    groups = {name: "adam" if n is None else "muon" for name, n in numbers.items()}
    orthogonal = muon(
        learning_rate=-1.0,  # muon has a sign of its own; the rate comes after the decay
        beta=cfg.momentum,
        muon_weight_dimension_numbers=numbers,
    )
    adam = optax.scale_by_adam(*cfg.betas, eps=cfg.eps)
    return [optax.partition({"muon": orthogonal, "adam": adam}, groups), *_decay(cfg, axes)]


UPDATES: dict[OptimizerKind, Callable[[OptimizerConfig, Axes], Chain]] = {
    "adam": _adam,
    "adamw": _adam,
    "sgd": _sgd,
    "lion": _lion,
    "sm3": _sm3,
    "adafactor": _adafactor,
    "muon": _muon,
}
