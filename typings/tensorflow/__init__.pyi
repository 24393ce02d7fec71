# TensorFlow ships no types, and the stubs that pyright brings along for it are incomplete and here
# and there wrong (no get_concrete_function, static sizes that may be None). What comes from
# TensorFlow is therefore Any; every block's shape is checked while tracing.
from typing import Any

def __getattr__(name: str) -> Any: ...
