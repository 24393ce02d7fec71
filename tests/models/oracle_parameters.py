"""The oracle's parameters under the names and stacks of ours."""

from collections.abc import Mapping

import numpy as np

#: the oracle's name within a layer, or its beginning -> ours
_RENAMED = {
    "ff_norm": "feed_forward_norm",
    "ff": "feed_forward",
    "moe/gate": "moe/router",
    "moe/gate_in": "moe/gate",
}


def ours(parameters: Mapping[str, np.ndarray], every: int = 1) -> dict[str, np.ndarray]:
    """``layer_3/ff/in`` and its like of other layers become the stack ``layers/feed_forward/in``.

    Args:
        parameters: by the names of `tests.oracles.transformer`.
        every: layers in a trip of the scan; with several, layer 3 is ``layers/1`` of trip 1.
    """
    found: dict[str, np.ndarray] = {}
    stacks: dict[str, list[np.ndarray]] = {}
    for name, value in parameters.items():
        if not name.startswith("layer_"):
            found[name] = value
            continue
        layer, _, within = name.removeprefix("layer_").partition("/")
        first, *rest = _RENAMED.get(within, within).split("/")
        place = [str(int(layer) % every)] if every > 1 else []
        path = "/".join(["layers", *place, _RENAMED.get(first, first), *rest])
        stacks.setdefault(path, []).append(value)
    return found | {path: np.stack(values) for path, values in stacks.items()}
