"""The parsing of `messages`: a conversation in OpenAI's form, as a chat template wants it."""

from typing import Any

from jaxneox.serve.errors import RefusedRequest
from jaxneox.serve.fields import check_characters, shown, wrong
from jaxneox.serve.unsupported import unsupported

ROLES = ("system", "developer", "user", "assistant")
TOOLS = ("tool", "function")
NO_TOOLS = "models are given no tools here"
EMPTY = (
    *("refusal", "tool_calls", "function_call", "audio", "annotations"),
    *("reasoning", "reasoning_content", "thinking_blocks", "images", "provider_specific_fields"),
)
"""Fields of an assistant's message that are taken if empty: OpenAI's own, vLLM's and LiteLLM's
replies have them, and their clients send these replies back."""
CACHE_MARKS = ("cache_control", "prompt_cache_breakpoint")
"""LiteLLM's (Anthropic's) and OpenAI's names for a place up to which a prompt may be cached. It is
set on a message or on a part of one, and changes no answer."""


def messages_of(given: Any) -> list[dict[str, str]]:
    """Check a conversation.

    Args:
        given: the value of the field.

    Returns:
        The messages, each with its role, its content as text and its name if it has one.

    Raises:
        RefusedRequest: names the part that is wrong.
    """
    expected = 'a list of messages such as {"role": "user", "content": "Hello"}'
    if given is None:
        raise RefusedRequest(400, f"messages: missing, expected {expected}", param="messages")
    if not isinstance(given, list) or not given:
        raise wrong("messages", given, expected)
    return [message_of(one, f"messages[{number}]") for number, one in enumerate(given)]


def message_of(given: Any, where: str) -> dict[str, str]:
    if not isinstance(given, dict):
        raise wrong(where, given, 'an object such as {"role": "user", "content": "Hello"}')
    fields = fields_of(given, where)
    role = fields.pop("role", None)
    if role in TOOLS:
        raise unsupported(f"{where}.role", role, NO_TOOLS)
    if role not in ROLES:
        raise wrong(f"{where}.role", role, f"one of {', '.join(ROLES)}")
    for name in EMPTY:
        if value := fields.pop(name, None):
            reason = "an assistant's message is text here"
            raise unsupported(f"{where}.{name}", value, reason)
    content = fields.pop("content", None)
    silent = role == "assistant" and content in (None, [])  # how clients keep an empty answer
    message = {"role": role, "content": "" if silent else content_of(content, where)}
    if (name := fields.pop("name", None)) is not None:
        message["name"] = text_of(name, f"{where}.name")
    if fields:
        raise RefusedRequest(
            400, f"{where}: {shown(next(iter(fields)))} is not a field of a message", param=where
        )
    return message


def fields_of(given: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the fields of a message or a part, without null and marks for caches."""
    fields = {name: value for name, value in given.items() if value is not None}
    for name in CACHE_MARKS:
        if not isinstance(mark := fields.pop(name, {}), dict):
            raise wrong(f"{where}.{name}", mark, "an object")
    return fields


def content_of(given: Any, where: str) -> str:
    """Return the text of a message; of several parts the lines, as vLLM joins them."""
    where = f"{where}.content"
    if isinstance(given, str):
        return text_of(given, where)
    if not isinstance(given, list) or not given:
        raise wrong(where, given, "a string, or a list of parts of type text")
    return "\n".join(part_of(part, f"{where}[{number}]") for number, part in enumerate(given))


def part_of(given: Any, where: str) -> str:
    fields = fields_of(given, where) if isinstance(given, dict) else {}
    kind = fields.get("type")
    if isinstance(kind, str) and kind != "text":
        raise unsupported(f"{where}.type", kind, "the model reads text alone")
    if fields.keys() != {"type", "text"} or kind != "text":
        raise wrong(where, given, '{"type": "text", "text": "…"}')
    return text_of(fields["text"], f"{where}.text")


def text_of(given: Any, where: str) -> str:
    if not isinstance(given, str):
        raise wrong(where, given, "a string")
    check_characters(given, where)
    return given
