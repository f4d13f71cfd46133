"""Finds the files of a GPT-NeoX checkpoint, and those that are missing.

The pipeline engine writes one file for each layer and rank, `layer_LL-model_MM-model_states.pt`,
beside `mp_rank_NN_model_states.pt` (NN = stage * mp + rank) without weights; the Sequential engine
puts all of a rank's weights into the latter. The files tell which, whatever the YAML says.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from convert.readers.torch_file import TorchFile
from jaxneox.console.hints import command
from jaxneox.errors import UserError, listed
from jaxneox.reading import NAME_SIZE, read_text

LAYER = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
RANK = re.compile(r"mp_rank_(\d+)_model_states\.pt")
STEP = re.compile(r"global_step(\d+)")

MOST_RANKS = 4096

MEGATRON = f"a Megatron-LM checkpoint: {command('convert', 'from-megatron', 'SRC', 'DST')}"
HUGGING_FACE = f"a Hugging Face model: {command('convert', 'from-hf', 'SRC', 'DST')}"
ZERO_3 = re.compile(r"zero_pp_rank_\d+_mp_rank_\d+_model_states\.pt")
UNIVERSAL = "_universal"
"""Suffix of DeepSpeed's folder for a universal checkpoint, in which there is a folder `zero`."""

WHOLE = "pytorch_model.bin"
"""The file that DeepSpeed's zero_to_fp32.py writes; it may be an index of parts instead."""

NAMED = re.compile(r"(sequential\.)?\d+\.[a-z]\w*\..+")
"""Matches the name of a tensor of NeoX's Sequential outside NeoX's own files."""

OTHER_KINDS = {
    "latest_checkpointed_iteration.txt": MEGATRON,
    "model_optim_rng.pt": MEGATRON,
    "model.safetensors": HUGGING_FACE,
    "model.safetensors.index.json": HUGGING_FACE,
    "pytorch_model.bin": HUGGING_FACE,
}


def layer_file(index: int, rank: int) -> str:
    """Name the file of one module of the Sequential and one model-parallel rank."""
    return f"layer_{index:02d}-model_{rank:02d}-model_states.pt"


def rank_file(number: int) -> str:
    """Name the file of one rank; number = stage * mp + rank."""
    return f"mp_rank_{number:02d}_model_states.pt"


@dataclass(frozen=True)
class NeoxFiles:
    """The files of one step of a run.

    Attributes:
        layers: by Sequential index, each a list by rank; empty for the Sequential engine.
        ranks: the mp_rank files in order; empty if none were kept.
        merged: the files that zero_to_fp32.py made in their place.
    """

    folder: Path
    step: int | None
    layers: dict[int, list[Path]]
    ranks: list[Path]
    yamls: list[Path]
    merged: list[Path] = field(default_factory=list)


def find_files(src: Path, step: int | None = None) -> NeoxFiles:
    """Find the files of a run or of one of its `global_stepN` folders.

    Raises:
        UserError: files are missing.
    """
    folder = step_folder(src, step)
    names = sorted(path.name for path in folder.iterdir())
    grid = {(int(m[1]), int(m[2])): folder / m[0] for name in names if (m := LAYER.fullmatch(name))}
    ranks = {int(m[1]): folder / m[0] for name in names if (m := RANK.fullmatch(name))}
    if not grid and not ranks:
        if merged := merged_files(folder):
            return NeoxFiles(folder, None, {}, [], _yamls(folder), merged)
        raise nothing_here(src, folder, names)
    largest = max([rank for _, rank in grid] + [*ranks])
    if largest >= MOST_RANKS:
        raise UserError(f"{folder}: a file of rank {largest}; at most {MOST_RANKS} are expected")
    number = STEP.fullmatch(folder.name)
    return NeoxFiles(
        folder,
        int(number[1]) if number else None,
        _whole_grid(folder, grid),
        _whole_list(folder, ranks),
        _yamls(folder),
    )


