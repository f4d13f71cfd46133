"""Arguments of Megatron-LM's that lie, contradict each other or say nothing: never in silence."""

import shutil
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the tests of conversion write torch files")

from convert import from_megatron, to_megatron  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from convert.readers.megatron import open_megatron  # noqa: E402
from convert.writers.torch_dist import DistWriter  # noqa: E402
from jaxneox.errors import UserError  # noqa: E402
from tests.convert.commands import call, run  # noqa: E402
from tests.convert.hf_models import GPT2, LLAMA, write_run  # noqa: E402
from tests.convert.megatron import differing, each, rewrite, say  # noqa: E402
from tests.convert.test_from_megatron import interleaved  # noqa: E402
from tests.convert.test_megatron_optimizer import merge  # noqa: E402

HEADS_EACH = LLAMA | {"num_kv_heads": 6}


@pytest.fixture
def exported(tmp_path: Path):
    """`exported(keys)`: a model of ours, and what `to_megatron` writes of it."""

    def export(keys: dict, form: str = "torch") -> tuple[Path, Path]:
        write_run(tmp_path / "run", keys)
        call(to_megatron, tmp_path / "run", tmp_path / "m", "--format", form, "--no-verify")
        return tmp_path / "run", tmp_path / "m"

    return export


REFUSED: list[tuple[dict, dict[str, Any], str]] = [
    (HEADS_EACH, {"num_attention_heads": 12}, "num_attention_heads is 12 and kv_channels 8"),
    (LLAMA, {"num_attention_heads": 3}, "give the heads with --config"),
    (LLAMA, {"experimental_attention_variant": "dsa"}, "all attention is softmax attention"),
    (LLAMA, {"rotary_base": "x"}, "rotary_base is 'x', expected a number"),
    (LLAMA, {"apply_layernorm_1p": "False"}, "apply_layernorm_1p is 'False', expected a bool"),
    (GPT2, {"onnx_safe": True}, "--gelu tanh or --gelu erf"),
    (GPT2, {"use_te_activation_func": True}, "--gelu tanh or --gelu erf"),
    (
        GPT2,
        {"use_rotary_position_embeddings": True, "position_embedding_type": None},
        "computed with both",
    ),
]


@pytest.mark.parametrize(("keys", "said", "reason"), REFUSED)
def test_what_may_be_two_functions_is_refused(exported, tmp_path, keys, said, reason) -> None:
    _, source = exported(keys)
    rewrite(source, say(**said))
    failed = run(from_megatron, source, tmp_path / "dst")
    assert failed.status == 2 and reason in failed.error
    assert not [*tmp_path.glob("dst*")]


def test_a_persons_heads_end_a_contradiction(exported, tmp_path: Path) -> None:
    ours, source = exported(HEADS_EACH)
    rewrite(source, say(num_attention_heads=12))
    (tmp_path / "x.yml").write_text("num-attention-heads: 6")
    call(from_megatron, source, tmp_path / "dst", "--no-verify", "--config", tmp_path / "x.yml")
    assert open_jaxneox(tmp_path / "dst").model == open_jaxneox(ours).model


def test_neighbours_are_rearranged_where_a_person_says_rope(exported, tmp_path: Path) -> None:
    ours, source = exported(LLAMA)
    rewrite(source, each(interleaved))
    rewrite(source, say(rotary_interleaved=True, position_embedding_type=None))
    (tmp_path / "x.yml").write_text("pos-emb: rotary")
    call(from_megatron, source, tmp_path / "dst", "--no-verify", "--config", tmp_path / "x.yml")
    assert not differing(ours, tmp_path / "dst")


def test_a_base_that_no_one_says_is_told(exported) -> None:
    _, source = exported(LLAMA)
    rewrite(source, say(rotary_base=None))
    assert any("rope's base: it is 10000" in note for note in open_megatron(source).notes)


def test_torch_dist_never_had_an_older_order(exported, tmp_path: Path) -> None:
    ours, source = exported(HEADS_EACH, "torch_dist")
    (path,) = source.glob("*/common.pt")
    state = torch.load(path, weights_only=False)
    del state["checkpoint_version"]
    torch.save(state, path)
    call(from_megatron, source, tmp_path / "dst", "--no-verify")
    assert not differing(ours, tmp_path / "dst")


@pytest.mark.parametrize(
    ("name", "shape", "reason"),
    [
        ("decoder.layers.input_layernorm.weight", (2, 48), "is there twice"),
        ("decoder.layers.99999999999.input_layernorm.weight", (48,), "of that number"),
    ],
)
def test_layers_that_cannot_be(exported, tmp_path, name: str, shape, reason: str) -> None:
    """Beside Transformer Engine's name the local one; and a layer far from the others."""
    _, source = exported(LLAMA, "torch_dist")
    shutil.copytree(source, tmp_path / "copy")
    (folder,) = (tmp_path / "copy").glob("iter_*")
    writer = DistWriter(folder)
    writer.write("__8_0.distcp", name, shape, [0] * len(shape), torch.ones(shape).numpy())
    merge(folder, writer)
    with pytest.raises(UserError, match=reason):
        open_megatron(folder)
