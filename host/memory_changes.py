"""Changes of the settings that make a run take less memory, the mildest first."""

import dataclasses
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from itertools import combinations

from dataset.buckets import Size
from host.memory_estimate import Scene
from host.prepare import ModelSettings, eight_bit_form
from host.settings import RunSettings, idle_names
from host.values import as_toml

SIDES = (768, 512)
"""Sides of smaller pictures, in pixels."""
SMALL_RANK = 4
MOST_TOGETHER = 3

State = tuple[RunSettings, Scene]


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """Lines to write, and the run that they make."""

    parts: tuple[str, ...]
    """What tells it from others."""
    lines: tuple[str, ...]
    settings: RunSettings
    scene: Scene
    unset: frozenset[str] = frozenset()
    """Settings that it leaves to the planner; what is chosen is written into ``lines``."""

    def named(self, model: ModelSettings) -> "Change":
        """Return the change with the lines of what was chosen for ``unset``."""
        added = [f"{name} = {as_toml(getattr(model, name))}" for name in sorted(self.unset)]
        return replace(self, lines=(*self.lines, *added))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing to change."""

    name: str
    lines: tuple[str, ...]
    apply: Callable[[RunSettings, Scene], State]
    unset: frozenset[str] = frozenset()


def milder(settings: RunSettings, scene: Scene, *, unset: Collection[str]) -> Iterator[Change]:
    """Yield the changes: those that change no number first, then single ones, pairs, and three together."""
    parts = list(_parts(settings, scene, unset=unset))
    for count in range(1, MOST_TOGETHER + 1):
        for chosen in combinations(parts, count):
            if len({part.name for part in chosen}) < count:
                continue
            state: State = (settings, scene)
            for part in chosen:
                state = part.apply(*state)
            yield Change(
                parts=tuple(part.name for part in chosen),
                lines=tuple(line for part in chosen for line in part.lines),
                settings=state[0],
                scene=state[1],
                unset=frozenset().union(*(part.unset for part in chosen)),
            )


def _parts(settings: RunSettings, scene: Scene, *, unset: Collection[str]) -> Iterator[Part]:
    model, idle = settings.model, idle_names(settings)
    if not model.gradient_checkpointing and "gradient_checkpointing" not in unset:
        yield _model_part("gradient_checkpointing", gradient_checkpointing=True)
    if "blocks_to_swap" not in {*unset, *idle}:
        name = "blocks_to_swap"
        yield Part(name=name, lines=(), apply=lambda s, scene: (s, scene), unset=frozenset({name}))
    for field in dataclasses.fields(settings.plugin):
        if scene.encodes_text and getattr(settings.plugin, field.name) is False:
            yield _plugin_part(field.name)
    if eight_bit_form(model) is None and "fp8_base" not in idle:
        yield _model_part("8 bit", fp8_base=True, fp8_scaled=True)
    if max((batch for _, batch in scene.batches), default=1) > 1:
        yield Part(name="batch", lines=("batch_size = 1",), apply=_one_by_one)
    yield from _smaller_pictures(scene)
    anew = settings.network.network_weights is None and "network_dim" not in idle
    if anew and settings.network.network_dim > SMALL_RANK:
        line = f"network_dim = {SMALL_RANK}"
        yield Part(name="rank", lines=(line,), apply=_small_rank)
    if scene.encodes_text:
        line = "caching the captions first by their own program with  --device cpu"
        yield Part(name="text", lines=(line,), apply=lambda s, scene: (s, replace(scene, encodes_text=False)))


def _model_part(name: str, **values: bool) -> Part:
    return Part(
        name=name,
        lines=tuple(f"{setting} = {as_toml(value)}" for setting, value in values.items()),
        apply=lambda settings, scene: (replace(settings, model=replace(settings.model, **values)), scene),
    )


def _plugin_part(name: str) -> Part:
    return Part(
        name=name,
        lines=(f"{name} = true",),
        apply=lambda settings, scene: (
            replace(settings, plugin=replace(settings.plugin, **{name: True})),
            scene,
        ),
    )


def _smaller_pictures(scene: Scene) -> Iterator[Part]:
    largest = max((bucket.area for bucket, _ in scene.batches), default=0)
    for side in SIDES:
        if side * side < largest:
            size = Size(side, side)
            yield Part(
                name="resolution",
                lines=(f"resolution = {side}",),
                apply=lambda s, sc, z=size: (s, _at_most(sc, z)),
            )
    drawn = max((size.area for size in scene.samples), default=0)
    for side in SIDES:
        if side * side < drawn:
            sizes = (Size(side, side),)
            yield Part(
                name="samples",
                lines=(f"--w {side} --h {side} in the sample prompts",),
                apply=lambda s, sc, z=sizes: (s, replace(sc, samples=z)),
            )


def _at_most(scene: Scene, size: Size) -> Scene:
    batches = {(min(bucket, size, key=lambda one: one.area), batch) for bucket, batch in scene.batches}
    return replace(scene, batches=sorted(batches))


def _one_by_one(settings: RunSettings, scene: Scene) -> State:
    return settings, replace(scene, batches=sorted({(bucket, 1) for bucket, _ in scene.batches}))


def _small_rank(settings: RunSettings, scene: Scene) -> State:
    return replace(settings, network=replace(settings.network, network_dim=SMALL_RANK)), scene
