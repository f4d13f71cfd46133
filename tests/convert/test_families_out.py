"""Models of the Hugging Face families that NeoX and Megatron-LM have not: written, or refused."""

from pathlib import Path

import pytest

pytest.importorskip("torch", reason="writes torch files")

from convert import to_megatron, to_neox, verify
from tests.convert.commands import call, run
from tests.convert.hf_models import LLAMA, QWEN2, QWEN3, Keys, write_run

SCALED: Keys = LLAMA | {"rope_scaling": {"type": "linear", "factor": 2.0}}


def test_a_missing_output_bias_is_written_as_zeros(tmp_path: Path) -> None:
    """And what the two other programs compute of it is the same."""
    write_run(tmp_path / "run", QWEN2)
    said = call(to_neox, tmp_path / "run", tmp_path / "neox", "--mp", 2)
    assert "it is written as zeros, and NeoX would train it" in said.err
    call(to_megatron, tmp_path / "run", tmp_path / "megatron", "--tp", 2)
    assert "the same function" in call(verify, tmp_path / "neox", tmp_path / "megatron").out


@pytest.mark.parametrize(
    ("keys", "command", "reason"),
    [
        (QWEN3, to_neox, "one scale for all heads (qk_norm_per_head); 6 heads of 16 are 96 wide"),
        (QWEN3, to_megatron, "queries and keys are normalised (qk_norm_per_head)"),
        (SCALED, to_neox, "its rotary positions are scaled (rope_scaling linear)"),
        (SCALED, to_megatron, "its rotary positions are scaled (rope_scaling linear)"),
    ],
)
def test_what_they_cannot_compute_is_refused_by_name(
    tmp_path: Path, keys: Keys, command, reason: str
) -> None:
    write_run(tmp_path / "run", keys)
    said = run(command, tmp_path / "run", tmp_path / "out")
    assert said.status == 2 and reason in said.error
    assert not (tmp_path / "out").exists()
