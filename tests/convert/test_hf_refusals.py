"""What one side has and the other has not: one line with every reason, and no DST."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

from convert import from_hf, to_hf
from convert.hf import choice as hf_choice
from convert.hf.choice import choose, flat, meaning, reasons
from convert.hf.config import config_of, keys_of, unknown_keys
from convert.hf.families import GPT_NEOX
from convert.hf.family import with_defaults
from convert.hf.rope import rope_keys
from convert.rules import hf_neox
from jaxneox.config import Settings
from jaxneox.config.schema import ModelConfig
from jaxneox.errors import UserError
from tests.convert import hf_models
from tests.convert.hf_models import MODELS, change_config, write_run

NEOX, LLAMA, GPT2 = hf_models.GPT_NEOX, hf_models.LLAMA, hf_models.GPT2
Keys = dict[str, Any]


def refused(main: Any, capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    """The one line on stderr of a command that exits with 2 and leaves no DST."""
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in argv])
    said = capsys.readouterr()
    assert stopped.value.code == 2
    assert not said.out
    *before, line = said.err.splitlines()
    assert line.startswith("error: ") and all(x.startswith("warning: ") for x in before)
    dst = Path(str(argv[1]))
    assert not dst.exists() and not dst.with_name(dst.name + ".partial").exists()
    return line


INEXPRESSIBLE: dict[str, tuple[Keys, tuple[str, ...]]] = {
    "alibi": (NEOX | {"pos_emb": "alibi"}, ("GPTNeoX", "positions are alibi, there rotary")),
    "sinusoidal": (NEOX | {"pos_emb": "sinusoidal"}, ("positions are sinusoidal",)),
    "rpe": (GPT2 | {"pos_emb": "rpe"}, ("positions are rpe",)),
    "no positions": (NEOX | {"pos_emb": "none"}, ("positions are none",)),
    "learned, parallel": (GPT2 | {"gpt_j_residual": True}, ("GPT2", "is parallel, there seq")),
    "learned from row 2": (GPT2 | {"opt_pos_emb_offset": 2}, ("GPT2", "begin at row 2")),
    "gpt_j_tied": (NEOX | {"gpt_j_tied": True}, ("GPTNeoX", "--copy-shared-norm")),
    "logit bias": (NEOX | {"logit_bias": True}, ("convert from-neox SRC DST --norms mean",)),
    "attention dropped": (
        LLAMA | {"gpt_j_residual": True, "attention_dropped": True},
        ("Llama", "is parallel", "attention has no effect"),
    ),
    "gated layernorm": (NEOX | {"activation": "swiglu"}, ("GPTNeoX", "MLP is gated")),
    "qk norm": (NEOX | {"use_qk_layernorm": True}, ("normalised",)),
    "window": (NEOX | {"sliding_window_width": 7}, ("sees 7 before it",)),
    "grouped heads": (NEOX | {"num_kv_heads": 2}, ("2 key-value heads, there 6",)),
    "wide heads": (NEOX | {"head_dim": 10}, ("heads are 10 wide, there 8",)),
    "norms of each head of gpt2": (
        GPT2 | {"norm": "rmsnorm", "qk_norm_per_head": True},
        ("norms of each head's queries",),
    ),
    "no output bias, not gated": (
        NEOX | {"attention_output_bias": False},
        ("attention's output has no bias beside",),
    ),
    "no MLP biases": (NEOX | {"use_bias_in_mlp": False}, ("MLP has no biases",)),
    "softsign": (NEOX | {"activation": "softsign"}, ("is softsign",)),
    "norms without biases": (NEOX | {"use_bias_in_norms": False}, ("have no bias",)),
    "partial rotary": (LLAMA | {"rotary_pct": 0.5}, ("positions.rotary_fraction is 0.5",)),
    "scalenorm": (NEOX | {"norm": "scalenorm"}, ("norms are scalenorm, there layernorm",)),
    "rmsnorm, not gated": (LLAMA | {"activation": "relu"}, ("Llama", "MLP is not gated")),
    "two at once": (
        NEOX | {"pos_emb": "alibi", "logit_bias": True},
        ("positions are alibi", "logits have a bias"),
    ),
}


@pytest.mark.parametrize("name", INEXPRESSIBLE)
def test_a_function_that_transformers_has_not(name: str) -> None:
    keys, words = INEXPRESSIBLE[name]
    with pytest.raises(UserError) as error:
        choose(Settings(keys).model(vocab_size=None))
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_the_command_says_so_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_run(tmp_path / "run", NEOX | {"pos_emb": "alibi"})
    line = refused(to_hf.main, capsys, tmp_path / "run", tmp_path / "hf")
    assert "alibi" in line


@pytest.mark.parametrize("name", MODELS)
def test_config_json_read_back_is_the_model(name: str) -> None:
    architecture, keys = MODELS[name]
    model = Settings(keys).model(vocab_size=None)
    family = choose(model)
    assert family.architecture == architecture
    config = config_of(family, model)
    assert not unknown_keys(config)
    back = Settings(keys_of(config)).model(vocab_size=None)
    # what transformers has no word for, and is of training alone
    of_training = {"seq_length": model.seq_length, "init": model.init}
    if architecture == "LlamaForCausalLM":
        of_training |= {"hidden_dropout": model.hidden_dropout}
    unread = {"positions": model.positions} if model.positions.kind == "learned" else {}
    assert replace(back, **of_training, **unread) == model


FUNCTION = {
    *("num_layers", "hidden_size", "vocab_size", "parallel_residual", "shared_norm"),
    *("tied_embedding", "logit_bias", "attention_dropped", "head"),
    *(f"attention.{x}" for x in ("num_heads", "kv_heads", "head_dim", "bias", "qk_norm", "window")),
    *("attention.output_bias", "attention.qk_norm_per_head", "attention.qk_norm_joint"),
    "attention.scale",
    *(f"multipliers.{x}" for x in ("embedding", "positions", "output")),
    *(f"mlp.{x}" for x in ("size", "activation", "gated", "bias")),
    *(f"norm.{x}" for x in ("kind", "epsilon", "bias")),
    *("positions.kind", "lora", "pattern", "mamba", "experts"),
}


SCALING = {
    *("scaling.type", "scaling.factor", "scaling.original_max_position_embeddings"),
    *("scaling.attention_factor", "scaling.beta_fast", "scaling.beta_slow", "scaling.truncate"),
    *("scaling.low_freq_factor", "scaling.high_freq_factor"),
}


@pytest.mark.parametrize(
    ("keys", "positions"),
    [
        (NEOX, {"rotary_fraction", "rotary_base"} | SCALING),
        (GPT2, {"max_positions", "offset"}),
        (GPT2 | {"pos_emb": "rpe"}, {"rpe_buckets", "rpe_max_distance"}),
        (GPT2 | {"pos_emb": "alibi"}, set()),
    ],
)
def test_every_field_of_the_function_is_compared(keys: Keys, positions: set[str]) -> None:
    """A field that ModelConfig gains fails here: say in hf.choice and hf.config what it is, and in
    newer_features or a program's own grid that NeoX and Megatron-LM do not have it."""
    model = Settings(keys).model(vocab_size=None)
    assert set(meaning(model)) == FUNCTION | {f"positions.{name}" for name in positions}


