"""`python -m jaxneox`: the same as the command `jaxneox`."""

import sys
from pathlib import Path


def forget_working_folder() -> None:
    """Import nothing from the folder in which the command is typed.

    `python -m` puts it first on the path, where a user's own `convert.py` would stand in for ours.
    A clone's root stays: that is where the package itself lies.
    """
    root = Path(__file__).resolve().parent.parent
    if not sys.flags.safe_path and Path(sys.path[0] or ".").resolve() != root:
        del sys.path[0]


if __name__ == "__main__":
    forget_working_folder()
    from jaxneox.cli import main

    main()
