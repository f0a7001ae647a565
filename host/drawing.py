"""What programs that draw with a trained LoRA have in common: which files they need, and the sampler."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from host.caching import conditioning_of, prompt_entries
from host.config import Config
from host.errors import Problem, ProblemsFound
from host.frozen import Home, load_frozen_transformer, start_blocks
from host.frozen_check import check_frozen
from host.headers import read_header
from host.model_files import ModelFiles, find_model_files, unfit_lora
from host.phases import Encoding
from host.prompts import SamplePrompt
from host.remedies import circumstances, remedy
from host.sampling import Sampler, texts_of
from host.setting import path_roles
from host.shortage import during

PROMPT_CACHE = Path("cache") / "prompts"


def find_drawing_files(config: Config) -> tuple[ModelFiles, list[Problem]]:
    """Return the model files that drawing needs, and everything that is wrong with them."""
    files, problems = find_model_files(
        config.architecture,
        config.settings.model,
        config.settings.plugin,
        needed=["dit", "vae", *path_roles(config.architecture.settings)],
    )
    return files, [*problems, *check_frozen(config, files)]


def lora_problems(path: Path, *, flag: str, config: Config, files: ModelFiles) -> list[Problem]:
    """Return why the file named with ``flag`` is no LoRA for the transformer, told from the headers."""
    if not path.is_file():
        return [Problem(what=f"{flag} {path} does not exist.", remedy=f"Correct the path after  {flag}")]
    try:
        header = read_header(path)
    except ProblemsFound as found:
        return [replace(problem, what=f"{flag}: {problem.what}") for problem in found.problems]
    part = config.architecture.identify(header)
    if part is not None and part.role == "transformer":
        what = f"{flag} {path} is {part.description}, not a LoRA: full training writes whole transformers."
        return [Problem(code="E15", what=what, remedy=f"Draw with it as the base:  --dit {path}")]
    transformer = files.parts.get("dit")
    if transformer is None or transformer.role != "transformer":
        return []  # what is in its place is told already
    prefix = config.architecture.adapter_layout.kohya_prefix
    remedy = "Name a LoRA that was trained on this transformer."
    if not any(key.startswith(prefix) for key in header.tensors):
        remedy += (
            f"\nWas it saved in another layout:  python convert_lora.py {path} --to kohya -o OUT.safetensors"
        )
    return [
        replace(problem, what=problem.what.replace("network_weights =", flag, 1), remedy=remedy, setting="")
        for problem in unfit_lora(path, linears=files.linears(), kohya_prefix=prefix)
    ]


def open_sampler(prompts: Sequence[SamplePrompt], *, using: Encoding) -> Sampler:
    """Encode what is not encoded yet, load the transformer, and return what draws these prompts."""
    config, files, device, screen = using.config, using.files, using.device, using.screen
    entries = prompt_entries(texts_of(prompts), folder=PROMPT_CACHE, code=config.architecture.code)
    using.texts(entries)
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
    return Sampler(
        architecture=config.architecture,
        variant=files.variant,
        transformer=frozen.transformer,
        conditioning=conditioning_of(entries, variant=files.variant),
        device=device,
        seed=config.settings.fit.seed,
        stopping=using.stopping,
    )
