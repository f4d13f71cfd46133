"""Tokens in GPT-NeoX's order: datasets, samples, blends and batches as a function of the step.

Its parts are imported when asked for: a process that tokenizes starts twice as fast without the
loader and the whole configuration.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxneox.data.prefetch import prefetch

if TYPE_CHECKING:
    from jaxneox.data.loader import Loader, Split, build_loader, samples_needed
    from jaxneox.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
    from jaxneox.data.tokens_file import TokensFile

__all__ = [
    "Loader",
    "Split",
    "Tokenizer",
    "TokensFile",
    "build_loader",
    "build_tokenizer",
    "load_tokenizer",
    "prefetch",
    "samples_needed",
]
PARTS = ("loader", "tokenizer", "tokens_file")


def __getattr__(name: str) -> Any:
    for part in PARTS if name in __all__ else ():
        module = importlib.import_module(f"jaxneox.data.{part}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
