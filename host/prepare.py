"""Which model and which adapter; puts the adapter on the model."""

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from host.architecture import Architecture
from host.errors import ConfigError, Problem, ProblemsFound, did_you_mean
from host.foreign_words import CHOOSE_BLOCKS
from host.headers import read_header
from host.quantization import FP8, FP8_SCALED, INT8, Form
from host.setting import UsedWhen, both, setting, setting_is
from networks.factors import state_of
from networks.files import read_lora
from networks.keys import kohya_table
from networks.linears import linears_of
from networks.lora import Adapter, attach
from networks.selection import parse_network_args, select_linears

DEFAULT_DIM = 16
TRAINS_LORA = setting_is("train_mode", "lora")


NOT_IN_FP8 = UsedWhen(test=lambda resolved: not resolved["fp8_base"], says="fp8_base = false")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """Which model, on which device, in which precision."""

    architecture: str = setting("fd", help="Code of the architecture, or package:SPEC for one on the path.")
    dit: Path | None = setting(None, help="The transformer's file.", role="transformer", in_metadata=False)
    vae: Path | None = setting(None, help="The autoencoder's file.", role="autoencoder", in_metadata=False)
    tiny_directory: Path | None = setting(
        None,
        help="Before anything else, let the plugin write its small model and pictures here.",
        in_metadata=False,
    )
    train_mode: str = setting(
        "lora",
        help="lora: a small change beside the frozen transformer. full: all of the transformer, in float32.",
        choices=("lora", "full"),
    )
    device: str = setting(
        "auto", help="cuda, cuda:1, cpu; auto takes the GPU when there is one.", in_metadata=False
    )
    mixed_precision: str = setting(
        "bf16", help="bf16: the frozen model in bfloat16. no: everything in float32.", choices=("bf16", "no")
    )
    attn_mode: str = setting(
        "torch",
        help="Attention: torch (SDPA), flash, xformers (when installed).",
        choices=("torch", "flash", "xformers"),
    )
    split_attn: bool = setting(False, help="Attention sample by sample: less memory, same result.")
    gradient_checkpointing: bool = setting(True, help="Recompute blocks in the backward pass: less memory.")
    disable_mmap: bool = setting(
        True, help="Read model files plainly instead of mapping them into memory.", in_metadata=False
    )
    blocks_to_swap: int = setting(
        0,
        help="Blocks whose weights wait in main memory (on disk when the device is the CPU).",
        minimum=0,
        in_metadata=False,
        used_when=TRAINS_LORA,
    )
    fp8_base: bool = setting(
        False, help="Keep the linears of the frozen transformer's blocks in 8 bit.", used_when=TRAINS_LORA
    )
    fp8_scaled: bool = setting(
        False, help="8 bit with a scale for every 64 weights.", used_when=setting_is("fp8_base", True)
    )
    int8_base: bool = setting(
        False,
        help="In place of fp8_base: the linears that see tokens as 8-bit integers, a scale for every row.",
        used_when=both(TRAINS_LORA, NOT_IN_FP8),
    )


def eight_bit_form(model: ModelSettings) -> Form | None:
    """Return how the settings keep frozen weights in 8 bit; None where they do not."""
    if model.int8_base:
        return INT8
    if not model.fp8_base:
        return None
    return FP8_SCALED if model.fp8_scaled else FP8


