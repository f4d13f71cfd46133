"""Git LFS pointers: what a clone without git-lfs has in the place of large files.

Format: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
"""

from pathlib import Path

from jaxneox.errors import UserError

SIGN = b"version https://git-lfs.github.com/spec/"


def is_pointer(path: Path) -> bool:
    """Tell whether a file only says where the real one is."""
    try:
        if not path.is_file():  # a pipe's opening would wait for a writer
            return False
        with path.open("rb") as file:
            return file.read(len(SIGN)) == SIGN
    except OSError:
        return False


def refuse_pointer(path: Path) -> None:
    """Raise UserError for a file that only says where the real one is."""
    if is_pointer(path):
        raise UserError(
            f"{path}: is a Git LFS pointer, not the file itself: the repository was cloned without "
            "git-lfs; install it and run `git lfs pull` there"
        )
