"""`inspect` against what Megatron-LM wrote, and what Megatron itself said of it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from convert import inspect
from tests.convert.commands import call, run
from tests.convert.test_inspect import Facts, facts_of

CASES = (
    *("gpt2_pp2", "gpt2_tp1", "gpt2_tp2", "llama_tp2", "neox_tp2"),
    *("nested_gpt2_tp1", "nested_gpt2_tp2_pp2", "nested_llama_tp2"),
    *("tiny_gpt2_dp2_distopt", "tiny_gpt2_pp2_adam", "tiny_gpt2_pp2_vpp2"),
)
DISTRIBUTED = ("torch_dist", "torch_dist_fully_reshardable")


def folders(case: Path) -> list[Path]:
    return [case / name for name in ("legacy", *DISTRIBUTED) if (case / name).is_dir()]


def case_at(shared: Path, name: str) -> tuple[Path, dict[str, Any]]:
    case = shared / "golden" / "megatron" / name
    return case, json.loads((case / "meta.json").read_text())


def said(meta: dict[str, Any], name: str, default: float = 0) -> Any:
    """Of Megatron's command line, where the last of several counts."""
    argv = meta["argv"]
    values = [argv[at + 1] for at, word in enumerate(argv) if word == name]
    return float(values[-1]) if values else default


def architecture(meta: dict[str, Any], name: str) -> dict[str, Any]:
    hidden, heads = said(meta, "--hidden-size"), said(meta, "--num-attention-heads")
    rope = "rope" in meta["argv"]
    return {
        "layers": said(meta, "--num-layers"),
        "hidden": hidden,
        "heads": heads,
        "groups": said(meta, "--num-query-groups", heads),
        "head_dim": hidden / heads,
        "vocabulary": meta["padded_vocab_size"],
        "mlp_width": said(meta, "--ffn-hidden-size", 4 * hidden),
        "mlp": "gated silu" if "--swiglu" in meta["argv"] else "gelu",
        "norm": "rmsnorm" if "llama" in name else "layernorm",
        "positions": f"rotary {100 * said(meta, '--rotary-percent', 1):g}%" if rope else "learned",
        "tied": "--untie-embeddings-and-output-weights" not in meta["argv"],
        "residual": "sequential",
    }


def parameters(of: dict[str, Any], positions: float) -> float:
    """Of a model of that architecture, by the formula."""
    D, F, qkv = of["hidden"], of["mlp_width"], (of["heads"] + 2 * of["groups"]) * of["head_dim"]
    biased = of["norm"] == "layernorm"
    norm = D * (2 if biased else 1)
    layer = D * qkv + D * D + D * F * (3 if of["mlp"] == "gated silu" else 2) + 2 * norm
    layer += (qkv + D + F + D) * biased
    tables = of["vocabulary"] * (1 if of["tied"] else 2) + positions * (
        of["positions"] == "learned"
    )
    return tables * D + of["layers"] * layer + norm


@pytest.mark.parametrize("name", CASES)
def test_what_megatron_wrote_is_described_as_it_is(shared: Path, name: str) -> None:
    case, meta = case_at(shared, name)
    for folder in folders(case):
        facts = facts_of(folder)
        assert (facts["kind"], facts["step"], facts["steps"]) == ("megatron", 5, [5])
        assert facts["layout"] == ("torch" if folder.name == "legacy" else "torch_dist")
        ranks = {"tp": meta["tp"], "pp": meta["pp"], "dp": meta.get("dp", 1)}
        assert facts["parallel"] == ranks | ({"vpp": 2} if meta.get("vpp") else {})
        assert "3.0" in facts["generation"]
        assert ("nested" in facts["generation"]) == name.startswith("nested")
        wanted = architecture(meta, name)
        assert {key: facts["architecture"][key] for key in wanted} == wanted
        assert facts["parameters"] == parameters(wanted, said(meta, "--max-position-embeddings"))
        assert facts["dtypes"] == {"float32": facts["parameters"]}
        check_optimizer(facts, folder, name)
        total = sum(p.stat().st_size for p in folder.glob("iter_*/**/*") if p.is_file())
        assert sum(facts["bytes"].values()) == total
        assert facts["bytes"]["weights"] >= 4 * facts["parameters"]
        assert facts["uses"][0]["possible"]


