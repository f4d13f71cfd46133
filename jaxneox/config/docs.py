"""Make docs/configuration.md: `python -m jaxneox.config.docs > docs/configuration.md`."""

from collections.abc import Sequence
from typing import Any

from jaxneox.config.fates import Alias, Key, Kind, Needless, Refused, Section, Used
from jaxneox.config.keys import ALIASES, KEYS, SECTIONS
from jaxneox.console.say import say

_HEAD = """\
# Configuration

This page is made from the tables in `jaxneox/config/keys` by
`python -m jaxneox.config.docs > docs/configuration.md`. Do not edit it by hand.

A run is configured by GPT-NeoX's own YAML files. Several merge into one set of keys, spelled with
`-` or `_`, in YAML or in the JSON-like style with trailing commas, comments and Python's `True`. A
key that is given twice, in either spelling, in one file or in two, is an error. `--set key=value`
and `--set block.key=value` override single keys; `null` unsets one. `A` is also found as `A.yml`.
A comma that is missing at the end of a line before a quoted key, as one is in Pythia-12B's YAML, is
supplied with a warning.

Every key has exactly one fate:

- **used**: it sets the named field of `jaxneox.config.schema.Config`, alone or together with other
  keys, or it is another name of a key that does;
- **needless**: any value is accepted and changes nothing, for the reason given;
- **refused**: any value but a harmless one (the default, `null`, `false`, a block with
  `enabled: false`) is an error, with the reason given.

An unknown key is an error that names the nearest known one. A number that YAML 1.1 reads as text,
such as `1e-5`, is accepted where a number is expected.

## Derived values

- **Batch.** `train_batch_size` = `train_micro_batch_size_per_gpu` x `gradient_accumulation_steps`
  x dp. What is not given is derived; an accumulation that is not given is 1 unless
  `train_batch_size` is. A run's saved configuration holds `train_batch_size` and
  `max_micro_batch_size` instead of how the batch was cut, so that it continues with the same batch
  on another number of devices.
- **Vocabulary.** The least multiple of `make_vocab_size_divisible_by` x `model_parallel_size` that
  holds the tokenizer. The size in the YAML counts, not that of `--mesh`: a model is the same on any
  mesh. `padded_vocab_size`, where given, wins.
- **MLP.** Its width is `intermediate_size`, or `expansion_factor` (4) x `hidden_size`; a gated one
  (`geglu`, `reglu`, `swiglu`, `bilinear`, `glu`) has two branches of a third of it. One branch is
  rounded up to `mlp_multiple_of`. (NeoX rounds the two matrices apart and fails where they then
  disagree, as in its own mistral/7B.yml.)
- **Rotary width.** int(head width x `rotary_pct`), which must be even.
- **Precision.** From `precision` or a block that is enabled; they must agree. fp16's block with
  `type: bfloat16`, as old versions of NeoX had it, is bfloat16. `loss_scale: 0` is dynamic.
- **Schedule.** `lr_decay_iters`, or `lr_decay_fraction` x `train_iters`, or `train_iters`; the
  warm-up is `warmup` x that, not rounded. `old_lr_schedule` has the formulas of before 2023-08,
  with which Pythia and 20B were trained. With `use_checkpoint_lr_scheduler` a run that goes on has
  the checkpoint's instead.
- **Epochs.** With `train_epochs` the steps are as many whole ones as so many passes over the
  training data have samples for; see [docs/data.md](data.md#whole-passes-over-the-data).
- **Curriculum.** With `curriculum_learning` step s, counted from 1, trains on the first d(s)
  positions of its rows, and its loss is their mean, on every mesh and with documents that are told
  apart. With r = s / `total_curriculum_step`, or its `root_degree`-th root, d is
  floor(r (`max_difficulty` - `min_difficulty`) + `min_difficulty`), rounded down to a multiple of
  `difficulty_step` and never above `max_difficulty`; fixed_discrete lists the lengths. Rows
  are cut to the whole length, a half, a quarter or an eighth of it, the shortest that holds d and
  that the mesh divides, and what is beyond d in them has no weight: so short lengths are fast, and
  no more than four programs are compiled. With dropout in attention, whose masks depend on a row's
  length, rows stay whole. `curriculum_seqlen` in metrics.jsonl is d; evaluations take whole rows.
- **Gradient noise scale.** `log_gradient_noise_scale` estimates tr(S) / |G|^2 in sequences
  (McCandlish et al. 2018, appendix A.1), about how large a batch is worth its cost. Of n =
  `gradient_noise_scale_n_batches` steps of B sequences, |G_B|^2 is the mean of the squared norms of
  their gradients, and |G_b|^2 with b = n B that of their mean; then |G|^2 = (b |G_b|^2 -
  B |G_B|^2) / (b - B) and tr(S) = (|G_B|^2 - |G_b|^2) / (1/B - 1/b). Both are running means with
  0.99, divided by 1 - 0.99^k after k estimates. It keeps a sum of gradients, as large as they are.
- **Perplexity by characters.** With `char_level_ppl` an evaluation has `valid_char_ppl`,
  exp(loss x tokens / characters) of the rows that it reads. Special tokens have no characters.

## Where this differs from NeoX HEAD

Where NeoX does something other than what its YAML says, this program does what the YAML says.
With `neox_compat: true` it does what NeoX HEAD (ea7aefd8, 2026-05) does instead.

| key | here | with `neox_compat: true` |
|---|---|---|
| `gradient_clipping: 1.0` | clips at 1.0 | does not clip: NeoX hands DeepSpeed only what differs \
from its own default, and DeepSpeed's default is none |
| `warmup` | step 0 has the learning rate 0, step t has t / warm-up of it | steps 0 and 1 share \
step 1's |
| `lr_decay_iters` below `train_iters` | the rate stays where the decay ended | the formulas run \
on: a cosine rises again |
| `weight_decay` with `optimizer.type: sm3` | matrices decay | nothing does: NeoX's SM3 never \
looks at it |
| `use_bias_in_norms: false` | layer norms have no bias | they keep it |
| `fp16` with `type: bfloat16` | bfloat16 | float16 |
| `train_epochs` | each pass has every sample once, in another order | the first pass again and \
again, without its last sample and those that fill no micro-batch of all replicas |
| `log_gradient_noise_scale` | the mean of the squared norms of n gradients | the last one's alone |
| `use_mup` and its keys | what muP's paper and their names say | see [docs/mup.md](mup.md#the-keys\
-here-and-with-neox_compat-true) |
| masked labels, DPO, KTO, REINFORCE | what their papers have | see [docs/tuning.md]\
(tuning.md#where-neox-computes-another-function) |
| `train_impl`: rows of pairs and of texts with rewards | one text, and what fills up the row \
never counts | the first token of the next text behind it; without label files what fills up \
counts too |
| `train_impl: dpo` with prompts that differ within a pair | refused | trained on |
| `pack_impl: pack_until_overflow` with `train_impl: dpo` | refused: the log-probabilities of \
several pairs would be one sum | several pairs in a row, and `allow_chopped: false` leaves out the \
pairs that are shorter than a row instead of the longer ones |
| `train_reward_data_paths` with `train_impl: kto` | one reward for a text, and a mismatched text \
beside it | the reward at each token of the text, and the next text's at the one behind it |

Not reproduced, with or without it:

- `gpt_j_residual` with `use_bias_in_mlp: false` and a gated activation: NeoX drops the attention's
  output altogether; here it is added, unless `attention_dropped` is true.
- A row-parallel bias under `gpt_j_residual`: NeoX adds one copy for each model parallel rank; here
  there is one bias, added once.
- `use_qk_layernorm` under tensor parallelism: NeoX normalises over each rank's own heads; here it
  is over all of them, as in NeoX on one rank.
- The pipeline engine's gradients, which NeoX sums over the micro-batches of a step, are averaged.
- Keys that NeoX overwrites before it reads them (`lr`, `optimizer_type`, `zero_stage`, `clip_grad`,
  `batch_size`, `loss_scale`, ...) are other names of the settings that they stand for.
- `save` without `checkpoint_factor` and `extra_save_iters` saves at the end; NeoX refuses it.

## NeoX's and Pythia's YAML files of any year

Keys that NeoX renamed or removed are in the tables below, under "From NeoX's past". Measured in
2026-11 on all versions of the YAML files of trainings in the histories of EleutherAI/gpt-neox (up
to ea7aefd8) and EleutherAI/pythia, each distinct text once and in the year of its first commit:

| repository and year | versions | accepted | with present keys alone |
|---|---|---|---|
| GPT-NeoX 2021 | 148 | 102 | 35 |
| GPT-NeoX 2022 | 84 | 82 | 27 |
| GPT-NeoX 2023 | 76 | 71 | 62 |
| GPT-NeoX 2024 | 117 | 100 | 87 |
| GPT-NeoX 2025 | 2 | 1 | 1 |
| Pythia 2021 | 1 | 1 | 1 |
| Pythia 2022 | 16 | 16 | 0 |
| Pythia 2023 | 29 | 27 | 20 |
| Pythia 2025 | 2 | 1 | 1 |
| all | 475 | 401 | 234 |

A version is read alone, for one device and a vocabulary of 50277 tokens. NeoX's files are meant to
be combined, so that what is missing (a size of the model, the number of steps) is taken, key by
key, from its present 125M.yml and local_setup.yml. `python -m tests.config.history GPT_NEOX PYTHIA`
measures all but the last column anew from two clones. The 74 others are refused because they ask
for

- sparse attention (20; in 2021 as `sparsity: interspersed`), gMLP, RWKV or Mamba layers (15,
  counted before the last of these were here),
- compressed gradients (`onebitadam`, 11) or the optimizer `madgrad_wd` (1),
- training on what a server sends (1) or mixtures of experts (4),
- a relative bias beside learned positions (`rpe: true`, 1),

or are not valid: heads that do not divide the width (5; one is Pythia-12B-deduped's, whose layers
and heads are swapped), contradictory batch sizes (3), `num_samples: 0` (3), broken YAML (5), an
`attention_config` for another number of layers (1), and misspelt keys and values (4).

## Other names of one setting

Given by two names, a setting must have the same value twice.

"""

