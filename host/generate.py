"""Pictures from base and LoRA at several strengths, by the sampler that training uses."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from host.config import Config, load_config
from host.drawing import find_drawing_files, lora_problems, open_sampler
from host.embedded import write_embedded
from host.errors import ConfigError, StoppedByUser
from host.grids import draw_grid
from host.logs import Screen
from host.model_files import ModelFiles
from host.phases import Encoding
from host.placing import placing
from host.prepare import adapter_summary, attach_lora_file, release_memory
from host.processes import join_processes
from host.prompts import SamplePrompt, read_prompt, read_prompts
from host.remedies import circumstances, remedy
from host.sample_files import BASE, grid_path
from host.sampling import Sampler, SamplingStopped, decode, parameters_text, save_picture
from host.shortage import during
from host.stopping import StopRequest

PROGRAM = "flux_dev_generate_image.py"
EPILOG = "The models come from a training file, or from the flags of train.py that name them."


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to draw; the models come from the configuration."""

    lora_weight: Path | None
    strengths: tuple[float, ...]
    prompt: str | None
    from_file: Path | None
    save_path: Path


def generate_image(argv: Sequence[str]) -> str:
    """Draw every prompt at every strength; return the closing line."""
    stopping = StopRequest().listen()
    order, rest = _read_order(argv)
    config = load_config(rest, prog=PROGRAM)
    prompts = _prompts(order, config)
    write_embedded(config)
    with placing(config):
        files = _files(config, order)
        device, screen = join_processes(config.settings.model.device).device, Screen()
    sampler = open_sampler(
        prompts,
        using=Encoding(config=config, files=files, device=device, screen=screen, stopping=stopping),
    )
    found = circumstances(config, files, device_type=device.type)
    with during("sampling", remedy=remedy("sampling", found)):
        latents = _draw(sampler, order, config, prompts, screen=screen)
        del sampler
        release_memory()
        load = partial(config.architecture.load_autoencoder, files.paths["vae"], device=device)
        pictures = dict(zip(latents, decode(load, latents.values()), strict=True))
    if not pictures:
        raise StoppedByUser("before the first picture was drawn")
    closing = _save(pictures, order, prompts, seed=config.settings.fit.seed)
    if stopping():
        raise StoppedByUser(f"after {len(pictures)} pictures, which are in {order.save_path}")
    return closing


def _read_order(argv: Sequence[str]) -> tuple[Order, list[str]]:
    parser = argparse.ArgumentParser(prog=PROGRAM, allow_abbrev=False, epilog=EPILOG)
    parser.add_argument("--lora_weight", type=Path, help="the LoRA's file; the base alone without it")
    parser.add_argument("--lora_multiplier", type=float, nargs="+", help="strengths; 0 is the base alone")
    parser.add_argument("--prompt", help="one prompt, with the flags of a prompt file")
    parser.add_argument("--from_file", type=Path, help="a prompt file")
    parser.add_argument("--save_path", type=Path, default=Path("output") / "generated")
    known, rest = parser.parse_known_args(list(argv))
    default = (0.0, 0.5, 0.8, 1.0, 1.2) if known.lora_weight else (0.0,)
    order = Order(
        lora_weight=known.lora_weight,
        strengths=tuple(known.lora_multiplier or default),
        prompt=known.prompt,
        from_file=known.from_file,
        save_path=known.save_path,
    )
    return order, rest


def _prompts(order: Order, config: Config) -> list[SamplePrompt]:
    step = config.architecture.bucket_step
    if order.prompt is not None:
        return [read_prompt(order.prompt, size_step=step)]
    path = order.from_file or config.settings.sample.sample_prompts
    if path is None:
        raise ConfigError.of(
            "There is no prompt.",
            'Give one:  --prompt "a red circle --w 512 --h 512"  or  --from_file prompts.txt',
        )
    return read_prompts(path, size_step=step)


def _files(config: Config, order: Order) -> ModelFiles:
    files, problems = find_drawing_files(config)
    if order.lora_weight is not None:
        problems += lora_problems(order.lora_weight, flag="--lora_weight", config=config, files=files)
    if problems:
        raise ConfigError(problems)
    return files


def _draw(
    sampler: Sampler, order: Order, config: Config, prompts: Sequence[SamplePrompt], *, screen: Screen
) -> dict[tuple[int, float], Tensor]:
    """Return (prompt number, strength) -> latents; those drawn so far when asked to stop."""
    adapter = None
    if order.lora_weight is not None:
        adapter = attach_lora_file(sampler.transformer, config.architecture, order.lora_weight)
        screen.say("lora", adapter_summary(adapter))
    drawn: dict[tuple[int, float], Tensor] = {}
    for number, prompt in enumerate(prompts):
        for strength in order.strengths:
            if adapter is not None:
                adapter.set_strength(strength)
            try:
                with screen.alive(f"drawing prompt {number} at strength {strength:g}"):
                    drawn[number, strength] = sampler.latents(prompt)
            except SamplingStopped:
                return drawn
    return drawn


def _save(
    pictures: Mapping[tuple[int, float], Image.Image],
    order: Order,
    prompts: Sequence[SamplePrompt],
    *,
    seed: int,
) -> str:
    name = order.lora_weight.stem if order.lora_weight else "base"
    for (number, strength), picture in pictures.items():
        prompt = prompts[number]
        used = seed if prompt.seed is None else prompt.seed
        extra = {"LoRA": name, "LoRA strength": f"{strength:g}"}
        path = order.save_path / f"{name}_{number:02d}_{used}_x{strength:g}.png"
        save_picture(picture, path, parameters=parameters_text(prompt, seed=used, extra=extra))
    grid = grid_path(order.save_path, name)
    save_picture(_grid(pictures, prompts), grid, parameters=f"rows: prompts; columns: {order.strengths}")
    return f"FINISHED {len(pictures)} pictures in {order.save_path}, together in {grid}"


def _grid(pictures: Mapping[tuple[int, float], Image.Image], prompts: Sequence[SamplePrompt]) -> Image.Image:
    """Return all pictures side by side: a row a prompt, a column a strength."""
    rows = sorted({number for number, _ in pictures})
    columns = list(dict.fromkeys(strength for _, strength in pictures))
    return draw_grid(
        [[pictures.get((number, strength)) for strength in columns] for number in rows],
        rows=[prompts[number].prompt for number in rows],
        columns=[f"{strength:g}" if strength else BASE for strength in columns],
    )
