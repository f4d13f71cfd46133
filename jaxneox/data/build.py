"""Builds the loader of a run's split from its configuration."""

from jaxneox.config.data_schema import DataConfig, DataRun
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.data.batches import BatchSizes
from jaxneox.data.epochs import Epochs, train_sources
from jaxneox.data.examples import ExampleLoader
from jaxneox.data.indexed import IndexedDataset
from jaxneox.data.loader import Loader, SampleLoader
from jaxneox.data.megatron import NO_PAD, megatron_samples
from jaxneox.data.neox import Open, neox_samples
from jaxneox.data.preferences import preference_examples
from jaxneox.data.sample_request import SampleRequest, Split, samples_needed
from jaxneox.data.samples import Samples
from jaxneox.data.text import cached_dataset, is_text
from jaxneox.data.tokenizer import Tokenizer
from jaxneox.errors import UserError

NEXT_TOKEN = ObjectiveConfig()


def open_loader(cfg: DataRun, tokenizer: Tokenizer | None, split: Split) -> Loader | None:
    """Open the loader that training with this configuration has; None if the split is empty."""
    train, batch = cfg.train, cfg.batch
    needed = samples_needed(
        split,
        train_iters=train.train_iters,
        eval_interval=train.eval_interval,
        eval_iters=train.eval_iters,
        global_batch=batch.global_size,
        eval_fixed=train.eval_fixed,
    )
    one = 1 if cfg.data.passes == "repeated" else None  # NeoX's, of every split
    # Evaluations take whole batches at once.
    sizes = BatchSizes(batch.global_size, batch.ramp if split == "train" else None)
    return build_loader(
        cfg.data,
        tokenizer,
        SampleRequest(split, needed, cfg.seq_length, train.seed, one),
        sizes,
        objective=cfg.objective,
        vocab_size=cfg.vocab_size,
        drop_last=batch.drop_last,
    )


def build_loader(
    data: DataConfig,
    tokenizer: Tokenizer | None,
    request: SampleRequest,
    sizes: BatchSizes,
    *,
    objective: ObjectiveConfig = NEXT_TOKEN,
    vocab_size: int | None = None,
    drop_last: int | None = None,
) -> Loader | None:
    """Build the loader of a split; None if it has no documents or no samples are asked for.

    Args:
        data: where the tokens are, and in which order they are read.
        tokenizer: for text, for `eod-mask-loss` and padding; a .bin/.idx dataset needs none.
        request: which split, and how many samples of which length.
        sizes: the samples of each step.
        objective: what is trained for, and so what a sample is.
        vocab_size: tokens must be below it: the padded size; the tokenizer's by default.
        drop_last: see SampleLoader.

    Raises:
        UserError: data is missing, corrupt or empty; names the file or the key.
    """
    if request.num_samples < 1:
        return None
    if data.path is None and not data.train.paths:
        raise _no_data(objective)
    if data.eod_mask_loss and (tokenizer is None or tokenizer.eod is None):
        raise UserError(
            "eod-mask-loss: true, but the tokenizer has no <|endoftext|> token, and nothing names "
            "another; set eod-token"
        )
    vocab_size = vocab_size or (tokenizer.rows if tokenizer else None)
    if objective.kind == "normal":
        return _sample_loader(data, tokenizer, request, sizes, vocab_size, drop_last)
    examples = preference_examples(
        data, objective, request, _opening(tokenizer), _masked_token(data, tokenizer)
    )
    if examples is None:
        return None
    return ExampleLoader(
        examples,
        sizes=sizes,
        seq_length=request.seq_length,
        vocab_size=vocab_size,
        drop_last=drop_last,
    )


def _sample_loader(
    data: DataConfig,
    tokenizer: Tokenizer | None,
    request: SampleRequest,
    sizes: BatchSizes,
    vocab_size: int | None,
    drop_last: int | None,
) -> SampleLoader | None:
    """Build the loader of rows of tokens, of which the next one is learned."""
    pad = _pad(tokenizer) if data.order == "megatron" else None
    samples: Samples | None
    if pad is not None:
        samples = megatron_samples(data, request, _opening(tokenizer), pad)
    elif data.passes == "reshuffled" and request.split == "train":
        samples = Epochs(train_sources(data, _opening(tokenizer)), request)
    else:
        samples = neox_samples(data, request, _opening(tokenizer))
    if samples is None:
        return None
    return SampleLoader(
        samples,
        sizes=sizes,
        seq_length=request.seq_length,
        vocab_size=vocab_size,
        masked_token=_masked_token(data, tokenizer),
        pad=pad,
        drop_last=drop_last,
        separate=data.separate_documents,
    )


def _opening(tokenizer: Tokenizer | None) -> Open:
    return lambda path: open_dataset(path, tokenizer)


def _masked_token(data: DataConfig, tokenizer: Tokenizer | None) -> int | None:
    """Return the token that has no loss where it is the input."""
    return tokenizer.eod if tokenizer and data.eod_mask_loss else None


def open_dataset(path: str, tokenizer: Tokenizer | None) -> IndexedDataset:
    """Open a .bin/.idx pair, or the one that text was made into; never empty, and of tokens."""
    if not is_text(path):
        dataset = IndexedDataset(path)
    elif tokenizer is None:
        raise UserError(f"{path}: text needs a tokenizer, set tokenizer-type and vocab-file")
    else:
        dataset = IndexedDataset(cached_dataset(path, tokenizer))
    if not len(dataset):
        raise UserError(f"{path}: a dataset without documents")
    if dataset.dtype.kind == "f":
        raise UserError(f"{dataset.idx_path}: holds {dataset.dtype} numbers, expected tokens")
    return dataset


def _no_data(objective: ObjectiveConfig) -> UserError:
    if objective.paired:
        return UserError(
            "no data: set pos-train-data-paths and neg-train-data-paths, .bin/.idx prefixes of the "
            "chosen and of the rejected texts, and their pos- and neg-train-label-data-paths"
        )
    if objective.rewarded:
        return UserError(
            "no data: set train-data-paths, train-label-data-paths and train-reward-data-paths, "
            ".bin/.idx prefixes of the texts, their labels and their rewards"
        )
    return UserError(
        "no data: set data-path (a .bin/.idx prefix, .txt, .jsonl, a folder or builtin:stdlib)"
        " with split, or train-data-paths; valid-data-paths and test-data-paths are evaluated "
        "where they are set"
    )


def _pad(tokenizer: Tokenizer | None) -> int:
    """Return the padding token; Megatron ignores one that is also another special token."""
    if tokenizer is None or tokenizer.pad is None or tokenizer.pad == tokenizer.eod:
        return NO_PAD
    return tokenizer.pad
