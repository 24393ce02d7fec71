"""From plans to TensorFlow: the only package that imports it."""

from meshlang.lowering.quiet import quiet_stderr

with quiet_stderr():  # the first import logs; every later one is silent
    import tensorflow  # noqa: F401
