"""Files for Megatron-LM: those that it wrote itself, number by number, and the way back."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the tests of conversion write torch files")

import jaxneox  # noqa: E402
from convert import (  # noqa: E402
    from_hf,
    from_megatron,
    from_neox,
    to_hf,
    to_megatron,
    to_neox,
    verify,
)
from tests.convert.commands import call, run  # noqa: E402
from tests.convert.golden import find_case  # noqa: E402
from tests.convert.hf_models import COMMON, GPT2, GPT_NEOX, LLAMA, write_run  # noqa: E402
from tests.convert.megatron import differing, leaves, load, states  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

EVEN = {"num_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48}
MODELS = {
    "gpt2": GPT2 | EVEN,
    "gpt2 erf, untied": GPT2 | EVEN | {"bias_gelu_fusion": False, "no_weight_tying": True},
    "llama, fewer groups than ranks": LLAMA | EVEN | {"intermediate_size": 3 * 48},
    "partial rope": GPT_NEOX | EVEN | {"gpt_j_residual": False, "num_kv_heads": 2},
    "no positions": COMMON | EVEN | {"pos_emb": "none", "norm": "rmsnorm"},
}


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random models of ours."""
    folder = tmp_path_factory.mktemp("runs")
    for name, keys in MODELS.items():
        write_run(folder / name, keys)
    return {name: folder / name for name in MODELS}


LLAMAS = "llama, fewer groups than ranks"
LAYOUTS = [(LLAMAS, tp, pp, form) for tp in (1, 2, 4) for pp in (1, 2)
           for form in ("torch", "torch_dist")]  # fmt: skip
LAYOUTS += [(name, 4, 2, "torch") for name in MODELS if name != LLAMAS]
LAYOUTS += [("gpt2", 2, 2, "torch_dist")]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "tp", "pp", "form"), LAYOUTS)
def test_there_and_back_bit_by_bit(runs, tmp_path: Path, name: str, tp, pp, form: str) -> None:
    flags = ("--tp", tp, "--pp", pp, "--format", form, "--no-verify")
    call(to_megatron, runs[name], tmp_path / "there", *flags)
    call(from_megatron, tmp_path / "there", tmp_path / "back", "--no-verify")
    assert not differing(runs[name], tmp_path / "back")


@pytest.mark.parametrize("name", [LLAMAS, "partial rope"])
def test_what_is_written_is_proved(runs, tmp_path: Path, name: str) -> None:
    said = call(to_megatron, runs[name], tmp_path / "there", "--tp", "4", "--format", "torch")
    assert "the same function" in said.out
    flags = said.out.splitlines()[-1]
    assert "--tensor-model-parallel-size 4" in flags and "--transformer-impl local" in flags
    assert ("--swiglu" in flags) == (name == LLAMAS) and "--position-embedding-type rope" in flags
    assert "--num-query-groups 2" in flags and "--no-load-optim" in flags
    record = json.loads((tmp_path / "there" / "certificate.json").read_text())
    assert all(t["used"] == t["elements"] and t["same_bits"] for t in record["tensors"])


def test_virtual_stages(runs, tmp_path: Path) -> None:
    flags = ("--pp", "2", "--virtual", "2", "--format", "torch", "--no-verify")
    call(to_megatron, runs["gpt2"], tmp_path / "there", *flags)
    one, two = (load(path) for path in states(tmp_path / "there"))
    weight = "decoder.layers.0.mlp.linear_fc2.weight"
    found = [one["model0"][weight], two["model0"][weight], one["model1"][weight],
             two["model1"][weight]]  # fmt: skip
    expected = leaves(runs["gpt2"])["layers.mlp.down"].swapaxes(1, 2)
    assert np.array_equal(np.stack(found), expected)
    call(from_megatron, tmp_path / "there", tmp_path / "back", "--no-verify")
    assert not differing(runs["gpt2"], tmp_path / "back")


GOLDEN = {"gpt2_tp1": (1, 1), "gpt2_tp2": (2, 1), "gpt2_pp2": (1, 2), "llama_tp2": (2, 1),
          "neox_tp2": (2, 1)}  # fmt: skip


