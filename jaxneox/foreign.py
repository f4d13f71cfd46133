"""Checkpoints of other programs, told by the names in their folder, and how they are converted."""

import re
from pathlib import Path
from typing import NamedTuple

from jaxneox.console.hints import command
from jaxneox.errors import UserError


class Foreign(NamedTuple):
    """A kind of checkpoint that is not ours."""

    title: str
    converter: str  # of `jaxneox convert`
    signs: re.Pattern[str]
    note: str = ""


HUGGING_FACE = Foreign(
    "Hugging Face",
    "from-hf",
    re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"),
)

PEFT = Foreign("PEFT", "from-peft", re.compile(r"adapter_config\.json"))

KINDS = (
    Foreign(
        "GPT-NeoX",
        "from-neox",
        re.compile(
            r"global_step\d+(_universal)?|layer_\d+-model_\d+-model_states\.pt"
            r"|(zero_pp_rank_\d+_)?mp_rank_\d+_model_states\.pt"
        ),
        " (with --optimizer to go on with its training)",
    ),
    HUGGING_FACE,
    Foreign(
        "Megatron-LM",
        "from-megatron",
        re.compile(
            r"latest_checkpointed_iteration\.txt|iter_\d{7}|mp_rank_\d+(_\d+)*|model\w*rng\.pt"
            r"|\w+\.distcp"
        ),
    ),
    PEFT,
)


def foreign(folder: Path) -> Foreign | None:
    """Find the kind of another program's checkpoint that lies in a folder, or None."""
    try:
        names = [child.name for child in folder.iterdir()]
    except OSError:
        return None
    match = next((kind for kind in KINDS if any(map(kind.signs.fullmatch, names))), None)
    return HUGGING_FACE if match is None and _describes_a_model(folder / "config.json") else match


def _describes_a_model(path: Path) -> bool:
    """Tell whether a config.json is transformers', of a model whose weights are not there (yet)."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return b'"model_type"' in file.read(1 << 20)
    except OSError:
        return False


def refuse_foreign(path: str | Path) -> None:
    """Refuse a path that holds another program's checkpoint.

    Raises:
        UserError: with the command that converts it.
    """
    kind = foreign(Path(path))
    if kind is not None:
        convert = command("convert", kind.converter, path, "DST")
        raise UserError(
            f"{path}: holds a {kind.title} checkpoint: convert it with `{convert}`{kind.note}, "
            "then use DST here"
        )
