"""Reward models of GPT-NeoX and of transformers: the same values, and the same numbers back."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

import jaxneox  # noqa: E402
from convert import from_hf, from_neox, inspect, to_hf, to_megatron, to_neox, verify  # noqa: E402
from convert.oracle import JaxneoxForward, NeoxForward  # noqa: E402
from convert.oracle import run as oracle  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from tests.convert.commands import call, run  # noqa: E402
from tests.convert.hf_models import (  # noqa: E402
    GPT2,
    GPT_NEOX,
    LLAMA,
    MISTRAL,
    QWEN2,
    QWEN3,
    change_config,
    write_run,
)
from tests.convert.neox_ranks import files_of  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

FAMILIES = {"neox": GPT_NEOX, "llama": LLAMA, "gpt2": GPT2}
FAMILIES |= {"mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}
REWARD = {"train_impl": "rm"}
TOKENS = np.random.default_rng(1).integers(0, 40, (2, 12))


def values(folder: Path, tokens: np.ndarray) -> np.ndarray:
    model = jaxneox.load(folder)
    return np.asarray(model.values(model.params, tokens))


def same_numbers(one: Path, other: Path) -> bool:
    a, b = open_jaxneox(one), open_jaxneox(other)
    assert a.shapes == b.shapes
    return all(np.array_equal(a.leaf(name), b.leaf(name)) for name in a.shapes)


@pytest.mark.parametrize("mp", [1, 2])
def test_the_values_are_those_of_neox(shared: Path, tmp_path: Path, mp: int) -> None:
    """NeoX's own reward models, with all values that it computed; and its files come back."""
    golden = shared / "golden" / "neox_posttrain"
    source = golden / "common" / "ckpt" / f"rm_llama_mp{mp}"
    given = yaml.safe_load((golden / f"rm_mp{mp}" / "neox_config.yml").read_text())
    data = ("pos-train", "pos-valid", "pos-test", "neg-", "vocab-file", "load")
    config = tmp_path / "neox.yml"
    config.write_text(yaml.safe_dump({n: v for n, v in given.items() if not n.startswith(data)}))
    said = call(from_neox, source, tmp_path / "ours", "--config", config)
    assert "the same function" in said.out.splitlines()
    with np.load(golden / f"rm_mp{mp}" / "golden.npz") as arrays:
        tokens, expected = arrays["fixed_tokens"], arrays["init_logits"][..., 0]
    assert abs(values(tmp_path / "ours", tokens) - expected).max() <= 2e-5
    page = (tmp_path / "ours" / "certificate.md").read_text()
    assert "largest value difference" in page and "perplexity" not in page
    call(to_neox, tmp_path / "ours", tmp_path / "neox", "--mp", mp)
    before, after = (
        files_of(source / "global_step0", mp),
        files_of(tmp_path / "neox/global_step0", mp),
    )
    for module in range(9):
        for one, other in zip(before(module), after(module), strict=True):
            assert one.keys() == other.keys()
            assert all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_models_of_transformers_there_and_back(tmp_path: Path, family: str) -> None:
    write_run(tmp_path / "run", FAMILIES[family] | REWARD)
    said = call(to_hf, tmp_path / "run", tmp_path / "hf")
    assert "AutoModelForSequenceClassification" in said.out
    model, loading = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "hf", dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values()), loading
    assert type(model).__name__.endswith("ForSequenceClassification")
    with torch.no_grad():
        expected = model.score(model.base_model(torch.tensor(TOKENS)).last_hidden_state)
        last = model(torch.tensor(TOKENS[:1])).logits
    assert last[0, 0] == pytest.approx(float(expected[0, -1, 0]), abs=1e-5)
    # two float32 forward passes
    assert relative_l2(values(tmp_path / "run", TOKENS), expected[..., 0].numpy()) <= 2e-6
    said = call(from_hf, tmp_path / "hf", tmp_path / "back")
    assert "the same function" in said.out.splitlines()
    assert same_numbers(tmp_path / "run", tmp_path / "back")
    assert open_jaxneox(tmp_path / "back").model.head == "reward"


