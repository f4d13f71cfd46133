"""The tokenizer and data of a run that is only planned, which may lie on another machine.

A program is compiled from sizes alone, so that neither of them need be at hand.
"""

from itertools import chain
from pathlib import Path

from jaxneox.config.schema import DataConfig, TokenizerConfig
from jaxneox.data.indexed import dataset_prefix
from jaxneox.data.megatron import blend_of
from jaxneox.data.storage import is_url
from jaxneox.data.text import is_text
from jaxneox.errors import UserError

ASSUMED_VOCABULARY = 50277
"""The size of GPT-NeoX-20B's tokenizer, which Pythia has as well."""

ANY_TOKEN = 0
"""Stands for the token that ends a document: a program is as large with any."""

ASSUMPTION = (
    f"{ASSUMED_VOCABULARY:,} tokens, those of GPT-NeoX-20B's, are assumed; "
    "--set padded-vocab-size=N says another"
)


def without_tokenizer(cfg: TokenizerConfig, error: UserError) -> tuple[int | None, str]:
    """Return the vocabulary for a plan without its tokenizer, and a note that says so.

    Args:
        cfg: the tokenizer's keys. With a padded size the vocabulary is None: none is needed.
        error: why the tokenizer could not be opened.

    Raises:
        UserError: the error given, if it is not that a file is absent, and training needs the
            tokenizer: for its size, or to look up the eod-token.
    """
    files = filter(None, (cfg.vocab_file, cfg.merge_file))
    needed = cfg.padded_size is None or cfg.eod_token is not None
    if needed and all(Path(file).exists() for file in files):
        raise error
    if cfg.padded_size is not None:
        return None, f"without the tokenizer ({error})"
    return ASSUMED_VOCABULARY, f"without the tokenizer ({error}): {ASSUMPTION}"


def absent_data(data: DataConfig) -> list[str]:
    """Return a line that names the first dataset that is not here, if there is one."""
    absent = [path for path in dict.fromkeys(_all_paths(data)) if _is_absent(path)]
    if not absent:
        return []
    if len(absent) == 1:
        return [f"the data {absent[0]} is not here; training needs it"]
    return [f"the data {absent[0]} and {len(absent) - 1} more are not here; training needs them"]


def _all_paths(data: DataConfig) -> list[str]:
    one = [] if data.path is None else [data.path]
    if data.path is not None and data.order == "megatron":
        one = list(blend_of(data.path)[0])
    sources = [data.source(split) for split in ("train", "valid", "test")]
    return one + list(chain.from_iterable(source.files for source in sources))


def _is_absent(path: str) -> bool:
    if is_url(path) or path.startswith("builtin:"):
        return False
    if is_text(path):
        return not Path(path).exists()
    return not Path(f"{dataset_prefix(path)}.idx").is_file()