_REFUSED = """\
## What is refused

{keys} of {all} keys, and {words} words of others: what does not run in NeoX's HEAD either, what is
of another program and means nothing here, and what is not here yet.

"""


def page() -> str:
    """Return the whole page, in Markdown."""
    names = _table(("key", "stands for"), [(_code(a), _code(b)) for a, b in ALIASES.items()])
    sections = [f"## {title}\n\n{_section(section)}" for title, section in SECTIONS.items()]
    return _HEAD + "\n".join([names, _refusals(), *sections])


def _refusals() -> str:
    """Return the section of all that is refused: keys, and words of keys that are used."""
    keys = [(name, key.fate.why) for name, key in KEYS.items() if isinstance(key.fate, Refused)]
    words = [
        (f"{name}: {word}", why)
        for name, key in KEYS.items()
        if isinstance(key.fate, Used)
        for word, why in key.fate.refused.items()
    ]
    rows = [(_code(name), why) for name, why in keys + words]
    return _REFUSED.format(keys=len(keys), all=len(KEYS), words=len(words)) + _table(
        ("asked for", "why it is refused"), rows
    )


def _section(section: Section) -> str:
    rows = [
        (_code(name), _kind(key.kind), _code(_default(key.default)), _fate(key))
        for name, key in section.items()
    ]
    return _table(("key", "type", "default", "fate"), rows)


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    rule = ("---",) * len(head)
    cells = ([cell.replace("|", "\\|") for cell in row] for row in [head, rule, *rows])
    return "".join(f"| {' | '.join(row)} |\n" for row in cells)


def _kind(kind: Kind) -> str:
    if isinstance(kind, tuple):
        return ", ".join(_code(word) for word in kind)
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _default(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, str) else str(value)


def _code(text: str) -> str:
    return f"`{text}`"


def _fate(key: Key) -> str:
    match key.fate:
        case Used(to, note, refused):
            words: dict[str, list[str]] = {}
            for word, why in refused.items():
                words.setdefault(why, []).append(_code(word))
            reasons = [f"**refused** for {', '.join(words[why])}: {why}" for why in words]
            return "; ".join([f"**used**: {_code(to)}", *filter(None, [note]), *reasons])
        case Alias(of, note):
            stands_for = KEYS[of].fate
            assert isinstance(stands_for, Used)
            name = f"another name of {_code(of)}"
            return "; ".join([f"**used**: {_code(stands_for.to)}", name, *filter(None, [note])])
        case Needless(why):
            return f"**needless**: {why}"
        case Refused(why, fine):
            harmless = ", ".join(_code(str(value)) for value in fine)
            return f"**refused**: {why}" + (f" (harmless: {harmless})" if fine else "")


if __name__ == "__main__":
    say(page(), end="")
