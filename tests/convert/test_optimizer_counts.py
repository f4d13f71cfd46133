"""What the optimizer's files count, and what they do not say: never a wrong number in silence."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from convert import from_neox, to_neox
from convert.readers.jaxneox import JaxneoxMoments
from jaxneox import checkpoint
from tests.convert.commands import call
from tests.convert.test_optimizer import copied, deepspeed, refusal

__all__ = ["deepspeed"]  # a fixture

Alter = Callable[[dict[str, Any]], object]


def altered(source: Path, alter: Alter, files: str = "mp_rank_*") -> Path:
    """The torch files of this name, each with a change."""
    for path in source.glob(f"global_step5/{files}"):
        state = torch.load(path, weights_only=False)
        alter(state)
        torch.save(state, path)
    return source


def in_yaml(source: Path, **keys: Any) -> None:
    """The YAML with other keys; None takes one away."""
    path = next(source.glob("global_step5/configs/*.yml"))
    read = {n.replace("-", "_"): v for n, v in yaml.safe_load(path.read_text()).items()} | keys
    path.write_text(yaml.safe_dump({n: v for n, v in read.items() if v is not None}))


def imported(source: Path, folder: Path) -> tuple[JaxneoxMoments, dict[str, Any], str]:
    """The moments, the keys and what was said."""
    said = call(from_neox, source, folder / "dst", "--optimizer", "--no-verify").err
    place = checkpoint.find(str(folder / "dst"))
    return JaxneoxMoments(place, "mu"), checkpoint.read_meta(place)["keys"], said


def as_apex_counts(adam: dict[str, Any]) -> None:
    """By group, and not by parameter (apex/optimizers/fused_adam.py)."""
    for own in adam["state"].values():
        del own["step"]
    for group in adam["param_groups"]:
        group["step"] = 5


def test_updates_as_apex_counts_them(tmp_path: Path) -> None:
    source = copied("pythia_mp2", tmp_path)
    altered(source, lambda state: as_apex_counts(state["optimizer"]))
    assert imported(source, tmp_path)[0].updates == 5


def test_updates_as_apex_counts_them_in_partitions(tmp_path: Path, deepspeed: None) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)
    name = "optimizer_state_dict"
    altered(source, lambda s: as_apex_counts(s[name]["base_optimizer_state"]), "zero_pp_rank_*")
    assert imported(source, tmp_path)[0].updates == 5


def test_apex_finds_its_count_in_what_is_written(tmp_path: Path) -> None:
    source = copied("seqres_mp2", tmp_path)
    imported(source, tmp_path)
    call(to_neox, tmp_path / "dst", tmp_path / "back", "--optimizer", "--no-verify")
    (path,) = (tmp_path / "back" / "global_step5").glob("mp_rank_*")
    groups = torch.load(path, weights_only=False)["optimizer"]["param_groups"]
    assert [group["step"] for group in groups] == [5, 5]


def test_no_count_of_updates(tmp_path: Path) -> None:
    def drop(state: dict[str, Any]) -> None:
        as_apex_counts(state["optimizer"])
        for group in state["optimizer"]["param_groups"]:
            del group["step"]

    source = altered(copied("pythia_mp2", tmp_path), drop)
    assert "do not say how many updates Adam has made" in refusal(source, tmp_path)


def test_a_rank_of_another_number_of_updates(tmp_path: Path) -> None:
    def earlier(state: dict[str, Any]) -> None:
        for own in state["optimizer"]["state"].values():
            own["step"] = 4

    source = altered(copied("pythia_mp2", tmp_path), earlier, "mp_rank_01_*")
    line = refusal(source, tmp_path)
    assert "5 in mp_rank_00_model_states.pt, 4 in mp_rank_01_model_states.pt" in line


def test_another_number_of_updates_than_of_the_schedule(tmp_path: Path) -> None:
    def restarted(state: dict[str, Any]) -> None:
        for own in state["optimizer"]["state"].values():
            own["step"] = 2

    moments, _, said = imported(altered(copied("pythia_mp2", tmp_path), restarted), tmp_path)
    assert (moments.updates, moments.position) == (2, 5)
    assert "Adam has made 2 updates and the schedule is at 5" in said


def test_a_parameter_without_moments(tmp_path: Path) -> None:
    source = copied("pythia_mp2", tmp_path)
    altered(source, lambda state: state["optimizer"]["state"].pop(3), "mp_rank_01_*")
    line = refusal(source, tmp_path)
    assert "mp_rank_01_model_states.pt: has no moments number 3" in line
    assert "module 2, mlp.linear1.weight" in line


def test_a_rank_of_other_groups(tmp_path: Path) -> None:
    def one_group(state: dict[str, Any]) -> None:
        first, second = state["optimizer"]["param_groups"]
        first["params"] += second["params"]
        state["optimizer"]["param_groups"] = [first]

    source = altered(copied("pythia_mp2", tmp_path), one_group, "mp_rank_01_*")
    assert "mp_rank_01_model_states.pt" in refusal(source, tmp_path)


def test_moments_that_begin_elsewhere_than_their_weights(tmp_path: Path, deepspeed: None) -> None:
    def shorter(state: dict[str, Any]) -> None:
        own = state["optimizer_state_dict"]["base_optimizer_state"]["state"][1]
        own["exp_avg"] = own["exp_avg"][:-2].clone()

    source = altered(copied("zero1_dp2_mp2", tmp_path), shorter, "zero_pp_rank_0_mp_rank_01*")
    line = refusal(source, tmp_path)
    assert "zero_pp_rank_0_mp_rank_01_optim_states.pt: group 1 has" in line


def test_elastic_partitions_and_broken_ones(tmp_path: Path, deepspeed: None) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)

    def elastic(state: dict[str, Any]) -> None:
        saved = state["optimizer_state_dict"]
        saved["base_optimizer_state"] = [*saved["base_optimizer_state"]["state"].values()]

    altered(source, elastic, "zero_pp_rank_1_mp_rank_00*")
    assert "elastic_checkpoint" in refusal(source, tmp_path)


@pytest.mark.parametrize("part", ["param_groups", "state"])
def test_a_partition_without_a_part(tmp_path: Path, deepspeed: None, part: str) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)
    name = "optimizer_state_dict"
    altered(source, lambda s: s[name]["base_optimizer_state"].pop(part), "zero_pp_rank_0*")
    line = refusal(source, tmp_path)
    assert "zero_pp_rank_0_mp_rank_00_optim_states.pt: its optimizer has an unknown form" in line


def test_adams_constants_are_those_of_the_files(tmp_path: Path) -> None:
    """NeoX loads them with the moments, whatever its YAML says."""
    source = copied("pythia_mp2", tmp_path)
    params = {"lr": 0.001, "betas": [0.8, 0.99], "eps": 1e-6}
    in_yaml(source, weight_decay=0.3, optimizer={"type": "Adam", "params": params})
    _, keys, said = imported(source, tmp_path)
    found = keys["optimizer"]["params"]
    assert (found["betas"], found["eps"], keys["weight_decay"]) == ([0.9, 0.95], 1e-8, 0.1)
    assert "Adam's betas is [0.9, 0.95] in the optimizer's files and [0.8, 0.99]" in said


@pytest.mark.parametrize("told", [True, False])
def test_summed_micro_batches_that_only_the_batch_tells(tmp_path: Path, told: bool) -> None:
    """4 sequences in micro-batches of 1 are 4 of them, for DeepSpeed as for us."""
    source = copied("pythia_mp2", tmp_path)
    single, *_ = imported(source, tmp_path / "one")
    in_yaml(source, train_batch_size=4, train_micro_batch_size_per_gpu=1,
            gradient_accumulation_steps=None)  # fmt: skip
    if not told:
        altered(source, lambda state: state.pop("ds_config"))
    four, *_ = imported(source, tmp_path)
    assert (four.leaf("embed.tokens") * 4 == single.leaf("embed.tokens")).all()


def test_another_batch_than_deepspeeds(tmp_path: Path) -> None:
    source = copied("pythia_mp2", tmp_path)
    in_yaml(source, train_micro_batch_size_per_gpu=8)
    assert (
        "configured with 4 sequences a step, and the YAML gives 8" in imported(source, tmp_path)[2]
    )


def test_a_number_of_replicas_that_nothing_tells(tmp_path: Path) -> None:
    def drop(state: dict[str, Any]) -> None:
        del state["dp_world_size"], state["ds_config"]

    source = altered(copied("pythia_mp2", tmp_path), drop)
    assert "how many data-parallel ranks there were" in imported(source, tmp_path)[2]


@pytest.mark.parametrize(("name", "said"), [("legacy_v2_mp2", True), ("pythia_mp2", False)])
def test_a_warm_up_that_fits_two_schedules(tmp_path: Path, name: str, said: bool) -> None:
    """In it all versions have the same rate; names of after 2023-08 tell which it is not."""

    def warming(state: dict[str, Any]) -> None:
        state["lr_scheduler"]["num_iters"] = 1
        for group in state["optimizer"]["param_groups"]:
            group["lr"] = 0.0005

    source = altered(copied(name, tmp_path), warming)
    _, keys, lines = imported(source, tmp_path)
    assert keys["old_lr_schedule"] == said
    assert ("fits two of NeoX's schedules, which differ from step 3" in lines) == said


def test_ranks_of_other_constants(tmp_path: Path) -> None:
    def faster(state: dict[str, Any]) -> None:
        state["optimizer"]["param_groups"][0]["lr"] *= 2

    source = altered(copied("pythia_mp2", tmp_path), faster, "mp_rank_01_*")
    line = refusal(source, tmp_path)
    assert "mp_rank_01_model_states.pt: its optimizer" in line and "another learning rate" in line


def test_float16_without_its_loss_scale(tmp_path: Path, deepspeed: None) -> None:
    source = copied("zero1_dp2_mp2", tmp_path)
    for path in source.glob("global_step5/layer_*"):
        tensors = torch.load(path, weights_only=True)
        torch.save({name: tensor.half() for name, tensor in tensors.items()}, path)
    in_yaml(source, precision="fp16")
    assert "have no dynamic loss scale: it begins anew, at" in imported(source, tmp_path)[2]


def test_what_neox_cannot_be_told_is_said(tmp_path: Path) -> None:
    imported(copied("seqres_mp2", tmp_path), tmp_path)
    for path in (tmp_path / "dst").rglob("metadata"):
        meta = json.loads(path.read_text())
        if "keys" in meta:
            meta["keys"] |= {"lr_factors": {"embed.tokens": 0.5}, "gradient_clipping": 0.5,
                             "clip_leaves_out": {"final_norm.scale": 0}}  # fmt: skip
            path.write_text(json.dumps(meta))
    flags = ("--optimizer", "--no-verify")
    said = call(to_neox, tmp_path / "dst", tmp_path / "back", *flags).err
    assert "embed.tokens: NeoX has no lr_factors" in said
    assert "clip_leaves_out is not carried over" in said
