"""Learning-rate schedules: pure functions of the step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dataset.problems import Problem
from host.setting import UsedWhen, setting, setting_is

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


WARMS_UP = UsedWhen(
    test=lambda resolved: resolved["lr_scheduler"] != "constant",
    says='lr_scheduler is not "constant"',
    paste='lr_scheduler = "constant_with_warmup"',
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SchedulerSettings:
    """How the learning rate moves over the run."""

    lr_scheduler: str = setting("constant", help="Shape of the learning rate.", choices=SCHEDULERS)
    lr_warmup_steps: float = setting(
        0.0,
        help="Warm-up in steps, or below 1 as a share of the run.",
        minimum=0.0,
        used_when=WARMS_UP,
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
        help="Lowest rate as a share of learning_rate: 0.01 for rex, 0 for warmup_stable_decay unless given; "
        "cosine_with_min_lr has no default.",
        minimum=0.0,
        maximum=1.0,
        used_when=setting_is("lr_scheduler", "cosine_with_min_lr", "warmup_stable_decay", "rex"),
    )


POLYNOMIAL_END = 1e-7
"""Where ``polynomial`` ends, as a share of ``learning_rate``."""
INVERSE_SQRT_TIMESCALE = 10_000
"""Steps; used when there is neither a timescale nor a warm-up, as in huggingface/transformers."""
LOWEST_UNLESS_GIVEN: Mapping[str, float] = {"rex": 0.01, "warmup_stable_decay": 0.0}
"""Schedules whose warm-up begins, and whose decay ends, at a lowest rate: that rate as a share."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Moment:
    """Where in the run an update stands; all in optimizer updates."""

    step: int
    warmup: int
    decay: int
    total: int

    @property
    def progress(self) -> float:
        """How much of the way from the end of the warm-up to the end of the run is done, in [0, 1]."""
        return (self.step - self.warmup) / max(1, self.total - self.warmup)


Shape = Callable[[_Moment, SchedulerSettings], float]


def learning_rate_factor(step: int, *, settings: SchedulerSettings, total_steps: int) -> float:
    """Return what to multiply ``learning_rate`` with for update number ``step``, counted from 0.

    The values are those of huggingface/transformers: src/transformers/optimization.py (5.23), save that
    ``polynomial`` ends at 1e-7 of ``learning_rate`` and not at 1e-7 itself (the same thing at
    ``learning_rate = 1``). After the last step the final value stays.
    """
    moment = _Moment(
        step=min(step, total_steps),
        warmup=in_steps(settings.lr_warmup_steps, total_steps=total_steps),
        decay=in_steps(settings.lr_decay_steps, total_steps=total_steps),
        total=total_steps,
    )
    if moment.step < moment.warmup:
        first = _lowest(settings) if settings.lr_scheduler in LOWEST_UNLESS_GIVEN else 0.0
        return _between(moment.step / moment.warmup, first)
    return SHAPES[settings.lr_scheduler](moment, settings)


def in_steps(length: float, *, total_steps: int) -> int:
    """Return ``length`` in optimizer updates; below 1 it is a share of ``total_steps``, rounded down."""
    return int(length * total_steps) if length < 1 else int(length)


def check_schedule(settings: SchedulerSettings, *, total_steps: int) -> list[Problem]:
    """Return everything that is wrong with the schedule of a run of ``total_steps`` updates."""
    problems = [
        Problem(
            what=f"{name} = {value} is neither a whole number of steps nor a share of the run below 1.",
            remedy=f"Paste: {name} = {int(value)}",
            setting=name,
        )
        for name, value in (
            ("lr_warmup_steps", settings.lr_warmup_steps),
            ("lr_decay_steps", settings.lr_decay_steps),
        )
        if value >= 1 and value != int(value)
    ]
    if settings.lr_scheduler == "cosine_with_min_lr" and settings.lr_scheduler_min_lr_ratio is None:
        problems.append(
            Problem(
                what='lr_scheduler = "cosine_with_min_lr" needs the rate to end at.',
                remedy="Paste: lr_scheduler_min_lr_ratio = 0.1",
                setting="lr_scheduler",
            )
        )
    return problems + _check_lengths(settings, total_steps=total_steps)


