"""Learning-rate schedules: pure functions of the step."""

from dataclasses import dataclass

from host.setting import setting, setting_is

SCHEDULERS = (
    "constant",
    "constant_with_warmup",
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "inverse_sqrt",
    "cosine_with_min_lr",
    "warmup_stable_decay",
    "rex",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """How the learning rate moves over the run."""

    lr_scheduler: str = setting("constant", help="Shape of the learning rate.", choices=SCHEDULERS)
    lr_warmup_steps: float = setting(
        0.0, help="Warm-up in steps, or below 1 as a share of the run. Not for constant.", minimum=0.0
    )
    lr_decay_steps: float = setting(
        0.0,
        help="Length of the decay in steps, or below 1 as a share of the run.",
        minimum=0.0,
        used_when=setting_is("lr_scheduler", "warmup_stable_decay"),
    )
    lr_scheduler_num_cycles: int = setting(
        1,
        help="Hard restarts.",
        minimum=1,
        used_when=setting_is("lr_scheduler", "cosine_with_restarts"),
    )
    lr_scheduler_power: float = setting(
        1.0,
        help="Exponent of the fall.",
        above=0.0,
        used_when=setting_is("lr_scheduler", "polynomial"),
    )
    lr_scheduler_timescale: int | None = setting(
        None,
        help="Steps over which the rate falls; the warm-up unless given.",
        minimum=1,
        used_when=setting_is("lr_scheduler", "inverse_sqrt"),
    )
    lr_scheduler_min_lr_ratio: float | None = setting(
        None,
        help="Lowest rate as a share of learning_rate.",
        minimum=0.0,
        maximum=1.0,
        used_when=setting_is("lr_scheduler", "cosine_with_min_lr", "warmup_stable_decay", "rex"),
    )
