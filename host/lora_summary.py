"""What a LoRA file holds, in lines for a reader."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from networks.dialects import ForeignLora
from networks.factors import Factors
from networks.verify import change_norm

LONGEST = 100
"""Characters of a value of the metadata that are shown."""


def summary_lines(path: Path, lora: ForeignLora) -> list[str]:
    """Return what ``convert_lora.py IN --info`` prints."""
    factors = lora.factors
    parameters = sum(pair.down.numel() + pair.up.numel() for pair in factors.values())
    rows = {
        "file": f"{path}, {path.stat().st_size / 1e6:.1f} MB, {str(lora.dtype).removeprefix('torch.')}",
        "dialect": f"{lora.dialect}, such as {lora.example}",
        "modules": f"{len(factors)} linears, {parameters:,} parameters: {_counts(map(_kind, factors))}",
        "rank": _counts(pair.rank for pair in factors.values()),
        "alpha": _counts(pair.alpha for pair in factors.values()),
        "scale": _counts(pair.scale for pair in factors.values()),
    }
    if lora.text_encoder_modules:
        rows["left out"] = f"{lora.text_encoder_modules} modules of text encoders, which are not trained here"
    lines = [f"{name:<9} {text}" for name, text in rows.items()]
    lines += ["", "size of the change (Frobenius norm of alpha / rank * up @ down)"]
    lines += [f"  {name:<20} {norm:.4g}" for name, norm in _norms(factors).items()]
    lines += ["", "metadata" if lora.metadata else "no metadata"]
    return [*lines, *(f"  {name}: {_short(value)}" for name, value in sorted(lora.metadata.items()))]


def _counts(values: Iterable[float | str]) -> str:
    """Return the values, and how often each occurs where there are several: ``16 (120), 32 (4)``."""
    counts = Counter(values)
    words = {value: value if isinstance(value, str) else f"{value:g}" for value in counts}
    if len(counts) == 1:
        return next(iter(words.values()))
    return ", ".join(f"{words[value]} ({count})" for value, count in counts.most_common())


def _kind(module_path: str) -> str:
    return module_path.partition(".")[0]


def block_of(module_path: str) -> str:
    """Return the block that a module belongs to, told from its path: ``single_blocks.3``."""
    first, _, rest = module_path.partition(".")
    number = rest.partition(".")[0]
    return f"{first}.{number}" if number.isdigit() else first


def _norms(factors: Mapping[str, Factors]) -> dict[str, float]:
    """Return block -> norm of its modules' changes together, and of all."""
    squares: dict[str, float] = {}
    for module_path, pair in sorted(factors.items(), key=lambda item: in_order(item[0])):
        block = block_of(module_path)
        squares[block] = squares.get(block, 0.0) + change_norm(pair) ** 2
    return {name: math.sqrt(square) for name, square in {**squares, "all": sum(squares.values())}.items()}


def in_order(module_path: str) -> list[tuple[int, str]]:
    """Sort key with which block 10 follows block 9."""
    return [(int(word), "") if word.isdigit() else (-1, word) for word in module_path.split(".")]


def _short(value: str) -> str:
    return value if len(value) <= LONGEST else f"{value[:LONGEST]} ... ({len(value)} characters)"
