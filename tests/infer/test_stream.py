"""Text token by token is the text of all tokens, and ends before a stop string."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxneox.data.tokenizer import CharLevelTokenizer
from jaxneox.errors import UserError
from jaxneox.infer.stream import TextStream, check_stop

HURRY = settings(deadline=None, database=None, print_blob=True)
WORDS = {7: "Hello", 8: " wor", 9: "ld", 10: "\n\n", 11: ".", 12: "ab", 13: "aab"}


def words(ids: Sequence[int]) -> str:
    """Like sentencepiece: the first space of a text is left out."""
    return "".join(WORDS[i] for i in ids).removeprefix(" ")


def streamed(stream: TextStream, ids: Sequence[int]) -> list[str]:
    """What is told of an answer, up to its end."""
    told = []
    for token in ids:
        told.append(stream.add(token))
        if stream.ended:
            return told
    return [*told, stream.finish()]


@given(st.text(max_size=40))
@settings(HURRY, max_examples=100)
def test_bytes_become_whole_characters(text: str) -> None:
    bytewise = CharLevelTokenizer()
    ids = [b for b in text.encode() if b != bytewise.eod]
    stream = TextStream(bytewise.decode)
    told = streamed(stream, ids)
    assert "".join(told) == stream.text == bytewise.decode(ids)
    assert "�" not in "".join(told) or "�" in text


@given(
    st.lists(st.sampled_from(sorted(WORDS)), max_size=30),
    st.lists(st.sampled_from(["\n", "ab", "aab", "d.", "lo wor", "Hello world"]), max_size=3),
)
@settings(HURRY, max_examples=300)
def test_text_ends_before_the_first_stop_string(ids: list[int], stop: list[str]) -> None:
    stream = TextStream(words, stop)
    told = streamed(stream, ids)
    whole = words(ids)
    ends = [place for s in stop if (place := whole.find(s)) >= 0]
    assert "".join(told) == stream.text
    assert stream.ended is bool(ends)
    if not ends:
        assert stream.text == whole
    elif len(ends) == 1 or len(stop) == 1:
        assert stream.text == whole[: min(ends)]
    else:  # the one that was whole first ends it
        assert whole.startswith(stream.text)
        assert not any(s in stream.text for s in stop)


def test_nothing_is_told_that_a_stop_string_takes_back() -> None:
    stream = TextStream(words, ["aab"])
    assert [stream.add(token) for token in (7, 12, 13)] == ["Hello", "ab", ""]
    assert stream.ended and stream.text == "Helloab"


def test_an_unfinished_character_is_told_at_the_end() -> None:
    stream = TextStream(CharLevelTokenizer().decode)
    assert stream.add("é".encode()[0]) == ""
    assert stream.finish() == "�"


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        check_stop(["x", ""])