def _check_lengths(settings: SchedulerSettings, *, total_steps: int) -> list[Problem]:
    warmup = in_steps(settings.lr_warmup_steps, total_steps=total_steps)
    decay = in_steps(settings.lr_decay_steps, total_steps=total_steps)
    if warmup > total_steps:
        return [
            Problem(
                what=f"lr_warmup_steps = {warmup} is longer than the run of {total_steps} steps.",
                remedy="Give the warm-up as a share of the run.\nPaste: lr_warmup_steps = 0.05",
                setting="lr_warmup_steps",
            )
        ]
    if settings.lr_scheduler != "warmup_stable_decay":
        return []
    if decay == 0:
        return [
            Problem(
                what='lr_scheduler = "warmup_stable_decay" needs the length of its decay.',
                remedy="Give it as a share of the run.\nPaste: lr_decay_steps = 0.2",
                setting="lr_scheduler",
            )
        ]
    if warmup + decay > total_steps:
        return [
            Problem(
                what=f"Warm-up ({warmup} steps) and decay ({decay} steps) together are longer than the run "
                f"of {total_steps} steps.",
                remedy="Give the decay as a share of the run that leaves room.\nPaste: lr_decay_steps = "
                f"{_room_after(warmup, total_steps=total_steps)}",
                setting="lr_decay_steps",
            )
        ]
    return []


def _room_after(warmup: int, *, total_steps: int) -> float | int:
    """A decay that fits behind the warm-up: a fifth of the run if there is room, else what is left."""
    left = total_steps - warmup
    return 0.2 if left >= 0.2 * total_steps else left


def _lowest(settings: SchedulerSettings) -> float:
    """The lowest rate as a share of ``learning_rate``."""
    if settings.lr_scheduler_min_lr_ratio is not None:
        return settings.lr_scheduler_min_lr_ratio
    if settings.lr_scheduler not in LOWEST_UNLESS_GIVEN:
        raise ValueError(f"{settings.lr_scheduler} needs lr_scheduler_min_lr_ratio")
    return LOWEST_UNLESS_GIVEN[settings.lr_scheduler]


def _half_cosine(progress: float) -> float:
    """Fall from 1 to 0 as ``progress`` goes from 0 to 1."""
    return 0.5 * (1.0 + math.cos(math.pi * progress))


def _between(share: float, lowest: float) -> float:
    """Map ``share`` in [0, 1] to [lowest, 1]."""
    return share * (1.0 - lowest) + lowest


def _constant(_moment: _Moment, _settings: SchedulerSettings) -> float:
    return 1.0


def _linear(moment: _Moment, _settings: SchedulerSettings) -> float:
    return (moment.total - moment.step) / max(1, moment.total - moment.warmup)


def _cosine(moment: _Moment, _settings: SchedulerSettings) -> float:
    return _half_cosine(moment.progress)


def _cosine_with_restarts(moment: _Moment, settings: SchedulerSettings) -> float:
    if moment.progress >= 1.0:
        return 0.0
    return _half_cosine(settings.lr_scheduler_num_cycles * moment.progress % 1.0)


def _polynomial(moment: _Moment, settings: SchedulerSettings) -> float:
    return _between((1.0 - moment.progress) ** settings.lr_scheduler_power, POLYNOMIAL_END)


def _inverse_sqrt(moment: _Moment, settings: SchedulerSettings) -> float:
    timescale = settings.lr_scheduler_timescale or moment.warmup or INVERSE_SQRT_TIMESCALE
    return 1.0 / math.sqrt((moment.step - moment.warmup + timescale) / timescale)


def _cosine_with_min_lr(moment: _Moment, settings: SchedulerSettings) -> float:
    return _between(_half_cosine(moment.progress), _lowest(settings))


def _warmup_stable_decay(moment: _Moment, settings: SchedulerSettings) -> float:
    decayed = moment.step - (moment.total - moment.decay)
    if decayed < 0:
        return 1.0
    return _between(_half_cosine(decayed / max(1, moment.decay)), _lowest(settings))


def _rex(moment: _Moment, settings: SchedulerSettings) -> float:
    """Reflected exponential (arXiv 2107.04197) with 0.1 and 0.9 for its two weights, as in musubi-tuner."""
    left = 1.0 - moment.progress
    return _between(left / (0.1 + 0.9 * left), _lowest(settings))


SHAPES: Mapping[str, Shape] = {
    "constant": _constant,
    "constant_with_warmup": _constant,
    "linear": _linear,
    "cosine": _cosine,
    "cosine_with_restarts": _cosine_with_restarts,
    "polynomial": _polynomial,
    "inverse_sqrt": _inverse_sqrt,
    "cosine_with_min_lr": _cosine_with_min_lr,
    "warmup_stable_decay": _warmup_stable_decay,
    "rex": _rex,
}
"""The factor after the warm-up."""