def check_optimizer(facts: Facts, folder: Path, name: str) -> None:
    found = facts["optimizer"]
    if "distopt" not in name and "adam" not in name:
        assert found is None and facts["bytes"].get("optimizer", 0) == 0
        return
    assert (found["name"], found["updates"]) == ("Adam", 1)
    flat = "distopt" in name
    assert found["partitions"] == (2 if flat else 0)
    assert found["master_weights"] == ("float32" if flat else None)
    assert ("distributed" in found["layout"]) == flat
    if folder.name in DISTRIBUTED and flat:
        kind = "dp_reshardable" if folder.name == "torch_dist" else "fully_reshardable"
        assert kind in found["layout"]
    assert facts["bytes"]["optimizer"] >= (3 if flat else 2) * 4 * facts["parameters"]


def test_an_older_torch_dist_with_a_common_pt(shared: Path) -> None:
    folder = shared / "golden/megatron/old_mcore_0.16.1/gpt2_tp1_pp2/torch_dist"
    facts, same = facts_of(folder), facts_of(shared / "golden/megatron/gpt2_tp1/torch_dist")
    assert facts["parallel"]["pp"] == 2 and facts["step"] == 5
    assert facts["parameters"] == same["parameters"]
    assert facts["architecture"] == same["architecture"]


@pytest.fixture
def copy(shared: Path, tmp_path: Path):
    """`copy(case, format)`: the folder of a golden step, to be damaged."""

    def make(name: str, form: str) -> Path:
        shutil.copytree(shared / "golden/megatron" / name / form, tmp_path / form)
        step = tmp_path / form / "iter_0000005"
        for path in (tmp_path / form, step, *step.rglob("*")):
            path.chmod(0o755)
        return step

    return make


def test_ranks_that_are_missing_are_named(copy: Any) -> None:
    step = copy("nested_gpt2_tp2_pp2", "legacy")
    shutil.rmtree(step / "mp_rank_01_000")
    failed = run(inspect, step.parent)
    assert failed.status == 2 and "mp_rank_01_000" in failed.error
    assert "tp 2, pp 2" in failed.out and "PROBLEM" in failed.out
    shutil.rmtree(step / "mp_rank_01_001")  # now only the arguments tell of a second rank
    assert "mp_rank_01_000, mp_rank_01_001" in run(inspect, step).error
    (step / "mp_rank_00_000").rename(step / "mp_rank_99999999_000")
    assert "at most 4096" in run(inspect, step).error


def test_a_rank_that_is_cut_off_is_named(copy: Any) -> None:
    step = copy("gpt2_tp2", "legacy")
    path = step / "mp_rank_01" / "model_optim_rng.pt"
    path.write_bytes(path.read_bytes()[:-1000])
    failed = run(inspect, step.parent)
    assert failed.status == 2 and str(path) in failed.error and "damaged" in failed.error


def test_parts_that_are_missing_or_cut_off_are_named(copy: Any) -> None:
    step = copy("gpt2_tp2", "torch_dist")
    path = step / "__1_0.distcp"
    path.write_bytes(path.read_bytes()[:-1000])
    failed = run(inspect, step.parent)
    assert failed.status == 2 and str(path) in failed.error and "expected" in failed.error
    path.unlink()
    failed = run(inspect, step.parent)
    assert failed.status == 2 and "missing __1_0.distcp" in failed.error
    (step / ".metadata").write_bytes((step / ".metadata").read_bytes()[:5000])
    failed = run(inspect, step.parent)
    assert failed.status == 2 and ".metadata" in failed.error


def test_the_iteration_is_the_latest_unless_it_is_said(copy: Any) -> None:
    step = copy("gpt2_tp1", "legacy")
    shutil.copytree(step, step.parent / "iter_0000009")
    facts = facts_of(step.parent)
    assert facts["steps"] == [5, 9] and facts["path"].endswith("iter_0000005")
    other = run(inspect, step.parent, "--step", 9, "--json")
    assert json.loads(other.out)["path"].endswith("iter_0000009")
    assert "its files say that they are of step 5" in other.error  # a copy under another name
    assert "there are: 5, 9" in run(inspect, step.parent, "--step", 7).error
    (step.parent / "latest_checkpointed_iteration.txt").write_text("8")
    assert "names 8" in run(inspect, step.parent).error


def test_one_rank_stands_for_its_step(copy: Any) -> None:
    step = copy("gpt2_tp2", "legacy")
    assert facts_of(step / "mp_rank_00")["parallel"]["tp"] == 2


def test_the_screen_says_the_same(copy: Any) -> None:
    out = call(inspect, copy("tiny_gpt2_dp2_distopt", "legacy")).out
    for word in ("Megatron-LM: torch's pickles", "tp 1, pp 1, dp 2", "in 2 parts", "1 update"):
        assert word in " ".join(out.split())
