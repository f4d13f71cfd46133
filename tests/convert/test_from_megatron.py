"""Checkpoints that Megatron-LM wrote, against the logits and gradients that it computed itself."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the tests of conversion write torch files")

import jaxneox  # noqa: E402
from convert import from_megatron, to_megatron, verify  # noqa: E402
from convert.megatron.arguments_in import ReadingChoices  # noqa: E402
from convert.oracle import JaxneoxForward, MegatronForward, run  # noqa: E402
from convert.oracle.megatron import Conventions  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from convert.readers.megatron import MegatronCheckpoint, open_megatron  # noqa: E402
from convert.rules.megatron import rules  # noqa: E402
from convert.rules.rule import sizes_of  # noqa: E402
from tests.convert import commands  # noqa: E402
from tests.convert.commands import call  # noqa: E402
from tests.convert.hf_models import GPT2, LLAMA, write_run  # noqa: E402
from tests.convert.megatron import differing, each, leaves, load, rewrite, say, states  # noqa: E402
from tests.model.adapter import jax_loss_and_grads  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

CASES = {
    "gpt2_tp1": ("legacy", "torch_dist"),
    "gpt2_tp2": ("legacy", "torch_dist"),
    "gpt2_pp2": ("legacy", "torch_dist"),
    "llama_tp2": ("legacy", "torch_dist"),
    "neox_tp2": ("legacy", "torch_dist"),
    "nested_gpt2_tp1": ("legacy",),
    "nested_gpt2_tp2_pp2": ("legacy",),
    "nested_llama_tp2": ("legacy",),
    "tiny_gpt2_pp2_vpp2": ("legacy",),
}
PAIRS = [(case, kind) for case, kinds in CASES.items() for kind in kinds]


@pytest.fixture
def golden(shared: Path) -> Path:
    return shared / "golden" / "megatron"


@pytest.fixture(scope="session")
def imported(tmp_path_factory: pytest.TempPathFactory):
    """`imported(source, *flags)`: our checkpoint of it without proof, made at the first call."""
    done: dict[tuple, Path] = {}

    def convert(source: Path, *flags: str) -> Path:
        if (source, *flags) not in done:
            dst = tmp_path_factory.mktemp("imported") / "run"
            call(from_megatron, source, dst, "--no-verify", *flags)
            done[source, *flags] = dst
        return done[source, *flags]

    return convert


def oracle(source: MegatronCheckpoint) -> MegatronForward:
    interleaved = source.reading.interleaved
    conventions = Conventions(source.shards.version, source.zero_centered, interleaved)
    return MegatronForward(source.model, source.ranks, conventions)


def same_function(source: Path, dst: Path, choices: ReadingChoices | None = None) -> float:
    """How far the logits of two sides in float64 are apart, as the proof follows them."""
    theirs, ours = open_megatron(source, choices=choices), open_jaxneox(dst)
    tokens = np.random.default_rng(0).integers(0, ours.model.vocab_size, (2, 12))
    expected = run(oracle(theirs), tokens)
    return relative_l2(run(JaxneoxForward(ours.model, ours.leaf), tokens), expected)


@pytest.mark.parametrize(("case", "kind"), PAIRS)
def test_the_oracle_computes_what_megatron_did(golden: Path, case: str, kind: str) -> None:
    arrays = np.load(golden / case / "golden.npz")
    source = open_megatron(golden / case / kind)
    logits = run(oracle(source), arrays["tokens"].astype(np.int64))
    # Megatron's own float32 forward pass; 2.8e-7 to 6.2e-7 were measured.
    assert relative_l2(logits, arrays["logits"]) <= 1e-6


@pytest.mark.parametrize(
    ("case", "kind", "flags"),
    [
        ("gpt2_tp2", "legacy", ()),
        ("gpt2_tp1_erf", "gpt2_tp1/legacy", ("--gelu", "erf")),
        ("llama_tp2", "torch_dist", ()),
        ("neox_tp2", "torch_dist", ()),
        ("nested_gpt2_tp2_pp2", "legacy", ()),
        ("nested_llama_tp2", "legacy", ()),
        ("tiny_gpt2_pp2_vpp2", "legacy", ()),
    ],
)
def test_logits_are_those_of_megatron(golden, imported, case: str, kind: str, flags) -> None:
    source = golden / kind if "/" in kind else golden / case / kind
    arrays = np.load(golden / case / "golden.npz")
    logits = np.asarray(jaxneox.load(imported(source, *flags))(arrays["tokens"].astype(np.int64)))
    # Two float32 forward passes: 3e-7 to 8e-7 were measured.
    assert relative_l2(logits, arrays["logits"]) <= 2e-6
    assert abs(logits - arrays["logits"]).max() <= 5e-6


def test_every_size_and_format_gives_the_same_bits(golden: Path, imported) -> None:
    first = imported(golden / "gpt2_tp2" / "legacy")
    others = [golden / case / kind for case, kind in PAIRS if case.startswith("gpt2")]
    others.append(golden / "old_mcore_0.16.1" / "gpt2_tp1_pp2" / "torch_dist")
    for other in others:
        source = open_megatron(other)
        for name, leaf in leaves(first).items():
            assert source.leaf(name).tobytes() == leaf.tobytes(), (other, name)
    first = imported(golden / "llama_tp2" / "torch_dist")
    assert not differing(first, imported(golden / "llama_tp2" / "legacy"))
    first = imported(golden / "neox_tp2" / "torch_dist")
    assert not differing(first, imported(golden / "neox_tp2" / "legacy"))


@pytest.mark.parametrize("case", ["gpt2_tp1", "llama_tp2", "neox_tp2"])
def test_gradients_are_those_of_megatron(golden: Path, imported, case: str) -> None:
    """Of every parameter, a tied embedding one leaf that is used twice."""
    arrays, expected = (np.load(golden / case / f"{n}.npz") for n in ("golden", "full_grads"))
    dst = imported(golden / case / CASES[case][-1])
    model = open_jaxneox(dst).model
    tokens, labels = (arrays[n].astype(np.int64) for n in ("tokens", "labels"))
    loss, grads = jax_loss_and_grads(model, leaves(dst), tokens, labels)
    assert loss == pytest.approx(float(arrays["loss"]), rel=1e-6)
    sizes = sizes_of(model)
    for layer in (None, *range(model.num_layers)):
        for rule in rules(model, inside=layer is not None):
            own = {n: grads[n] if layer is None else grads[n][layer] for n in rule.leaves}
            prefix = "" if layer is None else f"decoder.layers.{layer}."
            found = rule.get(own, sizes, rank=0)
            assert relative_l2(found, expected[prefix + rule.theirs]) <= 1e-5, (layer, rule.theirs)
    assert relative_l2(grads["embed.tokens"], arrays["grad_word_embeddings"]) <= 1e-5


def test_a_conversion_is_proved_and_certified(golden: Path, tmp_path: Path) -> None:
    source = golden / "nested_gpt2_tp2_pp2" / "legacy"
    said = call(from_megatron, source, tmp_path / "dst")
    assert "the same function" in said.out.splitlines()
    assert "add_qkv_bias is False, the tensors have the bias" in said.err
    page = (tmp_path / "dst" / "certificate.md").read_text()
    assert "the last stage's copy of the embedding: equal to it" in page
    assert "| tensor-parallel ranks | 2 |" in page and "| pipeline stages | 2 |" in page
    same, other = (golden / f"{n}" / "legacy" for n in ("nested_gpt2_tp1", "tiny_gpt2_pp2_adam"))
    assert "the same function" in call(verify, same, tmp_path / "dst").out
    said = commands.run(verify, other, tmp_path / "dst")
    assert said.status == 1 and "differs: " in said.out  # another model of the same shape


# Of what no golden case has.


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory):
    """`exports(keys, tp)`: a random model of ours, and what `to_megatron` writes of it."""
    done: dict[tuple, tuple[Path, Path]] = {}

    def export(keys: dict, tp: int) -> tuple[Path, Path]:
        at = (repr(sorted(keys.items())), tp)
        if at not in done:
            folder = tmp_path_factory.mktemp("exported")
            write_run(folder / "run", keys)
            flags = ("--tp", tp, "--format", "torch", "--no-verify")
            call(to_megatron, folder / "run", folder / "megatron", *flags)
            done[at] = folder / "run", folder / "megatron"
        return done[at]

    return export


@pytest.fixture
def copied(exports, tmp_path: Path):
    """The same, the export a copy of its own."""
    import shutil

    def copy(keys: dict, tp: int) -> tuple[Path, Path]:
        ours, export = exports(keys, tp)
        shutil.copytree(export, tmp_path / "megatron")
        return ours, tmp_path / "megatron"

    return copy


def order_of_version(version: int):
    """Rows `[q, k, v]` for each head in another order; heads of 8 dimensions."""

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        if "linear_qkv" not in name:
            return tensor
        heads = tensor.reshape(-1, 3, 8, *tensor.shape[1:])
        moved = heads.transpose(0, 1) if version == 0 else heads.transpose(1, 2)
        return moved.reshape(tensor.shape).contiguous()

    return change


@pytest.mark.slow
@pytest.mark.parametrize(("version", "tp"), [(0, 1), (0, 2), (1, 2)])
def test_the_order_of_queries_before_version_2(copied, tmp_path, version: int, tp: int) -> None:
    ours, source = copied(GPT2, tp)
    rewrite(source, each(order_of_version(version)))
    rewrite(source, lambda s: s.update(checkpoint_version=version) if version else s.pop(
        "checkpoint_version"))  # fmt: skip
    call(from_megatron, source, tmp_path / "dst", "--no-verify")
    assert not differing(ours, tmp_path / "dst")
    assert same_function(source, tmp_path / "dst") <= 1e-13


def interleaved(name: str, tensor: torch.Tensor) -> torch.Tensor:
    """LLAMA's two groups of three queries, a key and a value, as rope of neighbours has them."""
    if "linear_qkv" not in name:
        return tensor
    rows = tensor.reshape(-1, 5, 8, *tensor.shape[1:]).clone()
    halves = rows[:, :4].clone()
    rows[:, :4, 0::2], rows[:, :4, 1::2] = halves[:, :, :4], halves[:, :, 4:]
    return rows.reshape(tensor.shape)


