"""Keeps TensorFlow's start-up lines off the terminal, unless something goes wrong."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

_STDERR = 2


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Hold back what the process writes to file descriptor 2; on an exception, write it after all.

    TensorFlow's C++ code logs before it reads any environment variable, so only the descriptor
    itself can be silenced. Lines of other threads and of Python are held back too: keep the block
    short.

    >>> with quiet_stderr():
    ...     _ = os.write(2, b"a line that nobody sees")
    """
    try:
        terminal = os.dup(_STDERR)
    except OSError:  # there is no descriptor 2, as in a daemon: nothing to silence
        yield
        return
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), _STDERR)
        try:
            yield
        except BaseException:
            os.dup2(terminal, _STDERR)
            held.seek(0)
            os.write(_STDERR, held.read())
            raise
        finally:
            os.dup2(terminal, _STDERR)
            os.close(terminal)
