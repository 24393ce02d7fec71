"""What users are told when data cannot be used."""

from meshlang.errors import MeshlangError


class DataError(MeshlangError):
    """Data is missing, unreadable, damaged, too short, or of another text than expected."""
