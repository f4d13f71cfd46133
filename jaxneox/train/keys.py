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


def with_base(keys: Keys) -> Keys:
    """Name the model beside which LoRA's matrices are trained, where `load` is that model.

    Args:
        keys: checked or not; with `lora`, `load` names a whole model or an adapter to go on with.
    """
    lora, load = keys.get("lora"), keys.get("load")
    if not isinstance(lora, dict) or lora.get("base") or not isinstance(load, str):
        return keys
    if is_adapter(load):
        return keys
    rest = {name: value for name, value in keys.items() if name not in ("load", "finetune")}
    return rest | {"lora": lora | {"base": load}}


def is_adapter(where: str) -> bool:
    """Tell whether a checkpoint of ours holds LoRA's matrices alone."""
    from jaxneox import checkpoint
    from jaxneox.base_model import META

    try:
        return META in checkpoint.read_meta(checkpoint.find(where))
    except UserError:  # none of ours: whoever opens it says what is wrong
        return False


def run_keys(folder: str, finetune: bool) -> Keys:
    """Read the configuration of a run or of one of its checkpoints, set to go on from there."""
    from jaxneox import checkpoint  # imports jax, which other keys do without

    location = checkpoint.find(folder)
    newest = checkpoint.steps(location.run)[-1]
    keys = checkpoint.read_keys(location) | {"load": folder}
    for name in ("save", "iteration", "finetune"):  # of how it began; what is asked for now counts
        keys.pop(name, None)
    if finetune or location.step != newest:
        return keys  # branches off: the user says where to
    return keys | {"save": folder if Path(folder).resolve() == location.run else str(location.run)}
