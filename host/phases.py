"""The two encoding phases: their models are loaded when something is due, and gone afterwards."""

import dataclasses
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dataset.scan import Item
from host.caching import CacheCount, Encoder, TextEntry, cache_latents, tidy
from host.config import Config
from host.fingerprints import fingerprint_of
from host.logs import Screen
from host.model_files import ModelFiles
from host.prepare import release_memory
from host.remedies import circumstances, remedy
from host.setting import facts_of, path_roles
from host.shortage import during
from host.text_caching import cache_texts


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoding:
    """With what, where and under whose eyes the encoding phases work."""

    config: Config
    files: ModelFiles
    device: torch.device
    screen: Screen
    stopping: Callable[[], bool]

    def pictures(self, items: Sequence[Item]) -> CacheCount:
        """Cache the latents of ``items``."""
        path = self.files.paths["vae"]
        encoder = Encoder(
            architecture=self.config.architecture,
            variant=self.files.variant,
            fingerprint=fingerprint_of(self.files.files_of("vae")),
            load=lambda: self.config.architecture.load_autoencoder(
                path, device=self.device, disable_mmap=self._disable_mmap
            ),
        )
        with self._named("caching latents"):
            count = cache_latents(items, encoder=encoder, screen=self.screen, stopping=self.stopping)
        release_memory()
        self.screen.say("latents", f"{len(items)} pictures: {count.sentence()}")
        return count

    def texts(self, entries: Sequence[TextEntry]) -> CacheCount:
        """Cache the encoded captions and prompts ``entries``."""
        paths = text_paths(self.config, self.files)
        encoder = Encoder(
            architecture=self.config.architecture,
            variant=self.files.variant,
            fingerprint=text_encoders_fingerprint(self.config, self.files),
            load=lambda: self.config.architecture.load_text_encoders(
                paths,
                device=self.device,
                disable_mmap=self._disable_mmap,
                variant=self.files.variant,
                settings=self.config.settings.plugin,
            ),
            settings=_changed(self.config.settings.plugin),
        )
        with self._named("caching texts"):
            count = cache_texts(entries, encoder=encoder, screen=self.screen, stopping=self.stopping)
        release_memory()
        self.screen.say("text", f"{len(entries)} captions and prompts: {count.sentence()}")
        return count

    def tidy(self, items: Sequence[Item], prompts: Sequence[TextEntry]) -> None:
        """Name the cache entries that no picture or prompt uses; delete them if the settings say so."""
        clean = self.config.settings.data.clean_cache
        tidy(items, prompts, code=self.config.architecture.code, clean=clean, screen=self.screen)

    def _named(self, phase: str) -> AbstractContextManager[None]:
        """Return a block in which an out-of-memory says its phase, and what would help."""
        found = circumstances(self.config, self.files, device_type=self.device.type)
        return during(phase, remedy=remedy(phase, found))

    @property
    def _disable_mmap(self) -> bool:
        return self.config.settings.model.disable_mmap


def text_paths(config: Config, files: ModelFiles) -> dict[str, Path]:
    """Return the plugin's own paths: text encoders and their tokenizers."""
    return files.of(_text_names(config, files))


def text_encoders_fingerprint(config: Config, files: ModelFiles) -> str:
    """Return one hash of every file that an encoded text is made with, found tokenizers included."""
    return fingerprint_of(file for name in _text_names(config, files) for file in files.files_of(name))


def _text_names(config: Config, files: ModelFiles) -> list[str]:
    others = path_roles(type(config.settings.model))
    return [name for name in files.names if name not in others]


def _changed(settings: Any) -> str:
    """Return the plugin's settings that make numbers and are not at their defaults."""
    fields = [field for field in dataclasses.fields(settings) if facts_of(field).in_metadata]
    changed = {field.name: getattr(settings, field.name) for field in fields}
    return ", ".join(
        f"{field.name} = {changed[field.name]}"
        for field in fields
        if changed[field.name] != field.default and not isinstance(changed[field.name], Path)
    )
