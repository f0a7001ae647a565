"""What a model file is, told from its header alone: names, shapes and types of its tensors.

Never from the file's name, which users change and which several families share (``ae.safetensors``).
A part that is recognised is held against the model that its sizes describe, key by key: what is
missing, left over or of another shape is known before a weight is read.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from host.architecture import Header, Part, Problem, ProblemsFound, name_some
from musubi_flux_dev.contents import Contents, Source, contents_of, sources, troubles, view
from musubi_flux_dev.file_layouts import (
    Layout,
    diffusers_autoencoder,
    diffusers_transformer,
    published,
    t5_layout,
)
from musubi_flux_dev.part_sizes import (
    Told,
    tell_autoencoder,
    tell_clip,
    tell_t5,
    tell_transformer,
)
from musubi_flux_dev.storage import form_of_keys, precision
from musubi_flux_dev.strangers import is_lora, other_family
from musubi_flux_dev.variants import as_declared, variant_of

__all__ = ["Located", "identify", "locate", "require_part", "variant_of"]

OTHER = "other"
"""The role of a file that is recognised and of no use here."""

PLAIN_FILE = "Use the file of the same weights in bf16, fp16, fp32 or fp8."
WHOLE_FILE = "It may be incomplete, one piece of a split file, or another model. Use the published one."


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """One part in one layout: how it is recognised and what it is held against."""

    role: str
    name: str
    mark: str
    """A key that only this part in this layout has; the first group stands before all its keys."""
    layout: Callable[[Iterable[str]], Layout]
    tell: Callable[[Header], Told]
    layout_word: str = ""


KINDS = (
    Kind(
        role="transformer",
        name="a FLUX.1 transformer",
        mark=r"(.*?)(?:double_blocks\.\d+\.img_attn\.qkv|single_blocks\.\d+\.linear1)\.weight",
        layout=published,
        tell=tell_transformer,
    ),
    Kind(
        role="transformer",
        name="a FLUX.1 transformer",
        mark=r"(.*?)(?:single_transformer_blocks\.\d+\.proj_mlp"
        r"|(?<!single_)transformer_blocks\.\d+\.attn\.(?:norm_added_q|add_q_proj))\.weight",
        layout=diffusers_transformer,
        tell=tell_transformer,
        layout_word="diffusers layout",
    ),
    Kind(
        role="autoencoder",
        name="a FLUX.1 autoencoder",
        mark=r"(.*?)decoder\.up\.\d+\.block\.0\.conv1\.weight",
        layout=published,
        tell=tell_autoencoder,
    ),
    Kind(
        role="autoencoder",
        name="a FLUX.1 autoencoder",
        mark=r"(.*?)decoder\.up_blocks\.\d+\.resnets\.0\.conv1\.weight",
        layout=diffusers_autoencoder,
        tell=tell_autoencoder,
        layout_word="diffusers layout",
    ),
    Kind(
        role="clip_l",
        name="a CLIP-L text encoder",
        mark=r"(.*?)embeddings\.token_embedding\.weight",
        layout=published,
        tell=tell_clip,
    ),
    Kind(
        role="t5",
        name="a T5-XXL text encoder",
        mark=r"(.*?)encoder\.block\.\d+\.layer\.0\.SelfAttention\.q\.weight",
        layout=t5_layout,
        tell=tell_t5,
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A part of a file that can be read: what it is and where its parameters lie."""

    part: Part
    sizes: Header
    """The parameters that tell the model's sizes, under our names."""
    sources: Mapping[str, Source]
    in_eight_bit: bool


def identify(header: Header) -> Part | None:
    """Return what the file is, with a refusal when it cannot be used; None when it is unknown."""
    if (stranger := _stranger(header)) is not None:
        return stranger
    parts = [_examine(header, kind, contents) for kind, contents in _kinds_in(header)]
    if len(parts) < 2:
        return parts[0] if parts else None
    names = [part.description.partition(" (")[0] for part in parts]
    return Part(
        role="all_in_one",
        description=f"{names[0]} together with {', '.join(names[1:])}",
        precision=parts[0].precision,
        contains={part.role: part for part in parts},
    )


def locate(header: Header, role: str) -> Located:
    """Return where the part ``role`` lies; raises ``ProblemsFound`` unless it is there and usable."""
    part = require_part(header, role)
    kind, contents = next(pair for pair in _kinds_in(header) if pair[0].role == role)
    layout = kind.layout(contents.weights)
    sizes = view(contents, layout)
    return Located(
        part=part,
        sizes=sizes,
        sources=sources(contents, layout, kind.tell(sizes).wanted),
        in_eight_bit=contents.in_eight_bit,
    )


def sizes_of(header: Header, role: str) -> Header:
    """Return the parameters that tell the sizes of the part ``role``, under our names.

    For a header that was identified already: nothing is checked again.
    """
    kind, contents = next(pair for pair in _kinds_in(header) if pair[0].role == role)
    return view(contents, kind.layout(contents.weights))