@pytest.mark.parametrize("case", GOLDEN)
def test_the_files_are_those_that_megatron_wrote(shared: Path, tmp_path: Path, case: str) -> None:
    """Of both formats: every tensor under its name in its file, or piece of the whole."""
    source, (tp, pp) = shared / "golden" / "megatron" / case, GOLDEN[case]
    call(from_megatron, source / "legacy", tmp_path / "run", "--no-verify")
    size = ("--tp", tp, "--pp", pp, "--no-verify")
    call(to_megatron, tmp_path / "run", tmp_path / "torch", *size, "--format", "torch")
    for path in states(tmp_path / "torch"):
        theirs = megatron_load(source / "legacy" / path.relative_to(tmp_path / "torch"))
        ours = load(path)
        assert ours["checkpoint_version"] == theirs["checkpoint_version"] == 3.0
        assert ours["iteration"] == theirs["iteration"] == 5
        expected = {n: t for n, t in theirs["model"].items() if t is not None}
        assert ours["model"].keys() == expected.keys()
        assert all(torch.equal(ours["model"][n], t) for n, t in expected.items())
        said, there = (vars(state["args"]) for state in (ours, theirs))
        free = {"make_vocab_size_divisible_by", "vocab_size", "norm_epsilon", "apply_layernorm_1p"}
        different = {n for n in said.keys() - free if n in there and said[n] != there[n]}
        assert different == set()
    call(to_megatron, tmp_path / "run", tmp_path / "dist", *size, "--format", "torch_dist")
    same_dist(tmp_path / "dist" / "iter_0000005", source / "torch_dist" / "iter_0000005")


def megatron_load(path: Path) -> dict:
    """With stand-ins for the classes of Megatron that its arguments name."""
    import pickle
    import types

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str):
            if module.startswith("megatron"):
                return type(name, (), {"__init__": lambda self, *_: None})
            return super().find_class(module, name)

    stand_in = types.ModuleType("stand_in")
    stand_in.Unpickler, stand_in.load = Unpickler, pickle.load  # type: ignore[attr-defined]
    return torch.load(path, pickle_module=stand_in, weights_only=False)


def same_dist(ours: Path, theirs: Path) -> None:
    """Read by torch itself; beside the model Megatron has random states and what is in common."""
    from torch.distributed.checkpoint import FileSystemReader, metadata

    one, other = (FileSystemReader(p).read_metadata().state_dict_metadata for p in (ours, theirs))
    objects = {n for n, entry in other.items() if isinstance(entry, metadata.BytesStorageMetadata)}
    beside = {n for n in objects if n.startswith(("rng_state", "common_state"))}
    assert one.keys() == other.keys() - beside
    for name in one.keys() - objects:
        assert (one[name].size, one[name].properties) == (other[name].size, other[name].properties)
    a, b = (read_dist(p, sorted(one.keys() - objects)) for p in (ours, theirs))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert json.loads((ours / "metadata.json").read_text())["sharded_backend"] == "torch_dist"
    common = load(ours / "common.pt")
    assert isinstance(common["args"], Namespace) and common["iteration"] == 5


def read_dist(folder: Path, names: list[str]) -> dict[str, torch.Tensor]:
    import torch.distributed.checkpoint as dcp

    described = dcp.FileSystemReader(folder).read_metadata().state_dict_metadata
    found = {n: torch.empty(described[n].size, dtype=described[n].properties.dtype) for n in names}
    with pytest.warns(UserWarning):
        dcp.load(found, checkpoint_id=folder, no_dist=True)
    return found


def test_the_empty_states_of_torch_dist(runs, tmp_path: Path) -> None:
    """Objects that Megatron wants, each a list of nothing."""
    import io

    call(to_megatron, runs["gpt2"], tmp_path / "there", "--no-verify")
    folder = tmp_path / "there" / "iter_0000003"
    index = torch.distributed.checkpoint.FileSystemReader(folder).read_metadata()
    states = {k.fqn: v for k, v in index.storage_data.items() if "_extra_state" in k.fqn}
    matrices = ("self_attention.linear_qkv", "self_attention.linear_proj", "mlp.linear_fc1",
                "mlp.linear_fc2")  # fmt: skip
    assert states.keys() == {
        f"decoder.layers.{name}._extra_state/shard_{i}_4" for name in matrices for i in range(4)
    }
    for place in states.values():
        content = (folder / place.relative_path).read_bytes()[place.offset :][: place.length]
        assert torch.load(io.BytesIO(content)) == [None]


@pytest.mark.slow
def test_the_chain_through_all_programs(tmp_path: Path) -> None:
    """NeoX, here, Megatron, here, transformers, here, NeoX: the same logits at every station."""
    case = find_case("seqres_mp2")
    call(from_neox, case.folder, tmp_path / "a", "--no-verify")
    sizes = ("--tp", "2", "--pp", "2", "--format", "torch")
    call(to_megatron, tmp_path / "a", tmp_path / "megatron", *sizes, "--no-verify")
    call(from_megatron, tmp_path / "megatron", tmp_path / "b", "--no-verify")
    call(to_hf, tmp_path / "b", tmp_path / "hf", "--no-verify")
    call(from_hf, tmp_path / "hf", tmp_path / "c", "--no-verify")
    call(to_neox, tmp_path / "c", tmp_path / "neox", "--mp", "2", "--no-verify")
    call(from_neox, tmp_path / "neox", tmp_path / "d", "--no-verify")
    for run_ in "bcd":
        assert not differing(tmp_path / "a", tmp_path / run_), run_
    logits = np.asarray(jaxneox.load(tmp_path / "d")(case.tokens))
    assert relative_l2(logits, case.logits) <= 2e-6
    assert "the same function" in call(verify, case.folder, tmp_path / "megatron").out


