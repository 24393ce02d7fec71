"""Initial values of the layers' variables."""

from math import sqrt

import meshlang as ml

#: the deviation of a normal distribution of deviation 1 that is cut off at two deviations
_TRUNCATED_DEVIATION = 0.87962566103423978


def matrix_init(inputs: int) -> ml.initializers.Initializer:
    """Truncated normal numbers of deviation 1 / sqrt(inputs): a product keeps its input's size.

    Args:
        inputs: how many terms are summed for one element of the product, the fan-in.

    Source: LeCun et al., Efficient BackProp, 1998, section 4.6.
    """
    return ml.truncated_normal_init(1.0 / sqrt(inputs) / _TRUNCATED_DEVIATION)
