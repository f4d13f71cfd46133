"""The command on a tiny run, with lm-eval where it is installed."""

import json
from pathlib import Path

import numpy as np
import pytest

from jaxneox.evaluate.command import main
from tests.train.runs import error, succeeds, write_yaml

LAMBADA = [{"text": f"the quick brown foxes jump over lazy {word}"} for word in ("dogs", "and")]
WIKI = (
    " = One = \n \n the quick foxes . \n = Two = \n \n lazy dogs , and \n = = Three = = \n over\n"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scored")
    keys = {"train_iters": 4, "checkpoint_factor": 2, "seq_length": 48}
    keys |= {"max_position_embeddings": 48}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAXNEOX_CACHE", str(folder / "cache"))
        succeeds(write_yaml(folder, **keys), "--mesh", "dp=1", "--save", folder / "run")
    (folder / "lambada.jsonl").write_text("".join(json.dumps(x) + "\n" for x in LAMBADA))
    (folder / "wiki.txt").write_text(WIKI)
    goal = {"goal": "stay warm", "sol1": "a coat", "sol2": "a sieve", "label": 0}
    (folder / "piqa.jsonl").write_text(json.dumps(goal) + '\n{"text": "no goal"}\n')
    np.savez(folder / "w.npz", windows=np.random.default_rng(0).integers(1, 200, (6, 20)))
    return folder / "run"


def call(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main([str(arg) for arg in args])
    return int(ended.value.code or 0), *capsys.readouterr()


@pytest.mark.slow
def test_perplexities_beside_each_other(run: Path, capsys, tmp_path: Path) -> None:
    files = ("--perplexity", run.parent / "w.npz", run.parent / "wiki.txt")
    output = ("--output", tmp_path / "out.json")
    status, out, err = call(capsys, run, *files, "--compare", run / "step_2", *output)
    assert status == 0, err
    assert "w.npz: 114 tokens in 6 windows" in out and "step_2" in out
    found = json.loads((tmp_path / "out.json").read_text())
    mine, other = (one["perplexity"] for one in (found, found["compared"][0]))
    assert [one["tokens"] for one in mine] == [114, len(WIKI)]
    assert mine[1]["byte_perplexity"] == pytest.approx(mine[1]["perplexity"])  # bytes are tokens
    assert mine[0]["loss"] != other[0]["loss"]
    status, _, _ = call(capsys, run, *files, "--mesh", "dp=2,tp=2", *output)
    meshed = json.loads((tmp_path / "out.json").read_text())["perplexity"]
    assert meshed[0]["loss"] == pytest.approx(mine[0]["loss"], rel=1e-6)


@pytest.mark.slow
def test_tasks_of_lm_eval_on_local_files(run: Path, capsys, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the evaluate extra")
    files = f"{run.parent}/lambada.jsonl,wikitext={run.parent}/wiki.txt"
    args = ("--tasks", files, "--output", tmp_path / "out.json", "--cache", tmp_path / "cache")
    status, out, err = call(capsys, run, *args)
    assert status == 0, err
    assert "lambada_openai" in out and "word_perplexity" in out
    found = json.loads((tmp_path / "out.json").read_text())
    import jaxneox

    model = jaxneox.load(str(run))
    texts = [(x["text"].rpartition(" ")[0], " " + x["text"].rpartition(" ")[2]) for x in LAMBADA]
    own = model.loglikelihood(texts)
    said = [one["answers"][0][0] for one in found["requests"]["lambada_openai"]]
    assert [x[0] for x in said] == pytest.approx([x[0] for x in own], abs=1e-5)
    mean = sum(x[0] for x in own) / 2
    figures = found["results"]["lambada_openai"]
    assert figures["perplexity,none"] == pytest.approx(np.exp(-mean), rel=1e-5)
    assert figures["acc,none"] == sum(x[1] for x in own) / 2
    assert found["n-samples"]["wikitext"]["effective"] == 2
    again = call(capsys, run, *args)
    assert again[1] == out  # from the cache


def test_a_task_is_found_without_listing_all(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="needs the evaluate extra")
    from jaxneox.evaluate import tasks

    def whole() -> list[str]:
        raise AssertionError("all of lm-eval's tasks were listed")

    monkeypatch.setattr(tasks, "manager", lambda *folders: folders or whole())
    assert tasks.check("lambada_openai,wikitext,piqa").files.keys() == {
        "lambada_openai",
        "wikitext",
        "piqa",
    }
    (folder,) = tasks.manager_of(tasks.AskedTasks({"lambada_openai": None}, {}))
    assert folder.name == "lambada"
    assert tasks.folder_of("mmlu_*") is None and tasks.folder_of("../piqa") is None
    with pytest.raises(AssertionError, match="listed"):
        tasks.manager_of(tasks.AskedTasks({"winogrande": None}, {}))  # in default.yaml


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "nothing to evaluate"),
        (["--perplexity", "nowhere.txt"], "nowhere.txt: no such file"),
        (["--perplexity", "{f}/wiki.txt", "--limit", "0"], "--limit 0"),
        (["--perplexity", "{f}/w.npz", "--stride", "0"], "--stride 0: expected 1 or more"),
        (["--perplexity", "{f}/w.npz", "--stride", "99"], "--stride 99: expected 1 to 48"),
        (["--perplexity", "{f}/wiki.txt", "--output", "no/where.json"], "no is not a folder"),
        (["--perplexity", "{f}/wiki.txt", "--output", "{f}"], "it is a folder"),
        (["--perplexity", "{f}/wiki.txt", "--stride", "99"], "--stride 99: expected 1 to 48"),
        (["--perplexity", "{f}/wiki.txt", "--mesh", "tp=3"], "tp=3 does not divide"),
        (["--tasks", "lambada_opnai"], "did you mean lambada_openai"),
        (["--tasks", "{f}/none.jsonl"], "is no file"),
        (["--tasks", "wikitext={f}/lambada.jsonl"], "no title"),
        (["--tasks", "lambada_openai={f}/wiki.txt"], "line 1: no JSON"),
        (["--tasks", "wikitext={f}/wiki.txt,wikitext"], "given twice"),
        (["--tasks", "hellaswag={f}/piqa.jsonl"], "could not load hellaswag (KeyError: 'ctx_a')"),
        (["--tasks", "piqa={f}/piqa.jsonl"], "piqa.jsonl, document 2: not as piqa has them"),
    ],
)
def test_wrong_input_is_one_line(run: Path, capsys, args: list[str], says: str) -> None:
    if "--tasks" in args:
        pytest.importorskip("lm_eval", reason="needs the evaluate extra")
    status, out, err = call(capsys, run, *[arg.format(f=run.parent) for arg in args])
    assert status == 2 and out == ""
    assert says in err and err.count("\n") == 1 and err.startswith("error: ")