def step_folder(src: Path, step: int | None) -> Path:
    if not src.is_dir():
        raise UserError(f"{src}: no such folder; expected a NeoX run or a global_stepN folder")
    number = STEP.fullmatch(src.resolve().name)
    if number:
        if step not in (None, int(number[1])):
            raise UserError(f"{src}: is not step {step}: leave one of the two out")
        return src
    there = {int(m[1]): path for path in src.iterdir() if (m := STEP.fullmatch(path.name))}
    if step is not None:
        if step not in there:
            known = ", ".join(map(str, sorted(there))) or "none"
            raise UserError(f"{src}: no checkpoint of step {step}; there are: {known}")
        return there[step]
    latest = src / "latest"
    if latest.is_file():
        named = src / read_text(latest, NAME_SIZE, errors="replace").strip()
        if named.parent != src or not named.is_dir():
            raise UserError(
                f"{latest}: names {named.name!r}, which is not a folder here; choose one with "
                "--step"
            )
        return named
    return there[max(there)] if there else src


def _whole_grid(folder: Path, grid: dict[tuple[int, int], Path]) -> dict[int, list[Path]]:
    """Raise a UserError that names every file which other ranks have and one lacks."""
    if not grid:
        return {}
    ranks = 1 + max(rank for _, rank in grid)
    indices = sorted({index for index, _ in grid})
    missing = [
        layer_file(index, rank)
        for index in indices
        for rank in range(ranks)
        if (index, rank) not in grid
    ]
    if missing:
        raise missing_files(folder, missing)
    return {index: [grid[index, rank] for rank in range(ranks)] for index in indices}


def _whole_list(folder: Path, ranks: dict[int, Path]) -> list[Path]:
    missing = [rank_file(n) for n in range(max(ranks, default=-1) + 1)
               if n not in ranks]  # fmt: skip
    if missing:
        raise missing_files(folder, missing)
    return [ranks[n] for n in sorted(ranks)]


def _yamls(folder: Path) -> list[Path]:
    """Return the configuration that NeoX saved with the step, or else the files beside the step."""
    for place in (folder / "configs", folder, folder.parent):
        if yamls := sorted(p for p in place.glob("*.y*ml") if p.suffix in (".yml", ".yaml")):
            return yamls
    return []


def merged_files(folder: Path) -> list[Path]:
    """Return the files that zero_to_fp32.py wrote for a run of NeoX.

    There are none if the files hold another model, or beside a config.json, by which transformers
    reads them.
    """
    index, whole = folder / f"{WHOLE}.index.json", folder / WHOLE
    if (folder / "config.json").exists() or not (index.is_file() or whole.is_file()):
        return []
    stem, _, suffix = WHOLE.partition(".")
    parts = [whole] if whole.is_file() else sorted(folder.glob(f"{stem}-*-of-*.{suffix}"))
    tensors = TorchFile(parts[0]).content if parts else None
    if not isinstance(tensors, Mapping) or not tensors:
        return []
    return parts if all(NAMED.fullmatch(str(name)) for name in tensors) else []


def missing_files(folder: Path, names: Iterable[str]) -> UserError:
    return UserError(f"{folder}: missing {listed(names)}; copy the whole checkpoint")


def nothing_here(src: Path, folder: Path, names: list[str]) -> UserError:
    for name, kind in OTHER_KINDS.items():
        if name in names:
            return UserError(f"{src}: is {kind}")
    if any(ZERO_3.fullmatch(name) for name in names):
        return UserError(
            f"{src}: is a checkpoint of ZeRO stage 3, whose weights are in parts that are not read "
            f"here: run DeepSpeed's `python zero_to_fp32.py {folder.parent} OUT --tag "
            f"{folder.name}`, put the run's YAML into OUT and convert that"
        )
    if folder.name.endswith(UNIVERSAL) or any(name.endswith(UNIVERSAL) for name in names):
        return UserError(
            f"{src}: is a universal checkpoint of DeepSpeed, which is not read here: convert the "
            "global_stepN folder that it was made of"
        )
    if (folder / "config.yml").is_file() or any(name.startswith("step_") for name in names):
        return UserError(f"{src}: is a jaxneox checkpoint already")
    return UserError(
        f"{src}: holds no NeoX checkpoint; expected a run with global_stepN folders, or one of "
        "them, with layer_LL-model_MM-model_states.pt or mp_rank_NN_model_states.pt files"
    )
