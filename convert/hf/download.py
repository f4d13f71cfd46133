"""A model of the Hugging Face hub, brought into a folder here."""

from pathlib import Path

from convert.readers.hub import download, is_hub_name

DESCRIPTION = ("*.json", "merges.txt", "tokenizer.model", "*.jinja")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Safetensors first: a repository often has both."""


def local(src: str) -> Path:
    """Return the folder that is named, after downloading it where it is on the hub."""
    if not is_hub_name(src):
        return Path(src)
    for weights in WEIGHTS:
        folder = download(src, (*DESCRIPTION, weights))
        if any(folder.glob(weights)):
            break
    return folder
