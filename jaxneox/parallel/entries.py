"""The entries of a PartitionSpec: which mesh axes split one axis of an array."""

MeshAxes = tuple[str, ...]


def names_of(entry: str | MeshAxes | None) -> MeshAxes:
    return (entry,) if isinstance(entry, str) else entry or ()


def entry_of(names: MeshAxes) -> str | MeshAxes | None:
    return names if len(names) > 1 else names[0] if names else None


def first_split(axes: tuple[str, ...]) -> str | None:
    """Name the axis of a parameter along which ZeRO splits it if it can; None for the longest."""
    if {"embed", "head"} <= set(axes):
        return "kv_heads"
    return "mlp" if axes[-2:] == ("mlp", "embed") else None
