"""`inspect` says of Megatron-LM's files what the conversion would do with them."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the tests of conversion write torch files")

from convert import from_megatron, inspect, to_megatron
from tests.convert.commands import call, run
from tests.convert.hf_models import GPT2, write_run
from tests.convert.megatron import rewrite, say
from tests.convert.test_inspect import facts_of


def exported(folder: Path, step: int, *flags: Any) -> Path:
    write_run(folder / "run", GPT2, step=step)
    call(to_megatron, folder / "run", folder / "m", *flags, "--no-verify")
    return folder / "m"


@pytest.mark.parametrize("form", ["torch", "torch_dist"])
def test_a_release_is_what_the_conversion_reads(tmp_path: Path, form: str) -> None:
    run_of_it = exported(tmp_path, 0, "--format", form)
    for path in (run_of_it, run_of_it / "release"):
        facts = facts_of(path)
        assert facts["path"].endswith("release") and facts["architecture"]["layers"] == 2
    shutil.copytree(run_of_it / "release", run_of_it / "iter_0000004")
    facts = facts_of(run_of_it)  # the file that names the newest says the release
    assert facts["path"].endswith("release") and facts["steps"] == [4]
    (run_of_it / "latest_checkpointed_iteration.txt").write_text("x")
    assert "names x" in run(inspect, run_of_it).error


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"num_experts": 8}, "mixtures of experts"),
        ({"qk_layernorm": True}, "norms of queries and keys are not read"),
        ({"num_layers": 7}, "the tensors have 2"),
        ({"kv_channels": 16}, "give the heads with --config"),
        ({"num_attention_heads": None}, "give it with --config"),
    ],
)
def test_what_the_conversion_refuses_is_not_offered(tmp_path: Path, said, reason: str) -> None:
    folder = exported(tmp_path, 3, "--format", "torch")
    rewrite(folder, say(**said))
    failed = run(inspect, folder, "--json")
    assert failed.status == 2 and reason in failed.error
    (use,) = json.loads(failed.out)["uses"]
    assert not use["possible"] and reason in use["reason"]
    assert run(from_megatron, folder, tmp_path / "dst").error == failed.error


def test_a_tied_copy_of_which_nothing_is_said_is_no_parameter(tmp_path: Path) -> None:
    folder = exported(tmp_path, 3, "--format", "torch", "--pp", 2)
    before = facts_of(folder)
    rewrite(folder, say(untie_embeddings_and_output_weights=None))
    after = facts_of(folder)
    assert after["architecture"]["tied"] and after["parameters"] == before["parameters"]
