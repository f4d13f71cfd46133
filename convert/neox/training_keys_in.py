"""The keys with which a run of ours continues as NeoX's would."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from convert.neox.join import layer_of
from convert.readers.neox import NeoxCheckpoint
from convert.readers.neox_optimizer import NeoxOptimizer
from convert.replaced_keys import replaced
from convert.rules import neox
from convert.rules.rule import Role
from jaxneox.config import Settings
from jaxneox.config.batch import ACCUMULATION, GLOBAL, MICRO, batch_config
from jaxneox.config.schema import BatchConfig
from jaxneox.console.hints import command
from jaxneox.optim.schedule import build_schedule

Version = dict[str, bool]

SCHEDULES: dict[str, Version] = {
    "HEAD's": {"neox_compat": True, "old_lr_schedule": False},
    "that of 2023-08 to 2026": {"neox_compat": False, "old_lr_schedule": False},
    "that before 2023-08": {"neox_compat": False, "old_lr_schedule": True},
}
"""NeoX's schedules, by the versions that have them."""


def training_keys(
    source: NeoxCheckpoint, optimizer: NeoxOptimizer, summed: int, *, clean: bool
) -> dict[str, Any]:
    """Return the keys of the optimizer and the schedule.

    With the mean of n micro-batches' gradients in place of their sum, Adam's eps and the clipping
    threshold are n times smaller for the same update. DeepSpeed's own setting decides about
    clipping, and the constants in the files, which NeoX loads with its moments, take precedence
    over the YAML.
    """
    block = dict(source.keys.get("optimizer") or {})
    params = dict(block.get("params") or {}) | _constants(source, optimizer)
    decay = params.pop("weight_decay")
    params["eps"] /= summed
    if not Settings(source.keys).optimizer.decoupled_decay:
        decay /= summed  # it is added to the gradients
    clipping = optimizer.clipping / summed
    factors = ({} if clean else lr_factors(source)) | width_factors(source, optimizer)
    keys = {
        "optimizer": block | {"params": params},
        "weight_decay": decay,
        "gradient_clipping": clipping,
        **({"lr_factors": factors} if factors else {}),
        **gradient_factors(source),
    }
    if clipping and (left_out := clip_leaves_out(source, optimizer)):
        keys["clip_leaves_out"] = left_out
    return keys | _schedule_keys(source, optimizer, replaced(source.keys, keys))


def _constants(source: NeoxCheckpoint, optimizer: NeoxOptimizer) -> dict[str, Any]:
    """Return Adam's constants in the files; add a warning for each that differs from the YAML's."""
    configured = Settings(source.keys).optimizer
    named = {
        "betas": list(configured.betas),
        "eps": configured.eps,
        "weight_decay": configured.weight_decay,
    }
    constants = {name: optimizer.constants.get(name, value) for name, value in named.items()}
    for name, value in named.items():
        if constants[name] != value:
            optimizer.warnings.append(
                f"Adam's {name} is {constants[name]} in the optimizer's files and {value} in the "
                "YAML: NeoX goes on with the files', and so does the run"
            )
    return constants


def summed_of(source: NeoxCheckpoint) -> int:
    """Return the number of micro-batches in a step whose gradients the pipeline engine sums."""
    if source.engine != "pipeline":
        return 1
    steps = _deepspeed_config(source).get(ACCUMULATION)
    return steps if isinstance(steps, int) and steps > 0 else _batch(source).accumulation


def batch_notes(source: NeoxCheckpoint) -> Iterator[str]:
    """Note where the order of the data may change; sequences are counted in global batches."""
    configured, size = _deepspeed_config(source).get(GLOBAL), _batch(source).global_size
    if isinstance(configured, int) and configured != size:
        yield (
            f"DeepSpeed was configured with {configured} sequences a step, and the YAML gives "
            f"{size}: the data go on as if every step had had {size} (--config FILE.yml with "
            "another batch)"
        )
    known = any(isinstance(state.get("dp_world_size"), int) for state in source.states)
    if not known and configured is None and source.keys.get(GLOBAL) is None:
        yield (
            "neither the files nor the YAML say how many data-parallel ranks there were: 1 is "
            f"assumed, a global batch of {size}; give train-batch-size with --config FILE.yml"
        )


def _deepspeed_config(source: NeoxCheckpoint) -> Mapping[str, Any]:
    """Return DeepSpeed's configuration, from which NeoX omits DeepSpeed's defaults."""
    config = next((state.get("ds_config") for state in source.states), None)
    return config if isinstance(config, Mapping) else {}


