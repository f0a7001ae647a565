"""What a file holds of one part, and which of it each parameter of the model is made from."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from host.architecture import Header, TensorEntry, name_some
from musubi_flux_dev.file_layouts import Layout
from musubi_flux_dev.storage import EIGHT_BIT, MARK, SCALE, layers_said, unreadable_form

Shape = tuple[int, ...]

WITHOUT_USE = re.compile(
    r"(.+\.)?(text_projection\.weight|logit_scale|position_ids|visual_projection\.weight)"
    r"|(.+\.)?vision_model\..+"
)
"""CLIP's other half, and what it is compared with; whole CLIP files and all-in-one files have them."""


SPACE = re.compile(r"(model\.diffusion_model|first_stage_model|vae|text_encoders\.\w+|clip_l|t5xxl)\.")
"""Where all-in-one files keep their parts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """The tensors of one part, named without what stands before all of them in the file."""

    path: Path
    prefix: str
    weights: Mapping[str, TensorEntry]
    scales: Mapping[str, TensorEntry]
    """Module path in the file -> the scale of its weight."""
    strangers: tuple[str, ...]
    """Keys of the file that belong to no part of it."""
    form: str
    """How the weights are stored, where that form is not read; empty otherwise."""

    @property
    def in_eight_bit(self) -> bool:
        """Whether any weight has to be widened before it is computed with."""
        return any(entry.dtype in EIGHT_BIT for entry in self.weights.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One tensor of the file, and the scale that belongs to it."""

    entry: TensorEntry
    scale: TensorEntry | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one parameter is made from: pieces joined along the first axis."""

    pieces: tuple[Piece, ...]
    shape: Shape
    """Of the parameter; the file may lack axes of length 1 at the end."""
    halves_swapped: bool = False


def contents_of(header: Header, prefix: str, *, beside: Sequence[str] = ()) -> Contents:
    """Return the part of the file whose keys begin with ``prefix``; ``beside`` are other parts' prefixes."""
    folder = prefix[: prefix.find("/") + 1]
    weights: dict[str, TensorEntry] = {}
    scales: dict[str, TensorEntry] = {}
    strangers: list[str] = []
    for key, entry in header.tensors.items():
        if not key.startswith(folder) or _belongs_beside(key, prefix, beside):
            continue
        name = key.removeprefix(prefix)
        if MARK.fullmatch(name) or WITHOUT_USE.fullmatch(name):
            continue
        if not key.startswith(prefix):
            strangers += [] if _is_of_another_space(key, prefix) else [key]
        elif match := SCALE.fullmatch(name):
            scales[match[1]] = entry
        else:
            weights[name] = entry
    said = {name: layer for name, layer in layers_said(header.metadata).items() if name.startswith(prefix)}
    return Contents(
        path=header.path,
        prefix=prefix,
        weights=weights,
        scales=scales,
        strangers=tuple(strangers),
        form=unreadable_form(weights, scales, said),
    )


def _is_of_another_space(key: str, prefix: str) -> bool:
    """Whether ``key`` stands where an all-in-one file keeps another part, known here or not."""
    space = SPACE.match(key)
    return space is not None and not prefix.startswith(space[0])


def _belongs_beside(key: str, prefix: str, beside: Sequence[str]) -> bool:
    """Whether another part's prefix fits ``key`` better than ours does."""
    ours = len(prefix) if key.startswith(prefix) else -1
    return any(len(other) > ours and key.startswith(other) for other in beside)


def view(contents: Contents, layout: Layout) -> Header:
    """Return the parameters that tell the model's sizes, under our names and with our shapes."""
    tensors: dict[str, TensorEntry] = {}
    for name in layout.telling:
        entries = [contents.weights.get(key) for key in layout.keys_of(name)]
        there = [entry for entry in entries if entry is not None]
        if there and len(there) == len(entries):
            first = there[0]
            tensors[name] = TensorEntry(
                dtype=first.dtype,
                shape=joined_shape([entry.shape for entry in there]),
                path=first.path,
                key=first.key,
                start=first.start,
                end=first.end,
            )
    return Header(path=contents.path, tensors=tensors, metadata={})


def joined_shape(shapes: Sequence[Shape]) -> Shape:
    """Return the shape of tensors joined along the first axis; empty where they do not fit together."""
    if len(shapes) == 1:
        return shapes[0]
    fit = all(shapes) and len({shape[1:] for shape in shapes}) == 1
    return (sum(shape[0] for shape in shapes), *shapes[0][1:]) if fit else ()


def sources(contents: Contents, layout: Layout, wanted: Mapping[str, Shape]) -> dict[str, Source]:
    """Return parameter -> what it is made from; only for contents without ``troubles``."""
    return {
        name: Source(
            pieces=tuple(
                Piece(
                    entry=contents.weights[key],
                    scale=contents.scales.get(key.removesuffix(".weight"))
                    if key.endswith(".weight")
                    else None,
                )
                for key in layout.keys_of(name)
            ),
            shape=shape,
            halves_swapped=name in layout.halves_swapped,
        )
        for name, shape in wanted.items()
    }


def troubles(contents: Contents, layout: Layout, wanted: Mapping[str, Shape]) -> list[str]:
    """Return how the file differs from a model of these parameters, each with a count and examples."""
    keys = {name: layout.keys_of(name) for name in wanted}
    used = {key for names in keys.values() for key in names}
    prefix = contents.prefix
    missing = [prefix + key for names in keys.values() for key in names if key not in contents.weights]
    over = [prefix + key for key in contents.weights if key not in used | layout.spare]
    over += [prefix + name + " (a scale)" for name in contents.scales if f"{name}.weight" not in used]
    misshapen = [
        f"{prefix}{names[0]} {list(shape)} instead of {list(wanted[name])}"
        for name, names in keys.items()
        if (shape := _shape_in_file(contents, names)) is not None and not _fits(shape, wanted[name])
    ]
    unscaled = [
        prefix + key
        for key in sorted(used & contents.weights.keys())
        if contents.scales and _lacks_scale(contents, key)
    ]
    count = sum(map(len, keys.values()))
    findings = (
        (missing, f"of {count} are missing"),
        ([*over, *contents.strangers], "belong to no part of the model"),
        (misshapen, "have another shape"),
        (unscaled, "in 8 bit have no scale, and others have"),
    )
    return [f"{len(names)} tensors {trouble}: {name_some(names)}." for names, trouble in findings if names]


def _shape_in_file(contents: Contents, keys: Iterable[str]) -> Shape | None:
    entries = [contents.weights.get(key) for key in keys]
    there = [entry.shape for entry in entries if entry is not None]
    return joined_shape(there) if there and len(there) == len(entries) else None


def _fits(shape: Shape, wanted: Shape) -> bool:
    """Whether ``shape`` is ``wanted``, save for axes of length 1 at the end."""
    return wanted[: len(shape)] == shape and all(length == 1 for length in wanted[len(shape) :])


def _lacks_scale(contents: Contents, key: str) -> bool:
    entry = contents.weights[key]
    return entry.dtype in EIGHT_BIT and key.removesuffix(".weight") not in contents.scales
