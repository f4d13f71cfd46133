"""What is said of a tokenizer and of data that lie on another machine, when a run is only planned.

A program is compiled from sizes alone, so that neither of them need be at hand.
"""

from pathlib import Path

from jaxneox.config.schema import DataConfig, TokenizerConfig
from jaxneox.data.indexed import dataset_prefix
from jaxneox.data.storage import is_url
from jaxneox.data.text import is_text

ASSUMED_VOCABULARY = 50277
"""The size of GPT-NeoX-20B's tokenizer, which Pythia has as well."""

ANY_TOKEN = 0
"""Stands for the token that ends a document: a program is as large with any."""

ASSUMPTION = (
    f"{ASSUMED_VOCABULARY:,} tokens, those of GPT-NeoX-20B's, are assumed; "
    "--set padded-vocab-size=N says another"
)


def names_absent_file(tokenizer: TokenizerConfig) -> bool:
    """Tell whether the keys name a file of the tokenizer that is not here."""
    files = filter(None, (tokenizer.vocab_file, tokenizer.merge_file))
    return any(not Path(file).exists() for file in files)


def absent_data(data: DataConfig) -> list[str]:
    """Return a line that names the first dataset that is not here, if there is one."""
    paths = [path for split in ("train", "valid", "test") for path in data.source(split).paths]
    absent = [path for path in dict.fromkeys([*filter(None, [data.path]), *paths]) if _absent(path)]
    if not absent:
        return []
    more = f" and {len(absent) - 1} more are" if len(absent) > 1 else " is"
    return [f"the data {absent[0]}{more} not here: a training needs it"]


def _absent(path: str) -> bool:
    if is_url(path) or path.startswith("builtin:"):
        return False
    if is_text(path):
        return not Path(path).exists()
    return not Path(f"{dataset_prefix(path)}.idx").is_file()
