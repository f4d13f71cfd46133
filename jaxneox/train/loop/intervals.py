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
    due = step % cfg.eval_interval == 0 or (cfg.eval_fixed and step == cfg.train_iters)
    return due and cfg.do_valid and cfg.eval_iters > 0


def evaluates_before(step: int, cfg: TrainConfig) -> bool:
    """Tell whether an evaluation is due before the next step, which is a run's first."""
    return step == 0 and cfg.eval_fixed and cfg.do_valid and cfg.eval_iters > 0


def first_of_evaluation(step: int, cfg: TrainConfig) -> int:
    """Number the first batch of the evaluation after `step` updates."""
    return 0 if cfg.eval_fixed else (step // cfg.eval_interval - 1) * cfg.eval_iters


def _is_power(step: int, base: int) -> bool:
    power = 1
    while base > 1 and power < step:
        power *= base
    return power == step
