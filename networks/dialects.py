"""LoRA files of other programs: which keys they use, read as factors of our linears.

The dialect is found from the keys alone. What a plain LoRA cannot express is refused by its name.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from networks.adapter_config import AdapterConfig, config_beside, config_in_header
from networks.factors import Factors
from networks.files import ALPHA, DOWN, UP, shapes_agree
from networks.fusing import fuse_factors, swap_halves
from networks.layouts import NameTable, Place
from networks.messages import name_some

PARTS = (
    (re.compile(r"(.+)\.lora_A(?:\.\w+?)?(?:\.weight)?"), DOWN),
    (re.compile(r"(.+)\.lora_B(?:\.\w+?)?(?:\.weight)?"), UP),
    (re.compile(r"(.+)\.lora_down(?:\.weight)?"), DOWN),
    (re.compile(r"(.+)\.lora_up(?:\.weight)?"), UP),
    (re.compile(r"(.+)[._]lora(?:_linear_layer)?\.down\.weight"), DOWN),
    (re.compile(r"(.+)[._]lora(?:_linear_layer)?\.up\.weight"), UP),
    (re.compile(r"(.+)\.alpha"), ALPHA),
)
"""How the end of a key is spelt -> what the tensor is."""

JOINED_PREFIXES = {"lora_transformer_": "OneTrainer", "lycoris_": "LyCORIS names (SimpleTuner)"}
"""What stands before names whose words are joined by underscores, beside kohya's -> who writes so."""

RAW_PEFT = "base_model.model."
DOTTED_PREFIXES = {
    f"{RAW_PEFT}transformer.": "PEFT",
    RAW_PEFT: "PEFT",
    "model.diffusion_model.": "ComfyUI",
    "diffusion_model.": "ComfyUI",
    "transformer.": "diffusers (also ai-toolkit, diffusion-pipe, SimpleTuner)",
    "": "names without a prefix (DiffSynth)",
}
"""What stands before names with dots -> who writes so; the first that fits is taken."""

TEXT_ENCODER = re.compile(r"lora_te\d?_|text_encoder(s|_\d)?\.|base_model\.model\.text_model\.|bundle_emb\.")

ADAPTER = re.compile(r"lora|hada_|lokr_|oft_|dora_|\.diff(_b)?$")
"""What some key of every adapter has, and no key of a base."""

REFUSED = (
    (r"\.hada_", "a LoHa (LyCORIS)"),
    (r"\.lokr_", "a LoKr (LyCORIS)"),
    (r"oft_(blocks|diag|R)", "an OFT adapter"),
    (r"\.dora_scale|lora_magnitude_vector", "a DoRA"),
    (r"\.processor\.", "a LoRA of XLabs"),
    (r"lora_B(\.\w+)?\.bias$|(query|key)_norm\.scale$", "a control LoRA of BFL, or another one with biases"),
    (r"\.(diff|diff_b|set_weight|reshape_weight|w_norm|b_norm)$", "a LoRA with whole weights in it"),
    (r"\.lora_mid", "a LoRA of convolutions (LoCon)"),
)
"""A form of a key -> what a file with such keys is, that is more than a LoRA or none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignLora:
    """What a LoRA file of any dialect holds."""

    factors: dict[str, Factors]
    """Our module path -> factors, in the file's types."""
    dialect: str
    """Who writes such keys."""
    example: str
    """One of its keys."""
    text_encoder_modules: int
    """Modules of text encoders, which were passed over."""
    dtype: torch.dtype
    """The type of most of its factors."""
    metadata: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Key:
    name: str
    """Without prefix, as the file spells it."""
    part: str
    place: Place
    dialect: str


