"""A task of a user's own: by its YAML file, or by its name in a folder of such files."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from jaxneox.data.tokenizer import CharLevelTokenizer
from jaxneox.errors import UserError
from jaxneox.infer.scoring import Request, Scored

pytest.importorskip("lm_eval", reason="needs the evaluate extra")

OWN = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {{test: ./documents.jsonl}}
test_split: test
output_type: loglikelihood
doc_to_text: !function helpers.text
doc_to_target: "{{{{target}}}}"
metric_list:
  - metric: perplexity
  - metric: acc
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two tasks with a function of their own, whose documents lie beside them."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "hub")
    folder = tmp_path / "tasks"
    folder.mkdir()
    rows = [{"ctx": "a b", "target": " c"}, {"ctx": "d", "target": " ef"}]
    (folder / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "helpers.py").write_text("def text(doc):\n    return doc['ctx']\n")
    (folder / "mine.yaml").write_text(OWN.format(name="long_documents"))
    (folder / "other.yaml").write_text("include: mine.yaml\ntask: longer\n")
    (folder / "group.yaml").write_text("group: both\ntask: [long_documents, longer]\n")
    return folder


def figures(words: str, include: Sequence[Path] = ()) -> dict[str, Any]:
    from jaxneox.evaluate import harness, tasks

    def score(requests: Sequence[Request], on_done: Callable[[int], object]) -> list[Scored]:
        return [Scored(np.full(len(r.tokens) - r.given, -1.0), np.ones(1, bool)) for r in requests]

    adapter = harness.Adapter(CharLevelTokenizer(), 48, score, None)
    loaded = tasks.load(tasks.check(words, [str(path) for path in include]))
    return dict(harness.evaluate(adapter, loaded).results["results"])


@pytest.mark.slow
def test_by_its_file(folder: Path) -> None:
    """ " c" and " ef" are 2 and 3 tokens of one each."""
    found = figures(str(folder / "mine.yaml"))
    assert found.keys() == {"long_documents"}
    assert found["long_documents"]["perplexity,none"] == pytest.approx(np.exp(2.5))


@pytest.mark.slow
def test_by_name_and_as_a_group(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert figures("longer", [folder]).keys() == {"longer"}
    monkeypatch.chdir(folder)  # a group's members find their data here
    assert figures("both", [folder]).keys() >= {"long_documents", "longer"}


@pytest.mark.slow
def test_other_documents(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"ctx": "a", "target": " bcde"}\n')
    found = figures(f"longer={tmp_path}/x.jsonl", [folder])
    assert found["longer"]["perplexity,none"] == pytest.approx(np.exp(5))


@pytest.mark.parametrize(
    ("words", "content", "message"),
    [
        ("none.yaml", None, "none.yaml: no such file"),
        ("x.yaml", "task: [", "not the YAML file of a task"),
        ("x.yaml", "a: 1", "not the YAML file of a task"),
        ("x.yaml", "task: x\ndoc_to_text: !function nowhere.f\n", "could not load x"),
        ("x.yaml", "task: x\ndataset_path: json\n", "could not load x"),
        pytest.param(
            "long_document", "task: x", "did you mean long_documents", marks=pytest.mark.slow
        ),
    ],
)
def test_wrong(
    folder: Path, monkeypatch: pytest.MonkeyPatch, words: str, content: str | None, message: str
) -> None:
    from jaxneox.evaluate import tasks

    monkeypatch.chdir(folder)
    if content is not None:
        (folder / "x.yaml").write_text(content)
    include = [] if words.endswith(".yaml") else ["."]
    with pytest.raises(UserError, match=message) as error:
        tasks.load(tasks.check(words, include))
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="--include-path nowhere: no such folder"):
        tasks.check("x", ["nowhere"])
