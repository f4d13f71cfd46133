"""Build where the data are, and check that the lists go together and with what is trained for."""

from collections.abc import Iterator

from jaxneox.config.check import CheckedKeys
from jaxneox.config.data_schema import DataConfig, DataSource
from jaxneox.config.fates import entries
from jaxneox.errors import UserError

SPLITS = ("train", "valid", "test")
SINGLE_LISTS = ("{}_data_paths", "{}_label_data_paths", "{}_reward_data_paths")
CHOSEN, REJECTED = "pos_{}_data_paths", "neg_{}_data_paths"
CHOSEN_LABELS, REJECTED_LABELS = "pos_{}_label_data_paths", "neg_{}_label_data_paths"
PAIRED_LISTS = (CHOSEN, REJECTED, CHOSEN_LABELS, REJECTED_LABELS)
"""NeoX's keys of lists, for a split: of texts, and of pairs of a chosen and a rejected text."""

PAIRED, REWARDED = ("dpo", "rm"), ("kto", "reinforce")


def data_config(settings: CheckedKeys) -> DataConfig:
    """Build the data.

    NeoX wants the paths of all three splits. Here those of training are enough: what has no paths
    is not evaluated.

    Raises:
        UserError: data_path and lists are mixed, lists have different lengths, or what train_impl
            needs is missing.
    """
    kind = settings["train_impl"]
    _check_kind_of_lists(settings, kind)
    name = CHOSEN if kind in PAIRED else SINGLE_LISTS[0]
    for split in SPLITS:
        _check_lengths(settings, split, name)
        if settings[name.format(split)]:
            _check_needed(settings, split, kind)
    _check_splits(settings, name)
    return settings.fill(
        DataConfig,
        "data",
        passes=_passes(settings, kind),
        pack=_pack(settings, kind),
        train=_source(settings, "train"),
        valid=_source(settings, "valid"),
        test=_source(settings, "test"),
    )


def _source(settings: CheckedKeys, split: str) -> DataSource:
    def first(*names: str) -> tuple[str, ...]:
        given = [settings[name.format(split)] for name in names]
        return entries(next(filter(None, given), None))

    return settings.fill(
        DataSource,
        f"data.{split}",
        paths=first(SINGLE_LISTS[0], CHOSEN),
        labels=first(SINGLE_LISTS[1], CHOSEN_LABELS),
    )


def _check_kind_of_lists(settings: CheckedKeys, kind: str) -> None:
    """Check that only lists of the kind that is trained on are given."""
    rewards = SINGLE_LISTS[2]
    if kind in PAIRED:
        for name in _given(settings, "data_path", *SINGLE_LISTS):
            raise UserError(
                f"{name} is set, but train_impl: {kind} is trained on pairs: leave it out, and set "
                "pos_train_data_paths and neg_train_data_paths"
            )
        return
    for name in _given(settings, *PAIRED_LISTS):
        raise UserError(
            f"{name} is set, but train_impl is {kind}: pairs of texts are for train_impl: dpo or "
            "rm; set one of them, or leave pos_ and neg_ paths out"
        )
    if kind in REWARDED:
        for name in _given(settings, "data_path"):
            raise UserError(
                f"{name} is set, but train_impl: {kind} needs labels and rewards: set "
                "train_data_paths, train_label_data_paths and train_reward_data_paths instead"
            )
        return
    for name in _given(settings, rewards):
        raise UserError(
            f"{name} is set, but train_impl is {kind}: rewards are for train_impl: kto or "
            "reinforce; set one of them, or leave the rewards out"
        )


def _given(settings: CheckedKeys, *names: str) -> Iterator[str]:
    """Yield the keys that have a value, those of lists in any split."""
    every = dict.fromkeys(name.format(split) for name in names for split in SPLITS)
    return (name for name in every if settings[name])


def _check_lengths(settings: CheckedKeys, split: str, paths_name: str) -> None:
    """Check that a split's lists have an entry for each path."""
    paths_key = paths_name.format(split)
    paths = settings[paths_key] or []
    others = PAIRED_LISTS[1:] if paths_name == CHOSEN else SINGLE_LISTS[1:]
    for name in ("{}_data_weights", *others):
        key = name.format(split)
        found = settings[key] or []
        if len(found) != len(paths) and (found or name == REJECTED):
            raise UserError(
                f"{key} has {len(found)} entries but {paths_key} has {len(paths)}: give one per "
                "path"
            )
    weights = settings[f"{split}_data_weights"] or []
    if any(weight < 0 for weight in weights) or (weights and not sum(weights)):
        raise UserError(
            f"{split}_data_weights: found {weights}, expected none below 0 and at least one above"
        )
    one_sided = bool(settings[CHOSEN_LABELS.format(split)]) != bool(
        settings[REJECTED_LABELS.format(split)]
    )
    if one_sided:
        there, absent = (CHOSEN_LABELS, REJECTED_LABELS)
        if not settings[there.format(split)]:
            there, absent = absent, there
        raise UserError(
            f"{there.format(split)} is set without {absent.format(split)}: give both or none"
        )


