"""Pictures from the model: during training and by ``flux_dev_generate_image.py``."""

from dataclasses import dataclass
from pathlib import Path

from host.setting import setting, setting_given


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """Which pictures to make while training."""

    sample_prompts: Path | None = setting(None, help="Prompt file: .txt, .toml or .json.", in_metadata=False)
    sample_every_n_steps: int | None = setting(
        None, help="Make samples every so many steps.", minimum=1, used_when=setting_given("sample_prompts")
    )
    sample_every_n_epochs: int | None = setting(
        None, help="Make samples every so many epochs.", minimum=1, used_when=setting_given("sample_prompts")
    )
    sample_at_first: bool = setting(True, help="Make samples of the bare base model at step 0.")