@pytest.mark.parametrize("name", sorted(FUNCTION - {"hidden_size", "attention.head_dim"}))
def test_no_field_can_differ_unnoticed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Whichever field config.json means otherwise is given as a reason."""
    model = Settings(NEOX).model(vocab_size=None)
    assert reasons(GPT_NEOX, model) == {}
    plain = hf_choice.meaning

    def changed(other: ModelConfig) -> dict[str, Any]:
        return plain(other) if other is model else plain(other) | {name: "otherwise"}

    monkeypatch.setattr(hf_choice, "meaning", changed)
    assert list(reasons(GPT_NEOX, model)) == [name]


def test_flat_names_every_field() -> None:
    assert {"num_layers", "init.std", "positions.rotary_base"} <= flat(
        Settings(NEOX).model(vocab_size=None)
    ).keys()


def their_config(keys: Keys) -> Keys:
    model = Settings(keys).model(vocab_size=None)
    return config_of(choose(model), model)


BY_TYPE = {"gpt_neox": NEOX, "llama": LLAMA, "gpt2": GPT2}
BY_TYPE |= {"mistral": hf_models.MISTRAL, "qwen2": hf_models.QWEN2}
TYPES = "there are default, linear, dynamic, yarn, llama3"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of transformers of each kind."""
    folder = tmp_path_factory.mktemp("exported")
    for kind, keys in BY_TYPE.items():
        write_run(folder / "runs" / kind, keys)
        with pytest.raises(SystemExit):
            to_hf.main([str(folder / "runs" / kind), str(folder / kind)])
    return folder