def read_foreign_lora(path: Path, *, names: NameTable, kohya_prefix: str) -> ForeignLora:
    """Return what the LoRA file ``path`` holds; raises ValueError with everything that is wrong with it."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            keys = sorted(file.keys())
            _refuse_by_name(path, keys)
            ours = [key for key in keys if not TEXT_ENCODER.match(key)]
            found = {key: _read_key(key, names=names, kohya_prefix=kohya_prefix) for key in ours}
            _refuse_unknown(path, [key for key, what in found.items() if what is None])
            known = {key: what for key, what in found.items() if what is not None}
            tensors = {key: file.get_tensor(key) for key in known}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a sound safetensors file: {error}") from error
    if not known:
        raise ValueError(f"{path} has no LoRA modules of this transformer")
    config = _config(path, metadata, keys)
    dialects = dict.fromkeys(key.dialect for key in known.values())
    types = Counter(tensor.dtype for key, tensor in tensors.items() if known[key].part != ALPHA)
    return ForeignLora(
        factors=_join(path, _modules(path, known, tensors), config),
        dialect=" and ".join(dialects),
        example=next(key for key, what in known.items() if what.part != ALPHA),
        text_encoder_modules=len({_stem(key) for key in keys if key not in found}),
        dtype=types.most_common(1)[0][0],
        metadata=metadata,
    )


def _refuse_by_name(path: Path, keys: Sequence[str]) -> None:
    if not any(ADAPTER.search(key) for key in keys):
        raise ValueError(f"{path} is no LoRA: not one of its keys is one's ({name_some(keys)})")
    for pattern, kind in REFUSED:
        example = next((key for key in keys if re.search(pattern, key)), None)
        if example is not None:
            raise ValueError(f"{path} is {kind}, which is not read yet and is no plain LoRA (key {example})")


def _refuse_unknown(path: Path, unknown: Sequence[str]) -> None:
    if unknown:
        raise ValueError(f"{path} has keys of no module of this transformer ({name_some(unknown)})")


def _read_key(key: str, *, names: NameTable, kohya_prefix: str) -> _Key | None:
    for regex, part in PARTS:
        match = regex.fullmatch(key)
        if match is None:
            continue
        joined = {kohya_prefix: "kohya (sd-scripts, musubi)", **JOINED_PREFIXES}
        for prefixes, is_joined in ((joined, True), (DOTTED_PREFIXES, False)):
            for prefix, dialect in prefixes.items():
                name = match[1].removeprefix(prefix)
                place = names.find(name, joined=is_joined) if match[1].startswith(prefix) else None
                if place is not None:
                    return _Key(name=name, part=part, place=place, dialect=dialect)
    return None


def _stem(key: str) -> str:
    match = next((match for regex, _ in PARTS if (match := regex.fullmatch(key))), None)
    return match[1] if match else key


def _config(path: Path, metadata: Mapping[str, str], keys: Iterable[str]) -> AdapterConfig | None:
    config = config_in_header(metadata)
    if config is None and any(key.startswith(RAW_PEFT) for key in keys):
        config = config_beside(path)
    if config is not None and config.weight_decomposed:
        raise ValueError(f"{path} is a DoRA by its metadata, which is not read yet and is no plain LoRA")
    return config


@dataclass(frozen=True, slots=True)
class _Module:
    name: str
    parts: dict[str, Tensor]


def _modules(path: Path, keys: Mapping[str, _Key], tensors: Mapping[str, Tensor]) -> dict[Place, _Module]:
    modules: dict[Place, _Module] = {}
    twice: list[str] = []
    for key, what in keys.items():
        module = modules.setdefault(what.place, _Module(what.name, {}))
        if what.part in module.parts:
            twice.append(key)
        module.parts[what.part] = tensors[key]
    complaints = {
        "two tensors for the same part of a module": twice,
        "modules without both factors": [
            module.name for module in modules.values() if not {DOWN, UP} <= module.parts.keys()
        ],
        "modules whose factors or alpha have shapes that do not fit together": [
            module.name for module in modules.values() if not shapes_agree(module.parts)
        ],
    }
    _refuse_if_any(path, complaints)
    return modules


def _join(path: Path, modules: Mapping[Place, _Module], config: AdapterConfig | None) -> dict[str, Factors]:
    """Put the parts of each of our linears together."""
    whole: dict[str, Factors] = {}
    split: dict[str, dict[int, Factors]] = {}
    fused = {place.module_path: place.fused for place in modules if place.fused is not None}
    for place, module in modules.items():
        factors = _factors(module, config)
        if place.fused is not None:
            split.setdefault(place.module_path, {})[place.part] = factors
        else:
            whole[place.module_path] = swap_halves(factors) if place.swapped else factors
    complaints = {
        "modules both as one linear and in parts": [name for name in split if name in whole],
        "parts of one linear whose shapes do not fit together": [],
    }
    for name, parts in split.items():
        n_in = next(iter(parts.values())).down.shape[1]
        complete = len(parts) == len(fused[name].parts)
        n_out = sum(p.up.shape[0] for p in parts.values()) if complete else fused[name].out_features(n_in)
        rows = fused[name].rows(n_out, n_in)
        if all(p.up.shape[0] == rows[i] and p.down.shape[1] == n_in for i, p in parts.items()):
            whole[name] = fuse_factors(parts, rows=rows)
        else:
            complaints["parts of one linear whose shapes do not fit together"].append(name)
    _refuse_if_any(path, complaints)
    return whole


def _factors(module: _Module, config: AdapterConfig | None) -> Factors:
    down, up = module.parts[DOWN], module.parts[UP]
    rank = down.shape[0]
    if ALPHA in module.parts:
        alpha = float(module.parts[ALPHA])
    else:
        alpha = config.alpha_of(module.name, rank=rank) if config else float(rank)
    return Factors(down=down, up=up, alpha=alpha)


def _refuse_if_any(path: Path, complaints: Mapping[str, Sequence[str]]) -> None:
    found = [f"{path} has {what} ({name_some(names)})" for what, names in complaints.items() if names]
    if found:
        raise ValueError("\n".join(found))
