"""The examples of docs/python.md on training, run as they stand there."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/python.md"


@pytest.mark.slow
def test_the_examples_on_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    section = PAGE.read_text().partition("\n## Training\n")[2].partition("\n## ")[0]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 3
    names: dict[str, object] = {}
    for text in examples:
        text = text.replace('"train-iters": 30', '"train-iters": 3')
        exec(compile(text, str(PAGE), "exec"), names)
    assert sorted(path.name for path in Path("runs").iterdir()) == [
        "lr-0.0003",
        "lr-0.001",
        "lr-0.003",
    ]
