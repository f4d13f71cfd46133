"""The chat template that a tokenizer has, and the special tokens that a template may name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jaxneox.data.companions import CONFIG, MAP, TEMPLATES, parsed, read
from jaxneox.errors import UserError
from jaxneox.reading import regular_file

BESIDE, PROCESSORS = TEMPLATES


class TemplateSource(NamedTuple):
    """A template in Jinja, and the file that it comes from."""

    text: str
    origin: Path


def template_of(
    files: Mapping[str, bytes], folder: Path, given: Path | None = None
) -> TemplateSource | None:
    """Find the template of a tokenizer.

    It is the one that was given, or as in transformers chat_template.jinja, or tokenizer_config's
    (its default where it has several), or else a processor's chat_template.json.

    Args:
        files: what lies beside the tokenizer, by name.
        folder: where it lies, for errors.
        given: a file of the user's, which counts before all others.

    Raises:
        UserError: a file cannot be read.
    """
    if given is not None:
        return TemplateSource(template_in_file(given), given)
    if BESIDE in files:
        return TemplateSource(as_text(files[BESIDE], folder / BESIDE), folder / BESIDE)
    for name in (CONFIG, PROCESSORS):
        config = parsed(folder / name, files[name]) if name in files else {}
        if (text := template_in(config)) is not None:
            return TemplateSource(text, folder / name)
    return None


def template_in_file(path: Path) -> str:
    """Read a file of Jinja.

    Raises:
        UserError: it is missing, no regular file, too large or not UTF-8.
    """
    return as_text(read(regular_file(path)), path)


def as_text(content: bytes, path: Path) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot read the chat template ({error})") from error


def template_in(config: Mapping[str, Any]) -> str | None:
    """Return the template of a tokenizer_config.json; of several, by names, the default one."""
    template = config.get("chat_template")
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def special_tokens_of(files: Mapping[str, bytes], folder: Path) -> dict[str, str]:
    """Return bos_token, eos_token, …: a template sees them by these names.

    Args:
        files: what lies beside the tokenizer, by name; tokenizer_config.json counts before
            special_tokens_map.json.
        folder: where it lies, for errors.

    Raises:
        UserError: a file is not valid JSON.
    """
    configs = (parsed(folder / name, files[name]) for name in (MAP, CONFIG) if name in files)
    named = {key: value for one in configs for key, value in one.items() if key.endswith("_token")}
    words = {key: v.get("content") if isinstance(v, dict) else v for key, v in named.items()}
    return {key: word for key, word in words.items() if isinstance(word, str)}
