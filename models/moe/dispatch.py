"""Token rows to the places of their experts, and the experts' answers back.

Rows are read and written by index. A place has at most one token, so each direction is the other's
transpose and both, and their gradients, read rows instead of adding them.
"""

import meshlang as ml
from models.moe.routers import Route


def dispatch(x: ml.Tensor, route: Route, *, experts: int, capacity: int) -> ml.Tensor:
    """Put the tokens of each group into the places of their experts; empty places hold zeros.

    Dims:
        x        [group token d_model]
        route    [group choice token]
        returns  [experts|group group capacity d_model]: each processor has the places that its own
                 groups have with all experts, or with those that lie on axes which groups leave
                 free. `meshlang.exchange` brings them to the experts.
    """
    return ml.scatter_add_at(
        x,
        _places(route, experts, capacity),
        batch="group",
        order="experts group capacity d_model",
        unique=True,
    )


def combine(answers: ml.Tensor, route: Route) -> ml.Tensor:
    """Bring the experts' answers back to their tokens, times the gates, added over choices.

    Dims:
        answers  [experts|group group capacity d_model]
        route    [group choice token]
        returns  [group token d_model]; zeros for a token without a place
    """
    experts, capacity = answers.shape["experts"].size, answers.shape["capacity"].size
    # The gates travel to the places rather than the answers to the tokens: there are fewer places
    # than choices where capacity is short, and each processor has its own experts' alone.
    gates = ml.scatter_add_at(
        ml.cast(route.gate, answers.dtype),
        _places(route, experts, capacity),
        batch="group",
        order="experts group capacity",
        unique=True,
    )
    index = {"experts": route.expert, "capacity": route.place}
    return ml.gather_at(answers * gates, index, summed="choice", unique=True)


def _places(route: Route, experts: int, capacity: int) -> dict[str | ml.Dim, ml.Tensor]:
    return {f"experts|group:{experts}": route.expert, f"capacity:{capacity}": route.place}
