"""NeoX's own checkpoints, merged, against the logits that NeoX computed at their mp and pp."""

import json

import ml_dtypes
import numpy as np
import pytest

import jaxneox
from convert import from_neox, verify
from convert.oracle import JaxneoxForward
from convert.oracle import run as oracle
from convert.readers.jaxneox import open_jaxneox
from jaxneox.train import command as train
from tests.convert.commands import call, run
from tests.convert.golden import BFLOAT16, FLOAT32, find_case, perplexity
from tests.reference.compare import relative_l2


@pytest.mark.slow
@pytest.mark.parametrize("name", FLOAT32)
def test_logits_and_perplexity_are_those_of_neox(converted, name: str) -> None:
    case, dst = converted(name)
    logits = np.asarray(jaxneox.load(dst)(case.tokens))
    # Two float32 forward passes: a float64 one of these files is 2e-7 to 4e-7 from NeoX's.
    assert relative_l2(logits, case.logits) <= 1e-6
    assert abs(logits - case.logits).max() <= 5e-6
    assert perplexity(logits, case.arrays["labels"]) == pytest.approx(case.perplexity, rel=1e-6)


@pytest.mark.parametrize("name", BFLOAT16)
def test_bfloat16_is_as_close_as_its_rounding(converted, name: str) -> None:
    case, dst = converted(name)
    leaves = open_jaxneox(dst)
    assert {leaves.dtype(leaf) for leaf in leaves.shapes} == {np.dtype(ml_dtypes.bfloat16)}
    # NeoX rounds activations to bfloat16 about thirty times: its logits are 7.6e-3 from the exact
    # function of its weights. Computed in bfloat16 here, with other roundings, twice that at most.
    exact = np.asarray(jaxneox.load(dst)(case.tokens))
    rounded = np.asarray(jaxneox.load(dst, compute="bfloat16")(case.tokens))
    assert relative_l2(exact, case.logits) <= 8e-3
    assert 8e-3 < relative_l2(rounded, case.logits) <= 1.6e-2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pythia_mp2_drift", "seqres_mp2", "legacy_v2_mp2"])
def test_every_conversion_is_proved_and_certified(tmp_path, name: str) -> None:
    case = find_case(name)
    said = call(from_neox, case.folder, tmp_path / "dst")
    assert "the same function" in said.out.splitlines()
    record = json.loads((tmp_path / "dst" / "certificate.json").read_text())
    proof = record["proof"]
    assert proof["same_function"] and not proof["failures"]
    rounded = name == "pythia_mp2_drift"  # folding rounds to float32, merging rounds nothing
    assert max(layer["random"] for layer in proof["layers"]) <= (1e-6 if rounded else 1e-13)
    assert proof["program"] <= 1e-6  # float32 against float64
    assert {f["name"] for f in record["files"]} >= {"neox_config.yml"}
    assert all(t["used"] == t["elements"] for t in record["tensors"] if t["leaf"])
    assert all(t["same_bits"] in (True, None) for t in record["tensors"])
    older = ["zeroth partition", "averaged", "NeoX's converter"]
    assert proof["older_merges_not_computed"] == older and len(proof["ends"]) == 1
    page = (tmp_path / "dst" / "certificate.md").read_text()
    assert "zeroth partition" in page and "were not computed: `--older-merges`" in page
    assert (tmp_path / "dst" / "certificate.png").stat().st_size > 10_000


@pytest.mark.slow
def test_older_merges_are_measured_on_request(tmp_path) -> None:
    case = find_case("seqres_mp2")
    call(from_neox, case.folder, tmp_path / "dst", "--older-merges")
    proof = json.loads((tmp_path / "dst" / "certificate.json").read_text())["proof"]
    assert proof["same_function"] and not proof["older_merges_not_computed"]
    titles = [end["title"] for end in proof["ends"]]
    assert titles == ["the converted model", "zeroth partition", "averaged", "NeoX's converter"]
    # PEER_SCORES.md: perplexity 473.99 of NeoX's converter for the run's 469.06
    off = [end["relative"] > 1e-4 for end in proof["ends"]]
    assert off[0] is False and off[-1] is True
    page = (tmp_path / "dst" / "certificate.md").read_text()
    assert "would have scored" in page and "were not computed" not in page


def test_older_merges_belong_to_the_proof(tmp_path) -> None:
    said = run(from_neox, tmp_path, tmp_path / "dst", "--older-merges", "--no-verify")
    assert said.status == 2 and "leave out --no-verify" in said.error


@pytest.mark.slow
def test_the_historic_merges_cost_what_was_measured(converted) -> None:
    """PEER_SCORES.md, of seqres_mp2 and pythia_mp2_drift: perplexity 473.9901 for 469.0645, …"""
    measured = {
        ("seqres_mp2", "mean", "sum"): 473.9901,
        ("seqres_mp2", "first", "once"): 469.0645,
        ("pythia_mp2_drift", "mean", "sum"): 386.2092,
        ("pythia_mp2_drift", "first", "once"): 380.9736,
        ("pythia_mp2_drift", "mean", "once"): 380.7889,
    }
    for (name, norms, biases), expected in measured.items():
        case, dst = converted(name)
        dst = dst.with_name(f"{name}-{norms}-{biases}")
        asked = ("--norms", norms, "--biases", biases, "--no-verify")
        call(from_neox, case.folder, dst, *asked)
        merged = open_jaxneox(dst)
        logits = oracle(JaxneoxForward(merged.model, merged.leaf), case.tokens)
        found = perplexity(logits, case.arrays["labels"])
        # measured in float32 and printed with four decimals; computed here in float64, so that no
        # CPU's order of additions is in it
        assert found == pytest.approx(expected, abs=6e-5)


@pytest.mark.slow
def test_a_historic_merge_is_certified_as_another_function(tmp_path) -> None:
    case, dst = find_case("pythia_mp2_drift"), tmp_path / "dst"
    said = call(from_neox, case.folder, dst, "--norms", "mean")
    assert "NOT the same function: another merge than the exact one was asked for" in said.out
    assert "another was asked for" in said.err
    proof = json.loads((dst / "certificate.json").read_text())["proof"]
    assert proof["exact_merge_exists"] and not proof["exact_merge_asked"]
    assert run(verify, case.folder, dst).status == 1


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["dp=2,tp=2", "tp=4"])
def test_a_converted_checkpoint_opens_on_any_mesh(converted, mesh: str) -> None:
    case, dst = converted("pythia_mp2_drift")
    logits = np.asarray(jaxneox.load(dst, mesh=mesh)(case.tokens))
    assert relative_l2(logits, case.logits) <= 1e-6


@pytest.mark.slow
def test_training_goes_on_from_a_converted_checkpoint(converted, tmp_path) -> None:
    """The first loss is the one that NeoX had on its next batch, on another mesh."""
    case, dst = converted("pythia_mp2_drift")
    np.savez(tmp_path / "batches.npz", tokens=case.arrays["train_tokens"][:1])
    flags = ("--mesh", "dp=2,tp=2", "--tokens", tmp_path / "batches.npz", "--finetune")
    flags += ("--set", "warmup=0")  # its one step would have the rate 0, and is refused
    run(train, dst, *flags, "--save", tmp_path / "run")
    first = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    # a mean of 256 float32 losses, each of logits that are 4e-7 from NeoX's
    assert first["loss"] == pytest.approx(case.arrays["train_losses"][0], rel=1e-6)
