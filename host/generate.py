"""Pictures from base and LoRA at several strengths, by the sampler that training uses."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from PIL import Image
from torch import Tensor

from host.caching import conditioning_of, prompt_entries
from host.config import Config, load_config
from host.embedded import write_embedded
from host.errors import ConfigError, Problem, StoppedByUser
from host.frozen import Home, load_frozen_transformer, start_blocks
from host.frozen_check import check_frozen
from host.grids import draw_grid
from host.logs import Screen
from host.model_files import ModelFiles, find_model_files, unfit_lora
from host.phases import Encoding
from host.placing import placing
from host.prepare import adapter_summary, attach_lora_file, release_memory
from host.processes import join_processes
from host.prompts import SamplePrompt, read_prompt, read_prompts
from host.remedies import circumstances, remedy
from host.sample_files import BASE, grid_path
from host.sampling import Sampler, SamplingStopped, decode, parameters_text, save_picture, texts_of
from host.setting import path_roles
from host.shortage import during
from host.stopping import StopRequest

PROGRAM = "flux_dev_generate_image.py"
PROMPT_CACHE = Path("cache") / "prompts"
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
    if config.settings.model.tiny_directory:
        write_embedded(config.architecture, config.settings.model.tiny_directory)
    with placing(config):
        files = _files(config, order)
        device, screen = join_processes(config.settings.model.device).device, Screen()
    entries = prompt_entries(texts_of(prompts), folder=PROMPT_CACHE, code=config.architecture.code)
    encoding = Encoding(config=config, files=files, device=device, screen=screen, stopping=stopping)
    encoding.texts(entries)
    found = circumstances(config, files, device_type=device.type)
    with screen.alive("loading the transformer"), during("loading", remedy=remedy("loading", found)):
        frozen = load_frozen_transformer(
            config.architecture,
            files.paths["dit"],
            skeleton=files.skeleton(),
            settings=config.settings.model,
            home=Home(device=device, folder=PROMPT_CACHE),
        )
    for note in frozen.notes:
        screen.say("load", note)
    start_blocks(frozen, config.architecture, checkpointed=False)
    sampler = Sampler(
        architecture=config.architecture,
        variant=files.variant,
        transformer=frozen.transformer,
        conditioning=conditioning_of(entries, variant=files.variant),
        device=device,
        seed=config.settings.fit.seed,
        stopping=stopping,
    )
    with during("sampling", remedy=remedy("sampling", found)):
        latents = _draw(sampler, order, config, prompts, screen=screen)
        del frozen, sampler
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
    needed = ["dit", "vae", *path_roles(config.architecture.settings)]
    files, problems = find_model_files(
        config.architecture, config.settings.model, config.settings.plugin, needed=needed
    )
    if order.lora_weight is not None and not order.lora_weight.is_file():
        what = f"lora_weight = '{order.lora_weight}' does not exist."
        problems.append(Problem(what=what, remedy="Correct the path after  --lora_weight"))
    elif order.lora_weight is not None and not problems:
        prefix = config.architecture.adapter_layout.kohya_prefix
        unfit = unfit_lora(order.lora_weight, linears=files.linears(), kohya_prefix=prefix)
        # It is named on the command line, whatever the training file says of network_weights.
        problems += [replace(problem, setting="") for problem in unfit]
    problems += check_frozen(config, files)
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
