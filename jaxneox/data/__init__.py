"""Tokens in GPT-NeoX's order: datasets, samples, blends and batches as a function of the step."""

from jaxneox.data.loader import Loader, Split, build_loader, samples_needed
from jaxneox.data.prefetch import prefetch
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