def test_zeros_where_megatron_needs_biases_or_rows(tmp_path: Path) -> None:
    """gelu's tanh form is fused with a bias there, and each rank has as many rows."""
    keys = GPT2 | {"use_bias_in_attn_linear": False, "padded_vocab_size": 42, "num_layers": 1}
    write_run(tmp_path / "run", keys | {"use_bias_in_mlp": False, "use_bias_in_norms": False})
    said = call(to_megatron, tmp_path / "run", tmp_path / "there", "--tp", "3", "--format", "torch")
    assert "the same function" in said.out and "are written as zeros" in said.err
    model = load(next(states(tmp_path / "there")))["model"]
    assert model["embedding.word_embeddings.weight"].shape == (14, 48)
    assert not model["decoder.layers.0.mlp.linear_fc1.bias"].any()
    write_run(tmp_path / "odd", keys | {"padded_vocab_size": 40})
    said = call(to_megatron, tmp_path / "odd", tmp_path / "padded", "--tp", "3", "--dtype",
                "bfloat16")  # fmt: skip
    assert "2 rows of zeros were added" in said.err
    assert "the same function, rounded to bfloat16" in said.out


def test_a_checkpoint_without_a_step_is_a_release(tmp_path: Path) -> None:
    write_run(tmp_path / "run", LLAMA, step=0)
    call(to_megatron, tmp_path / "run", tmp_path / "there", "--no-verify")
    tracker = tmp_path / "there" / "latest_checkpointed_iteration.txt"
    assert tracker.read_text() == "release" and (tmp_path / "there" / "release").is_dir()
    call(from_megatron, tmp_path / "there", tmp_path / "back", "--no-verify")
    assert not differing(tmp_path / "run", tmp_path / "back")


REFUSED = {
    "parallel residual": (GPT_NEOX, (), ("no parallel residual", "convert to-hf", "to-neox")),
    "alibi": (GPT2 | {"pos_emb": "alibi"}, (), ("positions are alibi",)),
    "geglu": (LLAMA | {"activation": "geglu"}, (), ("gated with gelu; Megatron-LM has swiglu",)),
    "relu": (GPT2 | {"activation": "relu"}, (), ("not gated with relu",)),
    "qk norm": (LLAMA | {"use_qk_layernorm": True}, (), ("use_qk_layernorm",)),
    "a window": (LLAMA | {"sliding_window_width": 4}, (), ("sees 4 before it",)),
    "scalenorm": (GPT2 | {"norm": "scalenorm"}, (), ("norms are scalenorm",)),
    "OPT's offset": (GPT2 | {"opt_pos_emb_offset": 2}, (), ("begin at row 2",)),
    "layers": (GPT2, ("--pp", "3"), ("2 layers do not divide over 3 stages",)),
    "heads": (
        GPT2 | {"pos_emb": "rpe"},
        ("--tp", "4"),
        ("6 heads do not divide over 4 ranks", "positions are rpe"),
    ),
    "groups": (LLAMA | {"num_kv_heads": 3}, ("--tp", "2"), ("3 key-value heads",)),
    "width": (
        LLAMA | {"intermediate_size": 3 * 35},
        ("--tp", "2"),
        ("linear_fc1.weight does not",),
    ),
    "numbers": (GPT2, ("--tp", "0"), ("expected numbers from 1",)),
    "virtual": (GPT2, ("--virtual", "2"), ("virtual stages need more than one stage",)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REFUSED)
def test_what_megatron_cannot_have_is_refused(tmp_path: Path, name: str) -> None:
    keys, flags, words = REFUSED[name]
    write_run(tmp_path / "run", keys)
    said = run(to_megatron, tmp_path / "run", tmp_path / "dst", *flags)
    assert said.status == 2 and all(word in said.error for word in words), said.err
    assert not list(tmp_path.glob("dst*"))


def test_a_failure_leaves_nothing(runs, tmp_path: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise OSError(28, "No space left on device", "x.pt")

    monkeypatch.setattr("convert.writers.megatron.save", broken)
    said = run(to_megatron, runs["gpt2"], tmp_path / "dst", "--format", "torch", "--no-verify")
    assert said.status == 2 and "No space left" in said.error
    assert not list(tmp_path.iterdir())
