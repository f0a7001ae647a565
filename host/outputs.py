"""Where results go and what they are called."""

from dataclasses import dataclass
from pathlib import Path

from host.setting import UsedWhen, setting, setting_is

SAVES_ON_THE_WAY = UsedWhen(
    test=lambda resolved: bool(resolved["save_every_n_steps"] or resolved["save_every_n_epochs"]),
    says="save_every_n_steps or save_every_n_epochs is set",
    paste="save_every_n_steps = 500",
)

SEVERAL_STATES = UsedWhen(
    test=lambda resolved: bool(resolved["save_state"]) and SAVES_ON_THE_WAY.test(resolved),
    says=f"save_state is set and {SAVES_ON_THE_WAY.says}",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputSettings:
    """Names, intervals and metadata of what is saved."""

    output_dir: Path = setting(Path("output"), help="Folder of all results.", in_metadata=False)
    output_name: str = setting("flux_lora", help="Name of the saved file, without suffix.")
    overwrite: bool = setting(
        False, help="Replace the results of another run of this name.", in_metadata=False
    )
    save_precision: str = setting(
        "bf16", help="Type of the saved LoRA or transformer.", choices=("bf16", "fp16", "fp32", "float")
    )
    save_format: str = setting(
        "kohya",
        help="Keys of the saved LoRA; both saves a second file, its name followed by -diffusers.",
        choices=("kohya", "diffusers", "both"),
        used_when=setting_is("train_mode", "lora"),
    )
    save_every_n_steps: int | None = setting(
        None, help="Save what is trained every so many steps.", minimum=1
    )
    save_every_n_epochs: int | None = setting(
        None, help="Save what is trained every so many epochs.", minimum=1
    )
    save_last_n: int | None = setting(
        None, help="Keep only so many of the files saved on the way.", minimum=1, used_when=SAVES_ON_THE_WAY
    )
    save_state: bool = setting(
        False, help="With every save, also save what exact resuming needs.", in_metadata=False
    )
    save_state_on_train_end: bool = setting(
        False, help="Save the state at the end of the run.", in_metadata=False
    )
    save_last_n_state: int | None = setting(
        None,
        help="Keep only so many states; save_last_n unless given.",
        minimum=1,
        in_metadata=False,
        used_when=SEVERAL_STATES,
    )
    resume: str | None = setting(None, help="A state folder, or latest.", in_metadata=False)
    report: bool = setting(
        True, help="At the end write a page on the run, and a record to replay it from.", in_metadata=False
    )
    no_metadata: bool = setting(
        False, help="Keep the settings out of the saved file's header.", in_metadata=False
    )
    training_comment: str | None = setting(
        None, help="A remark for the saved file's header.", used_when=setting_is("no_metadata", False)
    )
    metadata_title: str | None = setting(None, help="modelspec.title; output_name unless given.")
    metadata_author: str | None = setting(None, help="modelspec.author.")
    metadata_description: str | None = setting(None, help="modelspec.description.")
    metadata_license: str | None = setting(None, help="modelspec.license.")
    metadata_tags: str | None = setting(None, help="modelspec.tags.")
