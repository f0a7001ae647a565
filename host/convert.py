"""A LoRA file into another layout, a look into it, or into a base: ``convert_lora.py``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from host.architecture import Architecture
from host.atomic import write_file
from host.convert_order import Order, read_order
from host.errors import ConfigError, MachineError, Problem
from host.headers import Header, read_header
from host.lora_summary import summary_lines
from host.registry import find_architecture
from host.saving import DTYPES, KOHYA, linears_in
from networks.adapter_config import HEADER_ENTRY
from networks.dialects import ForeignLora, read_foreign_lora
from networks.diffusers_files import verify_diffusers_lora, write_diffusers_lora
from networks.factors import Factors
from networks.files import SAVE_TYPES, write_lora
from networks.layouts import NameTable, OtherLayout
from networks.merge import merge_lora
from networks.verify import Verification, verify_lora

READABLE = (
    "docs/lora_files.md lists what is read; others have to be converted by the program that wrote them."
)


def convert_lora(argv: Sequence[str]) -> str:
    """Do what the command line says with one LoRA file; return the closing line."""
    order = read_order(argv)
    architecture = find_architecture(order.architecture)
    if order.merge is not None:
        return _merge(order, architecture, base=order.merge)
    layout = architecture.adapter_layout.diffusers
    if layout is None:
        raise ConfigError.of(
            f"The architecture {architecture.full_name} has no table of the names that its linears have in "
            "LoRA files of other programs.",
            "Only  --merge BASE  works with it, which has the names.",
        )
    lora = _read(order.lora, architecture, NameTable(layout))
    if order.info:
        return "\n".join([*summary_lines(order.lora, lora), f"FINISHED {order.lora}"])
    return _convert(order, architecture, lora=lora, layout=layout)


def _read(path: Path, architecture: Architecture, names: NameTable) -> ForeignLora:
    read_header(path)  # says in our words what is no safetensors file
    try:
        return read_foreign_lora(path, names=names, kohya_prefix=architecture.adapter_layout.kohya_prefix)
    except ValueError as error:
        raise _config_error(error) from error


def _config_error(error: ValueError) -> ConfigError:
    return ConfigError([Problem(what=f"{line}.", remedy=READABLE) for line in str(error).splitlines()])


def _convert(order: Order, architecture: Architecture, *, lora: ForeignLora, layout: OtherLayout) -> str:
    out, prefix = order.out, architecture.adapter_layout.kohya_prefix
    assert out is not None
    metadata = _metadata(lora, architecture)
    dtype = _save_type(order, lora)
    found: list[Verification] = []

    def check_kohya(partial: Path) -> None:
        linears = {name: (pair.up.shape[0], pair.down.shape[1]) for name, pair in lora.factors.items()}
        found.append(verify_lora(partial, linears=linears, live=lora.factors, prefix=prefix))

    def check_diffusers(partial: Path) -> None:
        found.append(verify_diffusers_lora(partial, layout=layout, live=lora.factors, kohya_prefix=prefix))

    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        if order.to == KOHYA:
            write_lora(out, lora.factors, prefix=prefix, dtype=dtype, metadata=metadata, verify=check_kohya)
        else:
            write_diffusers_lora(
                out, lora.factors, layout=layout, dtype=dtype, metadata=metadata, verify=check_diffusers
            )
    except ValueError as error:
        raise _config_error(error) from error
    except OSError as error:
        raise _not_written(out, error) from error
    skipped = f", {lora.text_encoder_modules} of text encoders left out" if lora.text_encoder_modules else ""
    return (
        f"FINISHED {out}: {found[0].matched} modules from {lora.dialect} to {order.to}{skipped}; "
        f"largest difference of a change {found[0].relative_error:.1g}"
    )


def _save_type(order: Order, lora: ForeignLora) -> torch.dtype:
    if order.save_precision is not None:
        return DTYPES[order.save_precision]
    return lora.dtype if lora.dtype in SAVE_TYPES else torch.float32


def _metadata(lora: ForeignLora, architecture: Architecture) -> dict[str, str]:
    """Return the header of the converted file: the old one, and what tools look for."""
    layout = architecture.adapter_layout
    ranks = {pair.rank for pair in lora.factors.values()}
    alphas = {pair.alpha for pair in lora.factors.values()}
    kept = {name: value for name, value in lora.metadata.items() if name != HEADER_ENTRY}
    return {
        "ss_base_model_version": layout.base_model_version,
        "ss_network_module": layout.network_module,
        **layout.modelspec,
        **kept,
        "ss_network_dim": _one_of(ranks),
        "ss_network_alpha": _one_of(alphas),
    }


def _one_of(values: set[int] | set[float]) -> str:
    return str(next(iter(values))) if len(values) == 1 else "Dynamic"


def _merge(order: Order, architecture: Architecture, *, base: Path) -> str:
    out, layout = order.out, architecture.adapter_layout.diffusers
    assert out is not None
    header = read_header(base)
    names = NameTable(layout if layout is not None else _names_of(header, architecture))
    lora = _read(order.lora, architecture, names)
    prefix = _key_prefix(header, lora.factors, architecture)
    merges = []

    def write(partial: Path) -> None:
        merges.append(merge_lora(base, partial, factors=lora.factors, prefix=prefix, strength=order.strength))

    try:
        write_file(out, write)
    except ValueError as error:
        raise ConfigError(
            [
                Problem(what=f"{line}.", remedy="Use a base in bf16, fp16, fp32 or fp8 that fits the LoRA.")
                for line in str(error).splitlines()
            ]
        ) from error
    except OSError as error:
        raise _not_written(out, error) from error
    finally:
        out.with_name(f".{out.name}.partial").unlink(missing_ok=True)
    merge = merges[0]
    share = f"{merge.rounding / merge.change:.2%}" if merge.change else "0 %"
    types = ", ".join(sorted(merge.types))
    return (
        f"FINISHED {out}: {merge.changed} weights changed at strength {order.strength:g}, in the base's "
        f"precision ({types}); rounding to it moved them by {share} of the LoRA's change"
    )


def _names_of(header: Header, architecture: Architecture) -> OtherLayout:
    part = architecture.identify(header)
    linears = linears_in(header, key_prefix=part.key_prefix if part else "")
    return OtherLayout(plain={name: name for name in linears}, fused={})


def _key_prefix(header: Header, factors: Mapping[str, Factors], architecture: Architecture) -> str:
    """Return what stands before our module paths in the keys of the base."""
    starts: Counter[str] = Counter()
    for path in factors:
        tail = f"{path}.weight"
        starts.update(key[: -len(tail)] for key in header.tensors if key.endswith(tail))
    fitting = [start for start, _ in starts.most_common() if not start or start.endswith(".")]
    if fitting:
        return fitting[0]
    part = architecture.identify(header)
    what = part.description if part else f"no file that {architecture.full_name} knows"
    raise ConfigError.of(
        f"{header.path} is {what}; it holds none of the {len(factors)} linears that the LoRA changes.",
        "Merge into the transformer as one file with the published names, such as flux1-dev.safetensors.",
    )


def _not_written(out: Path, error: OSError) -> MachineError:
    return MachineError.of(
        f"{out} could not be written: {error}",
        "Nothing was left behind. Make room, or write to another place.",
    )
