"""Drives a plugin's encoders over a dataset; resumable, and what is sound stays."""

from dataclasses import dataclass
from pathlib import Path

from host.setting import setting


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Where the pictures are described, and how their caches are handled."""

    dataset_config: Path | None = setting(
        None,
        help="Dataset TOML; not needed when [[datasets]] stands in the training file.",
        in_metadata=False,
    )
    clean_cache: bool = setting(
        False, help="Delete cache entries that no picture of the dataset uses.", in_metadata=False
    )