def _batch(source: NeoxCheckpoint) -> BatchConfig:
    settings = Settings(source.keys)
    if not (settings.given(GLOBAL) or settings.given(MICRO)):
        settings = Settings(source.keys | {MICRO: 1})
    return batch_config(settings, source.dp)


def _schedule_keys(
    source: NeoxCheckpoint, optimizer: NeoxOptimizer, keys: Mapping[str, Any]
) -> Version:
    """Choose the version of NeoX whose schedule gives the next learning rate in the files."""
    names = list(SCHEDULES)
    if source.generation == "2023" and not keys.get("neox_compat"):
        names.reverse()
    clips_at_1 = keys["gradient_clipping"] == 1.0  # which neox_compat takes for none
    if keys.get("neox_compat"):  # of muP, which only HEAD has
        names = names[:1]
        if clips_at_1:
            optimizer.warnings.append("gradients are not clipped at 1.0: NeoX HEAD's muP does not")
    elif clips_at_1:
        names.remove("HEAD's")
    end = max(optimizer.position, int(keys.get("train_iters") or 0))
    steps = np.unique(np.linspace(optimizer.position, end, 256).astype(np.int32))
    rates = {name: _rates(dict(keys) | SCHEDULES[name], steps) for name in names}
    lr = optimizer.lr
    fitting = [n for n in names if lr is None or abs(rates[n][0] - lr) <= 1e-6 * lr]
    if not fitting:
        optimizer.warnings.append(
            f"the files say that the learning rate is {lr:.6e} next, and none of NeoX's "
            "schedules has it there by these keys: the run may go on at another rate"
        )
        return SCHEDULES[names[0]]
    taken, *others = fitting
    for other in others:
        if source.generation == "head" and SCHEDULES[other]["old_lr_schedule"]:
            continue  # these names of tensors are younger than that schedule
        apart = ~np.isclose(rates[taken], rates[other], rtol=1e-5, atol=0)
        if apart.any():
            asked = " ".join(f"{n}={str(v).lower()}" for n, v in SCHEDULES[other].items())
            optimizer.warnings.append(
                f"the learning rate in the files fits two of NeoX's schedules, which differ from "
                f"step {steps[apart][0]}: {taken} is taken; for {other}: "
                f"{command('train', 'DST', '--set')} {asked.replace('_', '-')}"
            )
    return SCHEDULES[taken]


def _rates(keys: Mapping[str, Any], steps: np.ndarray) -> np.ndarray:
    return np.asarray(build_schedule(Settings(keys).schedule)(steps))


def gradient_factors(source: NeoxCheckpoint) -> dict[str, dict[str, float]]:
    """Return the key of gradients that NeoX divides: of experts by the ranks (moe_mlp.py:202)."""
    if source.mp == 1 or source.model.experts is None:
        return {}
    names = ("layers.experts.up", "layers.experts.down")
    return {"gradient_factors": dict.fromkeys(names, 1 / source.mp)}


def lr_factors(source: NeoxCheckpoint) -> dict[str, float]:
    """Return factors for merged biases: one stands for mp copies that each make a step."""
    if source.mp == 1 or not source.model.parallel_residual:
        return {}
    rules = neox.every(source.model, source.llama_mlp)
    return {r.parts[0].leaf: float(source.mp) for r in rules if r.role is Role.BIAS}


def width_factors(source: NeoxCheckpoint, optimizer: NeoxOptimizer) -> dict[str, float]:
    """Return factors against muP's learning rates, which NeoX has with EleutherAI's mup alone."""
    widths = source.model.init.widths
    if widths is None or not optimizer.one_rate:
        return {}
    rules = neox.modules(source.model, source.llama_mlp)[neox.FIRST_BLOCK]
    hidden = [(r, neox.HIDDEN_AXES[r.theirs]) for r in rules if r.theirs in neox.HIDDEN_AXES]
    ratios = {part.leaf: widths.reads(axes) for rule, axes in hidden for part in rule.parts}
    return {leaf: ratio for leaf, ratio in ratios.items() if ratio != 1}


def clip_leaves_out(source: NeoxCheckpoint, optimizer: NeoxOptimizer) -> dict[str, int]:
    """List what DeepSpeed's norm without ZeRO does not count: copies in stages after the first."""
    if len(optimizer.stages) < 2:
        return {}
    model = source.model
    layers: dict[str, int] = {}
    for stage in optimizer.stages[1:]:
        for index in stage:
            for rule in neox.modules(model, source.llama_mlp).get(index, ()):
                if rule.role is not Role.SPLIT:
                    layers.setdefault(rule.parts[0].leaf, layer_of(index, model) or 0)
    return layers
