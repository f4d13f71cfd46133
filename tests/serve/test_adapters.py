"""Several adapters beside one base: each answers as it does alone, and all of them at once."""

import contextlib
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import jax
import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

import jaxneox
from jaxneox.errors import UserError
from jaxneox.loading import LoadedModel
from jaxneox.serve.adapters import adapters_of
from jaxneox.serve.arguments import parser
from jaxneox.serve.command import load
from jaxneox.serve.models import ServedModels
from tests.convert.adapters import write_adapter
from tests.infer.models import speaker
from tests.serve.place import Place, place

NAMES = ("base", "one", "two", "small")
GREEDY = {"temperature": 0, "max_tokens": 9, "return_token_ids": True}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, two adapters of one form and one of another, and an adapter of another base."""
    folder = tmp_path_factory.mktemp("adapters")
    model = speaker()
    base = model.save(folder / "base")
    write_adapter(folder / "one", base, seed=1)
    write_adapter(folder / "two", base, seed=2)
    write_adapter(folder / "small", base, seed=3, rank=2, targets=["qkv"])
    other = {name: w * 1.5 for name, w in model.params.items()}
    write_adapter(folder / "foreign", model.with_params(other).save(folder / "other"))
    for name in NAMES[1:]:
        shutil.copytree(base / "tokenizer", folder / name / "tokenizer")
    return folder


@contextlib.contextmanager
def serving(runs: Path, *words: object) -> Iterator[Place]:
    given = [str(word) for word in (runs / "base", *words)]
    with place(load=lambda say: load(parser().parse_args(given), "here", say)) as here:
        assert here.settles(status="ready")
        yield here


def all_of(runs: Path) -> list[object]:
    named = ("--adapter", runs / "one", "--adapter", runs / "two")
    return [*named, "--adapter", f"small={runs / 'small'}", "--slots", 2]


@cache
def alone(runs: Path, name: str) -> LoadedModel:
    return jaxneox.load(runs / "base", adapter=None if name == "base" else runs / name)


def expected(runs: Path, name: str, prompt: str, tokens: int = 9) -> list[int]:
    (answer,) = alone(runs, name).generate([prompt], max_tokens=tokens)
    return answer.tokens


def tokens_of(answer: Any) -> list[int]:
    (choice,) = answer.json["choices"]
    tokens: list[int] = choice["token_ids"]
    return tokens


@pytest.mark.slow
def test_each_answers_as_alone_and_all_at_once(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prompts = ("The", "old man said", "x")
    with serving(runs, *all_of(runs)) as here:
        assert here.scheduler.models is not None
        check_what_is_shared(here.scheduler.models)
        check_first_lines(capsys.readouterr().out)
        listed = here.ask("GET", "/v1/models").json["data"]
        assert [one["id"] for one in listed] == [*NAMES]
        assert here.ask("GET", "/v1/models/two").json["id"] == "two"
        assert [one["model"] for one in here.health["models"]] == [*NAMES]

        def ask(number: int) -> tuple[str, list[int]]:
            answer = here.complete(model=NAMES[number % 4], prompt=prompts[number % 3], **GREEDY)
            assert answer.status == 200, answer.body
            return answer.json["model"], tokens_of(answer)

        with ThreadPoolExecutor(12) as clients:
            found = list(clients.map(ask, range(24)))
        for number, (name, tokens) in enumerate(found):
            assert name == NAMES[number % 4]
            assert tokens == expected(runs, name, prompts[number % 3])
        assert len({tuple(tokens) for _, tokens in found[::3]}) == 4  # they differ
        assert tokens_of(here.complete(prompt="The", **GREEDY)) == expected(runs, "base", "The")
        unknown = here.complete(model="three", prompt="x")
        assert unknown.status == 404
        assert "'three' does not exist; this server has 'base', 'one'" in unknown.reason


def check_what_is_shared(models: ServedModels) -> None:
    """All but LoRA's matrices are the same arrays, and models of one form the same programs."""
    base, one, two, small = (served.engine for served in models.every)
    assert one.programs is two.programs
    assert len({engine.programs for engine in (base, one, small)}) == 3
    known = {id(w) for w in jax.tree.leaves(models.first.model.pools.weights)}
    for served in models.every[1:]:
        weights = served.model.pools.weights
        more = [w for w in jax.tree.leaves(weights) if id(w) not in known]
        layer = served.model.config.model.lora
        assert layer is not None
        matrices = 2 * len(layer.targets) * served.model.config.model.num_layers
        assert len(more) == matrices and all(min(w.shape) <= layer.rank for w in more)