def test_rope_of_neighbours_is_rearranged(copied, tmp_path: Path) -> None:
    ours, source = copied(LLAMA, 2)
    rewrite(source, each(interleaved))
    rewrite(source, say(rotary_interleaved=True))
    call(from_megatron, source, tmp_path / "dst", "--no-verify")
    assert not differing(ours, tmp_path / "dst")
    assert same_function(source, tmp_path / "dst") <= 1e-13  # the oracle turns neighbours


@pytest.mark.parametrize(
    ("said", "half"),
    [("apply_layernorm_1p", False), ("layernorm_zero_centered_gamma", True), (None, False)],
)
def test_norms_that_multiply_by_1_more(copied, tmp_path: Path, said: str | None, half) -> None:
    _, source = copied(GPT2, 1)

    def change(name: str, tensor: torch.Tensor) -> torch.Tensor:
        tensor = tensor - 1 if name.endswith("norm.weight") else tensor
        return tensor.bfloat16() if half else tensor

    rewrite(source, each(change))
    rewrite(source, say(apply_layernorm_1p=None, layernorm_zero_centered_gamma=None))
    if said:
        rewrite(source, say(**{said: True}))
    flags = () if said else ("--zero-centered-gamma", "yes")
    call(from_megatron, source, tmp_path / "dst", "--no-verify", *flags)
    choices = ReadingChoices(zero_centered=None if said else True)
    assert same_function(source, tmp_path / "dst", choices) <= 1e-6  # 1 + weight is rounded
    scale = leaves(tmp_path / "dst")["final_norm.scale"]
    assert scale.dtype == np.float32
    theirs = load(next(states(source)))["model"]["decoder.final_layernorm.weight"].float().numpy()
    assert np.array_equal(scale, theirs + np.float32(1))
    if not said:  # what was chosen is remembered
        assert "the same function" in call(verify, source, tmp_path / "dst").out


