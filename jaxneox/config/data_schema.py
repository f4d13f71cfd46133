"""The part of the schema on which the batches of a run depend, as frozen values."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.errors import UserError


@dataclass(frozen=True)
class TokenizerConfig:
    """The tokenizer's kind and files, and how its vocabulary is padded."""

    kind: str = "GPT2BPETokenizer"
    vocab_file: str | None = None
    merge_file: str | None = None
    divisible_by: int = 128  # make-vocab-size-divisible-by
    model_parallel: int = 1  # the YAML's: part of the padding rule, whatever the mesh
    padded_size: int | None = None  # set: the padded size, whatever the rule says
    eod_token: str | None = None  # the text of the token that ends a document


@dataclass(frozen=True)
class DataSource:
    """The datasets of a split: of each list that is not empty, one entry for each of `paths`.

    Attributes:
        paths: of tokens; in pairs, of the chosen texts.
        weights: the share of each dataset in a blend.
        labels: the tokens again, with -100 where there is no loss.
        rewards: one number for each document.
        rejected: of pairs, the tokens of the rejected texts.
        rejected_labels: their labels.
    """

    paths: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    labels: tuple[str, ...] = ()
    rewards: tuple[str, ...] = ()
    rejected: tuple[str, ...] = ()
    rejected_labels: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All datasets, of whatever kind."""
        return self.paths + self.labels + self.rewards + self.rejected + self.rejected_labels


@dataclass(frozen=True)
class DataConfig:
    """Says where the data are, by `path` and `split` or a source for each split, and the order."""

    path: str | None = None
    split: str = "969, 30, 1"
    train: DataSource = DataSource()
    valid: DataSource = DataSource()
    test: DataSource = DataSource()
    weight_by_num_documents: bool = False
    weighted_sampler_alpha: float = 1.0
    pack: Literal["packed", "pack_until_overflow", "unpacked"] = "packed"
    allow_chopped: bool = True
    eod_mask_loss: bool = False
    separate_documents: bool = False  # each by itself, as the dataset has them
    reset_attention_mask: bool = False  # a token sees its own document alone
    reset_position_ids: bool = False  # positions count from 0 in each document
    order: Literal["neox", "megatron"] = "neox"
    extra_token: bool = True  # order megatron: rows of S + 1 tokens, neighbours share one
    keep_partial_validation: bool = False  # order megatron: a short last sample counts
    passes: Literal["reshuffled", "repeated"] | None = None  # train_epochs: the second is NeoX's

    def __post_init__(self) -> None:
        if self.order == "neox":
            return
        sources = (self.train, self.valid, self.test)
        others = {
            "label-data-paths": any(source.labels for source in sources),
            "reward-data-paths": any(source.rewards for source in sources),
            "pairs": any(source.rejected for source in sources),
            f"pack-impl: {self.pack}": self.pack != "packed",
            "weight_by_num_documents": self.weight_by_num_documents,
        }
        set_here = [name for name, there in others.items() if there]
        if set_here:
            raise UserError(
                f"order: megatron has no {' and no '.join(set_here)}: leave it out, or take the "
                "order of neox"
            )

    def source(self, split: str) -> DataSource:
        """Return the datasets of a split: "train", "valid" or "test"."""
        return {"train": self.train, "valid": self.valid, "test": self.test}[split]


@dataclass(frozen=True)
class BatchConfig:
    """The numbers of sequences in a step, where `global_size = micro * accumulation * dp`."""

    global_size: int
    micro: int
    accumulation: int
    drop_last: int = 1  # a rest of fewer sequences at the end of the data is left out
    ramp: tuple[int, int, int] | None = None  # rampup_batch_size: start, increment, samples


@dataclass(frozen=True)
class CurriculumConfig:
    """The lengths of the first positions of a row on which each step trains.

    `jaxneox.train.step.curriculum` has the formulas.

    Attributes:
        schedule: by which formula lengths grow.
        least, most: the first length and the last; one beyond the row's is the row's.
        total: fixed_linear and fixed_root: the step at which `most` is reached.
        multiple: the same: lengths are rounded down to a multiple of it.
        root: fixed_root: by which root of the steps lengths grow.
        lengths: fixed_discrete: one after the other.
        until: the same: the last step of each length but the last.
    """

    schedule: Literal["fixed_linear", "fixed_root", "fixed_discrete"]
    least: int
    most: int
    total: int = 1
    multiple: int = 1
    root: int = 1
    lengths: tuple[int, ...] = ()
    until: tuple[int, ...] = ()


@dataclass(frozen=True)
class TrainConfig:
    """The steps of a run, its evaluations, its seed, the z-loss and what is trained."""

    train_iters: int
    eval_interval: int = 1000
    eval_iters: int = 100
    eval_fixed: bool = False  # the same batches each time, also at the start and the end
    do_valid: bool = True
    do_test: bool = True
    exit_interval: int | None = None
    seed: int = 1234
    z_loss: float = 0.0
    eval_tasks: tuple[str, ...] = ()  # lm-eval's, as `jaxneox.evaluate --tasks` takes them
    eval_results_prefix: str = ""
    trainable: tuple[str, ...] = ()  # patterns of parameters' names; all are trained without any
    curriculum: CurriculumConfig | None = None
    char_level_ppl: bool = False


class DataRun(NamedTuple):
    """All on which the batches of a run depend."""

    data: DataConfig
    batch: BatchConfig
    train: TrainConfig
    seq_length: int
    vocab_size: int | None  # padded; None where it is not known
    objective: ObjectiveConfig = ObjectiveConfig()
