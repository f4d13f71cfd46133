"""Settings of other programs that must have one value here."""

from typing import Any, NamedTuple


class FixedSetting(NamedTuple):
    """A setting that must have one of the values that leave the function as it is, and why."""

    neutral: tuple[Any, ...]
    why: str