@pytest.mark.slow
def test_tasks_while_a_run_trains(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the evaluate extra")
    file = f"lambada_openai={run.parent}/lambada.jsonl"
    keys = {"train_iters": 3, "eval_interval": 2, "seq_length": 48, "max_position_embeddings": 48}
    keys |= {"eval_tasks": [file], "eval_results_prefix": str(tmp_path / "found" / "x")}
    yaml = write_yaml(tmp_path, **keys)
    out = succeeds(yaml, "--mesh", "dp=2,tp=2", "--save", tmp_path / "run")
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert ["eval/lambada_openai/acc" in line for line in lines] == [False, True, True]
    assert "lambada_openai/perplexity" in out
    import jaxneox

    model = jaxneox.load(str(tmp_path / "run"))
    texts = [(x["text"].rpartition(" ")[0], " " + x["text"].rpartition(" ")[2]) for x in LAMBADA]
    mean = sum(total for total, _ in model.loglikelihood(texts)) / 2
    assert lines[-1]["eval/lambada_openai/perplexity"] == pytest.approx(np.exp(-mean), rel=1e-5)
    saved = json.loads((tmp_path / "found/x_eval_results_step_3.json").read_text())
    assert len(saved["requests"]["lambada_openai"]) == 2


@pytest.mark.slow
def test_tasks_that_training_cannot_run(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("lm_eval", reason="needs the evaluate extra")
    yaml = write_yaml(tmp_path, eval_tasks=["lambada_opnai"])
    assert "did you mean lambada_openai" in error(yaml, "--mesh", "dp=1", "--save", tmp_path / "r")
