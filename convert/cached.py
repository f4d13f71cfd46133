"""Checkpoints of other programs in our form, in the cache: for whoever loads them by their path.

A conversion is found again by the content of the files that it read: `converted/KEY`, where KEY is
made of their names and SHA-256. `converted/seen` remembers, for each path, names, sizes and times
of all files there when their content was last looked at, so that the next time nothing is read; and
those of the places outside where a tokenizer was looked for.
"""

import fcntl
import hashlib
import json
import os
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from convert.checkpoint import Source
from convert.conversion import make
from convert.hf.download import folder_of_model
from convert.inspection.facts import TITLES, Kind
from convert.inspection.recognise import signs
from convert.ours.target import JaxneoxTarget
from convert.readers.torch_file import TorchFile
from jaxneox.checkpoint import quiet
from jaxneox.console.say import tell
from jaxneox.console.waiting import waiting
from jaxneox.data.cache import cache_root
from jaxneox.data.sha256 import file_sha256
from jaxneox.errors import UserError
from jaxneox.reading import INDEX_SIZE, read_object

CONVERTERS: dict[Kind, str] = {
    "huggingface": "from-hf",
    "neox": "from-neox",
    "megatron": "from-megatron",
}
"""The command of each kind, after `jaxneox convert`."""

FORM = 1
"""Raise it when the same files would be converted to other parameters."""


def in_our_form(where: str | Path, step: int | None = None) -> Path:
    """Return the run of ours that computes what the checkpoint at `where` does.

    Args:
        where: a run or step of ours (which is returned as it is), a folder of Hugging Face's,
            NeoX's or Megatron's, or the name of a hub's repository, `owner/name[@revision]`.
        step: which step of a run; the one that its program would load unless given.

    Raises:
        UserError: it cannot be read, or cannot be converted to the same function.
    """
    folder = folder_of_model(str(where))
    kind = _kind(folder)
    if kind in (None, "jaxneox"):
        return folder
    root = cache_root() / "converted"
    (root / "seen").mkdir(parents=True, exist_ok=True)
    seen = root / "seen" / f"{digest([str(folder.resolve()), step])}.json"
    state = _state(sorted(folder.resolve().rglob("*")))
    if (known := _known(seen, root, state)) is not None:
        return known
    with waiting(f"reading {where}"):
        source = _source(kind, folder, step)
        outside = [str(path.absolute()) for path in source.outside]
        more = _state(map(Path, outside))
        key = _content(source)
    entry = root / key
    with alone(root / f"{key}.lock"):
        if not (entry / "certificate.json").is_file():
            with quiet():
                make(
                    entry,
                    lambda: _source(kind, folder, step),
                    JaxneoxTarget,
                    verify=True,
                    by=_command(kind, folder, step, entry),
                )
            tell(f"{where}: a {TITLES[kind]} checkpoint, converted to {entry} and proved the same")
    record = {"key": key, "state": state, "outside": outside, "more": more}
    seen.write_text(json.dumps(record))
    return entry


def _kind(folder: Path) -> Kind | None:
    """Return the one kind of checkpoint that a folder holds, or None."""
    if not folder.is_dir():
        return None
    kinds = list(signs(folder))
    if "jaxneox" in kinds:
        return "jaxneox"
    if len(kinds) > 1:
        there = " and ".join(TITLES[kind] for kind in kinds)
        raise UserError(
            f"{folder}: holds several kinds of checkpoint: {there}; convert the one that is meant "
            "with `jaxneox convert`"
        )
    return kinds[0] if kinds else None


def _source(kind: Kind, folder: Path, step: int | None) -> Source:
    """Open a checkpoint as its own command does without options."""
    if kind == "huggingface":
        from convert.hf.source import HfSource

        return HfSource(folder)
    if kind == "megatron":
        from convert.megatron.source import MegatronOptions, MegatronSource

        return MegatronSource(folder, MegatronOptions(step))
    from convert.neox.source import NeoxOptions, NeoxSource

    return NeoxSource(folder, NeoxOptions(step))


def _command(kind: Kind, folder: Path, step: int | None, entry: Path) -> str:
    """Write the command that does the same; the one that was typed may hold a prompt or a key."""
    words = ["jaxneox", "convert", CONVERTERS[kind], str(folder), str(entry)]
    return shlex.join(words + ([] if step is None else ["--step", str(step)]))


def _content(source: Source) -> str:
    """Return a key of what a source's files hold, those of its tokenizer and its chat too."""
    paths = [file.path if isinstance(file, TorchFile) else file for file in source.files]
    sums = sorted((path.name, file_sha256(path)) for path in dict.fromkeys(paths))
    return digest([FORM, source.step, sums, _tokenizer(source)])


def _tokenizer(source: Source) -> list[Any] | None:
    if (tokenizer := source.tokenizer) is None:
        return None
    companions = tokenizer.companions
    files = {**companions.files, **tokenizer.files}
    sums = sorted((name, hashlib.sha256(content).hexdigest()) for name, content in files.items())
    return [tokenizer.name, tokenizer.eod, companions.add_bos, companions.config, sums]


def _state(paths: Iterable[Path]) -> list[Any]:
    """List path, size and time of those that are files."""
    found = []
    for path in paths:
        if path.is_file():
            stat = path.stat()
            found.append([str(path), stat.st_size, stat.st_mtime_ns])
    return found


def _known(seen: Path, root: Path, state: list[Any]) -> Path | None:
    """Return the conversion of files that are as they were when it was looked for last."""
    if not seen.is_file():
        return None
    try:
        record = read_object(seen, INDEX_SIZE)
    except UserError:  # half written: it is written anew
        return None
    entry = root / str(record.get("key"))
    outside = record.get("outside")
    if record.get("state") != state or not isinstance(outside, list):
        return None
    if record.get("more") != _state(Path(str(path)) for path in outside):
        return None
    return entry if (entry / "certificate.json").is_file() else None


def digest(value: Any) -> str:
    """Return a key of a value that JSON can write."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Let one process at a time convert what has this key."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        with waiting(f"another process converts the same files ({path})"):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
