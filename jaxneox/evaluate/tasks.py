"""The tasks that lm-eval has, those of a user's own among them, and their documents.

A task of one's own is a YAML file as lm-eval has them, given by its path or by its name in a folder
of such files (`--include-path`). Such a file may name functions in Python files beside it
(`!function`), which run: it is the user's own program, and no file of a stranger's is looked for.

Nothing else imports lm_eval.
"""

import contextlib
import functools
import io
import logging
import os
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jaxneox.data.library import reason
from jaxneox.errors import UserError
from jaxneox.evaluate import local

for noisy in ("lm_eval", "huggingface_hub", "datasets"):
    logging.getLogger(noisy).setLevel(logging.ERROR)
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DISABLE_MULTIPROC", "1")  # it forks, and a fork beside JAX's threads hangs

try:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import datasets
        import lm_eval
        import lm_eval.tasks
        from lm_eval.api.model import TemplateLM
        from lm_eval.tasks import TaskManager
        from lm_eval.tasks._index import Kind, TaskIndex
        from lm_eval.tasks._yaml_loader import load_yaml
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UserError(
        f"tasks need lm-eval, and {error.name or 'a part of it'} is not installed; "
        "pip install 'jaxneox[evaluate]'"
    ) from error


__all__ = [
    "AskedTasks",
    "TaskManager",
    "TemplateLM",
    "check",
    "get_rolling_token_windows",
    "lm_eval",
    "load",
    "make_disjoint_window",
    "quiet",
]

YAML = (".yaml", ".yml")


class AskedTasks(NamedTuple):
    """The tasks of a command.

    Attributes:
        files: for each task the file with its documents; None for its own dataset.
        own: the user's own tasks, as lm-eval's index has them.
        include: the folders that these were found in.
    """

    files: dict[str, Path | None]
    own: dict[str, Any]
    include: tuple[Path, ...] = ()


@functools.cache
def manager(*folders: Path) -> TaskManager:
    """Index all of lm-eval's tasks, which takes seconds, or those in these folders."""
    return (
        TaskManager(include_path=list(folders), include_defaults=False)
        if folders
        else TaskManager()
    )


def manager_of(asked: AskedTasks) -> TaskManager:
    """Index no more than what the tasks need: a group may be of any others."""
    folders = [folder_of(name) for name in asked.files if name not in asked.own]
    foreign = any(not isinstance(name, str) or name not in asked.own for name in members_of(asked))
    if not asked.own:
        return manager() if None in folders else manager(*dict.fromkeys(filter(None, folders)))
    found = TaskManager(
        include_path=[*dict.fromkeys(filter(None, folders)), *asked.include],
        include_defaults=foreign or None in folders,
    )
    found.task_index.update(asked.own)
    return found


def members_of(asked: AskedTasks) -> list[Any]:
    """List the members of the user's own groups, where they are names."""
    groups = [entry for entry in asked.own.values() if entry.kind is Kind.GROUP]
    listed = [(entry.cfg or load_yaml(entry.yaml_path)).get("task") for entry in groups]
    members = [one for some in listed if isinstance(some, list) for one in some]
    return [one.get("task") if isinstance(one, Mapping) else one for one in members]


@functools.cache
def folder_of(name: str) -> Path | None:
    """Find the folder where NAME.yaml defines the task of that name, as it does for most."""
    if re.fullmatch(r"[\w-]+", name):
        for path in Path(lm_eval.tasks.__file__).parent.rglob(f"{name}.yaml"):
            if re.search(rf"^task: *{name} *$", path.read_text(encoding="utf-8"), re.MULTILINE):
                return path.parent
    return None


class Known(Collection[str]):
    """The names of the user's own tasks and of lm-eval's, which are listed only if needed."""

    def __init__(self, own: Iterable[str] = ()) -> None:
        self.own = frozenset(own)

    def __contains__(self, name: object) -> bool:
        return name in self.own or folder_of(str(name)) is not None or name in manager().all_tasks

    def __iter__(self) -> Iterator[str]:
        return iter([*self.own, *manager().all_tasks])

    def __len__(self) -> int:
        return len(self.own) + len(manager().all_tasks)


