"""Find the configurations that come with the package by their names."""

import difflib
from pathlib import Path

from jaxneox.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]


def folder() -> Path:
    """Find the folder of the configurations: in an installed package, or at the top of a clone."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """List the names by which they are found, such as "pythia-70m"."""
    return sorted(path.stem for path in folder().glob("*.yml"))


def find_config(given: str | Path) -> Path:
    """Find the YAML file that a user means.

    Args:
        given: a path, with or without its `.yml`, or the name of a shipped configuration. A file
            that is there wins.

    Raises:
        UserError: there is neither, or it is a folder.
    """
    path, with_suffix = Path(given), Path(f"{given}.yml")
    if not path.is_file() and with_suffix.is_file():
        return with_suffix
    if path.is_dir():
        raise UserError(f"{path} is a folder: give a YAML file")
    if path.exists():
        return path
    name = str(given).removesuffix(".yml")
    if name in names():
        return folder() / f"{name}.yml"
    near = difflib.get_close_matches(name, names(), n=1)
    meant = f"did you mean {near[0]}?" if near else f"such as {', '.join(names()[:3])}"
    raise UserError(
        f"{given}: there is no such file, nor a shipped configuration of that name ({meant}): "
        "give the path of a YAML file"
    )
