"""Recognition of a checkpoint's kind from the names in its folder alone."""

import re
from pathlib import Path

from convert.inspection.facts import TITLES, Kind
from convert.readers.hf_files import refuse_peft
from convert.readers.neox_files import LAYER, RANK, UNIVERSAL, ZERO_3, merged_files
from jaxneox.errors import UserError, listed

SIGNS: dict[Kind, re.Pattern[str]] = {
    "neox": re.compile(
        rf"global_step\d+({UNIVERSAL})?|{LAYER.pattern}|{RANK.pattern}|{ZERO_3.pattern}"
    ),
    "jaxneox": re.compile(r"step_\d+|meta"),
    "megatron": re.compile(
        r"latest_checkpointed_iteration\.txt|iter_\d{7}|mp_rank_\d+(_\d+)*|model\w*rng\.pt"
        r"|\.metadata|\w+\.distcp"
    ),
    "huggingface": re.compile(
        r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?"
    ),
}
WEAK: dict[Kind, str] = {"huggingface": "config.json"}
"""Names that mean nothing beside the names of any other kind."""

LOOKED_AT = 1000  # subfolders of a folder that has nothing itself


def recognise(path: Path, asked: Kind | None = None) -> Kind:
    """Recognise the kind of checkpoint in a folder.

    Raises:
        UserError: the folder holds nothing known, or several kinds.
    """
    if not path.exists():
        raise UserError(f"{path}: no such folder; expected a checkpoint on this disk")
    if not path.is_dir():
        raise UserError(f"{path}: is a file; give the folder of the whole checkpoint")
    kinds = signs(path)
    if asked:
        if asked not in kinds:
            there = " and ".join(_named(kinds)) or "nothing that is known here"
            raise UserError(f"{path}: holds no {TITLES[asked]} checkpoint; it has {there}")
        return asked
    if len(kinds) > 1:
        raise UserError(
            f"{path}: holds several kinds of checkpoint: {' and '.join(_named(kinds))}; choose one "
            f"with --kind {'|'.join(kinds)}"
        )
    if not kinds:
        refuse_peft(path)
        raise _nothing(path)
    return next(iter(kinds))


def signs(path: Path) -> dict[Kind, str]:
    """Find the kinds of checkpoint in a folder, each with a file name that shows it."""
    names = sorted(child.name for child in path.iterdir())
    kinds: dict[Kind, str] = {}
    for kind, pattern in SIGNS.items():
        name = next((name for name in names if pattern.fullmatch(name)), None)
        if name is not None:
            kinds[kind] = name
    if path.resolve().name.endswith(UNIVERSAL):
        kinds["neox"] = path.name
    if "huggingface" in kinds and merged_files(path):
        kinds["neox"] = kinds.pop("huggingface")
    return kinds or {kind: name for kind, name in WEAK.items() if name in names}


def _named(kinds: dict[Kind, str]) -> list[str]:
    return [f"{TITLES[kind]} ({name})" for kind, name in kinds.items()]


def _nothing(path: Path) -> UserError:
    folders = sorted(child for child in path.iterdir() if child.is_dir())[:LOOKED_AT]
    inside = [f"{c.name} ({TITLES[kind]})" for c in folders for kind in signs(c)]
    if inside:
        return UserError(
            f"{path}: is not a checkpoint, but holds {listed(inside)}; name one of them"
        )
    known = ", ".join(TITLES.values())
    return UserError(f"{path}: holds no checkpoint that is known here; expected one of {known}")
