"""Tokens in GPT-NeoX's order: datasets, samples, blends and batches as a function of the step.

Its parts are imported when asked for: a process that tokenizes starts twice as fast without the
loader and the whole configuration.

Batches, from the top down:

- `build`: opens the loader of a split from its configuration.
- `loader`: `batch(step)`, and the weights of the loss (`eod-mask-loss`, padding, labels).
- `batches`: how many samples each step takes; `sample_request`: how many a run needs.
- `epochs`: whole passes over the data, each in another order; `epoch_steps`: how many steps they
  take.
- `prefetch`: computes the next batches while the device works.
- `tokens_file`: the batches of a given file instead (`--tokens`); `given`: those that a Python
  program gives.
- `neox`, `megatron`: the samples of a configuration, in the order of either program;
  `neox.packing` reads `pack-impl`.
- `samples`: rows of tokens gathered by the arrays of an order; blends of several datasets.
- `preferences`: the examples of preference training, pairs or texts with a reward; `examples` has
  their loader and blends.
- `pairs`: a chosen and a rejected text; `rated`: a text and its reward; `mismatched`: a prompt with
  another's completion, for KTO.
- `whole_texts`: rows of one text each, of the documents that `useful` finds; `rewards`: a number
  for each document; `reference_logs`: a reference model's log-probabilities, and
  `reference_record`: of which rows they are.
- `order/`: these arrays (doc_idx, sample_idx, shuffle_idx) for each way to order and pack.

Datasets:

- `indexed`: reads a `.bin/.idx` pair; `index` checks its `.idx`, `writer` writes one.
- `storage`: the bytes of both files; `remote` fetches them by URL.
- `label_datasets`: a second dataset whose tokens are -100 where there is no loss.
- `sha256`: the checksums beside a dataset.
- `documents`: documents out of JSON lines, text and tables; `text`: text as a cached dataset.
- `input_files`: the files behind a path; `compressed` and `tables` read some of their kinds.
- `cache`, `atomic`: files that are made once, and have their name only when they are whole.
- `elsewhere`: data and tokenizers that lie on another machine, for plans and dry runs.

Tokenizers:

- `tokenizer`: opens the one that the keys name, or that a run has saved.
- `tokenizer_base`: what all kinds have in common, such as which token ends a document;
  `char_level`: the kind without a file.
- `huggingface`, `gpt2`, `sentencepieces`, `tiktokens`: the other kinds; `pretokens` makes GPT-2's
  fast, `growth` bounds how much longer a text becomes.
- `library`: what their libraries raise as one line, and a limit of time.
- `companions`: the files beside a tokenizer, and what they say of its tokens.

`commands/` are those of `jaxneox data`.
"""

import importlib
from typing import TYPE_CHECKING, Any

from jaxneox.data.prefetch import prefetch

if TYPE_CHECKING:
    from jaxneox.data.batches import BatchSizes
    from jaxneox.data.build import build_loader, open_loader
    from jaxneox.data.given import Batches, EndOfBatches, GivenBatches
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
    "Batches",
    "EndOfBatches",
    "GivenBatches",
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
PARTS = ("batches", "sample_request", "tokenizer", "loader", "tokens_file", "given", "build")


def __getattr__(name: str) -> Any:
    for part in PARTS if name in __all__ else ():
        module = importlib.import_module(f"jaxneox.data.{part}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(name)