def check_first_lines(out: str) -> None:
    first, base, one, _, small, *_ = out.splitlines()
    assert first == "here will serve base in 2 slots, each with a context of 48 tokens"
    assert base.startswith("  base: ") and " of weights, " in base
    assert one.startswith("  one: ") and " of weights beside those, " in one
    assert small.startswith("  small: ")


@pytest.mark.slow
def test_two_run_at_the_same_time_and_a_third_waits_for_a_cache(runs: Path) -> None:
    with serving(runs, *all_of(runs), "--caches", 2) as here, ThreadPoolExecutor(4) as clients:
        models = here.scheduler.models
        assert models is not None
        engines = {served.name: served.engine for served in models.every}
        assert sum(engine.allocated for engine in engines.values()) == 2
        one, two = (
            here.stream(model=name, prompt="The", **{**GREEDY, "max_tokens": 40})
            for name in ("one", "two")
        )
        got: dict[str, list[int]] = {"one": [], "two": []}
        for _ in range(5):  # interleaved: neither waits for the other's end
            for name, events in (("one", one), ("two", two)):
                got[name] += next(events)["choices"][0]["token_ids"]
        third = clients.submit(here.complete, model="small", prompt="The", **GREEDY)
        for name, events in (("one", one), ("two", two)):
            got[name] += [t for event in events for t in event["choices"][0]["token_ids"]]
            assert got[name] == expected(runs, name, "The", 40)
        assert tokens_of(third.result()) == expected(runs, "small", "The")
        assert sum(engine.allocated for engine in engines.values()) == 2
        assert engines["small"].allocated
        for name in (*NAMES, *NAMES):  # each takes another's cache
            assert tokens_of(here.complete(model=name, prompt="x", **GREEDY)) == expected(
                runs, name, "x"
            )


@pytest.mark.slow
def test_one_alone_is_the_model_itself(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serving(runs, "--adapter", runs / "one", "--slots", 1) as here:
        assert [one["id"] for one in here.ask("GET", "/v1/models").json["data"]] == ["base"]
        answer = here.complete(model="base", prompt="The", **GREEDY)
        assert tokens_of(answer) == expected(runs, "one", "The")
    assert "beside those" not in capsys.readouterr().out


def test_names(tmp_path: Path) -> None:
    assert adapters_of(["runs/a"], "base") == ("runs/a", {})
    assert adapters_of(["x=runs/a"], "base") == (None, {"x": "runs/a"})
    assert adapters_of(["runs/a", "x=runs/a"], "base")[1] == {"a": "runs/a", "x": "runs/a"}
    steps = ["runs/a/step_3", "runs/b/step_3", "step_x"]
    assert [*adapters_of(steps, "base")[1]] == ["a", "b", "step_x"]
    (tmp_path / "lr=1").mkdir()
    assert adapters_of([f"{tmp_path}/lr=1"], "base")[0] == f"{tmp_path}/lr=1"
    for given, reason in (
        (["=runs/a"], "expected RUN or NAME=RUN"),
        (["x="], "expected RUN or NAME=RUN"),
        (["", "x=a"], "expected RUN or NAME=RUN"),
        (["a\nb=c"], "expected RUN or NAME=RUN"),
        (["runs/a", "other/a"], "'a' is the name of runs/a already"),
        (["base=runs/a"], "'base' is the name of the model itself"),
    ):
        with pytest.raises(UserError, match=reason):
            adapters_of(given, "base")


def test_what_is_no_adapter_of_the_base(runs: Path, tmp_path: Path) -> None:
    """Each is refused before anything is compiled."""
    (tmp_path / "empty").mkdir()
    for wrong, reason in (
        (runs / "other", "is a whole model and no adapter"),
        (runs / "foreign", "was trained beside another model than"),
        (tmp_path / "empty", "expected a run with step_N folders"),
        (tmp_path / "gone", "does not exist"),
    ):
        given = ["--adapter", f"one={runs / 'one'}", "--adapter", f"wrong={wrong}"]
        args = parser().parse_args([str(runs / "base"), *given])
        with pytest.raises(UserError, match=reason) as refused:
            load(args, "here", lambda doing: None)
        assert str(wrong) in str(refused.value)
    args = parser().parse_args([str(runs / "one"), "--adapter", f"two={runs / 'two'}"])
    with pytest.raises(UserError, match="is an adapter; give the model"):
        load(args, "here", lambda doing: None)
