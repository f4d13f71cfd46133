"""The `meta` of a checkpoint, whose parts are checked before anything uses them.

It is plain JSON in the file `meta/metadata`: the configuration's `keys`, the `data` and how far it
was read, the `base` of an adapter, the `versions` of libraries, the `checksums` of the arrays,
where it was converted from (`conversion`), and a CRC-32 of all that, which earlier versions did not
write.
"""

import json
import zlib
from pathlib import Path
from typing import Any

from jaxneox.errors import UserError
from jaxneox.reading import INDEX_SIZE, refuse_special


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the file.

    Raises:
        OSError: it is not there, or cannot be read here.
        ValueError: it is not what was saved.
        RecursionError: likewise.
        UserError: it is no regular file, or longer than any.
    """
    refuse_special(path)
    if path.stat().st_size > INDEX_SIZE:
        raise UserError(
            f"{path}: is longer than the {INDEX_SIZE} bytes that are read of such a file"
        )
    meta = json.loads(path.read_text())
    if not isinstance(meta, dict) or ("crc32" in meta and meta.pop("crc32") != crc(meta)):
        raise ValueError("meta is not what was saved")
    for name, part in _parts(meta):
        if not part:
            raise ValueError(f"meta has no {name} of the kind that is saved")
    return meta


def crc(meta: dict[str, Any]) -> int:
    """Sum up a checkpoint's `meta`, to tell whether it is what was saved."""
    return zlib.crc32(json.dumps(json.loads(json.dumps(meta)), sort_keys=True).encode())


def _parts(meta: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return the name of each part, and whether it is of the kind that is saved."""
    sums = meta.get("checksums", {})
    data = meta.get("data")
    return [
        ("keys", isinstance(meta.get("keys"), dict)),
        ("conversion", isinstance(meta.get("conversion", {}), dict)),
        ("versions", _texts(meta.get("versions", {}))),
        ("checksums", isinstance(sums, dict) and all(map(_texts, sums.values()))),
        ("data", data is None or _position(data)),
        ("base", _texts(meta.get("base", {}))),
    ]


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _position(data: Any) -> bool:
    """Tell whether `data` is a fingerprint, with the steps at which batches of each size began."""
    if not isinstance(data, dict) or not isinstance(data.get("fingerprint"), dict):
        return False
    stages = data.get("stages")
    if type(data.get("first")) is not int or not isinstance(stages, list) or not stages:
        return False
    return all(isinstance(stage, list) and list(map(type, stage)) == [int] * 3 for stage in stages)
