"""Initial values of the layers' variables."""

from math import sqrt

import meshlang as ml
from models.errors import ModelError

#: the deviation of a normal distribution of deviation 1 that is cut off at two deviations
_TRUNCATED_DEVIATION = 0.87962566103423978


def matrix_init(inputs: int, scale: float = 1.0) -> ml.initializers.Initializer:
    """Truncated normal numbers of variance scale / inputs: at 1 a product keeps its input's size.

    Args:
        inputs: how many terms are summed for one element of the product, the fan-in.
        scale: above 0; Fedus et al., Switch Transformers, 2021, train with 0.1 for stability.

    Raises:
        ModelError: the scale is 0 or less.

    Source: LeCun et al., Efficient BackProp, 1998, section 4.6.
    """
    if scale <= 0:
        raise ModelError(ml.errors.message(f"matrix_init: scale is {scale}, and must be above 0."))
    return ml.truncated_normal_init(sqrt(scale) / sqrt(inputs) / _TRUNCATED_DEVIATION)