def require_part(header: Header, role: str) -> Part:
    """Return the part ``role`` of the file; raises ``ProblemsFound`` unless there is a usable one."""
    found = identify(header)
    part = None if found is None else found.of(role)
    if part is None or part.role != role:
        known = "no model file known to FLUX.1" if part is None else part.description
        problem = Problem(
            code="E15",
            what=f"{header.path} is {known}; the {role} is needed here.",
            remedy=f"Give the file of FLUX.1's {role}.",
        )
        raise ProblemsFound([problem])
    if part.refusal is not None:
        raise ProblemsFound([part.refusal])
    return part


def _stranger(header: Header) -> Part | None:
    """Return what the file is when it is known and holds no part that could be read."""
    kinds = {kind.role for kind in KINDS if _prefix(header, kind) is not None}
    packed = form_of_keys(header.tensors)
    if packed and not kinds:
        # Packed weights have keys of their own, which may look like a LoRA's.
        t5 = any("SelfAttention" in key for key in header.tensors)
        role, name = ("t5", "a T5 text encoder") if t5 else ("transformer", "a transformer")
        part = _part(role, name, "", packed, "")
        return _refused(part, header, f"Its weights are stored as {packed}, which is not read.", PLAIN_FILE)
    if is_lora(header):
        return _part("lora", "a LoRA", "", precision(header.tensors.values()), "")
    if family := other_family(header):
        part = _part(OTHER, family, "", precision(header.tensors.values()), "")
        return _refused(part, header, "It is no part of FLUX.1.", "Use the files that belong to FLUX.1.")
    return None


def _kinds_in(header: Header) -> list[tuple[Kind, Contents]]:
    """Return every part that the file has, one for each role."""
    prefixes: dict[str, tuple[Kind, str]] = {}
    for kind in KINDS:
        prefix = _prefix(header, kind)
        if prefix is not None:
            prefixes.setdefault(kind.role, (kind, prefix))
    return [
        (kind, contents_of(header, prefix, beside=_others(prefixes, kind.role)))
        for kind, prefix in prefixes.values()
    ]


def _others(prefixes: Mapping[str, tuple[Kind, str]], role: str) -> Sequence[str]:
    return [prefix for other, (_, prefix) in prefixes.items() if other != role]


def _prefix(header: Header, kind: Kind) -> str | None:
    """What stands before the keys of this part; None where the file has no such part."""
    found = (re.fullmatch(kind.mark, key) for key in header.tensors)
    return next((match[1] for match in found if match), None)


def _examine(header: Header, kind: Kind, contents: Contents) -> Part:
    """Return what a part is, refused unless every key is accounted for."""
    entries = [*contents.weights.values(), *contents.scales.values()]
    storage = contents.form or ("scaled fp8" if contents.scales else precision(entries))
    part = replace(
        _part(kind.role, kind.name, kind.layout_word, storage, ""),
        key_prefix=contents.prefix,
        precision=precision(entries),
    )
    if contents.form:
        # Packed weights have other shapes, which tell no size.
        reason = f"Its weights are stored as {contents.form}, which is not read."
        return _refused(part, header, reason, PLAIN_FILE)
    layout = kind.layout(contents.weights)
    try:
        told = kind.tell(view(contents, layout))
    except ValueError as error:
        return _refused(part, header, _unsized(error, contents, layout), WHOLE_FILE)
    words = ", ".join(word for word in (told.kind, kind.layout_word) if word)
    named = _part(told.role or kind.role, told.name or kind.name, words, storage, told.size)
    part = replace(part, role=named.role, description=named.description)
    if told.refusal:
        return _refused(part, header, *told.refusal)
    if found := troubles(contents, layout, told.wanted):
        return _refused(part, header, " ".join(found), WHOLE_FILE)
    try:
        variant = as_declared(told.variant, header.metadata) if told.variant else None
    except ValueError as error:
        return _refused(part, header, f"It cannot be used: {error}.", WHOLE_FILE)
    return replace(part, variant=variant, linears=told.linears, blocks=told.blocks)


def _unsized(error: ValueError, contents: Contents, layout: Layout) -> str:
    """Return why the sizes of a part cannot be told from its tensors."""
    keys = [key for name in layout.telling for key in layout.keys_of(name)]
    if absent := [contents.prefix + key for key in keys if key not in contents.weights]:
        return f"It lacks tensors that tell its size: {name_some(absent)}."
    if isinstance(error, ProblemsFound):
        return " ".join(problem.what for problem in error.problems)
    return f"Its tensors fit no such model: {error}."


def _part(role: str, name: str, kind: str, storage: str, size: str) -> Part:
    words = ", ".join(word for word in (kind, storage, size) if word)
    return Part(role=role, description=f"{name} ({words})" if words else name, precision=storage)


def _refused(part: Part, header: Header, reason: str, remedy: str) -> Part:
    problem = Problem(code="E16", what=f"{header.path} is {part.description}. {reason}", remedy=remedy)
    return replace(part, refusal=problem)
