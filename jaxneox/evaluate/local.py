"""The task that a local file is for, and its documents as lm-eval's datasets have them."""

import difflib
import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from jaxneox.errors import UserError
from jaxneox.evaluate.corpus import lines_of, object_of, text_of

Documents = list[dict[str, Any]]
TITLE = re.compile(r"^ = [^=].* = $")
"""The line with which a page of WikiText begins."""


def lambada(path: Path) -> Documents:
    """Read [{"text": …}]: each line of a JSONL file, its last word the one to be guessed."""
    documents = []
    for number, line in lines_of(path.read_text(encoding="utf-8-sig")):
        text = text_of(line, f"{path}, line {number}")
        if " " not in text.strip():
            raise UserError(f"{path}, line {number}: one word; expected a text and its last word")
        documents.append({"text": text})
    return documents


def wikitext(path: Path) -> Documents:
    """Read [{"page": …}]: a text of WikiText cut where a line is a title, ` = Title = `."""
    pages: list[list[str]] = []
    for line in path.read_text(encoding="utf-8-sig").splitlines(keepends=True):
        if TITLE.match(line.rstrip("\n")):
            pages.append([])
        elif not pages and line.strip():
            raise UserError(
                f"{path}: its first line is no title as ` = Title = `; expected WikiText. The "
                "perplexity of any text: --perplexity"
            )
        if pages:
            pages[-1].append(line)
    return [{"page": "".join(page)} for page in pages]


def json_lines(path: Path) -> Documents:
    """Read documents as a task's own dataset has them, one object a line."""
    lines = lines_of(path.read_text(encoding="utf-8-sig"))
    return [object_of(line, f"{path}, line {number}") for number, line in lines]


READERS: dict[str, Callable[[Path], Documents]] = {
    "lambada_openai": lambada,
    "lambada_standard": lambada,
    "wikitext": wikitext,
}
KINDS = {".jsonl": "lambada_openai", ".txt": "wikitext"}


def parse(words: str, known: Collection[str]) -> dict[str, Path | None]:
    """Parse `lambada_openai,wikitext=FILE,FILE.jsonl`: each task's file, None for its own data."""
    files: dict[str, Path | None] = {}
    for word in filter(None, (word.strip() for word in words.split(","))):
        name, equals, file = word.partition("=")
        if not equals and Path(word).suffix in KINDS:
            name, file = KINDS[Path(word).suffix], word
        if name not in known:
            near = difflib.get_close_matches(name, known, 3)
            hint = f"did you mean {' or '.join(near)}?" if near else "`lm-eval ls tasks` lists them"
            raise UserError(f"--tasks: lm-eval has no task {name!r}; {hint}")
        if name in files:
            raise UserError(f"--tasks: {name} is given twice; once is enough")
        if file and not Path(file).is_file():
            raise UserError(f"--tasks {word}: {file} is no file")
        files[name] = Path(file) if file else None
    if not files:
        raise UserError("--tasks: no task in it; expected names, as lambada_openai,wikitext")
    return files


def documents(name: str, path: Path) -> Documents:
    try:
        rows = READERS.get(name, json_lines)(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is no UTF-8; expected text") from error
    if not rows:
        raise UserError(f"{path}: no document in it for the task {name}")
    return rows