@pytest.mark.parametrize("kind", BY_TYPE)
@pytest.mark.parametrize("layers", [10**9, 9999])
def test_layers_that_the_files_have_not_are_not_listed(
    exported: Path, tmp_path: Path, capsys, kind: str, layers: int
) -> None:
    folder = tmp_path / "hf"
    shutil.copytree(exported / kind, folder)
    name = "n_layer" if kind == "gpt2" else "num_hidden_layers"
    change_config(folder, **{name: layers, "layer_types": None})
    line = refused(from_hf.main, capsys, folder, tmp_path / "out")
    said = f"config.json claims {layers} layers" if layers < 10**4 else f"{layers} (int), expected"
    assert said in line and len(line) < 400 + len(str(folder))


ORIGINAL = "original_max_position_embeddings"
FULL = "full_attention"
WINDOW = {"use_sliding_window": True, "sliding_window": 4}


def scaled(kind: str, **fields: Any) -> Keys:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 1e4, **fields}}


LONG = scaled("yarn", factor=4.0, **{ORIGINAL: 8})

BITS = {"quant_method": "bitsandbytes", "load_in_8bit": False}

UNKNOWN: list[tuple[str, Keys, str]] = [
    ("gpt_neox", {"architectures": ["RwkvForCausalLM"], "model_type": "rwkv"}, "there are GPTN"),
    ("llama", {"model_type": "mistral"}, "'mistral' is not supported"),
    ("llama", {"architectures": ["LlamaForTokenClassification"]}, "is not supported"),
    ("llama", {"architectures": None, "model_type": None}, "is not supported"),
    ("gpt_neox", {"hidden_act": "quick_gelu"}, "hidden_act: 'quick_gelu' is not supported"),
    ("gpt_neox", {"hidden_act": "sigmoid"}, "hidden_act: 'sigmoid'"),
    ("llama", {"hidden_act": "gelu_new"}, "NeoX's gated MLPs have"),
    ("llama", scaled("longrope", factor=2.0), f"'longrope' is not supported: {TYPES}"),
    ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "they are one setting"),
    ("llama", scaled("linear", factor=2.0, type="yarn"), "rope_parameters.type is 'yarn'"),
    ("llama", scaled("default", factor=2.0), "factor: type default has no such field"),
    ("llama", scaled("llama3", factor=2.0), "type llama3 needs low_freq_factor"),
    ("llama", scaled("yarn", factor=4.0, finetuned=True), "rope_scaling.finetuned"),
    ("llama", scaled("linear", factor=0.5), "rope_scaling.factor: found 0.5"),
    ("llama", scaled("dynamic", factor=2.0, original_max_position_embeddings=6), "embeddings is 6"),
    ("llama", {"rope_parameters": {"full_attention": {}}}, "full_attention: type default has no"),
    ("llama", {"rope_parameters": "default"}, "expected a block"),
    ("llama", {"rope_theta": 5e5}, "rope_theta is 500000.0 but rope_parameters.rope_theta is"),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor is 0.5"),
    ("gpt_neox", {"rotary_pct": 1.0}, "rotary_pct is 1.0 but rope_parameters.partial_rotary"),
    ("gpt_neox", {"rope_theta": 77}, "they are one setting"),
    ("gpt_neox", {"head_dim": 16}, "head_dim is 16, but here 6 heads share hidden_size 48"),
    ("llama", {"num_attention_heads": 10}, "10 does not divide hidden_size 48, which Llama"),
    ("mistral", {"architectures": ["PhimoeForCausalLM"], "model_type": "phimoe"}, "'phimoe'"),
    ("mistral", {"layer_types": [FULL, "sliding_attention"]}, "layers of several kinds"),
    ("mistral", {"layer_types": [FULL]}, "expected a kind for each of 2"),
    ("mistral", {"layer_types": ["linear_attention"] * 2}, "'linear_attention' is not one of"),
    ("mistral", {"sliding_window": 0}, "sliding_window: found 0"),
    ("qwen2", {"architectures": ["Qwen2MoeForCausalLM"], "model_type": "qwen2_moe"}, "'qwen2_moe'"),
    ("qwen2", WINDOW | {"max_window_layers": 1, "layer_types": None}, "layers of several kinds"),
    ("qwen2", {"layer_types": ["sliding_attention"] * 2}, "sliding_window: found None"),
    ("qwen2", {"max_window_layers": "all"}, "max_window_layers: found 'all'"),
    ("qwen2", {"use_mrope": True}, "use_mrope is True"),
    ("llama", {"sliding_window": 128}, "sliding_window is 128"),
    ("llama", {"num_key_value_heads": 4}, "num-kv-heads 4 does not divide"),
    ("llama", {"is_causal": False}, "is_causal is False"),
    ("llama", {"quantization_config": {"bits": 4}}, "weights are quantized (4 bits), and"),
    ("llama", {"quantization_config": "x\n" * 999}, "(quantization_config)"),
    ("llama", {"quantization_config": {"quant_method": "gptq", "bits": 4}}, "(GPTQ, 4 bits)"),
    ("gpt2", {"quantization_config": {"quant_method": "awq", "bits": True}}, "(AWQ)"),
    ("gpt_neox", {"quantization_config": BITS | {"load_in_8bit": True}}, "(bitsandbytes, 8 bits)"),
    (
        "qwen2",
        {"quantization_config": BITS | {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}},
        "(bitsandbytes, 4 bits, nf4)",
    ),
    ("mistral", {"compression_config": {"quant_method": "compressed-tensors"}}, "compressed-ten"),
    ("llama", {"auto_map": {"AutoModel": "x.Y"}}, "never run"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights is False"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "no score is divided by its layer"),
    ("gpt2", {"add_cross_attention": True, "is_encoder_decoder": True}, "is_encoder_decoder"),
    ("gpt2", {"hidden_size": 64}, "n_embd is 48 but hidden_size is 64"),
    ("gpt2", {"n_inner": "wide"}, "n_inner: found 'wide'"),
    ("gpt2", {"tie_word_embeddings": "yes"}, "expected true or false"),
    ("gpt_neox", {"num_hidden_layers": -1}, "num_hidden_layers: found -1"),
    ("gpt_neox", {"layer_norm_eps": "small"}, "layer_norm_eps: found 'small'"),
    ("gpt_neox", {"num_attention_heads": "6", "head_dim": {}}, "head_dim: found {}"),
    ("gpt2", {"n_head": "six", "head_dim": "x"}, "n_head: found 'six'"),
    ("llama", LONG | {"max_position_embeddings": "long"}, "max_position_embeddings: found 'long'"),
    ("llama", scaled("dynamic", factor=2.0) | {"max_position_embeddings": []}, "found []"),
    ("llama", scaled("yarn", factor=1e9, **{ORIGINAL: 10**6}), "product of at most 268,435,456"),
    ("llama", scaled("yarn", factor=1e308, **{ORIGINAL: 10**9}), "which float32 does not hold"),
    ("llama", scaled("yarn", factor=True), "rope_scaling.factor: found True"),
]


