"""Adapters to and from PEFT, and merged: the same logits, and the same bits there and back."""

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the torch extra")
transformers = pytest.importorskip("transformers", reason="needs the torch extra")

from safetensors.numpy import save_file  # noqa: E402

import jaxneox  # noqa: E402
from convert import (  # noqa: E402  # noqa: E402
    from_hf,
    from_peft,
    inspect,
    merge_adapter,
    to_hf,
    to_megatron,
    to_neox,
    to_peft,
    verify,
)
from convert.peft import modules as peft_modules  # noqa: E402
from convert.peft.settings import read_settings, written_settings  # noqa: E402
from convert.readers.adapter import open_adapter  # noqa: E402
from convert.readers.jaxneox import open_jaxneox  # noqa: E402
from jaxneox.config.schema import LoraConfig  # noqa: E402
from jaxneox.errors import UserError  # noqa: E402
from tests.convert.adapters import (  # noqa: E402
    FAMILIES,
    PREFIX,
    TOKENS,
    Bench,
    bench,
    change_settings,
    merged_by_hand,
    tensors_of,
    write_adapter,
    write_peft,
)
from tests.convert.commands import call, run  # noqa: E402
from tests.convert.hf_models import GPT2, GPT_NEOX, LLAMA, write_run  # noqa: E402
from tests.reference.compare import relative_l2  # noqa: E402

ATTENTION = "model.layers.{}.self_attn."
SHAPES = {f"{ATTENTION.format(i)}{x}_proj": (n, 48) for i in (0, 1) for x, n in
          (("q", 48), ("k", 16), ("v", 16), ("o", 48))}  # fmt: skip
FLOAT32 = 1e-6
"""Of two forward passes in float32, as in test_hf: about ten roundings of 6e-8 in a row."""


