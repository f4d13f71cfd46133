"""Mixtral and OLMoE of transformers, in and out."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="transformers runs with torch")
transformers = pytest.importorskip("transformers")

from safetensors.numpy import load_file  # noqa: E402

import jaxneox  # noqa: E402
from convert import from_hf, to_hf, to_megatron  # noqa: E402
from tests.convert.commands import call, run  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {
    "vocab_size": 40,
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 24,
    "num_experts_per_tok": 2,
    "initializer_range": 0.3,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mixtral": ("Mixtral", {"num_local_experts": 4}),
    "mixtral tied, a window": (
        "Mixtral",
        {"num_local_experts": 3, "tie_word_embeddings": True, "sliding_window": 5},
    ),
    "olmoe": ("Olmoe", {"num_experts": 4}),
    "olmoe, weights divided by their sum": ("Olmoe", {"num_experts": 4, "norm_topk_prob": True}),
}


@pytest.fixture(scope="module", params=MODELS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of transformers' own making, and beside it what becomes of it here."""
    name, options = MODELS[request.param]
    folder = tmp_path_factory.mktemp("experts")
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**SIZES | options)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape)
    model.save_pretrained(folder / "hf")
    said = call(from_hf, folder / "hf", folder / "ours")
    assert "the same function" in said.out.splitlines()
    return folder


def test_the_same_logits(saved: Path) -> None:
    tokens = np.random.default_rng(1).integers(0, 40, (2, 16))
    model = transformers.AutoModelForCausalLM.from_pretrained(saved / "hf", dtype=torch.float32)
    with torch.no_grad():
        theirs = model.eval()(torch.tensor(tokens)).logits.numpy()
    # Two float32 forward passes: about ten roundings of 6e-8 in a row, of which experts add some.
    assert relative_l2(np.asarray(jaxneox.load(saved / "ours")(tokens)), theirs) <= 3e-6


def test_back_the_tensors_are_the_same(saved: Path) -> None:
    said = call(to_hf, saved / "ours", saved / "back")
    assert "the same function" in said.out.splitlines()
    expected, found = (load_file(saved / name / "model.safetensors") for name in ("hf", "back"))
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


def test_megatron_refuses_it(saved: Path) -> None:
    said = run(to_megatron, saved / "ours", saved / "megatron", "--tp", 1)
    assert said.status == 2 and "mixture of experts" in said.error