def test_transformer_engines_names(exports, tmp_path: Path) -> None:
    ours, _ = exports(LLAMA, 1)
    flags = ("--format", "torch", "--transformer-impl", "transformer_engine", "--no-verify")
    call(to_megatron, ours, tmp_path / "megatron", *flags)
    names = load(next(states(tmp_path / "megatron")))["model"].keys()
    assert "decoder.layers.1.mlp.linear_fc1.layer_norm_weight" in names
    assert not any("input_layernorm" in name for name in names)
    call(from_megatron, tmp_path / "megatron", tmp_path / "dst", "--no-verify")
    assert not differing(ours, tmp_path / "dst")


OLD = {
    "decoder.layers": "transformer.layers",
    "decoder.final_layernorm": "transformer.final_layernorm",
    "pre_mlp_layernorm": "post_attention_layernorm",
    "self_attention.linear_qkv": "attention.query_key_value",
    "self_attention.linear_proj": "attention.dense",
    "mlp.linear_fc1": "mlp.dense_h_to_4h",
    "mlp.linear_fc2": "mlp.dense_4h_to_h",
}


def test_the_names_of_2021(copied, tmp_path: Path) -> None:
    ours, source = copied(GPT2, 2)

    def change(state: dict) -> None:
        found: dict = {"embedding": {"word_embeddings": {}, "position_embeddings": {}}}
        for name, tensor in state["model"].items():
            if name.startswith("embedding."):
                found["embedding"][name.split(".")[1]]["weight"] = tensor
                continue
            for new, old in OLD.items():
                name = name.replace(new, old)
            place, _, rest = name.partition(".")
            found.setdefault(place, {})[rest] = tensor
        state["model"] = {"language_model": found}

    rewrite(source, change)
    call(from_megatron, source, tmp_path / "dst", "--no-verify")
    assert not differing(ours, tmp_path / "dst")


