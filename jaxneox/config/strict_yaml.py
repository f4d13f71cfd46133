"""Parses YAML 1.1 as NeoX writes it, from files that nobody has to trust.

NeoX's files are mostly written like JSON, with trailing commas, comments and Python's `True`. The
size of what comes out is bounded by what was written: an alias (`*a`) and a merge (`<<`) stand for
another copy, and a few lines of them for more values than memory holds. Whatever PyYAML raises
becomes a `BrokenYaml` with its line.
"""

import re
from typing import Any

import yaml

from jaxneox.reading import DIGITS

LONGEST = 1 << 20  # characters of a document
DEEPEST = 32  # lists and mappings in each other
BY_ALIASES = 10_000  # values that all aliases of a document may come to

_MERGE = "tag:yaml.org,2002:merge"
_NULL = "tag:yaml.org,2002:null"


class BrokenYaml(ValueError):
    """A fault of a YAML text, with its line.

    Attributes:
        line: counted from 1.
        syntax: PyYAML's own error, where the text is not YAML at all.
    """

    def __init__(self, problem: str, line: int, syntax: yaml.MarkedYAMLError | None = None) -> None:
        super().__init__(problem)
        self.line, self.syntax = line, syntax


def spelled(name: Any) -> str:
    """Return the one spelling of a key: `hidden-size` and `hidden_size` are the same key."""
    return str(name).strip().replace("-", "_")


def parse(text: str) -> tuple[Any, dict[str, int]]:
    """Parse a YAML document.

    Args:
        text: the document.

    Returns:
        Its value, whose mappings have their keys `spelled`, and the line of each of its own keys.

    Raises:
        BrokenYaml: it is not YAML, has a value that is none, gives a key twice, or is larger,
            deeper or more often multiplied than a configuration is.
    """
    if len(text) > LONGEST:
        raise BrokenYaml(f"it is longer than {LONGEST} characters", 1)
    loader = None
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        value = None if root is None else loader.construct_document(root)
        return value, _lines(root)
    except BrokenYaml:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise BrokenYaml(_problem(error), mark.line + 1 if mark else 1, error) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise BrokenYaml(f"the character {error.character!r} is not allowed", line) from error
    except (ValueError, OverflowError) as error:  # an escape such as \UFFFFFFFF
        line = loader.line + 1 if loader else 1
        raise BrokenYaml(f"a character that is none ({_problem(error)})", line) from error
    except (yaml.YAMLError, LookupError, TypeError, RecursionError) as error:
        raise BrokenYaml(_problem(error), loader.line + 1 if loader else 1) from error
    finally:
        if loader is not None:
            loader.dispose()


class _Loader(yaml.SafeLoader):
    """A loader of safe YAML whose mappings have one spelling of each key and no duplicates."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._by_aliases = 0
        self._sizes: dict[yaml.Node, tuple[int, int]] = {}  # values, and levels of them

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Compose a node, and count the values that it stands for."""
        event = self.peek_event()
        self._refuse_deep(event, 0)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None and isinstance(event, yaml.AliasEvent):
            self._account_alias(event, node)
        elif node is not None:
            sizes = [self._sizes[part] for part in _parts(node)]
            levels = max((height for _, height in sizes), default=0)
            self._sizes[node] = 1 + sum(size for size, _ in sizes), 1 + levels
        return node

    def _account_alias(self, event: yaml.AliasEvent, node: yaml.Node) -> None:
        if node not in self._sizes:
            raise _broken(event, f"*{event.anchor} stands inside of what it stands for")
        size, levels = self._sizes[node]
        self._refuse_deep(event, levels - 1)
        self._by_aliases += size
        if self._by_aliases > BY_ALIASES:
            raise _broken(event, f"aliases that come to more than {BY_ALIASES} values")

    def _refuse_deep(self, event: yaml.Event, levels: int) -> None:
        if self._depth + levels > DEEPEST:
            raise _broken(event, f"more than {DEEPEST} lists and mappings in each other")

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (BrokenYaml, yaml.YAMLError):
            raise
        except Exception as error:  # constructors of PyYAML raise whatever Python raises
            kind = str(node.tag).rpartition(":")[2]
            shown = f"{node.value[:40]!r} " if isinstance(node, yaml.ScalarNode) else "this "
            raise _broken(node, f"{shown}is no {kind}: put text in quotes") from error

    def construct_scalar(self, node: yaml.ScalarNode | yaml.MappingNode) -> Any:
        value = super().construct_scalar(node)
        if isinstance(value, str) and any("\ud800" <= each <= "\udfff" for each in value):
            raise _broken(node, "a text with half a character (a surrogate)")
        if isinstance(value, str) and "\0" in value:
            raise _broken(node, "a text with a null character, which no path or name can have")
        return value

    def construct_number(self, node: yaml.ScalarNode) -> Any:
        if len(node.value) > DIGITS:
            raise _broken(node, f"a number of {len(node.value)} digits")
        whole = node.tag.endswith("int")
        return self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        self._refuse_duplicates(node)
        mapping = super().construct_mapping(node, deep=deep)
        return {spelled(name): value for name, value in mapping.items()}

    def _refuse_duplicates(self, node: yaml.MappingNode) -> None:
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == _MERGE:
                continue
            name = spelled(key.value)
            if name in seen:
                lines = f"{seen[name].start_mark.line + 1} and {key.start_mark.line + 1}"
                raise _broken(key, f"{name} is set twice, on lines {lines}: keep one of the two")
            seen[name] = key


_Loader.add_implicit_resolver(_NULL, re.compile(r"^None$"), ["N"])
_Loader.add_constructor(_NULL, lambda loader, node: None)
for _kind in ("int", "float"):
    _Loader.add_constructor(f"tag:yaml.org,2002:{_kind}", _Loader.construct_number)


def _parts(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [part for pair in node.value for part in pair]
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _broken(place: yaml.Node | yaml.Event, problem: str) -> BrokenYaml:
    mark = place.start_mark
    return BrokenYaml(problem, mark.line + 1 if mark else 1)


def _lines(root: yaml.Node | None) -> dict[str, int]:
    if not isinstance(root, yaml.MappingNode):
        return {}
    return {spelled(key.value): key.start_mark.line + 1 for key, _ in root.value}


def _problem(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem:
        return str(error.problem)
    return (str(error) or type(error).__name__).splitlines()[0]
