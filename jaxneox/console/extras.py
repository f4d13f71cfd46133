"""Packages that only some commands need, and the extra of ours that brings each."""

import importlib.util

from jaxneox.errors import UserError

EXTRAS = {
    "torch": "torch",
    "transformers": "torch",
    "lm_eval": "evaluate",
    "starlette": "serve",
    "uvicorn": "serve",
    "sentencepiece": "tokenizers",
    "tiktoken": "tokenizers",
    "ftfy": "preprocess",
    "jinja2": "preprocess",
    "pyarrow": "preprocess",
    "zstandard": "preprocess",
    "s3fs": "s3",
    "gcsfs": "gcs",
    "wandb": "wandb",
}


def require(package: str, what: str) -> None:
    """Raise UserError, with the command that installs it, where a package is missing.

    Args:
        package: as it is imported; one of EXTRAS.
        what: what needs it, as the beginning of a sentence.
    """
    if importlib.util.find_spec(package) is None:
        raise UserError(missing(package, what))


def missing(package: str, what: str) -> str:
    extra = EXTRAS[package]
    return f"{what} needs {package}, which is not installed: pip install 'jaxneox[{extra}]'"
