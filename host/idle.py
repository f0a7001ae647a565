"""Settings that turn out to have no effect once the model and the number of steps are known."""

from host.config import Config
from host.errors import Problem
from host.flow_matching import NoiseSettings
from host.plan import TrainingPlan
from host.settings import resolved_values

INTERVALS = {
    "save_every_n_steps": "only the end is saved",
    "save_every_n_epochs": "only the end is saved",
    "sample_every_n_steps": "samples are made at the beginning and at the end only",
    "sample_every_n_epochs": "samples are made at the beginning and at the end only",
}
"""Setting -> what happens when its first turn comes too late."""


def idle_guidance(config: Config, *, takes_guidance: bool) -> tuple[list[Problem], list[str]]:
    """Return the refusal of, or a note on, a guidance that the model has no input for."""
    value, default = config.settings.noise.guidance_scale, NoiseSettings().guidance_scale
    if takes_guidance or "guidance_scale" not in config.given:
        return [], []
    if value == default:
        return [], ["guidance_scale has no effect here: this model takes no guidance."]
    what = f"guidance_scale = {value:g} has no effect: this model takes no guidance."
    return [Problem(what=what, remedy="Remove guidance_scale.", setting="guidance_scale")], []


def idle_steps(config: Config, plan: TrainingPlan) -> list[str]:
    """Return a note on every number of steps or batches that the run is too short for."""
    return [*_late_intervals(config, plan), *_long_accumulation(config, plan)]


def _late_intervals(config: Config, plan: TrainingPlan) -> list[str]:
    values = resolved_values(config.settings)
    notes = []
    for name, consequence in INTERVALS.items():
        every = values[name]
        unit = plan.steps_per_epoch if name.endswith("epochs") else 1
        if every is not None and every * unit >= plan.total_steps:
            notes.append(
                f"{name} = {every} has no effect: the run has {plan.total_steps} steps; {consequence}."
            )
    return notes


def _long_accumulation(config: Config, plan: TrainingPlan) -> list[str]:
    count = config.settings.fit.gradient_accumulation_steps
    if count == 1 or plan.batches_per_step <= plan.batches_per_epoch:
        return []
    return [
        f"gradient_accumulation_steps = {count} is more than the {plan.batches_per_epoch} batches of an"
        " epoch: a step ends with the epoch at the latest."
    ]


def continued_rank(config: Config) -> list[str]:
    """Return a note on what a LoRA that is continued brings with it."""
    path = config.settings.network.network_weights
    if path is None:
        return []
    return [f"continuing {path.name}: its modules, rank and alpha rule, so network_dim has no effect."]
