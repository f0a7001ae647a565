"""The pictures of an evaluation: which there are, drawn where they are missing, kept on the way.

Axes: c channels, h w latent, H W pixels.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

from jaxtyping import Float
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from host.architecture import Autoencoder
from host.atomic import write_file
from host.eta import Estimate
from host.logs import Screen, clock
from host.prompts import SamplePrompt
from host.sampling import Sampler, SamplingStopped, decoding, parameters_text, save_picture
from networks.lora import Adapter


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFile:
    """One file to compare."""

    path: Path
    label: str
    """For a reader; no two files have the same."""
    fingerprint: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """The base, or one file at one strength."""

    lora: LoraFile | None
    strength: float

    @property
    def label(self) -> str:
        """For a reader, such as ``my_lora x0.8``."""
        return self.heading.replace("\n", " ")

    @property
    def heading(self) -> str:
        """The label with the strength on a line of its own: a long name does not take its place."""
        return "base" if self.lora is None else f"{self.lora.label}\nx{self.strength:g}"


BASE = Column(lora=None, strength=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """One picture."""

    column: Column
    number: int
    """Of the prompt, counted from 0."""
    prompt: SamplePrompt
    """With the seed that this picture begins from."""
    key: str
    """A hash of all that the picture depends on."""

    @property
    def seed(self) -> int:
        """What its noise is drawn from."""
        assert self.prompt.seed is not None, "shots_of fills it in"
        return self.prompt.seed


def shots_of(
    columns: Sequence[Column], prompts: Sequence[SamplePrompt], *, seeds: int, seed: int, made_with: str
) -> list[Shot]:
    """Return every picture: column by column, prompt by prompt, seed by seed.

    ``seed`` is that of prompts without one; ``made_with`` stands for models, device and settings.
    """
    shots: list[Shot] = []
    for column in columns:
        for number, prompt in enumerate(prompts):
            first = seed if prompt.seed is None else prompt.seed
            for offset in range(seeds):
                seeded = replace(prompt, seed=first + offset)
                key = _key(column, seeded, made_with)
                shots.append(Shot(column=column, number=number, prompt=seeded, key=key))
    return shots


def _key(column: Column, prompt: SamplePrompt, made_with: str) -> str:
    drawn = {name: value for name, value in asdict(prompt).items() if name != "notes"}
    if prompt.cfg_scale == 1.0:
        del drawn["negative_prompt"]
    lora = column.lora.fingerprint if column.lora is not None else ""
    words = json.dumps([made_with, lora, column.strength, drawn], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()[:24]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Keeps pictures by their key; a picture that is drawn and not yet decoded lies there as latents."""

    folder: Path

    def path(self, shot: Shot) -> Path:
        """Where the picture lies."""
        return self.folder / f"{shot.key}.png"

    def latents(self, shot: Shot) -> Path:
        """Where its latents lie until it is decoded."""
        return self.folder / f"{shot.key}.safetensors"

    def picture(self, shot: Shot) -> Image.Image | None:
        """Return the picture; None where it is missing or cannot be read."""
        try:
            with Image.open(self.path(shot)) as file:
                return file.convert("RGB")
        except (OSError, SyntaxError, ValueError):
            return None

    def whole(self, shot: Shot) -> Image.Image:
        """Return a picture that is known to be there."""
        picture = self.picture(shot)
        assert picture is not None, f"{self.path(shot)} was there a moment ago"
        return picture

    def undrawn(self, shots: Sequence[Shot]) -> list[Shot]:
        """Return the pictures that are neither there nor drawn as latents, each key once."""
        return [shot for shot in self.undecoded(shots) if not self.latents(shot).exists()]

    def undecoded(self, shots: Sequence[Shot]) -> list[Shot]:
        """Return the pictures that are not there, each key once."""
        by_key = {shot.key: shot for shot in reversed(shots)}
        return [shot for shot in shots if by_key[shot.key] is shot and self.picture(shot) is None]


class Progress:
    """A bar with the time left, by how long pictures of each size took."""

    def __init__(self, shots: Sequence[Shot], *, screen: Screen) -> None:
        self._waiting = list(shots)
        self._took = Estimate()
        self._bar = screen.bar(total=len(shots), unit="picture")
        self._began = time.monotonic()

    def drawn(self) -> None:
        """Tell that the next picture is there."""
        now = time.monotonic()
        prompt = self._waiting.pop(0).prompt
        size = f"{prompt.width}x{prompt.height}, {prompt.steps}, {prompt.cfg_scale != 1.0}"
        self._took.step_took(now - self._began, size=size)
        self._began = now
        self._bar.set_postfix_str(
            f"{clock(self._took.seconds_left(steps=len(self._waiting)))} left", refresh=False
        )
        self._bar.update(1)

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._bar.close()


def draw_missing(
    shots: Sequence[Shot],
    *,
    shelf: Shelf,
    open_sampler: Callable[[], Sampler],
    attach: Callable[[Sampler, LoraFile], Adapter],
    screen: Screen,
) -> None:
    """Draw what is not there; raises ``SamplingStopped`` when asked to stop, and keeps what is drawn.

    The base needs no LoRA and comes first; each LoRA is attached once.
    """
    due = shelf.undrawn(shots)
    screen.say("evaluate", f"{len(shots)} pictures: {len(shots) - len(due)} there, {len(due)} to draw")
    if not due:
        return
    sampler = open_sampler()
    with closing(Progress(due, screen=screen)) as progress:
        for lora, group in groupby(due, key=lambda shot: shot.column.lora):
            adapter = None if lora is None else attach(sampler, lora)
            for shot in group:
                if adapter is not None:
                    adapter.set_strength(shot.column.strength)
                with screen.alive(f"drawing prompt {shot.number + 1}, {shot.column.label}"):
                    drawn = sampler.latents(shot.prompt).cpu().contiguous()
                write_file(
                    shelf.latents(shot), lambda partial, drawn=drawn: save_file({"latents": drawn}, partial)
                )
                progress.drawn()
            if adapter is not None:
                adapter.detach_from(sampler.transformer)


def decode_missing(
    shots: Sequence[Shot],
    *,
    shelf: Shelf,
    load: Callable[[], Autoencoder],
    stopping: Callable[[], bool],
    screen: Screen,
) -> None:
    """Make pictures of what lies there as latents; raises ``SamplingStopped`` between two of them."""
    due = shelf.undecoded(shots)
    if not due:
        return
    drawn = (_read(shelf.latents(shot)) for shot in due)
    pictures = decoding(load, drawn)
    for shot, picture in zip(screen.watch(due, what="pictures decoded"), pictures, strict=True):
        extra = {"LoRA": shot.column.label, "LoRA strength": f"{shot.column.strength:g}"}
        text = parameters_text(shot.prompt, seed=shot.seed, extra=extra)
        save_picture(picture, shelf.path(shot), parameters=text)
        shelf.latents(shot).unlink()
        if stopping():
            raise SamplingStopped


def _read(path: Path) -> Float[Tensor, "1 c h w"]:
    with safe_open(path, framework="pt") as file:
        return file.get_tensor("latents")