def logits(folder: Path) -> np.ndarray:
    return np.asarray(jaxneox.load(str(folder))(TOKENS))


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return bench(tmp_path_factory.mktemp("llama"), LLAMA)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_logits_in_transformers(tmp_path: Path, family: str) -> None:
    """Ours, those of weights merged by hand in float64, and those of one model made of both."""
    made = bench(tmp_path, FAMILIES[family])
    said = call(to_peft, made.adapter, tmp_path / "peft")
    assert "relative L2 0.0e+00 at most" in said.out
    expected = merged_by_hand(made.hf, tmp_path / "peft")
    found = logits(made.adapter)
    assert relative_l2(found, expected) <= FLOAT32
    assert relative_l2(logits(made.base), expected) > 0.1
    call(merge_adapter, made.adapter, tmp_path / "merged")
    assert relative_l2(logits(tmp_path / "merged"), expected) <= FLOAT32


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # PEFT's own, of versions that differ
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_logits_in_peft(tmp_path: Path, family: str) -> None:
    peft = pytest.importorskip("peft", reason="needs peft, which is installed apart")
    made = bench(tmp_path, FAMILIES[family])
    call(to_peft, made.adapter, tmp_path / "peft")
    base = transformers.AutoModelForCausalLM.from_pretrained(made.hf, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(base, tmp_path / "peft").eval()
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    found = relative_l2(logits(made.adapter), expected)
    print(f"{family}: {found:.1e} from PEFT {peft.__version__}")
    assert found <= FLOAT32


@pytest.mark.filterwarnings("ignore")
def test_what_peft_saves_is_read(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs peft, which is installed apart")
    made = bench(tmp_path, GPT2)
    base = transformers.AutoModelForCausalLM.from_pretrained(made.hf, dtype=torch.float32)
    settings = peft.LoraConfig(r=3, lora_alpha=5, target_modules=["c_attn", "mlp.c_proj"],
                               init_lora_weights=False, task_type="CAUSAL_LM")  # fmt: skip
    model = peft.get_peft_model(base, settings).eval()
    model.save_pretrained(tmp_path / "peft")
    call(from_peft, tmp_path / "peft", tmp_path / "back", "--base", made.base)
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    assert relative_l2(logits(tmp_path / "back"), expected) <= FLOAT32


@pytest.mark.parametrize("family", FAMILIES)
def test_there_and_back_bit_by_bit(tmp_path: Path, family: str) -> None:
    targets = ["qkv", "down"] if family == "llama" else None
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    write_run(base, FAMILIES[family])
    write_adapter(adapter, base, dropout=0.25, rslora=family != "gpt2", targets=targets)
    call(to_peft, adapter, tmp_path / "peft")
    call(from_peft, tmp_path / "peft", tmp_path / "back", "--base", base)
    there, back = open_adapter(adapter), open_adapter(tmp_path / "back")
    assert (back.lora, back.base, back.whole) == (there.lora, there.base, there.whole)
    assert back.shapes == there.shapes and back.location.step == 0
    for name in there.shapes:
        assert back.leaf(name).tobytes() == there.leaf(name).tobytes(), name


def test_settings_as_peft_has_them(tmp_path: Path) -> None:
    """Names that fit no other module, and GPT-2's weights the other way around."""
    write_run(tmp_path / "base", GPT2)
    write_adapter(tmp_path / "adapter", tmp_path / "base", targets=["out", "up"], alpha=8.0)
    said = call(to_peft, tmp_path / "adapter", tmp_path / "peft")
    settings = json.loads((tmp_path / "peft/adapter_config.json").read_text())
    assert settings["target_modules"] == ["attn.c_proj", "c_fc"]
    assert settings["fan_in_fan_out"] is True and settings["use_rslora"] is True
    assert (settings["r"], settings["lora_alpha"]) == (4, 8)
    assert settings["base_model_name_or_path"] is None and "to-hf" in said.out
    first = f"{PREFIX}transformer.h.1.attn.c_proj.lora_"
    assert tensors_of(tmp_path / "peft")[f"{first}A.weight"].shape == (4, 48)


def test_rounded(llama: Bench, tmp_path: Path) -> None:
    """A is there three times, as of queries, keys and values, and comes back once."""
    call(to_peft, llama.adapter, tmp_path / "peft", "--dtype", "bfloat16")
    file = tmp_path / "peft/adapter_model.safetensors"
    assert b'"BF16"' in file.read_bytes() and b'"F32"' not in file.read_bytes()
    call(from_peft, tmp_path / "peft", tmp_path / "back", "--base", llama.base)
    there, back = open_adapter(llama.adapter), open_adapter(tmp_path / "back")
    assert back.shapes == there.shapes
    for name in there.shapes:
        rounded = there.leaf(name).astype(ml_dtypes.bfloat16).astype(np.float32)
        assert (back.leaf(name) == rounded).all()


def test_a_base_of_the_hub_keeps_its_revision(tmp_path: Path) -> None:
    lora = LoraConfig(rank=2, alpha=4.0, targets=("up",))
    written = written_settings(lora, ["up_proj"], False, "owner/name@v2")
    assert (written["base_model_name_or_path"], written["revision"]) == ("owner/name", "v2")
    (tmp_path / "adapter_config.json").write_text(json.dumps(written))
    assert read_settings(tmp_path).base == "owner/name@v2"


def test_one_norm_for_both_branches(tmp_path: Path) -> None:
    """transformers has it twice, which no matrix notices; the base is exported so."""
    write_run(tmp_path / "base", GPT_NEOX | {"gpt_j_tied": True})
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    said = call(to_peft, tmp_path / "adapter", tmp_path / "peft")
    assert f"to-hf {tmp_path / 'base'} BASE --copy-shared-norm" in said.out
    call(from_peft, tmp_path / "peft", tmp_path / "back", "--base", tmp_path / "base")


def test_a_base_that_transformers_lacks(tmp_path: Path) -> None:
    write_run(tmp_path / "base", GPT_NEOX | {"norm": "rmsnorm"})
    write_adapter(tmp_path / "adapter", tmp_path / "base")
    said = run(to_peft, tmp_path / "adapter", tmp_path / "peft")
    assert said.status == 2 and "its norms are rmsnorm" in said.error
    call(merge_adapter, tmp_path / "adapter", tmp_path / "merged")


@pytest.mark.slow
def test_beside_a_model_of_transformers(tmp_path: Path) -> None:
    """The base is opened where the adapter names it, and named for PEFT again."""
    made = bench(tmp_path, LLAMA)
    call(to_peft, made.adapter, tmp_path / "one")
    change_settings(tmp_path / "one", base_model_name_or_path=str(made.hf))
    call(from_peft, tmp_path / "one", tmp_path / "run")
    said = call(to_peft, tmp_path / "run", tmp_path / "two")
    assert "AutoPeftModelForCausalLM" in said.out
    settings = json.loads((tmp_path / "two/adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(made.hf)
    expected = merged_by_hand(made.hf, tmp_path / "two")
    assert relative_l2(logits(tmp_path / "run"), expected) <= FLOAT32


@pytest.mark.slow
def test_ranks_and_scales_of_their_own(llama: Bench, tmp_path: Path) -> None:
    """Modules without an adapter, layers without one, and scales that are halves of each other."""
    one, other = ATTENTION.format(0), ATTENTION.format(1)
    ranks = {f"{one}q_proj": 4, f"{one}v_proj": 2, f"{one}o_proj": 4, f"{other}k_proj": 4}
    folder = write_peft(
        tmp_path / "peft",
        SHAPES,
        ranks,
        rank_pattern={"v_proj": 2},
        alpha_pattern={"layers.0.self_attn.q_proj": 4},
    )
    call(from_peft, folder, tmp_path / "run", "--base", llama.base)
    run_ = open_adapter(tmp_path / "run")
    assert (run_.lora.rank, run_.lora.scale) == (6, 4.0)
    assert run_.lora.targets == ("qkv", "out")
    scales = {f"{one}q_proj": 1.0, f"{one}v_proj": 4.0}
    expected = merged_by_hand(llama.hf, folder, scales)
    assert relative_l2(logits(tmp_path / "run"), expected) <= FLOAT32


def test_scales_that_no_power_of_two_connects(llama: Bench, tmp_path: Path) -> None:
    ranks = dict.fromkeys(SHAPES, 4)
    folder = write_peft(tmp_path / "peft", SHAPES, ranks, alpha_pattern={"k_proj": 6})
    said = run(from_peft, folder, tmp_path / "run", "--base", llama.base)
    assert said.status == 2 and "(2) and model.layers.0.self_attn.k_proj (1.5)" in said.error
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"use_dora": True}, "use_dora is True, which is DoRA"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"lora_bias": True}, "lora_bias is True"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save is ['lm_head']"),
        ({"layers_to_transform": [0]}, "layers_to_transform is [0]"),
        ({"layers_to_transform": 0}, "layers_to_transform is 0"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices is [3]"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"task_type": "SEQ_CLS"}, "task_type is 'SEQ_CLS'"),
        ({"use_next_idea": True}, "use_next_idea is True, which is unknown here"),
        ({"target_modules": ["q_proj", "k_proj"]}, "proj, which is none of target_modules"),
        ({"target_modules": {"q_proj": 1}}, "target_modules: found {'q_proj': 1}"),
        ({"r": 8}, "lora_A is [4, 48], expected [8, 48]"),
        ({"r": 0}, "r: found 0"),
        ({"r": True}, "r: found True"),
        ({"lora_alpha": "much"}, "lora_alpha: found 'much'"),
        ({"lora_alpha": -1}, "lora_alpha: found -1"),
        ({"lora_dropout": 1}, "lora_dropout: found 1"),
        ({"rank_pattern": [1]}, "rank_pattern: found [1]"),
        ({"alpha_pattern": {"(a+)+": 4}}, "'(a+)+' is a regular expression"),
        ({"base_model_name_or_path": 3}, "base_model_name_or_path: found 3"),
    ],
)
def test_settings_that_are_refused(
    llama: Bench, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    folder = write_peft(tmp_path / "peft", SHAPES, dict.fromkeys(SHAPES, 4), **changes)
    said = run(from_peft, folder, tmp_path / "run", "--base", llama.base)
    assert said.status == 2 and says in said.error and len(said.err.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["peft"]


Q = f"{PREFIX}model.layers.0.self_attn.q_proj."


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        (f"{Q}lora_magnitude_vector", (48,), "is DoRA's"),
        (f"{Q}bias", (48,), "is a bias that was trained as well"),
        (f"{PREFIX}model.embed_tokens.lora_embedding_A", (4, 40), "is an adapter of an embedding"),
        (f"{PREFIX}model.embed_tokens.weight", (40, 48), "is none of LoRA's"),
        (f"{PREFIX}lm_head.lora_A.weight", (4, 48), "adapts lm_head, expected modules of the 2"),
        (f"{PREFIX}model.layers.2.mlp.up_proj.lora_A.weight", (4, 48), "adapts model.layers.2"),
        (f"{PREFIX}model.layers.0.mlp.up_proj.lora_A.weight", (4, 48), "lora_B is missing"),
        (f"{Q}lora_A.weight", (4, 40), "q_proj.lora_A is [4, 40], expected [4, 48]"),
        (f"{Q}lora_B.weight", (48,), "q_proj.lora_B is [48], expected [48, 4]"),
    ],
)
def test_tensors_that_are_refused(
    llama: Bench, tmp_path: Path, name: str, shape: tuple[int, ...], says: str
) -> None:
    folder = write_peft(tmp_path / "peft", SHAPES, dict.fromkeys(SHAPES, 4))
    tensors = tensors_of(folder) | {name: np.ones(shape, np.float32)}
    save_file(tensors, folder / "adapter_model.safetensors")
    said = run(from_peft, folder, tmp_path / "run", "--base", llama.base)
    assert said.status == 2 and says in said.error
    assert not (tmp_path / "run").exists()


def test_numbers_that_are_not_finite(llama: Bench, tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "peft", SHAPES, dict.fromkeys(SHAPES, 4))
    tensors = tensors_of(folder)
    tensors[f"{Q}lora_B.weight"][3, 1] = np.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    said = run(from_peft, folder, tmp_path / "run", "--base", llama.base)
    assert said.status == 2 and "q_proj.lora_B: 1 of 192 numbers are NaN" in said.error


def test_files_that_are_missing_or_damaged(llama: Bench, tmp_path: Path) -> None:
    folder = write_peft(tmp_path / "peft", SHAPES, dict.fromkeys(SHAPES, 4))
    arguments = (from_peft, folder, tmp_path / "run")
    assert "name it with --base" in run(*arguments).error
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-9])
    assert "is damaged" in run(*arguments, "--base", llama.base).error
    file.unlink()
    assert "has no adapter_model.safetensors" in run(*arguments, "--base", llama.base).error
    assert "convert from-peft" in run(from_hf, folder, tmp_path / "run").error
    assert "convert from-peft" in run(inspect, folder).error
    (folder / "adapter_config.json").write_text("[]")
    assert "adapter_config.json" in run(*arguments, "--base", llama.base).error
    assert "no such folder" in run(from_peft, tmp_path / "none", tmp_path / "run").error