def test_layers_one_by_one_in_torch_dist(exports, tmp_path: Path) -> None:
    """As plain torch.distributed.checkpoint saves whole tensors."""
    import torch.distributed.checkpoint as dcp

    ours, source = exports(LLAMA, 1)
    state = load(next(states(source)))
    folder = tmp_path / "megatron" / "iter_0000003"
    objects = {f"decoder.layers.{i}.mlp.linear_fc1._extra_state": [None] for i in range(2)}
    with pytest.warns():
        dcp.save(state["model"] | objects, checkpoint_id=folder, no_dist=True)
    torch.save({n: v for n, v in state.items() if n != "model"}, folder / "common.pt")
    call(from_megatron, tmp_path / "megatron", tmp_path / "dst", "--no-verify")
    assert not differing(ours, tmp_path / "dst")


@pytest.mark.slow
def test_ranks_whose_copies_differ_are_said_and_measured(copied, tmp_path: Path) -> None:
    ours, source = copied(GPT2, 2)
    path = [*states(source)][1]
    state = load(path)
    state["model"]["decoder.layers.1.mlp.linear_fc2.bias"] += 0.5
    torch.save(state, path)
    said = call(from_megatron, source, tmp_path / "dst")
    assert "NOT the same function: no single model has that of these ranks" in said.out
    assert "copies of norms, output biases or positions differ" in said.err
    (name,) = differing(ours, tmp_path / "dst")
    moved = leaves(tmp_path / "dst")[name][1] - leaves(ours)[name][1]
    assert name == "layers.mlp.down_bias" and np.allclose(moved, 0.25, atol=1e-6)


def test_a_tied_copy_that_went_its_own_way_is_kept(exports, tmp_path: Path) -> None:
    ours, _ = exports(GPT2, 1)
    flags = ("--pp", "2", "--format", "torch", "--no-verify")
    call(to_megatron, ours, tmp_path / "megatron", *flags)
    path = [*states(tmp_path / "megatron")][1]
    state = load(path)
    state["model"]["output_layer.weight"][3, 4] += 1
    torch.save(state, path)
    said = call(from_megatron, tmp_path / "megatron", tmp_path / "dst", "--no-verify")
    assert "the last stage has another copy" in said.err
    assert same_function(tmp_path / "megatron", tmp_path / "dst") <= 1e-13
    found = leaves(tmp_path / "dst")
    assert np.argwhere(found["embed.tokens"] != found["unembed.weight"].T).tolist() == [[3, 4]]


def test_a_bias_of_queries_keys_and_values_alone(copied, tmp_path: Path) -> None:
    """add_qkv_bias without add_bias_linear: a bias of zeros after the attention is the same."""
    keys = LLAMA | {"use_bias_in_attn_linear": True, "use_bias_in_mlp": True}
    ours, source = copied(keys, 2)

    def change(state: dict) -> None:
        gone = ("linear_proj.bias", "linear_fc1.bias", "linear_fc2.bias")
        for name in [name for name in state["model"] if name.endswith(gone)]:
            del state["model"][name]

    rewrite(source, change)
    rewrite(source, say(add_bias_linear=False))
    call(from_megatron, source, tmp_path / "dst", "--no-verify")
    assert same_function(source, tmp_path / "dst") <= 1e-13
    found = leaves(tmp_path / "dst")
    assert not found["layers.attention.out_bias"].any()
    same = "layers.attention.qkv_bias"
    assert np.array_equal(found[same], leaves(ours)[same])
