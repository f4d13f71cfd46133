"""What Llama's successors have and neither GPT-NeoX nor Megatron-LM: refused by name."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convert import to_megatron, to_neox, verify
from convert.megatron import grid as megatron
from convert.megatron.export import biases_of
from convert.neox import grid as neox
from jaxneox.config import Settings
from jaxneox.errors import UserError
from tests.convert.commands import call
from tests.convert.hf_models import LLAMA, MISTRAL, QWEN2, QWEN3, write_run
from tests.convert.test_hf_refusals import refused

Keys = dict[str, Any]
NEOX, MEGATRON = neox.NeoxGrid(1, 1, False), megatron.MegatronGrid(1, 1, 1, "torch")

FEATURES: dict[str, tuple[Keys, str]] = {
    "norms of each head": (LLAMA | {"qk_norm_per_head": True}, "(qk_norm_per_head)"),
    "scaled": (
        LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}},
        "scaled (rope_scaling of type linear)",
    ),
    "lora": (LLAMA | {"lora": {"rank": 2}}, "LoRA's matrices stand beside its own (lora)"),
    "wide heads": (LLAMA | {"head_dim": 12}, "6 heads of 12 are not as wide as"),
}


@pytest.mark.parametrize("name", FEATURES)
def test_what_neither_has(name: str) -> None:
    keys, reason = FEATURES[name]
    model = Settings(keys).model(vocab_size=None)
    with pytest.raises(UserError) as of_neox:
        neox.refuse_grid(model, NEOX)
    with pytest.raises(UserError) as of_megatron:
        megatron.refuse_grid(model, MEGATRON)
    for error in (of_neox, of_megatron):
        assert reason in str(error.value) and ";" not in str(error.value)
    assert str(of_megatron.value).startswith("this model is not written for Megatron-LM: ")


def test_a_llama_is_none_of_these() -> None:
    model = Settings(LLAMA).model(vocab_size=None)
    neox.refuse_grid(model, NEOX)
    megatron.refuse_grid(model, MEGATRON)
    neox.refuse_grid(Settings(LLAMA | {"sliding_window_width": 7}).model(vocab_size=None), NEOX)
    with pytest.raises(UserError, match="a token sees 7 before it"):
        megatron.refuse_grid(Settings(MISTRAL).model(vocab_size=None), MEGATRON)


def test_a_norm_and_an_activation_that_neox_lacks() -> None:
    """Whatever the model may learn to compute, a NeoX that cannot is given none of it."""
    model = Settings(LLAMA).model(vocab_size=None)
    other = replace(
        model,
        norm=replace(model.norm, kind="another"),
        mlp=replace(model.mlp, activation="cosine"),
    )
    with pytest.raises(UserError, match=r"norms are another.*; .*activation is cosine, which NeoX"):
        neox.refuse_grid(other, NEOX)


def test_a_missing_output_bias_is_written_as_zeros(tmp_path: Path) -> None:
    """And what the two other programs compute of it is the same."""
    write_run(tmp_path / "run", QWEN2)
    said = call(to_neox, tmp_path / "run", tmp_path / "neox", "--mp", 2)
    assert "it is written as zeros, and NeoX would train it" in said.err
    call(to_megatron, tmp_path / "run", tmp_path / "megatron", "--tp", 2)
    assert "the same function" in call(verify, tmp_path / "neox", tmp_path / "megatron").out


@pytest.mark.parametrize("output", [True, False])
def test_an_output_bias_alone_is_noted_for_megatron(output: bool) -> None:
    keys = QWEN2 | {"use_bias_in_mlp": True, "attention_output_bias": output}
    written = Settings(keys).model(vocab_size=None)
    assert (biases_of(written) != biases_of(megatron.model_to_write(written, 1))) != output


def test_the_commands_write_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_run(tmp_path / "run", QWEN3)
    out = tmp_path / "out"
    assert "head_dim); each" in refused(to_neox.main, capsys, tmp_path / "run", out, "--mp", "1")
    line = refused(to_megatron.main, capsys, tmp_path / "run", out, "--tp", "1", "--pp", "1")
    assert "qk_norm_per_head" in line
