"""At which steps a run saves and evaluates."""

from jaxneox.config.schema import CheckpointConfig, TrainConfig


def saves_at(step: int, cfg: CheckpointConfig) -> bool:
    """Tell whether a checkpoint is due after `step` updates.

    It is due every checkpoint-factor steps, or at its powers from 1 on, and at the extra steps. The
    end of a run saves as well.
    """
    if step in cfg.extra_iters:
        return True
    if not cfg.every or step <= 0:
        return False
    return step % cfg.every == 0 if cfg.scale == "linear" else _is_power(step, cfg.every)


def evaluates_at(step: int, cfg: TrainConfig) -> bool:
    return cfg.do_valid and cfg.eval_iters > 0 and step % cfg.eval_interval == 0


def _is_power(step: int, base: int) -> bool:
    power = 1
    while base > 1 and power < step:
        power *= base
    return power == step
