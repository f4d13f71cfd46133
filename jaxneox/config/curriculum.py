"""Build the curriculum of sequence lengths from DeepSpeed's block `curriculum_learning`.

Source: deepspeed/runtime/data_pipeline/curriculum_scheduler.py.
"""

from typing import Any

from jaxneox.config.check import CheckedKeys
from jaxneox.config.data_schema import CurriculumConfig
from jaxneox.errors import UserError

BLOCK, SCHEDULE = "curriculum_learning", "curriculum_learning.schedule_config"
NEEDED = {
    "fixed_linear": ("total_curriculum_step", "difficulty_step"),
    "fixed_root": ("total_curriculum_step", "difficulty_step", "root_degree"),
    "fixed_discrete": ("difficulty", "max_step"),
}
"""What each kind of schedule reads of schedule_config."""


def curriculum_config(settings: CheckedKeys) -> CurriculumConfig | None:
    """Build the curriculum; None where the block is not there or off.

    Raises:
        UserError: a setting is missing or makes no sense, or texts are not learned token by token.
    """
    if not settings[BLOCK]:
        return None
    if not settings.given(f"{BLOCK}.enabled"):
        raise UserError(f"{BLOCK}: enabled is missing: write enabled: true or false")
    if not settings[f"{BLOCK}.enabled"]:
        return None
    _check_run(settings)
    schedule = settings.needed(f"{BLOCK}.schedule_type")
    found = {name: settings.needed(f"{SCHEDULE}.{name}") for name in NEEDED[schedule]}
    least = settings.needed(f"{BLOCK}.min_difficulty")
    most = settings.needed(f"{BLOCK}.max_difficulty")
    if least > most:
        raise UserError(f"{BLOCK}: min_difficulty {least} is above max_difficulty {most}")
    if schedule == "fixed_discrete":
        _check_stages(found["difficulty"], found["max_step"])
    elif found["difficulty_step"] > least:
        raise UserError(
            f"{BLOCK}: difficulty_step {found['difficulty_step']} is above min_difficulty {least}, "
            "so that the first lengths would be 0: lower the first, or raise the second to it"
        )
    return CurriculumConfig(
        schedule=schedule,
        least=least,
        most=most,
        total=found.get("total_curriculum_step", 1),
        multiple=found.get("difficulty_step", 1),
        root=found.get("root_degree", 1),
        lengths=tuple(found.get("difficulty", ())),
        until=tuple(found.get("max_step", ())),
    )


def _check_run(settings: CheckedKeys) -> None:
    """Refuse what a row that is cut changes in another way than by being shorter."""
    kind = settings["train_impl"]
    if kind != "normal":
        raise UserError(
            f"{BLOCK}: with train_impl: {kind} a row is a whole text, which cannot be cut: leave "
            "the block out"
        )
    if settings["rope_scaling.type"] == "dynamic":
        raise UserError(
            f"{BLOCK}: with rope_scaling's type dynamic the angles depend on a text's length: "
            "leave one of the two out"
        )


def _check_stages(lengths: list[Any], until: list[Any]) -> None:
    if not until or len(lengths) != len(until) + 1 or min(*lengths, *until) < 1:
        raise UserError(
            f"{SCHEDULE}: found difficulty {lengths} and max_step {until}, expected whole numbers "
            "from 1 on, with one difficulty more than there are steps: the last has no end"
        )
