"""Paths that a run may be given: they come from command lines and files, and so are looked at."""

_LONGEST = 255  # bytes of one name, on the file systems that are in use


def problem_of(path: str) -> str | None:
    """What is wrong with a path, before anything is made of it; None if nothing is.

    The path is its user's own: it may be absolute and lead upwards.

    >>> problem_of("~/runs/tiny"), problem_of("runs/a\\0b")
    (None, 'it has a character that cannot be printed')
    """
    if not path.strip():
        return "it is empty"
    if not path.isprintable():
        return "it has a character that cannot be printed"
    long = [part for part in path.split("/") if len(part.encode()) > _LONGEST]
    if long:
        size = len(long[0].encode())
        return f"a name of {size} bytes is in it, and {_LONGEST} are the most: {long[0][:20]}..."
    return None