BEGINS_ANEW = both(
    TRAINS_LORA,
    UsedWhen(test=lambda resolved: resolved["network_weights"] is None, says="network_weights is not set"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """Which adapter, on which linears."""

    network_dim: int = setting(
        DEFAULT_DIM, help="Rank of the LoRA.", minimum=1, maximum=4096, used_when=TRAINS_LORA
    )
    network_alpha: float | None = setting(
        None,
        help="Update is scaled by network_alpha / network_dim; equal to network_dim unless given.",
        above=0.0,
        used_when=BEGINS_ANEW,
    )
    network_dropout: float = setting(
        0.0,
        help="Share of the rank's activations dropped in training.",
        minimum=0.0,
        maximum=0.99,
        used_when=TRAINS_LORA,
    )
    network_preset: str | None = setting(
        None,
        help="Named set of linears of the architecture; its first one (all token-wise linears) unless given.",
        used_when=BEGINS_ANEW,
    )
    network_args: list[str] = setting(
        [],
        help="include_patterns=['regex', ...] adds linears to the preset, exclude_patterns=[...] removes "
        "them (full match on module paths; included wins).",
        used_when=BEGINS_ANEW,
    )
    network_weights: Path | None = setting(
        None,
        help="Continue from this LoRA; its rank and alpha rule.",
        in_metadata=False,
        used_when=TRAINS_LORA,
    )


def _instead_of(complaint: str) -> str:
    """Return what to do about a word of network_args that is not read."""
    if "train_blocks" in complaint:
        return CHOOSE_BLOCKS
    return "Remove it. Linears are chosen so:  network_args = [\"exclude_patterns=['single_blocks.*']\"]"


def check_network(architecture: Architecture, settings: NetworkSettings) -> list[Problem]:
    """Return what is wrong with the adapter's settings before the model is there."""
    problems: list[Problem] = []
    presets = architecture.adapter_layout.presets
    if settings.network_preset is not None and settings.network_preset not in presets:
        what = f'network_preset = "{settings.network_preset}" is not a preset of {architecture.full_name}.'
        remedy = did_you_mean(settings.network_preset, presets)
        problems.append(Problem(what=what, remedy=remedy, setting="network_preset"))
    try:
        parse_network_args(settings.network_args)
    except ValueError as error:
        problems += [
            Problem(what=f"{line}.", remedy=_instead_of(line), setting="network_args")
            for line in str(error).splitlines()
        ]
    if settings.network_weights is not None:
        problems += _check_continuing(settings, settings.network_weights)
    return problems


def _check_continuing(settings: NetworkSettings, path: Path) -> list[Problem]:
    """Return what is wrong with a LoRA that is continued, and with the rank given beside its own."""
    if not path.is_file():
        what = f"network_weights = '{path}' does not exist."
        remedy = "Correct the path, or remove the line to begin anew."
        return [Problem(what=what, remedy=remedy, setting="network_weights")]
    try:
        tensors = read_header(path).tensors
    except ProblemsFound as found:
        return [replace(problem, setting="network_weights") for problem in found.problems]
    ranks = {entry.shape[0] for name, entry in tensors.items() if name.endswith(".lora_down.weight")}
    if not ranks:
        what = f"network_weights = '{path}' holds no LoRA in kohya's keys."
        remedy = "Name a LoRA that this program or kohya's saved."
        return [Problem(code="E23", what=what, remedy=remedy, setting="network_weights")]
    if settings.network_dim in {DEFAULT_DIM, *ranks}:
        return []
    return [
        Problem(
            what=f"network_dim and network_weights = '{path}' contradict each other: a LoRA that is "
            f"continued keeps its modules, its rank ({', '.join(map(str, sorted(ranks)))}) and its alpha.",
            remedy="Remove network_dim; or remove network_weights to begin anew.",
            setting="network_dim",
        )
    ]


def attach_adapter(
    transformer: nn.Module, architecture: Architecture, *, settings: NetworkSettings, seed: int
) -> Adapter:
    """Put a LoRA on the chosen linears; a LoRA to continue from brings its modules, rank and alpha."""
    try:
        if settings.network_weights is not None:
            path, dropout = settings.network_weights, settings.network_dropout
            return attach_lora_file(transformer, architecture, path, dropout=dropout, seed=seed)
        return attach(
            transformer,
            chosen_linears(transformer, architecture, settings=settings),
            rank=settings.network_dim,
            alpha=network_alpha(settings),
            dropout=settings.network_dropout,
            seed=seed,
        )
    except ValueError as error:
        raise ConfigError.of(
            f"The adapter cannot be attached: {error}", "Correct network_args or network_preset."
        ) from error


def network_alpha(settings: NetworkSettings) -> float:
    """Return alpha; it equals the rank unless given."""
    return float(settings.network_dim if settings.network_alpha is None else settings.network_alpha)


def chosen_linears(
    transformer: nn.Module, architecture: Architecture, *, settings: NetworkSettings
) -> list[str]:
    """Return the module paths that preset and patterns name; raises ValueError when one names nothing."""
    presets = architecture.adapter_layout.presets
    preset = settings.network_preset or next(iter(presets))
    if preset not in presets:
        raise ValueError(f'network_preset = "{preset}" is unknown. {did_you_mean(preset, presets)}')
    include, exclude = parse_network_args(settings.network_args)
    return select_linears(transformer, preset=presets[preset], include=include, exclude=exclude)


def attach_lora_file(
    transformer: nn.Module, architecture: Architecture, path: Path, *, dropout: float = 0.0, seed: int = 0
) -> Adapter:
    """Attach a saved LoRA: its modules, its ranks, its alphas; raises ValueError when it does not fit."""
    table = kohya_table(linears_of(transformer), prefix=architecture.adapter_layout.kohya_prefix)
    factors = read_lora(path, table=table)
    adapter = attach(
        transformer,
        list(factors),
        rank={name: pair.rank for name, pair in factors.items()},
        alpha={name: pair.alpha for name, pair in factors.items()},
        dropout=dropout,
        seed=seed,
    )
    adapter.load_state(state_of(factors))
    return adapter


def adapter_summary(adapter: Adapter) -> str:
    """Return one line: how many modules, rank, alpha, scale, parameters, and an example."""
    layers = adapter.layers
    ranks = sorted({layer.rank for layer in layers.values()})
    first = next(iter(layers.values()))
    parameters = sum(parameter.numel() for parameter in adapter.parameters())
    rank = str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
    examples = ", ".join(list(layers)[:3])
    return (
        f"LoRA on {len(layers)} linears, rank {rank}, alpha {first.alpha:g} -> scale {first.scale:.2f}, "
        f"{parameters:,} parameters, e.g. {examples}"
    )


def release_memory() -> None:
    """Give back what a finished phase held; call it after the last reference is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
