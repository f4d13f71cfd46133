"""Finds a step of a Megatron-LM run, its format and its files.

A run has `latest_checkpointed_iteration.txt` and steps `iter_NNNNNNN` (or `release`). In a step the
`torch` format has `mp_rank_TT[_PPP]/model_optim_rng.pt` for tensor-parallel rank TT and stage PPP;
`torch_dist` has `.metadata` and `.distcp` files, whatever the ranks were.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxneox.errors import UserError, listed
from jaxneox.reading import NAME_SIZE, read_text

TRACKER = "latest_checkpointed_iteration.txt"
STEP = re.compile(r"iter_(\d{7,})")
RANK = re.compile(r"mp_rank_(\d{2,})(?:_(\d{3,}))?(_\d{3,})?")
STATE = "model_optim_rng.pt"
INDEX, COMMON = ".metadata", "common.pt"

MOST_RANKS = 4096

Format = Literal["torch", "torch_dist"]


@dataclass(frozen=True)
class MegatronFiles:
    """The files of a step; `ranks`, for `torch` alone, is by (stage, tensor-parallel rank)."""

    folder: Path
    step: int | None
    format: Format
    ranks: list[list[Path]]


def is_megatron(path: Path) -> bool:
    """Tell whether a folder is a run of Megatron-LM or one of its steps."""
    if not path.is_dir():
        return False
    return (path / TRACKER).is_file() or _format(path) is not None or bool(_steps(path))


def find_files(src: Path, step: int | None = None) -> MegatronFiles:
    """Find the files of a run or of one of its steps.

    Raises:
        UserError: files are missing.
    """
    folder = step_folder(src, step)
    number = STEP.fullmatch(folder.resolve().name)
    at = int(number[1]) if number else None
    kind = _format(folder)
    if kind is None:
        raise UserError(
            f"{folder}: holds no Megatron-LM checkpoint; expected mp_rank_TT[_PPP] folders with "
            f"{STATE}, or {INDEX} with .distcp files"
        )
    return MegatronFiles(folder, at, kind, _grid(folder) if kind == "torch" else [])


def step_folder(src: Path, step: int | None) -> Path:
    if not src.is_dir():
        raise UserError(f"{src}: no such folder; expected a Megatron-LM run or an iter_ folder")
    number = STEP.fullmatch(src.resolve().name)
    if number or _format(src) is not None:
        if step is not None and not (number and int(number[1]) == step):
            raise UserError(f"{src}: is not step {step}: leave one of the two out")
        return src
    steps = _steps(src)
    if step is not None:
        if step not in steps:
            known = ", ".join(map(str, sorted(steps))) or "none"
            raise UserError(f"{src}: no checkpoint of step {step}; there are: {known}")
        return steps[step]
    return _tracked(src, steps)


def _tracked(src: Path, steps: dict[int, Path]) -> Path:
    """Return the step that the run names as its newest; if it names none, the largest step."""
    tracker = src / TRACKER
    if tracker.is_file():
        named = read_text(tracker, NAME_SIZE, errors="replace").strip()
        if named == "release" and (src / named).is_dir():
            return src / named
        if named.isdecimal() and len(named) < 20 and int(named) in steps:
            return steps[int(named)]
        raise UserError(
            f"{tracker}: names {named[:40]!r}, which is not a folder here; choose one with --step"
        )
    return steps[max(steps)] if steps else src


def _steps(src: Path) -> dict[int, Path]:
    return {int(m[1]): path for path in src.iterdir() if (m := STEP.fullmatch(path.name))}


def _format(folder: Path) -> Format | None:
    if (folder / INDEX).is_file():
        return "torch_dist"
    return "torch" if any(RANK.fullmatch(path.name) for path in folder.iterdir()) else None


def _grid(folder: Path) -> list[list[Path]]:
    """Return the grid of ranks, or raise a UserError that names every file missing from it."""
    paths = {}
    for path in sorted(folder.iterdir()):
        match = RANK.fullmatch(path.name)
        if match is None:
            continue
        if match[3]:
            raise UserError(
                f"{folder}: {path.name} is of an expert-parallel rank; mixtures of experts are not "
                "supported"
            )
        paths[int(match[2] or 0), int(match[1])] = path / STATE
    stages, ranks = (1 + max(numbers) for numbers in zip(*paths, strict=True))
    if max(stages, ranks) > MOST_RANKS:
        raise UserError(f"{folder}: a file of rank {max(stages, ranks) - 1}; at most {MOST_RANKS} "
                        "are expected")  # fmt: skip
    staged = any(path.parent.name.count("_") == 3 for path in paths.values())
    grid = [
        [paths.get((p, t), folder / rank_folder(t, p, staged) / STATE) for t in range(ranks)]
        for p in range(stages)
    ]
    require(path for stage in grid for path in stage)
    return grid


def rank_folder(rank: int, stage: int, staged: bool) -> str:
    return f"mp_rank_{rank:02d}_{stage:03d}" if staged else f"mp_rank_{rank:02d}"


def require(paths: Iterable[Path]) -> None:
    """Raise a UserError that names the paths which are not files."""
    missing = [path for path in paths if not path.is_file()]
    if missing:
        names = [f"{path.parent.name}/{path.name}" for path in missing]
        folder = missing[0].parent.parent
        raise UserError(f"{folder}: missing {listed(names)}; copy the whole checkpoint")