def test_other_commands_name_the_one_that_merges(llama: Bench, tmp_path: Path) -> None:
    for command in (to_hf, to_neox, to_megatron):
        said = run(command, llama.adapter, tmp_path / "out")
        assert said.status == 2 and "convert merge-adapter" in said.error
    assert "convert merge-adapter" in run(verify, llama.adapter, llama.base).error
    assert "is a whole model, expected an adapter" in run(to_peft, llama.base, tmp_path / "o").error
    assert "is a whole model" in run(merge_adapter, llama.base, tmp_path / "o").error
    said = call(inspect, llama.adapter)
    assert "an adapter of LoRA's matrices alone, of rank 4" in said.out
    assert "convert merge-adapter" in said.out and "convert to-peft" in said.out


def test_merged(llama: Bench, tmp_path: Path) -> None:
    """Each number is W + s A B rounded once, and the run no longer knows of LoRA."""
    said = call(merge_adapter, llama.adapter, tmp_path / "merged")
    assert "10 matrices are W + s A B" in said.out
    adapter, base = open_adapter(llama.adapter), open_jaxneox(llama.base)
    merged = open_jaxneox(tmp_path / "merged")
    assert "lora" not in merged.keys and merged.model == adapter.whole
    assert merged.conversion["adapter"] == str(llama.adapter / "step_3")
    assert merged.conversion["base"] == adapter.base
    for name in base.shapes:
        exact = base.leaf(name).astype(np.float64)
        if f"{name}_lora.a" in adapter.shapes:
            a, b = (adapter.leaf(f"{name}_lora.{x}").astype(np.float64) for x in "ab")
            exact = exact + 6.0 / 2.0 * np.einsum(
                "l...r,lrz->l...z", a, b.reshape(2, 4, -1)
            ).reshape(exact.shape)
        # float64's own order of additions moves a number that lies between two of float32
        np.testing.assert_allclose(merged.leaf(name), exact, rtol=2**-24 * 1.001, atol=0)


