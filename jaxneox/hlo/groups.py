"""Which devices take part in a collective together: the groups of its attributes, in all forms."""

import itertools
import math
import re

import numpy as np

Groups = tuple[tuple[int, ...], ...]


def parse_groups(attributes: str) -> Groups | str:
    """Parse the groups, or the pairs, of a collective's attributes; () for all devices.

    Forms: {{0,1},{2,3}}; [4,2]<=[2,4]T(1,0), which numbers an array of the sizes on the right,
    transposes it and cuts it into rows; mesh['a'=2,'b'=4] {'a'}, groups along axes of a mesh of
    its own, maybe with device_ids=(…) and with parts of axes, 'a':(2)2.
    """
    pairs = re.search(r"source_target_pairs=(\{\{[\d,{} ]*\}\}|\{\})", attributes)
    if pairs:
        return _braces(pairs[1])
    start = attributes.find("replica_groups=")
    if start < 0:
        return ()
    text = attributes[start + len("replica_groups=") :]
    if braces := re.match(r"\{\{[\d,{} ]*\}\}|\{\}", text):
        return _braces(braces[0])
    if cut := re.match(r"\[([\d,]+)\](<=\S*?)(?:, |$|\s)", text):
        return _rows(_numbered(cut[2], _sizes(cut[1])))
    if mesh := re.match(r"mesh\[([^\]]*)\](?:, device_ids=\((.*?)\))? \{([^}]*)\}", text):
        return _along(*mesh.groups())
    return text.split(", ")[0]


def _braces(text: str) -> Groups:
    groups = re.findall(r"\{([\d, ]+)\}", text)
    return tuple(tuple(_sizes(group)) for group in groups)


def _sizes(text: str) -> list[int]:
    return [int(number) for number in text.split(",") if number.strip()]


def _numbered(text: str, shape: list[int]) -> np.ndarray:
    """Parse `<=[2,4]T(1,0)`, or the same without its arrow: the numbers from 0 on, laid out."""
    form = re.match(r"(?:<=)?\[([\d,]+)\](?:T\(([\d,]+)\))?", text)
    assert form is not None
    sizes = _sizes(form[1])
    order = _sizes(form[2]) if form[2] else list(range(len(sizes)))
    return np.arange(math.prod(sizes)).reshape(sizes).transpose(order).reshape(shape)


def _rows(numbers: np.ndarray) -> Groups:
    return tuple(tuple(map(int, row)) for row in numbers)


def _along(axes: str, device_ids: str | None, chosen: str) -> Groups:
    """List the groups along the chosen axes of a mesh, or along parts of them."""
    names, sizes = zip(*(axis.rsplit("=", 1) for axis in axes.split(",")), strict=True)
    shape = list(map(int, sizes))
    if device_ids is None:
        numbers = np.arange(math.prod(shape))
    elif device_ids.startswith("["):
        numbers = _numbered(device_ids, [-1])
    else:
        numbers = np.array(_sizes(device_ids))
    split: list[int] = []  # the sizes with the parts of axes as axes
    group: list[int] = []  # the places in it along which the groups lie
    parts = [re.fullmatch(r"(.*?)(?::\((\d+)\)(\d+))?", part) for part in chosen.split(",") if part]
    for name, size in zip(names, shape, strict=True):
        cuts = {1, size}
        chosen_parts = []
        for part in parts:
            assert part is not None
            if part[1] == name:
                before, own = int(part[2] or 1), int(part[3] or size)
                chosen_parts.append((before, before * own))
                cuts |= set(chosen_parts[-1])
        edges = sorted(cuts)
        for low, high in itertools.pairwise(edges):
            if any(a <= low and high <= b for a, b in chosen_parts):
                group.append(len(split))
            split.append(high // low)
    others = [i for i in range(len(split)) if i not in group]
    per_group = math.prod(split[i] for i in group)
    return _rows(numbers.reshape(split).transpose(others + group).reshape(-1, per_group))
