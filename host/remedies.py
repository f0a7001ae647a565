"""What a run may write when memory runs out in spite of the plan: only what would still change something."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from host.config import Config
from host.model_files import ModelFiles
from host.prepare import ModelSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What decides which change would help."""

    model: ModelSettings
    plugin: Any
    device_type: str
    block_count: int
    """Blocks of the transformer."""
    batch_size: int = 1
    """The largest of the datasets."""


def circumstances(
    config: Config, files: ModelFiles, *, device_type: str, batch_size: int = 1
) -> Circumstances:
    """Return the circumstances of a checked configuration."""
    part = files.parts.get("dit")
    return Circumstances(
        model=config.settings.model,
        plugin=config.settings.plugin,
        device_type=device_type,
        block_count=0 if part is None else len(part.blocks),
        batch_size=batch_size,
    )


def remedy(phase: str, run: Circumstances) -> str:
    """Return one line: what would make ``phase`` of this run smaller, the mildest first."""
    lines = [line for line in (change(run) for change in CHANGES[phase]) if line]
    return f"Write {' , or '.join(lines)}" if lines else "A machine with more memory is needed."


def _recompute(run: Circumstances) -> str:
    return "" if run.model.gradient_checkpointing else " gradient_checkpointing = true"


def _stream(run: Circumstances) -> str:
    now, most = run.model.blocks_to_swap, run.block_count
    return f"a larger  blocks_to_swap  (it is {now}; at most {most})" if now < most else ""


def _eight_bit(run: Circumstances) -> str:
    coded = run.model.fp8_base or not run.block_count
    return "" if coded else " fp8_base = true  and  fp8_scaled = true"


def _eight_bit_encoders(run: Circumstances) -> str:
    names = [field.name for field in dataclasses.fields(run.plugin)]
    return " , or ".join(f" {name} = true" for name in names if getattr(run.plugin, name) is False)


def _one_by_one(run: Circumstances) -> str:
    return " batch_size = 1" if run.batch_size > 1 else ""


def _smaller_pictures(_: Circumstances) -> str:
    return "a smaller  resolution"


def _smaller_samples(_: Circumstances) -> str:
    return "smaller  --w  and  --h  into the prompts"


def _encode_on_the_cpu(run: Circumstances) -> str:
    return "" if run.device_type == "cpu" else "the caches first, by their own program with  --device cpu"


CHANGES: Mapping[str, tuple[Callable[[Circumstances], str], ...]] = {
    "loading": (_stream, _eight_bit),
    "caching latents": (_encode_on_the_cpu, _smaller_pictures),
    "caching texts": (_eight_bit_encoders, _encode_on_the_cpu),
    "training": (_recompute, _stream, _eight_bit, _one_by_one, _smaller_pictures),
    "sampling": (_smaller_samples, _stream, _eight_bit),
}
"""Phase -> what makes it smaller, the mildest change first."""