def test_a_run_that_holds_its_base_as_well(llama: Bench, tmp_path: Path) -> None:
    """As `model.save` writes a loaded adapter."""
    model = jaxneox.load(str(llama.adapter))
    model.save(tmp_path / "both")
    with pytest.raises(UserError, match=r"hf: the model has LoRA.*merge-adapter"):
        model.to_hf(tmp_path / "hf")
    assert "convert merge-adapter" in run(to_neox, tmp_path / "both", tmp_path / "out").error
    assert "convert merge-adapter" in run(verify, tmp_path / "both", llama.base).error
    assert "has no place for" in run(to_peft, tmp_path / "both", tmp_path / "out").error
    assert "LoRA's matrices of rank 4" in call(inspect, tmp_path / "both").out
    call(merge_adapter, tmp_path / "both", tmp_path / "one")
    call(merge_adapter, llama.adapter, tmp_path / "other")
    one, other = open_jaxneox(tmp_path / "one"), open_jaxneox(tmp_path / "other")
    assert one.shapes == other.shapes and one.model == other.model
    assert all((one.leaf(name) == other.leaf(name)).all() for name in one.shapes)


def test_another_base_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "base", GPT_NEOX)
    adapter = write_adapter(tmp_path / "adapter", tmp_path / "base")
    write_run(tmp_path / "other", GPT_NEOX | {"intermediate_size": 48})
    write_run(tmp_path / "rounded", GPT_NEOX, np.float16)
    arguments = (merge_adapter, adapter, tmp_path / "out", "--base")
    assert "which has other parameters: layers.mlp" in run(*arguments, tmp_path / "other").error
    assert "differ from those of" in run(*arguments, tmp_path / "rounded").error
    assert "is an adapter" in run(*arguments, adapter).error
    assert "nowhere" in run(*arguments, tmp_path / "nowhere").error
    (tmp_path / "base").rename(tmp_path / "moved")
    assert "name it with --base" in run(*arguments[:3]).error
    assert not (tmp_path / "out").exists()


