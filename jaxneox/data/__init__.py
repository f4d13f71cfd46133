"""Tokens in GPT-NeoX's order: datasets, samples, blends and batches as a function of the step.

Its parts are imported when asked for: a process that tokenizes starts twice as fast without the
loader and the whole configuration.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxneox.data.prefetch import prefetch

if TYPE_CHECKING:
    from jaxneox.data.batches import BatchSizes
    from jaxneox.data.build import build_loader, open_loader
    from jaxneox.data.loader import Loader
    from jaxneox.data.sample_request import SampleRequest, Split, samples_needed
    from jaxneox.data.tokenizer import (
        Tokenizer,
        build_tokenizer,
        load_tokenizer,
        open_tokenizer,
    )
    from jaxneox.data.tokens_file import TokensFile

__all__ = [
    "BatchSizes",
    "Loader",
    "SampleRequest",
    "Split",
    "Tokenizer",
    "TokensFile",
    "build_loader",
    "build_tokenizer",
    "load_tokenizer",
    "open_loader",
    "open_tokenizer",
    "prefetch",
    "samples_needed",
]
PARTS = ("batches", "sample_request", "tokenizer", "loader", "tokens_file", "build")


def __getattr__(name: str) -> Any:
    for part in PARTS if name in __all__ else ():
        module = importlib.import_module(f"jaxneox.data.{part}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
