"""How much memory a run may take, and how an amount of memory is written."""

import re
from dataclasses import dataclass

from host.errors import Problem, ProblemsFound
from host.setting import UsedWhen, setting

UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
ON_A_GPU = UsedWhen(test=lambda resolved: resolved["device"] != "cpu", says='device = "cuda" or "auto"')


@dataclass(frozen=True, slots=True, kw_only=True)
class MemorySettings:
    """How much memory the run may take."""

    vram_limit: str | None = setting(
        None,
        help='Most of the GPU\'s memory to use, such as "12GB" (10^9 bytes each) or "11.5GiB".',
        used_when=ON_A_GPU,
        in_metadata=False,
    )

    def __post_init__(self) -> None:
        """Refuse what is no amount of memory."""
        if self.vram_limit is None:
            return
        try:
            parse_bytes(self.vram_limit)
        except ValueError as error:
            number = re.search(r"\d+(\.\d+)?", self.vram_limit)
            remedy = f'Write  vram_limit = "{number[0] if number else 12}GB"'
            problem = Problem(code="E03", what=f"{error}.", remedy=remedy, setting="vram_limit")
            raise ProblemsFound([problem]) from error


def parse_bytes(text: str) -> int:
    """Return the bytes of ``12GB``, ``11.5 GiB`` or ``800MB``; raises ValueError."""
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]*)\s*", text)
    if found is None or found[2].lower() not in UNITS:
        raise ValueError(f'vram_limit = "{text}" is no amount of memory; write it as "12GB" or "11.5GiB"')
    size = float(found[1]) * UNITS[found[2].lower()]
    if size < UNITS["mb"]:
        raise ValueError(f'vram_limit = "{text}" is less than a megabyte; write it as "12GB"')
    return round(size)
