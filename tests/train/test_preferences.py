"""Runs that are trained by preferences: from files, resumed, and with a reference from before."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import jaxneox
from jaxneox.config.objective_schema import ObjectiveConfig
from jaxneox.data.commands.batch import main as data_batch
from jaxneox.data.indexed import IndexedDataset
from jaxneox.errors import UserError
from jaxneox.precompute.command import main as precompute
from jaxneox.train.dry_run.report import memory
from jaxneox.train.plan import build_plan
from tests.data.small_preferences import Text, pairs, rated, write
from tests.train.running import config
from tests.train.runs import KEYS, error, metrics, params

COUNT, STEPS = 24, 6
MODEL = KEYS | {
    "train-iters": STEPS,
    "lr-decay-iters": STEPS,
    "checkpoint-factor": 3,
    "hidden-dropout": 0.0,
    "attention-dropout": 0.0,
}


def texts(seed: int, prompts: int | None = None) -> list[Text]:
    """Prompts, drawn by a seed of their own, with answers that end."""
    of_prompts = np.random.default_rng(seed if prompts is None else prompts)
    of_answers = np.random.default_rng(seed)
    return [
        (
            of_prompts.integers(1, 100, of_prompts.integers(2, 8)).tolist(),
            [*of_answers.integers(1, 100, of_answers.integers(2, 7)).tolist(), 0],
        )
        for _ in range(COUNT)
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The keys of each kind of training, with its files."""
    folder = tmp_path_factory.mktemp("preferences")
    random = np.random.default_rng(0)
    two = pairs(folder, texts(0, 9), texts(1, 9)).train
    signs = rated(folder, texts(2), random.choice([-1, 1], COUNT).tolist()).train
    numbers = random.standard_normal(COUNT).tolist()
    write(folder / "n_reward_document", [[x] for x in numbers], "float32")
    write(folder / "n_prompt_document", [[i // 4] for i in range(COUNT)])
    paired = {
        "pos-train-data-paths": [*two.paths],
        "pos-train-label-data-paths": [*two.labels],
        "neg-train-data-paths": [*two.rejected],
        "neg-train-label-data-paths": [*two.rejected_labels],
    }
    one = {"train-data-paths": [*signs.paths], "train-label-data-paths": [*signs.labels]}
    return {
        "dpo": {"train-impl": "dpo", **paired},
        "rm": {"train-impl": "rm", **paired},
        "kto": {"train-impl": "kto", **one, "train-reward-data-paths": [*signs.rewards]},
        "reinforce": {
            "train-impl": "reinforce",
            **one,
            "train-reward-data-paths": [str(folder / "n_reward_document")],
        },
    }


@pytest.fixture(scope="module")
def start(data: dict[str, dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model to start from."""
    folder = tmp_path_factory.mktemp("start") / "run"
    paths = data["dpo"]["pos-train-data-paths"]
    keys = MODEL | {"train-data-paths": paths, "train-iters": 2, "lr-decay-iters": 2}
    jaxneox.fit(keys, settings={"save": folder}, mesh="dp=1", verbose=False)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "rm", "kto", "reinforce"])
def test_a_run_in_two_parts(
    kind: str, data: dict[str, dict[str, Any]], start: Path, tmp_path: Path
) -> None:
    """Bit for bit, with the reference model with which it began."""
    keys = MODEL | data[kind] | {"load": str(start), "finetune": True}

    def until_4(progress: Any) -> None:
        if progress.step == 4:
            progress.stop()

    whole = jaxneox.fit(keys, settings={"save": tmp_path / "a"}, mesh="dp=1", verbose=False)
    part = {"save": tmp_path / "b"}
    first = jaxneox.fit(keys, settings=part, mesh="dp=1", verbose=False, callbacks=[until_4])
    assert first.step == 4
    last = jaxneox.fit(keys, settings=part, mesh="dp=1", verbose=False)
    assert metrics(tmp_path / "b") == metrics(tmp_path / "a")
    for name, expected in params(tmp_path / "a").items():
        np.testing.assert_array_equal(last.params[name], expected)
    assert "reference.layers" not in json.dumps(sorted(params(tmp_path / "a")))
    assert whole.figures[0]["loss"] != whole.figures[-1]["loss"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["dpo", "kto"])
def test_a_reference_from_before(
    kind: str,
    data: dict[str, dict[str, Any]],
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The losses of a run whose reference was computed before are those of one that has it."""
    keys = MODEL | data[kind] | {"load": str(start), "finetune": True}
    expected = jaxneox.fit(keys, mesh="dp=1", verbose=False)
    keys["precompute-model-name"] = "base"
    with pytest.raises(UserError, match="make them with `jaxneox precompute`"):
        jaxneox.fit(keys, mesh="dp=1", verbose=False)
    file = tmp_path / "run.yml"
    file.write_text(yaml.safe_dump(keys))
    with pytest.raises(SystemExit) as end:
        precompute([str(file)])
    assert end.value.code == 0
    assert "jaxneox train" in capsys.readouterr().out
    found = jaxneox.fit(keys, mesh="dp=1", verbose=False)
    losses = [[row["loss"] for row in run.figures] for run in (found, expected)]
    # a text's log-probability, about -30, is rounded otherwise: 1e-6 of it, times beta
    assert losses[0] == pytest.approx(losses[1], abs=3e-6)
    with pytest.raises(SystemExit) as end:
        precompute([str(file)])
    assert end.value.code == 0 and "is kept" in capsys.readouterr().out


@pytest.mark.slow
def test_the_logs_of_a_reference(
    data: dict[str, dict[str, Any]],
    start: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    keys = MODEL | data["dpo"] | {"precompute-model-name": "other"}
    file = tmp_path / "run.yml"
    file.write_text(yaml.safe_dump(keys))
    with pytest.raises(SystemExit):
        precompute([str(file), "--load", str(start)])
    texts = IndexedDataset(data["dpo"]["neg-train-data-paths"][0])
    logs = IndexedDataset(f"{texts.prefix}_other")
    model = jaxneox.load(start)
    rows = np.zeros((COUNT, 17), np.int32)
    found = np.zeros((COUNT, 16), np.float32)
    for i, row in enumerate(rows):
        one = next(iter(texts.ranges(texts.begins(np.array([i])), texts.sizes[[i]])))
        row[: len(one)] = one
        found[i] = next(iter(logs.ranges(logs.begins(np.array([i])), logs.sizes[[i]])))
    expected = -np.asarray(model.token_losses(model.params, rows))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=2e-6)
    model.with_params({name: 2 * w for name, w in model.params.items()}).save(tmp_path / "more")
    for again, code in (([], 2), (["--again"], 0), ([], 0)):
        with pytest.raises(SystemExit) as end:
            precompute([str(file), "--load", str(tmp_path / "more"), *again])
        assert end.value.code == code
    assert "computed by another model than" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:  # the checkpoint from which the run would start
        precompute([str(file), "--load", str(start), "--set", "iteration=7", "--again"])
    assert end.value.code == 2 and "no checkpoint of step 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train-impl": "rm"}, "compares with no reference model"),
        ({"dpo-reference-free": True}, "compares with no reference model"),
        ({}, "precompute_model_name: is not set"),
        ({"precompute-model-name": "x"}, "load: is not set"),
    ],
)
def test_what_precompute_needs(
    changes: dict[str, Any],
    expected: str,
    data: dict[str, dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "run.yml"
    file.write_text(yaml.safe_dump(MODEL | data["dpo"] | changes))
    with pytest.raises(SystemExit) as end:
        precompute([str(file)])
    assert end.value.code == 2 and expected in capsys.readouterr().err


@pytest.mark.slow
def test_a_reference_that_would_be_drawn_otherwise(
    data: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """A run from the seed goes on with what it began with."""
    keys = MODEL | data["dpo"] | {"save": str(tmp_path / "run")}
    stop = [lambda progress: progress.stop()]
    jaxneox.fit(keys, mesh="dp=1", verbose=False, callbacks=stop)
    changed = {"init-method-std": 0.5}
    with pytest.raises(UserError, match=r"init: the reference model of .* was drawn with"):
        jaxneox.fit(keys | changed, mesh="dp=1", verbose=False)
    assert jaxneox.fit(keys, mesh="dp=1", verbose=False).step == STEPS


@pytest.mark.slow
def test_a_reference_that_is_gone(
    data: dict[str, dict[str, Any]], start: Path, tmp_path: Path
) -> None:
    """One that has moved is taken where it is said to be; another one is refused."""
    first = tmp_path / "first"
    shutil.copytree(start, first)
    keys = MODEL | data["dpo"] | {"save": str(tmp_path / "run")}
    begin = {"load": first, "finetune": True}

    def until_4(progress: Any) -> None:
        if progress.step == 4:
            progress.stop()

    jaxneox.fit(keys, settings=begin, mesh="dp=1", verbose=False, callbacks=[until_4])
    shutil.rmtree(first)
    with pytest.raises(UserError, match="name the folder where it is now with --load"):
        jaxneox.fit(keys, mesh="dp=1", verbose=False)
    model = jaxneox.load(start)
    other = model.with_params({name: 2 * w for name, w in model.params.items()})
    other.save(tmp_path / "other")
    with pytest.raises(UserError, match="another model"):
        jaxneox.fit(keys, settings={"load": tmp_path / "other"}, mesh="dp=1", verbose=False)
    last = jaxneox.fit(keys, settings={"load": start}, mesh="dp=1", verbose=False)
    assert last.step == STEPS


@pytest.mark.slow
@pytest.mark.parametrize("before", ["model", "adapter"])
def test_the_reference_beside_lora_is_the_model_at_the_start(
    before: str, data: dict[str, dict[str, Any]], start: Path, tmp_path: Path
) -> None:
    """Also where more than the matrices is trained, where they have learned, and in two parts."""
    lora = {"lora": {"rank": 4, "base": str(start)}}
    keys = MODEL | lora | {"trainable": ["layers.*_lora.*", "final_norm.*"]}
    if before == "adapter":
        of_texts = {name: data["kto"][name] for name in ("train-data-paths",)}
        save = {"save": tmp_path / "chat"}
        jaxneox.fit(keys | of_texts, settings=save, mesh="dp=1", verbose=False)
        keys |= {"load": str(tmp_path / "chat"), "finetune": True}
    random = np.random.default_rng(0)
    batch = {
        "tokens": random.integers(1, 100, (4, 2, 17)),
        "labelled": np.ones((4, 2, 16), np.float32),
    }

    def references(save: Path, stop: int | None = None) -> list[float]:
        def stopping(progress: Any) -> None:
            if progress.step == stop:
                progress.stop()

        run = jaxneox.fit(
            keys | {"train-impl": "dpo"},
            lambda step: batch,
            settings={"save": save},
            mesh="dp=1",
            verbose=False,
            callbacks=[stopping],
        )
        if not stop:
            assert run.figures[-1]["loss"] < 0.68
        return [row["ref_pos"] for row in run.figures]

    whole = references(tmp_path / "a")
    assert len(whole) == STEPS and set(whole) == {whole[0]}
    assert metrics(tmp_path / "a")[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    references(tmp_path / "b", stop=4)
    assert references(tmp_path / "b") == whole[4:]
    assert metrics(tmp_path / "b") == metrics(tmp_path / "a")


def test_a_dry_run_counts_the_reference() -> None:
    """All that is trained is held a second time, and nothing where there is no reference."""
    said = {}
    for free in (False, True):
        cfg = config(objective=ObjectiveConfig("dpo", dpo_reference_free=free))
        said[free] = memory(build_plan(cfg, {"dp": 1}))
    rows = dict(line.split()[:2] for line in said[False].splitlines()[1:])
    assert rows["reference"] == rows["parameters"]
    assert "reference" not in said[True]


@pytest.mark.slow
def test_batches_of_a_file(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """All fields of a batch can be written; `--tokens` has not all of them, and Python has."""
    short, files = MODEL | {"train-iters": 2}, {}
    for kind, keys in data.items():
        yml, out = tmp_path / f"{kind}.yml", tmp_path / f"{kind}.npz"
        yml.write_text(yaml.safe_dump(short | keys))
        with pytest.raises(SystemExit) as end:
            data_batch([str(yml), "--steps", "0:2", "--out", str(out)])
        assert end.value.code == 0
        files[kind] = dict(np.load(out))
        said = error(yml, "--tokens", out, "--mesh", "dp=1")
        assert f"train_impl: {kind} learns from more" in said
    expected = jaxneox.fit(short | data["dpo"], mesh="dp=1", verbose=False)
    keys = short | {"train-impl": "dpo"}
    batches = [{name: x[step] for name, x in files["dpo"].items()} for step in range(2)]
    found = jaxneox.fit(keys, batches, mesh="dp=1", verbose=False)
    assert [row["loss"] for row in found.figures] == [row["loss"] for row in expected.figures]


@pytest.mark.slow
def test_the_mean_reward_of_an_evaluation(data: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Over the completions, however many labels each batch of them has."""
    of_kind = data["reinforce"]
    valid = {n.replace("train-", "valid-"): v for n, v in of_kind.items() if n != "train-impl"}
    keys = MODEL | of_kind | valid | {"train-iters": 2, "eval-interval": 2, "eval-iters": 3}
    yml, out = tmp_path / "run.yml", tmp_path / "valid.npz"
    yml.write_text(yaml.safe_dump(keys))
    with pytest.raises(SystemExit):
        data_batch([str(yml), "--steps", "0:3", "--split", "valid", "--out", str(out)])
    batches = np.load(out)
    assert len(set(batches["weights"].sum(axis=(1, 2)))) > 1
    found = jaxneox.fit(keys, mesh="dp=1", verbose=False).figures[-1]
    assert found["valid_reward"] == pytest.approx(batches["raw_reward"].mean(), rel=1e-5)
