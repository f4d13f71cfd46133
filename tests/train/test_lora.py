"""Runs that train LoRA's matrices beside a model."""

import re
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxneox
from jaxneox import checkpoint
from jaxneox.base_model import META
from jaxneox.errors import UserError
from jaxneox.generate.command import main as generate
from tests.train.runs import assert_same_run, error, losses, params, succeeds, write_yaml

ONE = ("--mesh", "dp=1")
DRY = {"hidden_dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    succeeds(write_yaml(folder, **DRY), *ONE, "--save", folder / "base")
    return folder / "base"


@pytest.fixture(scope="module")
def yaml(base: Path) -> Path:
    """Asks for LoRA, and says nothing of a base."""
    block = {"rank": 4, "alpha": 8, "dropout": 0.1}
    return write_yaml(base.parent, **DRY, lora=block)


@pytest.fixture(scope="module")
def adapter(base: Path, yaml: Path) -> Path:
    out = succeeds(yaml, *ONE, "--load", base, "--save", base.parent / "adapter")
    assert "62,336 parameters (4,096 trained)" in out
    return base.parent / "adapter"


def test_its_checkpoint_has_the_matrices_alone(base: Path, adapter: Path) -> None:
    place = checkpoint.find(adapter)
    shapes = checkpoint.read_shapes(place)
    assert len(shapes) == 8 and all("_lora." in name for name in shapes)
    training = checkpoint.read_shapes(place, "training")
    moments = [name for name in training if ".mu." in name or ".nu." in name]
    assert len(moments) == 16 and all("_lora." in name for name in moments)
    assert checkpoint.read_meta(place)[META]["where"] == str(base)
    assert losses(adapter)[-1] < losses(adapter)[0]


@pytest.mark.parametrize("mesh", ["dp=1", "dp=2,tp=2"])
def test_its_functions_in_python(adapter: Path, mesh: str) -> None:
    """They are those of the model that W + s A B is, with derivatives of derivatives."""
    model = jaxneox.load(adapter, mesh=mesh)
    tokens = jnp.arange(18).reshape(2, 9)
    given = dict(model.params)
    np.testing.assert_allclose(model.logits(given, tokens), model(tokens), atol=2e-5)
    gradient = jax.grad(model.loss)(given, tokens)
    moved = {name: w + 1e-2 * gradient[name] for name, w in given.items()}
    square = sum(float(jnp.sum(d**2)) for d in gradient.values())
    rise, there = jax.jvp(lambda p: model.loss(p, tokens), (given,), (gradient,))
    assert there == pytest.approx(square, rel=1e-4) and model.loss(moved, tokens) > rise
    direction = {name: jnp.ones_like(w) for name, w in given.items()}
    _, curved = jax.jvp(lambda p: jax.grad(model.loss)(p, tokens), (given,), (direction,))
    assert any(jnp.any(d) for name, d in curved.items() if "_lora." in name)


def test_it_opens_with_its_base(base: Path, adapter: Path) -> None:
    model, below = jaxneox.load(adapter), jaxneox.load(base)
    for name, w in model.params.items():
        if "_lora." not in name:
            np.testing.assert_array_equal(w, below.params[name])
    own = params(adapter)
    merged = dict(below.params)
    for name in ("attention.qkv", "attention.out", "mlp.up", "mlp.down"):
        a, b = (own[f"layers.{name}_lora.{each}"] for each in "ab")
        rows = len(a[0].reshape(-1, 4))
        added = 4.0 * a.reshape(2, rows, 4) @ b.reshape(2, 4, -1)  # 8 / sqrt(4)
        merged[f"layers.{name}"] = merged[f"layers.{name}"] + added.reshape(
            merged[f"layers.{name}"].shape
        )
    tokens = np.random.default_rng(0).integers(0, 256, (2, 16))
    expected = below.logits(merged, tokens)
    distance = np.linalg.norm(model(tokens) - expected) / np.linalg.norm(expected)
    assert distance < 1e-5  # float32 rounds W + s A B once more
    answers = [each.generate("quick ", max_tokens=8)[0].text for each in (model, below)]
    assert answers[0] == below.with_params(merged).generate("quick ", max_tokens=8)[0].text


@pytest.mark.slow
def test_it_goes_on_bit_for_bit_and_on_another_mesh(
    base: Path, yaml: Path, adapter: Path, tmp_path: Path
) -> None:
    short = ("--set", "exit-interval=5")
    succeeds(yaml, *ONE, "--load", base, "--save", tmp_path / "parts", *short)
    succeeds(tmp_path / "parts", *ONE, "--set", "exit-interval=null")
    assert_same_run(tmp_path / "parts", adapter)
    succeeds(yaml, "--mesh", "tp=2", "--load", base, "--save", tmp_path / "mesh", *short)
    succeeds(tmp_path / "mesh", "--mesh", "dp=4", "--set", "exit-interval=null")
    assert losses(tmp_path / "mesh") == pytest.approx(losses(adapter), rel=1e-6)
    branch = (adapter, *ONE, "--save", tmp_path / "branch", "--finetune")
    succeeds(*branch, "--set", "train-iters=2")
    assert losses(tmp_path / "branch")[0] < losses(adapter)[0]


def test_another_base_is_refused(base: Path, adapter: Path, tmp_path: Path) -> None:
    home = tmp_path / "home"
    shutil.copytree(adapter, home / "adapter")
    other = shutil.copytree(base, home / "base")
    shutil.rmtree(other / "step_12")
    shutil.copytree(other / "step_8", other / "step_12")
    change = ("--set", f"lora.base={other}", "train-iters=14")
    said = error(home / "adapter", *ONE, *change)
    assert "was trained beside another model than" in said and str(other) in said
    shutil.rmtree(base.parent / "gone", ignore_errors=True)
    moved = base.rename(base.parent / "gone")
    try:
        with pytest.raises(UserError, match="base"):
            jaxneox.load(adapter)
    finally:
        moved.rename(base)


def test_what_is_refused(base: Path, yaml: Path, adapter: Path, tmp_path: Path) -> None:
    save = ("--save", tmp_path / "x")
    assert "there is no model to train it beside" in error(yaml, *ONE, *save)
    beside = ("--set", f"lora.base={adapter}")
    assert "is an adapter and no model to train another beside" in error(yaml, *ONE, *save, *beside)
    whole = ("--set", "lora=null", "train-iters=14")
    assert "holds an adapter, and the configuration has no lora" in error(adapter, *ONE, *whole)
    other = ("--set", f"lora.base={base}", "lora.rank=8", "train-iters=14")
    assert "lora.rank is 4 there and 8 here" in error(adapter, *ONE, *other)
    wide = write_yaml(tmp_path, **DRY, hidden_size=64, lora={"rank": 4})
    assert "hidden_size is 32 there and 64 here" in error(wide, *ONE, *save, "--load", base)


def test_it_stands_beside_a_model_that_is_named(
    base: Path, adapter: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = jaxneox.load(adapter)
    tokens = np.random.default_rng(0).integers(0, 256, (2, 16))
    moved = shutil.copytree(base, tmp_path / "moved")
    np.testing.assert_array_equal(jaxneox.load(moved, adapter=adapter)(tokens), expected(tokens))
    with pytest.raises(UserError, match="is a whole model and no adapter"):
        jaxneox.load(base, adapter=moved)
    with pytest.raises(UserError, match="is an adapter; give the model"):
        jaxneox.load(adapter, adapter=adapter)
    with pytest.raises(UserError, match="was trained beside another model"):
        jaxneox.load(moved, step=4, adapter=adapter)
    asked = ("--prompt", "quick ", "--max-tokens", "4")
    printed = []
    for words in ((moved, "--adapter", adapter), (adapter,)):
        with pytest.raises(SystemExit, match="0"):
            generate([str(word) for word in (*words, *asked)])
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != ""


def test_a_base_that_rests_in_bfloat16(base: Path, yaml: Path, tmp_path: Path) -> None:
    """The same run as beside a base that was rounded before, in half the memory."""
    model = jaxneox.load(base)
    rounded = {n: w.astype("bfloat16").astype("float32") for n, w in model.params.items()}
    model.with_params(rounded).save(tmp_path / "rounded")
    expected = (*ONE, "--load", tmp_path / "rounded", "--save", tmp_path / "expected")
    succeeds(yaml, *expected)
    half = (*ONE, "--load", base, "--save", tmp_path / "half", "--set", "lora.base_dtype=bfloat16")
    out = succeeds(yaml, *half, "exit-interval=5")
    assert "the base's parameters are rounded to bfloat16" in out
    succeeds(tmp_path / "half", *ONE, "--set", "exit-interval=null")
    assert losses(tmp_path / "half") == pytest.approx(losses(tmp_path / "expected"), rel=1e-6)
    said = succeeds(yaml, *half, "--dry-run")
    sizes = dict(re.findall(r"^  (\w+) +([\d.,]+) MiB$", said, re.MULTILINE))
    assert float(sizes["parameters"]) < 0.16 and float(sizes["gradients"]) < 0.03