def _check_needed(settings: CheckedKeys, split: str, kind: str) -> None:
    """Check that a split has the labels and rewards without which there is nothing to learn."""
    if kind == "rm" and not settings[CHOSEN_LABELS.format(split)]:
        raise UserError(
            f"train_impl: rm needs labels, which say at which token the reward is read: set "
            f"{CHOSEN_LABELS.format(split)} and {REJECTED_LABELS.format(split)}; `jaxneox "
            "preprocess --for-rm` makes them"
        )
    for name in SINGLE_LISTS[1:] if kind in REWARDED else ():
        if not settings[name.format(split)]:
            raise UserError(
                f"train_impl: {kind} needs {name.format(split)} beside {split}_data_paths: set it"
            )


def _check_splits(settings: CheckedKeys, name: str) -> None:
    """Check that there is data to train on where there is any; note what is not evaluated."""
    named = [split for split in SPLITS if settings[name.format(split)]]
    train = name.format("train")
    if named and "train" not in named:
        raise UserError(
            f"{name.format(named[0])} is set without {train}: set them too"
            + (", or data_path with split" if name == SINGLE_LISTS[0] else "")
        )
    unnamed = [split for split in SPLITS if split not in named]
    missing = [name.format(split) for split in unnamed if settings[f"do_{split}"] is not False]
    if named and missing and settings["eval_iters"]:
        settings.note(
            f"{' and '.join(missing)} not set: nothing is evaluated there, as with eval_iters: 0"
        )
    if named and settings["data_path"] is not None:
        raise UserError(f"data_path and {train} are both set: keep one of the two")


def _passes(settings: CheckedKeys, kind: str) -> str | None:
    """Say what follows a pass over the data, if the run's length is a number of passes.

    Raises:
        UserError: `train_epochs` is given with what NeoX cannot count in passes either.
    """
    if settings["train_epochs"] is None:
        return None
    weights = settings["train_data_weights"] or []
    others = {
        f"train_impl: {kind}": kind != "normal",
        f"pack_impl: {settings['pack_impl']}": settings["pack_impl"] != "packed",
        f"order: {settings['order']}": settings["order"] != "neox",
        "weight_by_num_documents": settings["weight_by_num_documents"],
        "train_data_weights": any(weight != 1 for weight in weights),
    }
    there = [name for name, set_here in others.items() if set_here]
    if there:
        raise UserError(
            f"train_epochs: a pass has each sample of packed data once, and {' and '.join(there)} "
            "is set: leave it out, or set train_iters instead"
        )
    return "repeated" if settings["neox_compat"] else "reshuffled"


def _pack(settings: CheckedKeys, kind: str) -> str:
    """Choose how rows are made: of whole texts, one each, where texts are compared or rated."""
    if kind == "normal":
        return str(settings["pack_impl"])
    pack = str(settings["pack_impl"]) if settings.given("pack_impl") else "unpacked"
    if pack == "packed":
        raise UserError(
            f"pack_impl: packed cuts texts anywhere, and train_impl: {kind} needs each of them by "
            "itself: leave it out, or set it to unpacked"
        )
    as_neox = kind == "dpo" and settings["neox_compat"]
    if pack == "pack_until_overflow" and not as_neox:
        what = "pairs" if kind in PAIRED else "rated texts"
        raise UserError(
            f"pack_impl: pack_until_overflow puts several {what} into one row, whose "
            f"log-probabilities train_impl: {kind} would add up to one sum: leave it out, or set "
            "it to unpacked" + ("; neox_compat: true does as NeoX" if kind == "dpo" else "")
        )
    if settings["separate_documents"]:
        raise UserError(
            f"separate_documents: with train_impl: {kind} each row is one text already: leave it "
            "out"
        )
    if kind == "rm" and settings["eod_mask_loss"] and not settings["neox_compat"]:
        raise UserError(
            "eod_mask_loss: the reward of train_impl: rm is read after the end-of-document token, "
            "which this leaves out: set it to false"
        )
    return pack
