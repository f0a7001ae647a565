"""What a person and other programs read of a run: one bar, one line per event, one JSON line per step."""

from dataclasses import dataclass
from pathlib import Path

from host.setting import setting, setting_given


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSettings:
    """Trackers beside the JSON-lines log, which is always written."""

    log_with: str | None = setting(
        None, help="tensorboard, wandb or all.", choices=("tensorboard", "wandb", "all"), in_metadata=False
    )
    logging_dir: Path | None = setting(
        None,
        help="Folder of the TensorBoard files; logs beside the results unless given.",
        in_metadata=False,
        used_when=setting_given("log_with"),
    )
    log_tracker_name: str | None = setting(
        None, help="Project name for wandb.", in_metadata=False, used_when=setting_given("log_with")
    )