def test_a_permutation_that_is_wrong_is_noticed(
    llama: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = peft_modules._numbers

    def wrong(*args: Any, of_inputs: bool) -> np.ndarray:
        found = right(*args, of_inputs=of_inputs)
        return found if of_inputs else np.roll(found, 1, axis=0)

    monkeypatch.setattr(peft_modules, "_numbers", wrong)
    said = run(to_peft, llama.adapter, tmp_path / "peft")
    assert said.status != 0 and "the two ends add different numbers" in said.error
    assert not (tmp_path / "peft").exists()


def test_a_module_whose_adapter_is_missing_is_noticed(
    llama: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import convert.peft.importing as importing

    monkeypatch.setattr(importing, "joined", lambda *a, j=importing.joined: j([], *a[1:]))
    folder = write_peft(tmp_path / "peft", SHAPES, dict.fromkeys(SHAPES, 4))
    said = run(from_peft, folder, tmp_path / "run", "--base", llama.base)
    assert said.status != 0 and "the two ends add different numbers" in said.error


@pytest.mark.slow
def test_training_goes_on(tmp_path: Path) -> None:
    from tests.train.runs import succeeds

    write_run(tmp_path / "base", GPT_NEOX)
    adapter = write_adapter(tmp_path / "adapter", tmp_path / "base")
    call(to_peft, adapter, tmp_path / "peft")
    call(from_peft, tmp_path / "peft", tmp_path / "run", "--base", tmp_path / "base")
    np.savez(tmp_path / "tokens.npz", tokens=np.tile(TOKENS, 3)[None, :, :17].repeat(4, 0))
    succeeds(
        *(tmp_path / "run", "--finetune", "--save", tmp_path / "next"),
        *("--tokens", tmp_path / "tokens.npz", "--mesh", "dp=1"),
        *("--set", "train-iters=2", "train-batch-size=2", "lr=0.01"),
    )
    before, after = open_adapter(tmp_path / "run"), open_adapter(tmp_path / "next")
    assert after.base == before.base and after.lora == before.lora
    assert all((after.leaf(name) != before.leaf(name)).any() for name in before.shapes)
