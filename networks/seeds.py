"""Seeds that depend on what they are for, and on nothing that happened before."""

import hashlib


def hashed_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that is a function of ``parts``, on every machine the same."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
