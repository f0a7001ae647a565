"""``train_mode = "lora"``: a low-rank change beside the frozen model is trained."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from host.architecture import AdapterLayout, Architecture
from host.config import Config
from host.errors import Problem
from host.memory_model import Placed, saving_bytes
from host.model_files import ModelFiles, unfit_lora
from host.outputs import OutputSettings
from host.prepare import adapter_summary, attach_adapter, check_network
from host.report_change import block_changes
from host.saving import LoraFiles, check_format, final_path, verify_finished
from host.settings import RunSettings
from host.sizes import AdaptedLinear, adapted_linears, lora_bytes
from host.trained import Base, Sizes, Trained, TrainMode, Verified
from networks.linears import linears_of
from networks.lora import Adapter
from networks.selection import choose_linears, parse_network_args
from networks.verify import Verification


def check_lora(config: Config, files: ModelFiles) -> list[Problem]:
    """Return what is wrong with the adapter's settings, and with the LoRA to continue from."""
    layout, settings = config.architecture.adapter_layout, config.settings
    problems = check_network(config.architecture, settings.network) or _misfits(config, files)
    return problems + check_format(settings.output.save_format, diffusers=layout.diffusers)


def _misfits(config: Config, files: ModelFiles) -> list[Problem]:
    """Return which patterns name no linear of the transformer, or why the LoRA to continue from fits none."""
    part, network = files.parts.get("dit"), config.settings.network
    if part is None or part.role != "transformer" or part.refusal is not None:
        return []
    linears, layout = files.linears(), config.architecture.adapter_layout
    if network.network_weights is not None:
        return unfit_lora(network.network_weights, linears=linears, kohya_prefix=layout.kohya_prefix)
    include, exclude = parse_network_args(network.network_args)
    preset = layout.presets[network.network_preset or next(iter(layout.presets))]
    try:
        choose_linears(list(linears), preset=preset, include=include, exclude=exclude)
    except ValueError as error:
        remedy = "Correct network_args or network_preset."
        lines = str(error).splitlines()
        return [
            Problem(what=f"network_args: {line}.", remedy=remedy, setting="network_args") for line in lines
        ]
    return []


def lora_sizes(settings: RunSettings, files: ModelFiles, layout: AdapterLayout) -> Sizes:
    """Return the factors of every linear that the adapter will sit on."""
    adapted = adapted_linears(files, settings.network, layout=layout)
    factors = [factor for linear in adapted for factor in linear.factors]
    count = sum(factor.count for factor in factors)
    return Sizes(
        tensors=factors,
        ranks={linear.path: linear.rank for linear in adapted},
        keeps_base=True,
        saving=lambda itemsize: Placed(device=0, host=saving_bytes(count, itemsize=itemsize)),
    )


def lora_file_bytes(sizes: Sizes, output: OutputSettings, layout: AdapterLayout, said: str) -> int:
    """Return the size of one saved LoRA, in all layouts that it is saved in together."""
    pairs = zip(sizes.tensors[::2], sizes.tensors[1::2], strict=True)
    adapted = [
        AdaptedLinear(path=down.path, rank=down.shape[0], inputs=down.shape[1], outputs=up.shape[0])
        for down, up in pairs
    ]
    return lora_bytes(adapted, output, layout=layout, said=said)


def begin_lora(base: Base) -> Trained:
    """Put a LoRA on the loaded model."""
    architecture, settings = base.architecture, base.settings
    layout = architecture.adapter_layout
    linears = linears_of(base.transformer)
    adapter = attach_adapter(
        base.transformer, architecture, settings=settings.network, seed=settings.fit.seed
    )
    files = LoraFiles(
        output=settings.output,
        adapter=adapter,
        linears=linears,
        kohya_prefix=layout.kohya_prefix,
        diffusers=layout.diffusers,
    )
    name = final_path(settings.output.output_dir, settings.output.output_name).name
    return Trained(
        weights=adapter,
        summary=adapter_summary(adapter),
        header=_header(base, adapter),
        write=partial(_write, files),
        caption=lambda step, strength: {"LoRA": name, "Step": str(step), "LoRA strength": f"{strength:g}"},
        changes=partial(block_changes, adapter),
    )


def _write(files: LoraFiles, path: Path, metadata: Mapping[str, str], *, must_change: bool) -> Verified:
    return _verified(files.write(path, metadata, must_change=must_change))


def _verified(found: Verification) -> Verified:
    proof = "strength 1.0 equals training"
    return Verified(matched=found.matched, total=found.total, of="modules", proof=proof)


def _header(base: Base, adapter: Adapter) -> dict[str, str]:
    layout = base.architecture.adapter_layout
    header = {
        "ss_base_model_version": layout.base_model_version,
        "ss_network_module": layout.network_module,
        "ss_network_dim": _one_of({layer.rank for layer in adapter.layers.values()}),
        "ss_network_alpha": _one_of({layer.alpha for layer in adapter.layers.values()}),
        **layout.modelspec,
        **base.files.variant.modelspec,
    }
    if base.settings.network.network_args:
        pairs = [word.partition("=") for word in base.settings.network.network_args]
        header["ss_network_args"] = json.dumps({name: value for name, _, value in pairs})
    return header


def _one_of(values: set[int] | set[float]) -> str:
    """Return the one value, or kohya's word for a mixture."""
    return str(next(iter(values))) if len(values) == 1 else "Dynamic"


def verify_lora_again(path: Path, architecture: Architecture, files: ModelFiles) -> Verified:
    """Hold a finished LoRA against the linears of the base."""
    layout = architecture.adapter_layout
    found = verify_finished(
        path, linears=files.linears(), kohya_prefix=layout.kohya_prefix, diffusers=layout.diffusers
    )
    return _verified(found)


LORA = TrainMode(
    noun="LoRA",
    owner="adapter",
    saving_remedy="Write a smaller  network_dim",
    check=check_lora,
    sizes=lora_sizes,
    file_bytes=lora_file_bytes,
    begin=begin_lora,
    verify_finished=verify_lora_again,
)
