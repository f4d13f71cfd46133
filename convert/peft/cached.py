"""Adapters of PEFT in our form, in the cache: for whoever opens them by their path.

They lie at `converted/KEY`, where KEY is made of the content of their files, and of what their base
is and where.
"""

from pathlib import Path

from convert.cached import alone, digest
from convert.ours.base import open_base, sums_of
from convert.peft.importing import convert_folder
from convert.peft.settings import read_settings
from convert.peft.tensors import FILES
from convert.readers.hf_files import PEFT
from jaxneox import base_model
from jaxneox.checkpoint import quiet, read_meta
from jaxneox.console.say import tell
from jaxneox.console.waiting import waiting
from jaxneox.data.cache import cache_root
from jaxneox.data.sha256 import file_sha256

FORM = 1
"""Raise it when the same files would be converted to other parameters."""


def adapter_in_our_form(folder: Path, base: str | None = None) -> Path:
    """Return the adapter run of ours that adds what PEFT's adapter does.

    Args:
        folder: of PEFT's.
        base: the model beside which it stands; by default what the folder names.

    Raises:
        UserError: it is not plain LoRA, names no base, or does not belong to it.
    """
    where = base or read_settings(folder).base
    if where is not None and Path(where).is_dir():
        where = str(Path(where).absolute())
    model = None if where is None else fingerprint_of(where)
    files = [folder / name for name in (PEFT, *FILES) if (folder / name).is_file()]
    sums = [(file.name, file_sha256(file)) for file in files]
    root = cache_root() / "converted"
    root.mkdir(parents=True, exist_ok=True)
    entry = root / digest(["PEFT", FORM, sums, where, model])
    with alone(entry.with_suffix(".lock")):
        if not entry.is_dir():
            with quiet(), waiting(f"reading {folder}"):
                convert_folder(str(folder), entry, where)
            tell(f"{folder}: an adapter of PEFT, converted to {entry} and compared")
    return entry


def fingerprint_of(where: str) -> str:
    """Return the fingerprint of a model, by the checksums that it was saved with if it has any."""
    base = open_base(where)
    saved = read_meta(base.location).get("checksums", {}).get("params")
    return base_model.fingerprint(sums_of(base) if saved is None else saved)
