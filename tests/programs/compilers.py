"""The compilers of devices that are not here: where they are, and which belong to this jax.

`python -m tests.programs.compilers FOLDER` installs them into folders `cuda` and `tpu` of it, apart
from the tests' own environment: libtpu prints warnings in every program that starts jax.
"""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

FOLDERS = "JAXNEOX_COMPILERS"
"""An environment variable that names folders with packages, separated as in PATH."""

NEEDED = {"cuda": "jax_plugins", "tpu": "libtpu"}
EXTRAS = {"cuda": "cuda12-local", "tpu": "tpu"}
"""By compiler: jax's own extra, which says the versions that belong together."""


def folder_of(compiler: str) -> Path | None:
    """The folder that has a compiler, of those in $JAXNEOX_COMPILERS."""
    folders = [Path(name) for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name]
    return next((one for one in folders if (one / NEEDED[compiler]).is_dir()), None)


def packages(extra: str) -> list[str]:
    """The compiler that jax's metadata asks for in an extra, in its versions."""
    asked = (text.partition(";") for text in importlib.metadata.requires("jax") or [])
    named = [name.strip() for name, _, marker in asked if f'extra == "{extra}"' in marker]
    return [name for name in named if name.startswith(("libtpu", "jax-cuda"))]


def install(folder: Path) -> None:
    for compiler, extra in EXTRAS.items():
        words = packages(extra)
        words += [name.replace("-plugin", "-pjrt") for name in words if "-plugin" in name]
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", str(folder / compiler), *words], check=True)


if __name__ == "__main__":
    install(Path(sys.argv[1]))
