"""Models of transformers from ours and back: the same logits there, the same bits here again."""

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from safetensors.torch import save_file  # noqa: E402

import jaxneox  # noqa: E402
from convert import from_hf, to_hf  # noqa: E402
from convert.casting import PRECISION  # noqa: E402
from convert.hf.config import keys_of, unknown_keys  # noqa: E402
from convert.readers.hf import HfCheckpoint  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from convert.writers.hf import HfWriter  # noqa: E402
from jaxneox.config import Settings  # noqa: E402
from tests.convert.hf_models import (  # noqa: E402
    GPT2,
    GPT_NEOX,
    LLAMA,
    MISTRAL,
    MODELS,
    QWEN2,
    QWEN3,
    change_config,
    write_run,
)
from tests.model.adapter import jax_logits  # noqa: E402
from tests.reference import neox_torch  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

FAMILIES = {"neox": GPT_NEOX, "llama": LLAMA, "gpt2": GPT2}
FAMILIES |= {"mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def convert(main: Any, *argv: object) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in argv])
    assert stopped.value.code == 0


def their_logits(folder: Path, tokens: np.ndarray) -> np.ndarray:
    """By the class that the folder itself names, in float32."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(loading.values()), loading
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_same_logits_in_transformers(tmp_path: Path, name: str) -> None:
    architecture, keys = MODELS[name]
    model, params = write_run(tmp_path / "run", keys)
    convert(to_hf.main, tmp_path / "run", tmp_path / "hf")
    tokens = np.random.default_rng(1).integers(0, model.vocab_size, (2, 16))
    assert json.loads((tmp_path / "hf/config.json").read_text())["architectures"] == [architecture]
    # Two float32 forward passes: about ten roundings of 6e-8 in a row.
    found = their_logits(tmp_path / "hf", tokens)
    assert relative_l2(found, neox_torch.logits(params, model, tokens)) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_jax_model_has_them_as_well(tmp_path: Path, family: str) -> None:
    model, params = write_run(tmp_path / "run", FAMILIES[family])
    convert(to_hf.main, tmp_path / "run", tmp_path / "hf")
    tokens = np.random.default_rng(1).integers(0, model.vocab_size, (2, 16))
    expected = jax_logits(model, params, tokens)
    assert relative_l2(their_logits(tmp_path / "hf", tokens), expected) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_bit_by_bit(tmp_path: Path, family: str, dtype: str) -> None:
    model, params = write_run(tmp_path / "run", FAMILIES[family], DTYPES[dtype])
    convert(to_hf.main, tmp_path / "run", tmp_path / "hf")
    convert(from_hf.main, tmp_path / "hf", tmp_path / "back")
    back = open_jaxneox(tmp_path / "back")
    assert back.model == replace(model, seq_length=24)
    assert (back.location.step, back.keys["precision"]) == (0, PRECISION[dtype])
    assert back.shapes.keys() == params.keys()
    for name, expected in params.items():
        found = back.leaf(name)
        assert found.dtype == expected.dtype
        assert found.tobytes() == expected.tobytes(), name
    assert json.loads((tmp_path / "hf/config.json").read_text())["dtype"] == dtype


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_are_slices_of_whole_leaves(tmp_path: Path, family: str) -> None:
    _, params = write_run(tmp_path / "run", FAMILIES[family])
    convert(to_hf.main, tmp_path / "run", tmp_path / "hf")
    source = HfCheckpoint(tmp_path / "hf")
    for name, expected in params.items():
        assert source.shapes[name] == expected.shape
        assert np.array_equal(source.leaf(name), expected)
        if name.startswith("layers."):
            assert np.array_equal(source.leaf(name, 1), expected[1])


def saved_by_transformers(folder: Path, name: str, **options: Any) -> Any:
    """A model of transformers' own making, saved by itself, its config.json as it writes it."""
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(
        **{"vocab_size": 40, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6}
        | {"bos_token_id": None, "eos_token_id": None, "initializer_range": 0.3, **options}
    )
    head = "LMHeadModel" if name == "GPT2" else "ForCausalLM"
    model = getattr(transformers, name + head)(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


GROUPED: dict[str, Any] = {"intermediate_size": 36, "num_key_value_heads": 2}
THEIRS: dict[str, dict[str, Any]] = {
    "GPTNeoX": {"intermediate_size": 36},
    "GPTNeoX sequential, base 500": {
        "intermediate_size": 36,
        "use_parallel_residual": False,
        "hidden_act": "gelu_fast",
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
    },
    "Llama": {"intermediate_size": 36, "num_key_value_heads": 3, "attention_bias": True},
    "Llama tied": {"intermediate_size": 36, "tie_word_embeddings": True, "mlp_bias": True},
    "Llama, wide heads": {"intermediate_size": 36, "head_dim": 10},
    "Mistral": GROUPED | {"sliding_window": 5},
    "Mistral, no window": GROUPED | {"sliding_window": None, "head_dim": 10},
    "Qwen2": GROUPED,
    "Qwen2, a window in all layers": GROUPED
    | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0}
    | {"tie_word_embeddings": True},
    "Qwen2, a window in no layer": GROUPED
    | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2, "head_dim": 10},
    "Qwen3": GROUPED | {"head_dim": 10},
    "Qwen3, biases": GROUPED | {"attention_bias": True},
    "GPT2": {"n_positions": 20},
    "GPT2 untied, erf": {
        "n_positions": 20,
        "n_inner": 36,
        "activation_function": "gelu",
        "tie_word_embeddings": False,
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", THEIRS)
def test_models_of_transformers(tmp_path: Path, name: str) -> None:
    theirs = saved_by_transformers(tmp_path / "hf", name.split()[0].rstrip(","), **THEIRS[name])
    convert(from_hf.main, tmp_path / "hf", tmp_path / "ours")
    ours = open_jaxneox(tmp_path / "ours")
    tokens = np.random.default_rng(1).integers(0, 40, (2, 16))
    with torch.no_grad():
        expected = theirs(torch.tensor(tokens)).logits.numpy()
    params = {leaf: ours.leaf(leaf) for leaf in ours.shapes}
    # Two float32 forward passes of random weights of 0.3: fifteen roundings or so in a row.
    assert relative_l2(neox_torch.logits(params, ours.model, tokens), expected) <= 1e-6


@pytest.mark.parametrize("name", ["GPTNeoX", "Llama", "Mistral", "Qwen2", "Qwen3", "GPT2", "Mamba"])
def test_what_config_json_leaves_out_is_their_default(name: str) -> None:
    defaults = getattr(transformers, f"{name}Config")()
    model, least = (
        Settings(keys_of(config)).model(vocab_size=None)
        for config in (defaults.to_dict(), {"model_type": defaults.model_type})
    )
    assert least == model
    assert not unknown_keys(defaults.to_dict())


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_a_model_goes_back_as_what_it_came_from(tmp_path: Path, name: str) -> None:
    """A Mistral without a window has a Llama's function too."""
    sizes = {"num_key_value_heads": 2, "intermediate_size": 36}
    window = {"sliding_window": None} if name == "Mistral" else {}
    saved_by_transformers(tmp_path / "hf", name, **sizes, **window)
    convert(from_hf.main, tmp_path / "hf", tmp_path / "ours", "--no-verify")
    convert(to_hf.main, tmp_path / "ours", tmp_path / "back", "--no-verify")
    config = json.loads((tmp_path / "back/config.json").read_text())
    assert config["architectures"] == [f"{name}ForCausalLM"]


def test_a_pickle_and_names_without_the_head(tmp_path: Path) -> None:
    """As the hub has GPT-2: no `transformer.` before any name, and the masks saved."""
    theirs = saved_by_transformers(tmp_path / "hf", "GPT2", n_positions=20)
    state = theirs.transformer.state_dict()
    state["h.0.attn.bias"] = torch.ones(1, 1, 20, 20).tril()
    state["h.1.attn.masked_bias"] = torch.tensor(-1e4)
    (tmp_path / "hf/model.safetensors").unlink()
    torch.save(state, tmp_path / "hf/pytorch_model.bin")
    source = HfCheckpoint(tmp_path / "hf")
    weight = theirs.transformer.h[1].mlp.c_fc.weight.detach().numpy()
    assert np.array_equal(source.leaf("layers.mlp.up", 1), weight)


def test_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, params = write_run(tmp_path / "run", LLAMA)
    monkeypatch.setattr("convert.hf.target.HfWriter", partial(HfWriter, shard=30_000))
    convert(to_hf.main, tmp_path / "run", tmp_path / "hf")
    shards = sorted((tmp_path / "hf").glob("*.safetensors"))
    assert [shard.name for shard in shards[:1]] == [f"model-00001-of-{len(shards):05d}.safetensors"]
    assert len(shards) > 2 and all(shard.stat().st_size < 33_000 for shard in shards)
    tokens = np.arange(16)[None]
    expected = neox_torch.logits(params, model, tokens)
    assert relative_l2(their_logits(tmp_path / "hf", tokens), expected) <= 1e-6
    source = HfCheckpoint(tmp_path / "hf")
    assert source.weight_files == shards
    assert len({path.stat().st_mode for path in source.files}) == 1
    assert np.array_equal(source.leaf("layers.mlp.down"), params["layers.mlp.down"])


def test_a_shared_norm_written_twice(tmp_path: Path) -> None:
    model, params = write_run(tmp_path / "run", GPT_NEOX | {"gpt_j_tied": True})
    convert(to_hf.main, tmp_path / "run", tmp_path / "hf", "--copy-shared-norm")
    tokens = np.arange(16)[None]
    expected = neox_torch.logits(params, model, tokens)
    assert relative_l2(their_logits(tmp_path / "hf", tokens), expected) <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("asked", DTYPES)
def test_weights_in_another_type(tmp_path: Path, asked: str) -> None:
    _, params = write_run(tmp_path / "run", GPT2)
    convert(to_hf.main, tmp_path / "run", tmp_path / "hf", "--dtype", asked)
    convert(from_hf.main, tmp_path / "run/../hf", tmp_path / "back", "--dtype", "float32")
    back = open_jaxneox(tmp_path / "back")
    assert back.keys["precision"] == "fp32"
    for name, value in params.items():
        expected = value.astype(DTYPES[asked]).astype(np.float32)
        assert np.array_equal(back.leaf(name), expected)


def test_types_that_differ_within_a_model(tmp_path: Path) -> None:
    """A leaf of two types is float32, which holds both; the others keep theirs."""
    theirs = saved_by_transformers(tmp_path / "hf", "Llama", intermediate_size=36)
    state = {name: tensor.half() for name, tensor in theirs.state_dict().items()}
    odd = "model.layers.1.self_attn.k_proj.weight"
    state[odd] = state[odd].bfloat16()
    save_file(state, tmp_path / "hf/model.safetensors")
    source = HfCheckpoint(tmp_path / "hf")
    assert source.dtype("layers.attention.qkv") == np.float32
    assert source.dtype("layers.mlp.up") == np.float16
    key = source.leaf("layers.attention.qkv", 1)[:, 0, -2]
    assert np.array_equal(key.T, state[odd].float().numpy()[:8])
    assert source.keys["precision"] == "fp32"


def test_keys_that_are_unknown_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_by_transformers(tmp_path / "hf", "GPTNeoX", intermediate_size=36)
    change_config(tmp_path / "hf", residual_multiplier=0.5)
    convert(from_hf.main, tmp_path / "hf", tmp_path / "ours")
    said = capsys.readouterr().err
    assert "warning: " in said and "residual_multiplier is 0.5" in said


def test_a_vocabulary_may_get_rows_that_a_number_divides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The proof holds it against the source's function, whose further logits are 0."""
    saved_by_transformers(tmp_path / "hf", "GPTNeoX", intermediate_size=36)
    before = HfCheckpoint(tmp_path / "hf")
    rows = before.model.vocab_size
    wanted = -(-rows // 13) * 13
    convert(from_hf.main, tmp_path / "hf", tmp_path / "ours", "--vocab-multiple", 13)
    said = capsys.readouterr()
    assert f"{wanted - rows} rows of zeros were added to the vocabulary's {rows}" in said.err
    model = jaxneox.load(tmp_path / "ours")
    assert model.config.model.vocab_size == wanted > rows
    embed = np.asarray(model.params["embed.tokens"])
    assert np.array_equal(embed[:rows], before.leaf("embed.tokens"))
    assert not embed[rows:].any()
