"""Words that the messages of this package share."""

from collections.abc import Iterable


def name_some(names: Iterable[str], *, most: int = 5) -> str:
    """Return how many names there are and the first few of them: ``7: a, b, c, d, e ...``."""
    listed = list(names)
    dots = " ..." if len(listed) > most else ""
    return f"{len(listed)}: {', '.join(listed[:most])}{dots}"
