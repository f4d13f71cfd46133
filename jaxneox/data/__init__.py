"""Tokens in GPT-NeoX's order: datasets, samples, blends and batches as a function of the step."""

from jaxneox.data.batches import BatchSizes
from jaxneox.data.build import build_loader, open_loader
from jaxneox.data.loader import Loader
from jaxneox.data.prefetch import prefetch
from jaxneox.data.tokenizer import Tokenizer, build_tokenizer, load_tokenizer
from jaxneox.data.tokens_file import TokensFile
from jaxneox.data.wanted import Split, Wanted, samples_needed

__all__ = [
    "BatchSizes",
    "Loader",
    "Split",
    "Tokenizer",
    "TokensFile",
    "Wanted",
    "build_loader",
    "build_tokenizer",
    "load_tokenizer",
    "open_loader",
    "prefetch",
    "samples_needed",
]