@pytest.mark.parametrize(("kind", "changes", "words"), UNKNOWN)
def test_a_config_that_we_have_not(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    changes: Keys,
    words: str,
) -> None:
    shutil.copytree(exported / kind, tmp_path / "hf")
    change_config(tmp_path / "hf", **changes)
    line = refused(from_hf.main, capsys, tmp_path / "hf", tmp_path / "ours")
    assert f"{tmp_path}/hf/config.json: " in line and words in line


QUANTIZED: list[tuple[str, bytes, str]] = [
    ("quantize_config.json", b'{"bits": 4, "group_size": 128}', "(4 bits)"),
    ("quant_config.json", b'{"w_bit": 4}', "(4 bits)"),
    ("quant_config.json", b"{}", "(quant_config.json)"),
]


@pytest.mark.parametrize(("name", "content", "words"), QUANTIZED)
def test_files_of_older_tools_say_that_it_is_quantized(
    exported: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: bytes,
    words: str,
) -> None:
    shutil.copytree(exported / "llama", tmp_path / "hf")
    (tmp_path / "hf" / name).write_bytes(content)
    line = refused(from_hf.main, capsys, tmp_path / "hf", tmp_path / "ours")
    assert f"{tmp_path}/hf/{name}: the weights are quantized {words}" in line
    assert "dequantize()" in line


