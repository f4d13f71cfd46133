"""The files behind a path that was given as text: by their kinds, in their order.

A folder that Hugging Face's `datasets` has saved (`Dataset.save_to_disk`) has a state.json, which
lists its data-*.arrow files in their order; the folder of a DatasetDict has a dataset_dict.json,
which lists the splits, a folder each.
"""

import pathlib
from typing import Any

from jaxneox.errors import UserError
from jaxneox.lfs import refuse_pointer
from jaxneox.reading import INDEX_SIZE, read_object, regular_file

KINDS = {
    "lines": (".jsonl", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst"),
    "text": (".txt", ".txt.gz", ".txt.zst"),
    "table": (".parquet",),
    "arrow": (".arrow",),
}
SUFFIXES = tuple(suffix for suffixes in KINDS.values() for suffix in suffixes)
STATE, SPLITS, SELECTION = "state.json", "dataset_dict.json", "indices.arrow"


def input_files(path: str | pathlib.Path) -> list[pathlib.Path]:
    """List a file, or all files of a folder that can be read, sorted.

    Raises:
        UserError: there are none, one is a Git LFS pointer, or a saved dataset is not whole.
    """
    root = pathlib.Path(path)
    files = _files_in(root) if root.is_dir() else [regular_file(root)]
    if kind_of(files[0]) is None:
        raise UserError(
            f"{path}: unknown kind of file, expected {', '.join(SUFFIXES)}; unpack an archive first"
        )
    for file in files:
        refuse_pointer(file)
    return files


def kind_of(path: pathlib.Path) -> str | None:
    for kind, suffixes in KINDS.items():
        if path.name.endswith(suffixes):
            return kind
    return None


def _files_in(root: pathlib.Path) -> list[pathlib.Path]:
    if (root / SPLITS).is_file():
        splits = _names(root / SPLITS, read_object(root / SPLITS, INDEX_SIZE).get("splits"))
        raise UserError(
            f"{root}: holds the splits {', '.join(splits)} of a dataset; expected one of them, "
            f"such as {root / splits[0]}"
        )
    found = sorted(p for p in root.rglob("*") if kind_of(p) and p.is_file())
    saved = {path.parent for path in found if (path.parent / STATE).is_file()}
    listed = {folder: _saved(folder) for folder in sorted(saved)}
    files = []
    for path in found:
        if path.parent not in saved or path.suffix != ".arrow":
            files.append(path)
        else:  # all of them, in the place of the first
            files += listed.pop(path.parent, [])
    if not files:
        raise UserError(f"{root}: nothing to read, expected files {', '.join(SUFFIXES)}")
    return files


def _saved(folder: pathlib.Path) -> list[pathlib.Path]:
    """Return the files of a folder that `Dataset.save_to_disk` has written, in their order."""
    try:
        state = read_object(folder / STATE, INDEX_SIZE)
    except UserError as error:
        raise UserError(f"{error}; copy the folder again") from error
    if (folder / SELECTION).exists() or state.get("_indices_data_files"):
        raise UserError(
            f"{folder}: its rows are a selection of those in its files ({SELECTION}), which is not "
            "followed here; save dataset.flatten_indices() instead"
        )
    rows = state.get("_data_files")
    names = [row.get("filename") if isinstance(row, dict) else None for row in rows or ()]
    files = [folder / name for name in _names(folder / STATE, names)]
    for file in files:
        if kind_of(file) != "arrow" or not file.is_file():
            raise UserError(f"{file}: no such file, but {STATE} lists it; copy the folder again")
    return files


def _names(path: pathlib.Path, names: Any) -> list[str]:
    good = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    if not good or any(name in ("", ".", "..") or "/" in name for name in names):
        raise UserError(f"{path}: lists no names of files here; copy the folder again")
    return list(names)
