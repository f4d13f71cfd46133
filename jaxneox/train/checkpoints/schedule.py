"""The checkpoint's learning rate schedule in place of the YAML's: `use_checkpoint_lr_scheduler`."""

from typing import Any

from jaxneox.config import Settings, override
from jaxneox.errors import UserError
from jaxneox.train.checkpoints.resume import agreed_resume_point, schedule_before

OTHERS = ("lr_decay_fraction", "decay_lr_to", "warmup")
"""Keys that say in another way what is taken from the checkpoint."""


def with_saved_schedule(settings: Settings) -> Settings:
    """Return settings with the schedule of the checkpoint whose training goes on, if asked to.

    As in NeoX (megatron/learning_rates.py, load_state_dict) it has the largest and the least rate,
    the warm-up, the steps of the decay and its form, whatever the YAML says of them. A run that
    begins anew, or takes weights alone, has the YAML's.

    Raises:
        UserError: the YAML's schedule is asked for as well, by override_lr_scheduler.
    """
    if not settings["use_checkpoint_lr_scheduler"]:
        return settings
    if settings["override_lr_scheduler"]:
        raise UserError(
            "override_lr_scheduler asks for the YAML's schedule and use_checkpoint_lr_scheduler "
            "for the checkpoint's: keep one of the two"
        )
    before = schedule_before(agreed_resume_point(settings.checkpoint))
    if before is None:
        return settings
    taken: list[tuple[str, Any]] = [
        ("optimizer.params.lr", before.lr),
        ("min_lr", before.min_lr),
        ("warmup_iters", before.warmup_iters),
        ("lr_decay_iters", before.decay_iters),
        ("lr_decay_style", before.style),
        ("old_lr_schedule", before.old),
        *((name, None) for name in OTHERS),
    ]
    return Settings(override(settings.keys, taken))
