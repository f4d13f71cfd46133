"""Where the data of each kind of training are, and one line for what does not go together."""

from typing import Any

import pytest

from jaxneox.config import Settings
from jaxneox.config.data_schema import DataSource
from tests.config.cases import SMALLEST, error, run

PAIRS: dict[str, Any] = {"pos_train_data_paths": ["c"], "neg_train_data_paths": ["r"]}
LABELS: dict[str, Any] = {
    "pos_train_label_data_paths": ["cl"],
    "neg_train_label_data_paths": ["rl"],
}
RATED: dict[str, Any] = {
    "train_data_paths": ["t"],
    "train_label_data_paths": ["l"],
    "train_reward_data_paths": ["w"],
}


def test_pairs() -> None:
    valid = {name.replace("train", "valid"): [f"v{p[0]}"] for name, p in (PAIRS | LABELS).items()}
    config = run(train_impl="dpo", **PAIRS, **LABELS, **valid, train_data_weights=[2])
    assert config.data.train == DataSource(("c",), (2.0,), ("cl",), (), ("r",), ("rl",))
    assert config.data.valid.rejected_labels == ("vrl",) and not config.data.test.paths
    assert config.data.pack == "unpacked" and config.notes[0].startswith("pos_test_data_paths not")
    assert set(config.data.train.files) == {"c", "cl", "r", "rl"}
    settings = Settings(SMALLEST | {"train_impl": "dpo"} | PAIRS)
    assert settings.data_run(1, 460).objective.kind == config.data_run.objective.kind == "dpo"


@pytest.mark.parametrize("kind", ["normal", "dpo", "rm"])
def test_what_has_no_z_loss(kind: str) -> None:
    """A note says so; NeoX has it for reward models alone, and jaxneox for the next token too."""
    data = {"data_path": "x"} if kind == "normal" else PAIRS | LABELS
    notes = run(train_impl=kind, z_loss=0.1, **data).notes
    assert any(note.startswith("z_loss: the loss of") for note in notes) == (kind == "dpo")


@pytest.mark.parametrize("kind", ["kto", "reinforce"])
def test_rated_texts(kind: str) -> None:
    data = run(train_impl=kind, **RATED).data
    assert data.train == DataSource(("t",), labels=("l",), rewards=("w",))
    assert data.pack == "unpacked"


def test_texts_are_packed_unless_asked() -> None:
    assert run(train_data_paths=["a"]).data.pack == "packed"
    assert run(train_data_paths=["a"], pack_impl="unpacked").data.pack == "unpacked"
    overflow = {"pack_impl": "pack_until_overflow", "neox_compat": True, "train_impl": "dpo"}
    assert run(**overflow, **PAIRS).data.pack == "pack_until_overflow"


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (PAIRS, "pos_train_data_paths is set, but train_impl is normal: pairs of texts are for"),
        (PAIRS | {"train_impl": "kto"}, "pos_train_data_paths is set, but train_impl is kto"),
        (RATED, "train_reward_data_paths is set, but train_impl is normal: rewards are for"),
        (RATED | {"train_impl": "dpo"}, "train_data_paths is set, but train_impl: dpo is trained "),
        (PAIRS | {"train_impl": "dpo", "train_data_paths": ["a"]}, "train_data_paths is set, but "),
        (PAIRS | {"train_impl": "dpo", "data_path": "a"}, "data_path is set, but train_impl: dpo"),
        ({"train_impl": "kto", "data_path": "a"}, "data_path is set, but train_impl: kto needs"),
        (
            {"train_impl": "dpo", "pos_train_data_paths": ["a", "b"]},
            "neg_train_data_paths has 0 entries but pos_train_data_paths has 2: give one per path",
        ),
        (
            {"train_impl": "dpo", "neg_valid_data_paths": ["a"]},
            "neg_valid_data_paths has 1 entries but pos_valid_data_paths has 0",
        ),
        (
            PAIRS | LABELS | {"train_impl": "rm", "neg_train_label_data_paths": ["a", "b"]},
            "neg_train_label_data_paths has 2 entries but pos_train_data_paths has 1",
        ),
        (
            PAIRS | {"train_impl": "dpo", "neg_train_label_data_paths": ["a"]},
            "neg_train_label_data_paths is set without pos_train_label_data_paths: give both",
        ),
        (
            PAIRS | {"train_impl": "dpo", "train_data_weights": [1, 2]},
            "train_data_weights has 2 entries but pos_train_data_paths has 1",
        ),
        (PAIRS | {"train_impl": "rm"}, "train_impl: rm needs labels, which say at which token"),
        (
            RATED | {"train_impl": "kto", "train_reward_data_paths": ["a", "b"]},
            "train_reward_data_paths has 2 entries but train_data_paths has 1",
        ),
        (
            {"train_impl": "kto", "train_data_paths": ["t"], "train_label_data_paths": ["l"]},
            "train_impl: kto needs train_reward_data_paths beside train_data_paths: set it",
        ),
        (
            {"train_impl": "reinforce", "train_data_paths": ["t"]},
            "train_impl: reinforce needs train_label_data_paths beside train_data_paths",
        ),
        (
            {
                "train_impl": "dpo",
                "pos_valid_data_paths": ["a"],
                "neg_valid_data_paths": ["a"],
            },
            "pos_valid_data_paths is set without pos_train_data_paths: set them too",
        ),
        (
            PAIRS | {"train_impl": "dpo", "pack_impl": "packed"},
            "pack_impl: packed cuts texts anywhere, and train_impl: dpo needs each",
        ),
        (
            PAIRS | {"train_impl": "dpo", "pack_impl": "pack_until_overflow"},
            "unpacked; neox_compat: true does as NeoX",
        ),
        (
            RATED | {"train_impl": "kto", "pack_impl": "pack_until_overflow", "neox_compat": True},
            "pack_impl: pack_until_overflow puts several rated texts into one row",
        ),
        (PAIRS | {"train_impl": "dpo", "separate_documents": True}, "each row is one text already"),
        (
            PAIRS | LABELS | {"train_impl": "rm", "eod_mask_loss": True},
            "eod_mask_loss: the reward of train_impl: rm is read after",
        ),
        (
            PAIRS | {"train_impl": "dpo", "precompute_model_name": "x", "reset_position_ids": True},
            "reset_position_ids: the log-probabilities that precompute_model_name reads are",
        ),
        (PAIRS | {"train_impl": "dpo", "order": "megatron"}, "order: megatron has no "),
    ],
)
def test_what_does_not_go_together(keys: dict[str, Any], message: str) -> None:
    assert message in error(**keys)
