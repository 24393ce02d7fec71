"""What users are told when data cannot be used."""


class DataError(ValueError):
    """Data is missing, unreadable, damaged, too short, or of another text than expected."""
