"""The keys of a run that begins or goes on: of YAML files, or of the folder of a run."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxneox.config import load_yaml
from jaxneox.errors import UserError
from jaxneox.run_folder import is_address

Keys = dict[str, Any]


def read_keys(
    paths: Sequence[str],
    *,
    load: str | None = None,
    save: str | None = None,
    finetune: bool = False,
) -> Keys:
    """Read the keys of files that are merged, and of the folder of a run that goes on.

    Args:
        paths: YAML files, names of shipped ones, and at most one folder of a run or checkpoint.
        load: another place to start from.
        save: a folder that is said elsewhere.
        finetune: whether only weights are taken from the folder.

    Raises:
        UserError: a file cannot be read, there are two runs, or it is not said where to save.
    """
    folders = [path for path in paths if is_address(path) or Path(path).is_dir()]
    files = [path for path in paths if path not in folders]
    if len(folders) > 1:
        raise UserError(f"{' and '.join(folders)}: only one run can be continued at a time")
    keys = load_yaml(files)
    if not folders:
        return keys
    if load:
        raise UserError(f"{folders[0]} and --load {load}: give one of the two")
    keys = run_keys(folders[0], finetune) | keys
    if "save" not in keys and not save:
        raise UserError(
            f"{folders[0]}: going on from here would overwrite its run; give a folder with --save "
            "DIR"
        )
    return keys


def run_keys(folder: str, finetune: bool) -> Keys:
    """Read the configuration of a run or of one of its checkpoints, set to go on from there."""
    from jaxneox import checkpoint  # imports jax, which other keys do without

    location = checkpoint.find(folder)
    newest = checkpoint.steps(location.run)[-1]
    keys = checkpoint.read_keys(location) | {"load": folder}
    for name in ("save", "iteration"):
        keys.pop(name, None)
    if finetune or location.step != newest:
        return keys  # branches off: the user says where to
    return keys | {"save": folder if Path(folder).resolve() == location.run else str(location.run)}
