"""Keys that a conversion sets, in a YAML that has them under another name."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from convert import from_megatron, from_neox, to_megatron, to_neox
from convert.ours.next_command import go_on
from convert.replaced_keys import replaced
from jaxneox import checkpoint
from tests.convert.commands import call
from tests.convert.hf_models import GPT2, write_run
from tests.convert.test_optimizer import copied

OLD: dict[str, Any] = {
    "clip_grad": 1.0,
    "adam_eps": 1e-8,
    "zero_stage": 1,
    "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "max_grad_norm": 1.0}},
}


def test_a_key_loses_its_other_names_and_no_more() -> None:
    block = {"type": "Adam", "params": {"lr": 1e-3, "eps": 2.0, "max_grad_norm": 1.0}}
    new = {"optimizer": block, "gradient_clipping": 0.5}
    kept = {"lr": 1e-3, "batch_size": 4, "hidden_size": 8}
    assert replaced(OLD | kept, new) == {
        "optimizer": {"type": "Adam", "params": {"lr": 1e-3, "eps": 2.0}},
        "gradient_clipping": 0.5,
        "zero_stage": 1,
        "batch_size": 4,
        "hidden_size": 8,
    }
    assert block["params"]["max_grad_norm"] == 1.0  # of the caller, and still as it was


def test_a_yaml_with_old_names_goes_on_and_comes_back(tmp_path: Path) -> None:
    """The threshold and eps are those of means of gradients: the sums' have another name there."""
    source = copied("legacy_v2_mp2_pp2", tmp_path)
    for path in source.glob("global_step5/mp_rank_*"):
        state = torch.load(path, weights_only=False)
        state["ds_config"]["gradient_accumulation_steps"] = 4
        torch.save(state, path)
    for path in source.glob("global_step5/configs/*.yml"):
        keys = {n.replace("-", "_"): v for n, v in yaml.safe_load(path.read_text()).items()}
        clip = keys.pop("gradient_clipping")
        params = keys["optimizer"]["params"] | {"max_grad_norm": clip}
        keys["adam_eps"] = params.pop("eps")
        keys["clip_grad"] = clip
        keys.pop("zero_optimization", None)
        keys |= {"optimizer": keys["optimizer"] | {"params": params}, "zero_stage": 0}
        path.write_text(yaml.safe_dump(keys))
    call(from_neox, source, tmp_path / "run", "--optimizer", "--no-verify")
    kept = checkpoint.read_keys(checkpoint.find(str(tmp_path / "run")))
    assert kept["gradient_clipping"] == 0.25 and kept["optimizer"]["params"]["eps"] == 2.5e-9
    assert not kept.keys() & {"clip_grad", "adam_eps"}
    for layout in (("--mp", 1, "--pp", 0), ("--mp", 2, "--pp", 2)):
        back, again = tmp_path / f"back{layout[1]}", tmp_path / f"again{layout[1]}"
        call(to_neox, tmp_path / "run", back, *layout, "--optimizer", "--no-verify")
        call(from_neox, back, again, "--optimizer", "--no-verify")


@pytest.mark.parametrize("name", ["lr", "optimizer_type"])
def test_a_key_of_the_users_beside_a_placeholder(tmp_path: Path, name: str) -> None:
    write_run(tmp_path / "run", GPT2)
    call(to_megatron, tmp_path / "run", tmp_path / "there", "--no-verify")
    (tmp_path / "x.yml").write_text(f"{name}: {'lion' if '_' in name else 0.5}\n")
    call(from_megatron, tmp_path / "there", tmp_path / "back", "--config", tmp_path / "x.yml",
         "--no-verify")  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "here"),
    [
        ({"train_data_path": "x.jsonl"}, True),
        ({"train_data_paths": ["x.jsonl"]}, True),
        ({"data_path": "x.jsonl"}, True),
        ({"data_path": "x.jsonl", "train_data_path": "y.jsonl"}, False),
        ({"data_path": "not/here"}, False),
        ({}, False),
    ],
)
def test_data_under_either_name_are_not_asked_for(keys: dict[str, Any], here: bool) -> None:
    assert ("data-path=FILE" not in go_on("RUN", keys)) == here