def check(words: str, include: Sequence[str] = ()) -> AskedTasks:
    """Parse the tasks of `--tasks` or `eval_tasks`.

    Args:
        words: names, NAME=FILE, files of documents and YAML files of tasks, between commas.
        include: folders of further tasks, `--include-path`.

    Raises:
        UserError: a task or a file does not exist, or a YAML file has no task.
    """
    folders = tuple(Path(folder) for folder in include)
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"--include-path {folder}: no such folder, expected one of YAML files")
    with quiet():
        own = dict(manager(*folders).task_index) if folders else {}
    names = []
    for word in filter(None, (word.strip() for word in words.split(","))):
        if "=" not in word and Path(word).suffix in YAML:
            entry = entry_of(Path(word))
            own[entry.name] = entry
            word = entry.name
        names.append(word)
    files = local.parse(",".join(names), Known(own))
    return AskedTasks(files, {name: own[name] for name in own if folders or name in files}, folders)


def entry_of(path: Path) -> Any:
    """Read a YAML file of a task, or of a group of them, for lm-eval's index."""
    if not path.is_file():
        raise UserError(f"--tasks {path}: no such file, expected the YAML file of a task")
    try:
        with quiet():
            entry = TaskIndex.entry_from_path(path)
    except Exception as error:  # the loader raises whatever the file makes it
        raise UserError(
            f"{path}: not the YAML file of a task ({reason(error)}); expected keys such as task, "
            "dataset_path, doc_to_text and doc_to_target"
        ) from error
    if entry is None or not isinstance(entry.name, str):
        raise UserError(f"{path}: has no name of a task, expected `task: NAME`")
    return entry


def load(asked: AskedTasks) -> list[Any]:
    """Load tasks, with the documents of our files if there are any."""
    tasks = asked.files
    plain: list[str] = []
    specs: list[dict[str, Any]] = []
    for name, path in tasks.items():
        own: dict[str, Any] = {"task": name, **beside(asked.own.get(name))}
        if path is not None:
            rows = local.documents(name, path)
            own["custom_dataset"] = lambda rows=rows, **_: {
                "test": datasets.Dataset.from_list(rows)
            }
            own |= {"test_split": "test", "training_split": None, "validation_split": None}
            own |= {"fewshot_split": None}
        if len(own) > 1:
            specs.append(own)
        else:  # it may be a group, which would hand its own name to its members
            plain.append(name)
    changed = [{"group": "asked", "task": specs}] if specs else []
    try:
        with quiet():
            members = manager_of(asked).load([*plain, *changed])
    except Exception as error:  # a task's own code, and what fetches its dataset, raise anything
        raise UserError(
            f"--tasks: lm-eval could not load {', '.join(tasks)} ({type(error).__name__}: "
            f"{reason(error)}); "
            "a file must hold the keys of the task's own dataset; without a network give files, "
            "as --tasks lambada_openai=lambada_test.jsonl"
        ) from error
    loaded = list(members["tasks"].values())
    for task in loaded:
        path = tasks.get(task.config.task)
        if path is not None:
            check_documents(task, path)
    return loaded


def beside(entry: Any) -> dict[str, Any]:
    """Let a task's data files lie beside its YAML, if they do not lie in the current folder."""
    if entry is None or entry.kind is not Kind.TASK or entry.yaml_path is None:
        return {}
    kwargs = load_yaml(entry.yaml_path, resolve_func=False).get("dataset_kwargs")
    if not isinstance(kwargs, Mapping) or "data_files" not in kwargs:
        return {}

    def found(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: found(one) for name, one in value.items()}
        if isinstance(value, list):
            return [found(one) for one in value]
        here = entry.yaml_path.parent / str(value)
        is_there = isinstance(value, str) and not Path(value).exists() and here.exists()
        return str(here) if is_there else value

    return {"dataset_kwargs": {**kwargs, "data_files": found(kwargs["data_files"])}}


def check_documents(task: Any, path: Path) -> None:
    """Check that the task's templates, which may fail in any way, can read the file's documents."""
    number = 0
    try:
        with quiet():
            for document in task.test_docs():
                number += 1
                made = [task.doc_to_text(document), task.doc_to_target(document)]
                if task.config.doc_to_choice is not None:
                    made += task.doc_to_choice(document)
                if None in made:  # what a document lacks and another has is None
                    raise KeyError("a key is missing")
    except Exception as error:
        line = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path}, document {number or 1}: not as {task.config.task} has them "
            f"({type(error).__name__}: {line}); expected the keys of the task's own dataset"
        ) from error


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what lm-eval prints, its bars, and what the libraries below it warn of."""
    nowhere = io.StringIO()
    with (
        contextlib.redirect_stdout(nowhere),
        contextlib.redirect_stderr(nowhere),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield
