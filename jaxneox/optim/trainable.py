"""Which parameters are trained: the YAML's `trainable`, patterns of names."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from jaxneox.errors import UserError, listed

NOT = "!"
"""Begins a pattern of parameters that are not trained."""


def trained_names(patterns: Sequence[str], names: Iterable[str]) -> frozenset[str]:
    """Choose parameters by patterns, of which the last that fits a name decides.

    Args:
        patterns: such as `layers.*`, or `!embed.*` for what stays as it is. If the first begins
            with `!`, all parameters that fit none are trained, else none of them is. Without any
            pattern all are trained.
        names: of all parameters.

    Raises:
        UserError: a pattern fits no parameter, or no parameter is left to train.
    """
    names = list(names)
    by_default = not patterns or patterns[0].startswith(NOT)
    chosen = dict.fromkeys(names, by_default)
    for pattern in patterns:
        fitting = [name for name in names if fnmatchcase(name, pattern.removeprefix(NOT))]
        if not fitting:
            raise UserError(
                f"trainable: {pattern!r} fits no parameter of this model, which has "
                f"{listed(names)}; --dry-run lists them all"
            )
        chosen |= dict.fromkeys(fitting, not pattern.startswith(NOT))
    trained = frozenset(name for name in names if chosen[name])
    if not trained:
        raise UserError(f"trainable: {list(patterns)} leaves no parameter to train")
    return trained