def test_its_tensors_say_that_it_is_quantized(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported / "llama", tmp_path / "hf")
    file = tmp_path / "hf" / "model.safetensors"
    name = "model.layers.0.self_attn.q_proj"
    weights = load_file(file)
    save_file(weights | {f"{name}.qweight": weights.pop(f"{name}.weight").astype("int32")}, file)
    line = refused(from_hf.main, capsys, tmp_path / "hf", tmp_path / "ours")
    assert f"{tmp_path}/hf: the weights are quantized (it has {name}.qweight)" in line


def of_4x(config: Keys) -> Keys:
    return {name: value for name, value in config.items() if name != "rope_parameters"}


def of_5(config: Keys) -> Keys:
    old = ("rotary_pct", "rotary_emb_base", "rope_theta")
    return {name: value for name, value in config.items() if name not in old}


@pytest.mark.parametrize("version", [of_4x, of_5])
@pytest.mark.parametrize("keys", [NEOX | {"rotary_pct": 0.5}, LLAMA])
def test_either_version_s_keys_are_enough(version: Callable[[Keys], Keys], keys: Keys) -> None:
    config = their_config(keys | {"rotary_emb_base": 77})
    assert version(config) != config
    assert keys_of(version(config)) == keys_of(config)


def test_what_is_absent_is_transformers_default() -> None:
    least = {"model_type": "gpt_neox"}
    assert keys_of(least)["rotary_pct"] == 0.25
    assert keys_of(least | {"rope_scaling": {"type": "default"}}) == keys_of(least)
    assert "intermediate_size" not in keys_of({"model_type": "gpt2"})
    assert keys_of({"model_type": "llama"})["intermediate_size"] == 3 * 11008


def test_no_parameter_is_left_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = hf_neox.rules
    monkeypatch.setattr(hf_neox, "rules", lambda model: rules(model)[:-1])
    write_run(tmp_path / "run", NEOX)
    line = refused(to_hf.main, capsys, tmp_path / "run", tmp_path / "hf")
    assert "has no place for unembed.weight" in line


@pytest.mark.parametrize("theta", [float("inf"), float("nan"), "1e4", None, True])
def test_a_base_that_is_no_number(theta: Any) -> None:
    """JSON has no such numbers, and the reader of files takes none; a caller's dictionary may."""
    with pytest.raises(UserError, match="rope_theta: found"):
        rope_keys(GPT_NEOX, {"rope_theta": theta}, 16)


@pytest.mark.parametrize("name", ["num_hidden_layers", "hidden_size", "max_position_embeddings"])
def test_a_size_that_is_null(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name}: found null, expected int"):
        keys_of({"model_type": "llama", **scaled("yarn", factor=2.0), name: None})


def test_defaults_are_of_keys_that_are_there() -> None:
    with pytest.raises(ValueError, match="no field has the key hidden_sise"):
        with_defaults(GPT_NEOX.fields, hidden_sise=8)
