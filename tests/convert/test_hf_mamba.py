"""transformers' Mamba from ours and back, and models of its own making."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

import jaxneox  # noqa: E402
from convert import from_hf, to_hf, to_neox  # noqa: E402
from convert.hf.choice import choose  # noqa: E402
from convert.hf.config import keys_of  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from jaxneox.config import Settings  # noqa: E402
from jaxneox.errors import UserError  # noqa: E402
from tests.convert.commands import call, run  # noqa: E402
from tests.convert.hf_models import MAMBA, write_run  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

TOKENS = np.random.default_rng(1).integers(0, 40, (2, 16))


def theirs(folder: Path, **options: Any) -> Any:
    """A small model of transformers, saved by itself, with no parameter at a trivial value."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 2, "initializer_range": 0.3}
    config = transformers.MambaConfig(**sizes | options)
    model = transformers.MambaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"expand": 3, "state_size": 8, "conv_kernel": 3, "time_step_rank": 5},
        {"use_conv_bias": False, "tie_word_embeddings": False},
    ],
    ids=str,
)
def test_models_of_transformers(tmp_path: Path, options: dict[str, Any]) -> None:
    model = theirs(tmp_path / "hf", **options)
    call(from_hf, tmp_path / "hf", tmp_path / "ours")
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    found = np.asarray(jaxneox.load(tmp_path / "ours")(TOKENS))
    # two float32 passes of weights of 0.3, whose scans add up 16 tokens in two orders
    assert relative_l2(found, expected) <= 2e-6


@pytest.mark.slow
def test_there_and_back_bit_by_bit(tmp_path: Path) -> None:
    _, params = write_run(tmp_path / "run", MAMBA)
    call(to_hf, tmp_path / "run", tmp_path / "hf", "--no-verify")
    call(from_hf, tmp_path / "hf", tmp_path / "back", "--no-verify")
    back = open_jaxneox(tmp_path / "back")
    assert back.shapes.keys() == params.keys()
    for name, expected in params.items():
        assert back.leaf(name).tobytes() == expected.tobytes(), name


@pytest.mark.slow
def test_a_model_of_transformers_becomes_neoxs(tmp_path: Path) -> None:
    theirs(tmp_path / "hf")
    call(from_hf, tmp_path / "hf", tmp_path / "ours", "--no-verify")
    said = call(to_neox, tmp_path / "ours", tmp_path / "neox")
    assert "the same function" in said.out


def test_two_widths_are_refused(tmp_path: Path) -> None:
    theirs(tmp_path / "hf")
    path = tmp_path / "hf/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"intermediate_size": 50}))
    said = run(from_hf, tmp_path / "hf", tmp_path / "ours")
    assert "intermediate_size is 50, but expand 2 of hidden_size 24 makes 48" in said.error


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("use_bias", True, "use_bias is True, but here its selection would have a bias"),
        ("hidden_act", "gelu", "hidden_act is 'gelu', but here the activation"),
        ("expand", 1.5, "expand: found 1.5"),
    ],
)
def test_other_functions_are_refused(key: str, value: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        keys_of({"model_type": "mamba", key: value})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"expansion_factor": 1.5}, "mamba.channels is 72, there 48"),
        ({"mamba_groups": 2}, "its mamba layers have 2 groups of channels"),
        ({"mamba_use_bias_in_linears": True}, "its mamba layers have biases"),
        ({"norm": "layernorm"}, "its norms are layernorm"),
        (
            {"attention_config": [[["mamba", "global"], 1]]},
            "its layers are mamba and dense, there mamba",
        ),
    ],
)
def test_models_that_transformers_lacks(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose(Settings(MAMBA | keys).model(vocab_size=None))


def test_what_only_attention_reads_does_not_count() -> None:
    keys = MAMBA | {"pos_emb": "rotary", "gpt_j_residual": True, "num_attention_heads": 6}
    assert choose(Settings(keys).model(vocab_size=None)).architecture == "MambaForCausalLM"
