"""Parameters that are read and passed on, and never changed in place."""

from typing import Any, NoReturn

import jax

ADVICE = (
    "model.params cannot be changed in place, since generation keeps its own copy; make another "
    "model: model.with_params({**model.params, NAME: ARRAY})"
)


class FrozenParams(dict[str, jax.Array]):
    """A dictionary of parameters by dotted names that refuses every change with a TypeError.

    For jax it is the same tree as a dictionary, and what jax makes of it is a dictionary.
    """

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise TypeError(ADVICE)

    __setitem__ = __delitem__ = __ior__ = _refuse
    pop = popitem = clear = update = setdefault = _refuse

    def __reduce__(self) -> tuple[type, tuple[dict[str, jax.Array]]]:
        return type(self), (dict(self),)


def _flatten(params: FrozenParams) -> tuple[list[tuple[Any, jax.Array]], tuple[str, ...]]:
    names = tuple(sorted(params))
    return [(jax.tree_util.DictKey(name), params[name]) for name in names], names


def _unflatten(names: tuple[str, ...], leaves: Any) -> Any:
    return dict(zip(names, leaves, strict=True))


jax.tree_util.register_pytree_with_keys(FrozenParams, _flatten, _unflatten)