def test_models_of_several_labels_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", LLAMA | REWARD)
    call(to_hf, tmp_path / "run", tmp_path / "hf", "--no-verify")
    for changes, number in (
        ({"id2label": {"0": "A", "1": "B", "2": "C"}}, 3),
        ({"id2label": None, "label2id": None}, 2),  # what transformers takes it for
        ({"id2label": None, "num_labels": 5}, 5),
    ):
        change_config(tmp_path / "hf", **changes)
        line = run(from_hf, tmp_path / "hf", tmp_path / "dst").error
        assert f"num_labels is {number}, but here a reward model has one number" in line


def neox_files(folder: Path, mp: int, **changes: Any) -> Path:
    """A reward model of ours and what it is in NeoX's files."""
    keys = GPT_NEOX | REWARD | {"hidden_size": 48, "num_attention_heads": 6} | changes
    write_run(folder / "run", keys)
    call(to_neox, folder / "run", folder / "neox", "--mp", mp, "--no-verify")
    return folder / "neox"


@pytest.mark.parametrize("norm", ["layernorm", "rmsnorm", "scalenorm"])
def test_a_rank_reads_its_own_part_of_its_own_norm(tmp_path: Path, norm: str) -> None:
    """Copies of the final norm that drifted are merged without a loss."""
    neox = neox_files(tmp_path, 2, norm=norm)
    path = neox / "global_step3" / "mp_rank_01_model_states.pt"
    state = torch.load(path, weights_only=False)
    for name, tensor in state["module"].items():
        if name.startswith("sequential.5.norm."):
            tensor += 0.1 * torch.rand_like(tensor)
    torch.save(state, path)
    said = call(from_neox, neox, tmp_path / "back")
    assert "the same function" in said.out.splitlines()
    ranks = files_of(neox / "global_step3", 2)
    ours = open_jaxneox(tmp_path / "back")
    expected = oracle(NeoxForward(ours.model, ranks), TOKENS)
    found = oracle(JaxneoxForward(ours.model, ours.leaf), TOKENS)
    assert expected.shape == (2, 12, 1)
    exact = 1e-6 if norm == "scalenorm" else 1e-12  # folding rounds to float32
    assert relative_l2(found, expected) <= exact
    assert relative_l2(found[..., 0], values(tmp_path / "run", TOKENS)) > 1e-3


def test_the_files_tell_a_reward_model(tmp_path: Path) -> None:
    """Whatever train-impl their YAML has: NeoX loads either as the other."""
    neox = neox_files(tmp_path, 2)
    for place in (neox / "neox_config.yml", neox / "global_step3/configs/neox_config.yml"):
        keys = yaml.safe_load(place.read_text())
        assert keys["train-impl"] == "rm" and keys["no-weight-tying"]
        assert keys["pipe-parallel-size"] == 0
        place.write_text(yaml.safe_dump(keys | {"train-impl": "normal"}))
    call(from_neox, neox, tmp_path / "back")
    assert same_numbers(tmp_path / "run", tmp_path / "back")
    write_run(tmp_path / "language", GPT_NEOX)
    call(to_neox, tmp_path / "language", tmp_path / "lm", "--no-verify")
    for place in (tmp_path / "lm").glob("**/neox_config.yml"):
        keys = yaml.safe_load(place.read_text())
        place.write_text(yaml.safe_dump(keys | {"train-impl": "rm", "dataset-impl": "pairwise"}))
    call(from_neox, tmp_path / "lm", tmp_path / "lm_back")
    assert same_numbers(tmp_path / "language", tmp_path / "lm_back")
    said = run(verify, tmp_path / "run", tmp_path / "language")
    assert said.status == 1 and "head is reward there and tokens here" in said.out


def test_what_has_no_place_for_it(tmp_path: Path) -> None:
    write_run(tmp_path / "run", LLAMA | REWARD)
    line = run(to_neox, tmp_path / "run", tmp_path / "dst", "--pp", "2").error
    assert "NeoX trains without its pipeline engine: use --sequential" in line
    line = run(to_megatron, tmp_path / "run", tmp_path / "dst").error
    assert "it is a reward model" in line
    said = call(inspect, tmp_path / "run")
    assert "a reward model" in said.out and "untied" not in said.out
