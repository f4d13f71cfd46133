"""Checks that every conversion makes of the tokenizer that goes with a checkpoint."""

from pathlib import Path
from typing import Any

from jaxneox.data import Tokenizer
from jaxneox.errors import UserError

NONE = "the checkpoint gets none; give it with --tokenizer FILE"


def tokenizer_keys(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """Return the YAML keys that name the tokenizer's kind."""
    return {} if tokenizer is None else {"tokenizer_type": tokenizer.name}


def notes_of(tokenizer: Tokenizer) -> list[str]:
    """List what a user should know about a tokenizer that a checkpoint gets, one line each."""
    notes = [f"the tokenizer: {note}" for note in tokenizer.notes]
    if tokenizer.eod is None:
        notes.append(
            "nothing names the token that ends a document: generation stops at none, and text is "
            "not trained on, until eod-token names one"
        )
    return notes


def check_rows(tokenizer: Tokenizer, rows: int, name: str | Path) -> None:
    """Check that the model has a row for every token.

    Raises:
        UserError: the tokenizer has ids that the model has no rows for.
    """
    if tokenizer.rows > rows:
        raise UserError(
            f"{name}: the tokenizer has ids up to {tokenizer.rows - 1}, but the model {rows} rows; "
            "use the tokenizer it was trained with"
        )
