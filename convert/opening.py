"""Opening a checkpoint, whichever program wrote it."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from convert.checkpoint import Checkpoint
from convert.megatron.arguments_in import ReadingChoices
from convert.neox.checkpoint import NeoxModel, choices_by
from convert.neox.consistency import check_consistency
from convert.neox.merge import make_plan
from convert.readers.hf import HfCheckpoint
from convert.readers.jaxneox import open_jaxneox
from convert.readers.megatron import open_megatron
from convert.readers.megatron_files import is_megatron
from convert.readers.neox_open import open_neox
from jaxneox.config import load_yaml
from jaxneox.errors import UserError

Conversion = Mapping[str, Any]
"""A converted checkpoint's record of how it was made."""


def open_pair(
    src: Path, dst: Path, config: list[Path] | None = None
) -> tuple[Checkpoint, Checkpoint]:
    """Open two checkpoints to be compared.

    If one records how it was converted, the other is read in the same way.

    Args:
        src: the folder of the first checkpoint.
        dst: the folder of the second.
        config: YAML files, for a NeoX checkpoint that has none, or in place of what a
            Megatron-LM checkpoint says about itself.

    Returns:
        The checkpoints of `src` and `dst`.
    """
    if is_ours(src) or not is_ours(dst):
        source = open_checkpoint(src, config)
        return source, open_checkpoint(dst, config, source.conversion)
    target = open_checkpoint(dst, config)
    return open_checkpoint(src, config, target.conversion), target


def open_checkpoint(
    path: Path, config: list[Path] | None = None, conversion: Conversion | None = None
) -> Checkpoint:
    """Open the checkpoint in a folder, whichever program wrote it.

    Args:
        path: the folder.
        config: YAML files, for a NeoX checkpoint that has none, or in place of what a
            Megatron-LM checkpoint says about itself.
        conversion: what a checkpoint that was converted from this one records about how.

    Raises:
        UserError: no checkpoint is there, or it cannot be read.
    """
    if not path.is_dir():
        raise UserError(
            f"{path}: no such folder; expected a checkpoint on this disk (convert what is on a hub "
            "first)"
        )
    if (path / "config.json").is_file():
        return HfCheckpoint(path)
    if is_ours(path):
        return open_jaxneox(path)
    if is_megatron(path):
        choices = ReadingChoices.of(conversion or {})
        return open_megatron(
            path, choices=replace(choices, keys=load_yaml(config)) if config else choices
        )
    ranks = open_neox(path, config=config)
    check_consistency(ranks)
    return NeoxModel(ranks, make_plan(ranks, choices_by(conversion or {})))


def is_ours(path: Path) -> bool:
    """Tell whether a folder holds a run or a step of jaxneox."""
    return (path / "meta").is_dir() or any(path.glob("step_*"))
