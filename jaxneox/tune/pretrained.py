"""The model that is tuned: where it is, its keys, and whether it can be tuned."""

from pathlib import Path
from typing import Any, NamedTuple

from jaxneox import checkpoint
from jaxneox.base_model import META
from jaxneox.errors import UserError
from jaxneox.loading import locate


class Pretrained(NamedTuple):
    """A checkpoint of a whole model.

    Attributes:
        name: as the user writes it, a path or the hub's name.
        folder: of the checkpoint, in our form.
        tokenizer: the folder of the run's tokenizer.
        keys: of the run that trained it.
    """

    name: str
    folder: Path
    tokenizer: Path
    keys: dict[str, Any]


def find(name: str) -> Pretrained:
    """Find a model and its tokenizer; one of another program is converted first.

    Raises:
        UserError: there is none, it is an adapter, or it has no tokenizer.
    """
    location = locate(name)
    meta = checkpoint.read_meta(location)
    if META in meta:
        raise UserError(
            f"{name}: is an adapter; go on with it by `jaxneox train`, or make one model of "
            "it and its base with `jaxneox convert merge-adapter`"
        )
    tokenizer = location.run / "tokenizer"
    if not tokenizer.is_dir():
        raise UserError(
            f"{name}: has no tokenizer, which a file of text needs; convert it with "
            "--tokenizer FILE, and tune the run"
        )
    return Pretrained(name, location.folder, tokenizer, meta["keys"])
