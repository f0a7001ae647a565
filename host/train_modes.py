"""The one table of what can be trained."""

from collections.abc import Mapping

from host.full_training import FULL
from host.lora_training import LORA
from host.settings import RunSettings
from host.trained import TrainMode

MODES: Mapping[str, TrainMode] = {"lora": LORA, "full": FULL}
"""Value of ``train_mode`` -> what it means."""


def mode_of(settings: RunSettings) -> TrainMode:
    """Return what the settings train."""
    return MODES[settings.model.train_mode]
