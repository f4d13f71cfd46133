"""Megatron-LM's files that are damaged, partial, foreign or contradictory: one line each."""

import pickle
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="the tests of conversion write torch files")

from convert import from_megatron, to_megatron  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from convert.readers.megatron_names import named  # noqa: E402
from convert.readers.torch_dist import DistFolder, DistTensor  # noqa: E402
from convert.rules.megatron import cut, joined, rules  # noqa: E402
from convert.rules.rule import Role, sizes_of  # noqa: E402
from convert.writers.torch_dist import DistWriter  # noqa: E402
from jaxneox.config import Settings  # noqa: E402
from jaxneox.errors import UserError  # noqa: E402
from tests.convert.commands import call, run  # noqa: E402
from tests.convert.hf_models import GPT2, LLAMA, write_run  # noqa: E402
from tests.convert.megatron import load, rewrite, say, states  # noqa: E402

STEP = "iter_0000003"
FORMATS = {"legacy": ("--tp", "2", "--pp", "2", "--format", "torch"), "dist": ("--pp", "2")}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One model in both formats: tp 2, pp 2."""
    folder = tmp_path_factory.mktemp("written")
    write_run(folder / "run", LLAMA)
    for name, flags in FORMATS.items():
        call(to_megatron, folder / "run", folder / name, *flags, "--no-verify")
    return {name: folder / name for name in FORMATS}


@pytest.fixture
def legacy(written, tmp_path: Path) -> Path:
    return shutil.copytree(written["legacy"], tmp_path / "legacy")


@pytest.fixture
def dist(written, tmp_path: Path) -> Path:
    return shutil.copytree(written["dist"], tmp_path / "dist")


def refused(source: Path, *flags: object) -> str:
    """The one line; and nothing is left."""
    dst = source.parent / "dst"
    said = run(from_megatron, source, dst, *flags)
    assert said.status == 2, said.out
    assert not list(dst.parent.glob("dst*"))
    return said.error


def change(number: int, of_model: Callable[[dict], object]) -> Callable[[Path], None]:
    """A change of the model in one of the four files."""

    def of_run(source: Path) -> None:
        path = [*states(source)][number]
        state = load(path)
        of_model(state["model"])
        torch.save(state, path)

    return of_run


def remove(*names: str) -> Callable[[Path], None]:
    def of_run(source: Path) -> None:
        for name in names:
            path = source / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return of_run


FIRST = "decoder.layers.0."
STATE = "model_optim_rng.pt"
BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...]]] = {
    "a rank": (
        remove(f"{STEP}/mp_rank_01_000", f"{STEP}/mp_rank_01_001"),
        ("missing mp_rank_01_000/model_optim_rng.pt, mp_rank_01_001",),
    ),
    "a file": (
        remove(f"{STEP}/mp_rank_00_001/{STATE}"),
        ("missing mp_rank_00_001/model_optim_rng.pt",),
    ),
    "a stage": (
        remove(f"{STEP}/mp_rank_00_001", f"{STEP}/mp_rank_01_001"),
        ("missing mp_rank_00_001",),
    ),
    "the step": (remove(STEP), ("names '3', which is not a folder",)),
    "no step at all": (remove(STEP, "latest_checkpointed_iteration.txt"), ("no Megatron-LM",)),
    "another step": (
        lambda run: rewrite(run, lambda s: s.update(iteration=4)),
        ("say that they are of step 4",),
    ),
    "one of another step": (
        lambda run: torch.save(
            load(path := next(states(run))) | {"iteration": 9}, path
        ),
        ("of different steps: mp_rank_00_000 of step 9",),
    ),
    "a tensor": (
        change(1, lambda m: m.pop(f"{FIRST}mlp.linear_fc2.weight")),
        ("missing mlp.linear_fc2.weight of layer 1, rank 0",),
    ),
    "a norm": (
        change(2, lambda m: m.pop(f"{FIRST}input_layernorm.weight")),
        ("layer 0, rank 1: input_layernorm.weight [48] is missing",),
    ),
    "a shape": (
        change(0, lambda m: m.update({f"{FIRST}input_layernorm.weight": torch.ones(47)})),
        ("layer 0, rank 0: input_layernorm.weight is [47], expected [48]",),
    ),
    "a type": (
        change(0, lambda m: m.update({f"{FIRST}input_layernorm.weight": torch.ones(48).half()})),
        ("elsewhere float16",),
    ),
    "doubles": (
        lambda run: rewrite(
            run, lambda s: s.update(model={n: t.double() for n, t in s["model"].items()})
        ),
        ("embedding.word_embeddings.weight is float64",),
    ),
    "a bias alone": (
        change(0, lambda m: m.update({f"{FIRST}mlp.linear_fc1.bias": torch.ones(36)})),
        ("mlp.linear_fc1.bias [36] is unknown",),
    ),
    "experts": (
        change(0, lambda m: m.update({f"{FIRST}mlp.experts.linear_fc1.weight0": torch.ones(3)})),
        ("is a mixture of experts",),
    ),
    "norms of queries": (
        change(0, lambda m: m.update({f"{FIRST}self_attention.q_layernorm.weight": torch.ones(8)})),
        ("normalises queries and keys",),
    ),
    "no tensor": (
        change(0, lambda m: m.update({"decoder.final_layernorm.weight": "x"})),
        ("is str, expected a tensor",),
    ),
    "no model": (
        lambda run: rewrite(run, lambda s: s.pop("model")),
        ("holds no model, but args, checkpoint_version",),
    ),
    "a version": (
        lambda run: rewrite(run, lambda s: s.update(checkpoint_version=4.0)),
        ("checkpoint_version 4.0 is unknown",),
    ),
    "an old version": (
        lambda run: rewrite(run, lambda s: s.update(checkpoint_version=1.0)),
        ("with grouped heads",),
    ),
    "layers": (
        lambda run: rewrite(run, say(num_layers=3)),
        ("num_layers is 3, the tensors have 2",),
    ),
    "heads": (
        lambda run: rewrite(run, say(num_attention_heads=5)),
        ("not possible with 5 heads",),
    ),
    "no heads": (
        lambda run: rewrite(run, say(num_attention_heads=None)),
        ("no tensor says it: give it with --config",),
    ),
    "positions": (
        lambda run: rewrite(run, say(position_embedding_type="yarn")),
        ("position_embedding_type is 'yarn'", "--config X.yml"),
    ),
    "no swiglu": (lambda run: rewrite(run, say(swiglu=False)), ("the MLP is gated", "--config")),
    "epsilons": (
        lambda run: rewrite(run, say(norm_epsilon=1e-3)),
        ("layernorm_epsilon is 1e-06 but norm_epsilon is 0.001",),
    ),
    "untied": (
        change(1, lambda m: m.pop("output_layer.weight")),
        ("there is no output_layer",),
    ),
    "two kinds": (
        lambda run: rewrite(run, say(num_experts=8, multi_latent_attention=True)),
        ("num_experts is 8", "multi_latent_attention is True"),
    ),
    "an expert's rank": (
        lambda run: (run / STEP / "mp_rank_00_000").rename(run / STEP / "mp_rank_00_000_000"),
        ("of an expert-parallel rank",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_is_wrong_is_named(legacy: Path, name: str) -> None:
    spoil, words = BAD[name]
    spoil(legacy)
    if name == "untied":
        spoil = change(3, lambda m: m.pop("output_layer.weight"))
        spoil(legacy)
    line = refused(legacy)
    assert all(word in line for word in words), line


class Evil:
    def __reduce__(self):
        return print, ("it ran",)


@pytest.mark.parametrize("where", ["model", "args"])
def test_nothing_that_a_pickle_names_is_run(legacy: Path, where: str, capfd) -> None:
    rewrite(legacy, lambda s: s.update({where: Evil()}))
    capfd.readouterr()
    assert "names builtins.print" in refused(legacy)
    assert "it ran" not in capfd.readouterr().out


def test_nothing_that_an_index_names_is_run(dist: Path, capfd) -> None:
    (dist / STEP / ".metadata").write_bytes(pickle.dumps(Evil()))
    assert "names builtins.print" in refused(dist)
    assert "it ran" not in capfd.readouterr().out


@pytest.mark.parametrize("name", [".metadata", "__0_0.distcp", "__1_0.distcp", "common.pt"])
def test_a_part_of_torch_dist_that_is_missing_or_cut(dist: Path, name: str) -> None:
    path = dist / STEP / name
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert name in refused(dist)
    path.unlink()
    line = refused(dist)
    assert name in line


@pytest.mark.parametrize("form", FORMATS)
def test_a_flipped_bit_is_found(written, tmp_path: Path, form: str) -> None:
    run_ = shutil.copytree(written[form], tmp_path / form)
    path = next(p for p in (run_ / STEP).rglob("*") if p.name in (STATE, "__1_0.distcp"))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 16
    path.write_bytes(content)
    line = refused(run_)
    assert "is damaged" in line and path.name in line


def test_a_step_by_its_number_and_by_its_folder(legacy: Path, tmp_path: Path) -> None:
    for number, source in (("3", legacy), (None, legacy / STEP)):
        flags = () if number is None else ("--step", number)
        call(from_megatron, source, tmp_path / f"dst{number}", "--no-verify", *flags)
        shutil.rmtree(tmp_path / f"dst{number}")
    assert "no checkpoint of step 4; there are: 3" in refused(legacy, "--step", "4")
    assert "is not step 4" in run(from_megatron, legacy / STEP, tmp_path / "x", "--step", 4).error
    assert "no such folder" in refused(tmp_path / "nowhere")


def test_arguments_that_lie_are_listed_and_the_tensors_are_right(legacy, tmp_path: Path) -> None:
    """As in real files, and worse; a YAML settles what is left."""
    rewrite(legacy, say(add_qkv_bias=True, num_query_groups=1, group_query_attention=False,
                        ffn_hidden_size=7, padded_vocab_size=8, normalization="LayerNorm",
                        position_embedding_type=None, swiglu=None))  # fmt: skip
    (tmp_path / "x.yml").write_text("pos-emb: rotary\nactivation: swiglu\n")
    flags = ("--config", tmp_path / "x.yml")
    said = call(from_megatron, legacy, tmp_path / "dst", "--no-verify", *flags)
    for words in (
        "ffn_hidden_size is 7, the tensors have 36",
        "padded_vocab_size is 8, the tensors have 40",
        "num_query_groups is None, the tensors have 2",
        "args say LayerNorm, but the norms have no bias: rmsnorm",
    ):
        assert words in said.err


@pytest.mark.parametrize(
    ("said", "flags", "form", "note"),
    [
        ({"bias_gelu_fusion": True}, (), "gelu_tanh", ""),
        ({"bias_gelu_fusion": False}, (), "gelu", "use --gelu tanh"),
        ({"bias_gelu_fusion": False, "openai_gelu": True}, (), "gelu_tanh", ""),
        ({"bias_gelu_fusion": None, "openai_gelu": None}, (), "gelu_tanh", "--gelu erf"),
        ({"bias_gelu_fusion": True}, ("--gelu", "erf"), "gelu", ""),
        ({"bias_gelu_fusion": False}, ("--gelu", "tanh"), "gelu_tanh", ""),
    ],
)
def test_which_gelu(tmp_path: Path, said, flags, form: str, note: str) -> None:
    write_run(tmp_path / "run", GPT2 | {"num_layers": 1})
    call(to_megatron, tmp_path / "run", tmp_path / "m", "--format", "torch", "--no-verify")
    rewrite(tmp_path / "m", say(**said))
    out = call(from_megatron, tmp_path / "m", tmp_path / "dst", "--no-verify", *flags)
    assert open_jaxneox(tmp_path / "dst").model.mlp.activation == form
    assert note in out.err and ("--gelu" in out.err) == bool(note)


@given(tp=st.sampled_from([1, 2, 3, 6]), gated=st.booleans(), seed=st.integers(0, 99))
def test_cutting_and_joining_are_inverse(tp: int, gated: bool, seed: int) -> None:
    keys = LLAMA | {"num_kv_heads": 6, "activation": "swiglu" if gated else "gelu",
                    "padded_vocab_size": 42}  # fmt: skip
    model, random = Settings(keys).model(vocab_size=None), np.random.default_rng(seed)
    for rule in (r for inside in (False, True) for r in rules(model, inside=inside)):
        if rule.role is Role.SPLIT:
            whole = random.standard_normal(rule.shape(sizes_of(model)))
            shards = cut(rule, whole, tp)
            assert len({shard.shape for shard in shards}) == 1
            assert np.array_equal(joined(rule, shards), whole)


@settings(max_examples=20, deadline=None)  # torch is imported in the first
@given(
    edges=st.lists(st.lists(st.integers(1, 5), unique=True), min_size=2, max_size=2),
    seed=st.integers(0, 99),
)
def test_any_pieces_of_a_tensor(tmp_path_factory, edges, seed: int) -> None:
    """Read whole and by its first index; not where one is missing or two overlap."""
    folder, random = tmp_path_factory.mktemp("pieces"), np.random.default_rng(seed)
    whole = random.standard_normal((6, 6)).astype(np.float32)
    rows, columns = ([0, *sorted(e), 6] for e in edges)
    corners = [(a, b, c, d) for a, b in pairwise(rows)
               for c, d in pairwise(columns)]  # fmt: skip

    def read(pieces: list[tuple[int, int, int, int]]) -> DistFolder:
        writer = DistWriter(folder)
        for number, (a, b, c, d) in enumerate(pieces):
            file = f"__{number % 2}_0.distcp"
            writer.write(file, "x", whole.shape, (a, c), whole[a:b, c:d])
        writer.finish()
        return DistFolder(folder)

    tensor = read(corners).tensors["x"]
    assert np.array_equal(tensor.numpy(), whole)
    for row in range(6):
        assert np.array_equal(tensor.part(row).numpy(), whole[row])
    if len(corners) > 1:
        with pytest.raises(UserError, match="numbers are there"):
            read(corners[1:]).tensors["x"].numpy()
        with pytest.raises(UserError, match="overlap"):
            read([(0, 6, 0, 6), corners[-1]]).tensors["x"].numpy()


@settings(max_examples=20, deadline=None)  # torch is imported in the first
@given(edges=st.lists(st.integers(1, 7), unique=True), a=st.integers(0, 7), n=st.integers(1, 8))
def test_any_span_of_a_flat_tensor(tmp_path_factory, edges, a: int, n: int) -> None:
    """Only of what is there once: not where as many numbers are missing as are there twice."""
    folder, whole = tmp_path_factory.mktemp("flat"), np.arange(8, dtype=np.float32)

    def read(pieces: list[tuple[int, int]]) -> DistTensor:
        writer = DistWriter(folder)
        for start, stop in pieces:
            writer.write("__0_0.distcp", "x", whole.shape, (start,), whole[start:stop])
        writer.finish()
        return DistFolder(folder).tensors["x"]

    pieces = [*pairwise([0, *sorted(edges), 8])]
    stop = min(a + n, 8)
    assert np.array_equal(read(pieces).span(a, stop), whole[a:stop])
    needed = [piece for piece in pieces if piece[0] < stop and a < piece[1]]
    lacking = [piece for piece in pieces if piece != needed[0]] or [(8, 8)]
    with pytest.raises(UserError, match=r"flat.*: of elements .* of x .* numbers are there"):
        read(lacking).span(a, stop)
    with pytest.raises(UserError, match=r"distcp: two pieces of x overlap"):
        read([(0, 4), (2, 6)]).span(0, 8)


def test_names_of_every_generation() -> None:
    for key, name, layer in (
        ("decoder.layers.3.mlp.linear_fc1.layer_norm_bias", "pre_mlp_layernorm.bias", 3),
        ("decoder.layers.self_attention.linear_qkv.weight", "self_attention.linear_qkv.weight",
         None),
        ("language_model.encoder.layers.11.post_attention_norm.weight", "pre_mlp_layernorm.weight",
         11),
        ("language_model.output_layer.weight", "output_layer.weight", None),
        ("word_embeddings_for_head.weight", "output_layer.weight", None),
    ):  # fmt: skip
        assert named(key)[:2] == (name, layer)
