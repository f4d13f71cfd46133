"""Download of a Hugging Face hub model into a local folder."""

from pathlib import Path

from convert.readers.hub import download, is_hub_name

DESCRIPTION = ("*.json", "merges.txt", "tokenizer.model", "*.jinja")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
"""Safetensors come first, because a repository often has both formats."""


def folder_of_model(src: str) -> Path:
    """Return the folder that `src` names, after downloading it if it is on the hub."""
    if not is_hub_name(src):
        return Path(src)
    for weights in WEIGHTS:
        folder = download(src, (*DESCRIPTION, weights))
        if any(folder.glob(weights)):
            break
    return folder
