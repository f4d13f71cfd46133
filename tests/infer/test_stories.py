"""stories260K, a small trained Llama: its known text, token for token, and its known logits.

The model and its text are those of karpathy/llama2.c; the golden logits were computed from the same
file in float64.
"""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import jaxneox
from jaxneox.loading import LoadedModel

pytest.importorskip("torch", reason="the tests of conversion write torch files")

from convert import from_hf
from tests.convert.commands import call

LETTERS = {"D": 0, "F": 1, "L": 2, "N": 3, "K": 4, "V": 5}
LAYOUT = (
    *(("tokens", "VD"), ("input_layernorm", "LD"), ("self_attn.q_proj", "LDD")),
    *(("self_attn.k_proj", "LKD"), ("self_attn.v_proj", "LKD"), ("self_attn.o_proj", "LDD")),
    *(("post_attention_layernorm", "LD"), ("mlp.gate_proj", "LFD"), ("mlp.down_proj", "LDF")),
    *(("mlp.up_proj", "LFD"), ("norm", "D")),
)
"""What llama2.c's export writes, in its order; K is all key-value heads' width."""


def side_by_side(w_OD: np.ndarray, width: int) -> np.ndarray:
    """llama2.c turns neighbours of a head, Llama the two halves: rows 0, 2, …, 1, 3, …"""
    heads = w_OD.reshape(-1, width // 2, 2, w_OD.shape[-1])
    return heads.swapaxes(1, 2).reshape(w_OD.shape)


def write_llama(source: Path, folder: Path) -> None:
    raw = source.read_bytes()
    dim, hidden, layers, heads, kv_heads, vocab, length = struct.unpack("7i", raw[:28])
    width = dim // heads
    sizes = {"D": dim, "F": hidden, "L": layers, "V": vocab, "K": kv_heads * width}
    numbers, at = np.frombuffer(raw[28:], np.float32), 0
    tensors: dict[str, np.ndarray] = {}
    for name, axes in LAYOUT:
        shape = tuple(sizes[axis] for axis in axes)
        array, at = numbers[at : at + np.prod(shape)].reshape(shape), at + np.prod(shape)
        if name in ("tokens", "norm"):
            tensors["model.embed_tokens.weight" if name == "tokens" else "model.norm.weight"] = (
                array
            )
            continue
        for layer, one in enumerate(array):
            turned = name.endswith(("q_proj", "k_proj"))
            one = side_by_side(one, width) if turned else one
            tensors[f"model.layers.{layer}.{name}.weight"] = np.ascontiguousarray(one)
    folder.mkdir()
    save_file({name: w.copy() for name, w in tensors.items()}, folder / "model.safetensors")
    config = {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        **{"hidden_size": dim, "intermediate_size": hidden, "num_hidden_layers": layers},
        **{"num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocab},
        **{"max_position_embeddings": length, "rms_norm_eps": 1e-5, "rope_theta": 10000.0},
        **{"tie_word_embeddings": True, "hidden_act": "silu", "torch_dtype": "float32"},
    }
    (folder / "config.json").write_text(json.dumps(config))


def pieces(path: Path) -> list[bytes]:
    """The vocabulary of llama2.c's tokenizer: after a length, (score, length, bytes) of each."""
    raw, at, found = path.read_bytes(), 4, []
    while at < len(raw):
        (count,) = struct.unpack("i", raw[at + 4 : at + 8])
        piece = raw[at + 8 : at + 8 + count]
        single = re.fullmatch(rb"<0x([0-9A-F]{2})>", piece)  # a byte that no other piece has
        found.append(bytes([int(single[1], 16)]) if single else piece)
        at += 8 + count
    return found


@pytest.fixture(scope="module")
def stories(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LoadedModel]:
    folder = tmp_path_factory.mktemp("stories")
    write_llama(shared / "data/stories260k/stories260K.bin", folder / "hf")
    call(from_hf, folder / "hf", folder / "ours", "--no-verify")
    return shared / "data/stories260k", jaxneox.load(str(folder / "ours"))


def test_the_known_story(stories: tuple[Path, LoadedModel]) -> None:
    source, model = stories
    golden = json.loads((source / "golden_logits.json").read_text())
    for options in ({}, {"rows": 3}, {"recompute": True}):
        (answer,) = model.generate([golden["ids"][:1]], max_tokens=199, **options)
        assert [*answer.prompt, *answer.tokens] == golden["ids"]
    words = pieces(source / "tok512.bin")
    text = b"".join(words[token] for token in answer.tokens).decode().lstrip()
    assert (source / "golden_stdout.txt").read_text().startswith(text.strip())
    assert -np.mean(answer.logprobs) == pytest.approx(golden["mean_nll_greedy"], abs=1e-4)


def test_the_known_logits(stories: tuple[Path, LoadedModel]) -> None:
    source, model = stories
    golden = json.loads((source / "golden_logits.json").read_text())
    logits = np.asarray(model(np.array([golden["ids"]])))[0]
    for place in (0, 199):
        np.testing.assert_allclose(logits[place], golden[f"logits_pos{place}"], rtol=0, atol=1e-4)
