"""Repositories of the Hugging Face hub as local folders."""

import re
from collections.abc import Iterable
from pathlib import Path

from jaxneox.errors import UserError

SCHEME = "hf://"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_name(src: str) -> bool:
    """Tell whether `src` is a hub name: `hf://…`, or `owner/name` if no such folder exists."""
    return src.startswith(SCHEME) or (
        not Path(src).exists() and NAME.fullmatch(src.partition("@")[0]) is not None
    )


def folder_of(src: str, allow_patterns: Iterable[str]) -> Path:
    """Return the folder that is named, after downloading `hf://owner/name`."""
    return download(src, allow_patterns) if src.startswith(SCHEME) else Path(src)


def download(src: str, allow_patterns: Iterable[str]) -> Path:
    """Download the matching files of `hf://owner/name[@revision]` to the hub's own cache.

    Raises:
        UserError: there is no such repository, no network or no huggingface_hub.
    """
    name, _, revision = src.removeprefix(SCHEME).partition("@")
    if not NAME.fullmatch(name):
        raise UserError(
            f"{src}: is not a repository name of the hub; expected hf://owner/name[@revision]"
        )
    by_hand = (
        f"download https://huggingface.co/{name}{f'/tree/{revision}' if revision else ''} by hand "
        "and give its folder"
    )
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(f"{src}: needs `pip install huggingface_hub`, or {by_hand}") from error
    try:
        folder = snapshot_download(
            name, revision=revision or None, allow_patterns=list(allow_patterns)
        )
    except Exception as error:  # the network, the hub and the disk raise many kinds
        reason = (str(error).strip().splitlines() or [""])[0]
        absent = (
            "" if src.startswith(SCHEME) else "there is no such folder, and as a hub's name it "
        )
        why = f"{type(error).__name__}: {reason[:200]}"
        raise UserError(f"{src}: {absent}cannot be downloaded ({why}); {by_hand}") from error
    return Path(folder)
