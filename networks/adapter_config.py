"""What PEFT says of an adapter beside its tensors: ranks and alphas, in a header or a file of its own.

Source: huggingface/peft: src/peft/tuners/lora/config.py and utils/other.py (get_pattern_key);
huggingface/diffusers: loaders/lora_base.py (the name of the header's entry).
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HEADER_ENTRY = "lora_adapter_metadata"
"""The header's entry, JSON, that diffusers writes and reads."""

FILE_NAME = "adapter_config.json"
"""What PEFT itself writes beside the tensors."""

COMPONENT = "transformer"
"""What stands before every word of the header's entry and every key of the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterConfig:
    """The scale of each module, as PEFT computes it."""

    alpha: float
    alpha_pattern: Mapping[str, float]
    """The end of a module's name, as a regular expression -> its alpha."""
    rank_stabilised: bool
    """The scale is ``alpha / sqrt(rank)`` instead of ``alpha / rank`` (arXiv 2312.03732)."""
    weight_decomposed: bool
    """It is a DoRA (arXiv 2402.09353), which no plain LoRA can express."""

    def alpha_of(self, name: str, *, rank: int) -> float:
        """Return the alpha with which ``alpha / rank`` is the scale of the module ``name``."""
        fitting = (
            alpha
            for pattern, alpha in self.alpha_pattern.items()
            if re.match(rf"(.*\.)?({pattern})$", name) is not None
        )
        alpha = next(fitting, self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def config_in_header(metadata: Mapping[str, str]) -> AdapterConfig | None:
    """Return what a LoRA's header says; raises ValueError when it cannot be understood."""
    if HEADER_ENTRY not in metadata:
        return None
    return _parse(metadata[HEADER_ENTRY], where=f"the header's {HEADER_ENTRY}")


def config_beside(path: Path) -> AdapterConfig | None:
    """Return what the file beside raw PEFT tensors says; raises ValueError as ``config_in_header``."""
    file = path.with_name(FILE_NAME)
    return _parse(file.read_text(encoding="utf-8"), where=str(file)) if file.is_file() else None


def _parse(text: str, *, where: str) -> AdapterConfig | None:
    try:
        document: Any = json.loads(text)
        words = {name.removeprefix(f"{COMPONENT}."): value for name, value in document.items()}
        if words.get("lora_alpha") is None:
            return None
        patterns = {str(name): float(alpha) for name, alpha in (words.get("alpha_pattern") or {}).items()}
        for pattern in patterns:
            re.compile(pattern)
        return AdapterConfig(
            alpha=float(words["lora_alpha"]),
            alpha_pattern=patterns,
            rank_stabilised=bool(words.get("use_rslora")),
            weight_decomposed=bool(words.get("use_dora")),
        )
    except (ValueError, TypeError, AttributeError, re.error) as error:
        raise ValueError(f"{where} cannot be understood: {error}") from error


def header_entry(ranks: Mapping[str, int]) -> str:
    """Return the header's entry for modules whose alpha is their rank: module name -> rank.

    A pattern begins with ``^``, since one module's name may be the end of another one's.
    """
    usual = Counter(ranks.values()).most_common(1)[0][0]
    unusual = {f"^{name}": rank for name, rank in sorted(ranks.items()) if rank != usual}
    words = {
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": unusual,
        "alpha_pattern": unusual,
        "target_modules": sorted(ranks),
    }
    return json.dumps({f"{COMPONENT}.{name}": value for name, value in words.items()}, sort_keys=True)
