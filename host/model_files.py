"""Which model file is in which setting, told from the headers before a weight is read."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

from host.architecture import Architecture, Header, Part, Tokenizers, Variant
from host.errors import Problem, ProblemsFound, name_some
from host.headers import read_header
from host.placement import Skeleton
from host.prepare import ModelSettings
from host.saving import linears_in
from host.setting import path_roles
from networks.files import ALPHA, DOWN, UP
from networks.keys import kohya_name

PICKLED = "is a pickled file, which can run code when it is opened"
NOT_SAFETENSORS = {
    ".gguf": "is a GGUF file",
    ".pt": PICKLED,
    ".pth": PICKLED,
    ".ckpt": PICKLED,
    ".bin": PICKLED,
}

OTHER_HOMES = {"lora": "network_weights"}
"""Role of a file that is none of the model's -> the setting that takes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """The model files of a job, each in the setting where it belongs."""

    paths: Mapping[str, Path]
    """Every path setting of model and plugin that is given: setting name -> path."""
    parts: Mapping[str, Part]
    """What each model file is; tokenizers are not among them."""
    variant: Variant
    notes: tuple[str, ...]
    headers: Mapping[str, Header]
    """What each model file says of itself."""
    tokenizers: Tokenizers | None = None
    """Those that are named or found, where the plugin tells."""

    @property
    def names(self) -> list[str]:
        """The settings that files are read for: those given, and those whose files were found."""
        found = self.tokenizers.files if self.tokenizers is not None else ()
        return sorted({*self.paths, *found})

    def of(self, names: Sequence[str]) -> dict[str, Path]:
        """Return the given paths among ``names``."""
        return {name: self.paths[name] for name in names if name in self.paths}

    def files_of(self, name: str) -> list[Path]:
        """Return every file that is read for the setting ``name``, in a fixed order."""
        if self.tokenizers is not None and name in self.tokenizers.files:
            return list(self.tokenizers.files[name])
        if name not in self.headers:
            return [self.paths[name]]
        prefix, tensors = self.parts[name].key_prefix, self.headers[name].tensors
        return sorted({entry.path for key, entry in tensors.items() if key.startswith(prefix)})

    def linears(self) -> dict[str, tuple[int, int]]:
        """Return module path -> (out, in) of every linear of the transformer."""
        part = self.parts["dit"]
        if part.linears is not None:
            return dict(part.linears)
        return linears_in(self.headers["dit"], key_prefix=part.key_prefix)

    def skeleton(self) -> Skeleton:
        """Return what the transformer's header says of its build."""
        return Skeleton(blocks=self.parts["dit"].blocks, linears=self.linears())


def find_model_files(
    architecture: Architecture, model: ModelSettings, plugin: object, *, needed: Sequence[str]
) -> tuple[ModelFiles, list[Problem]]:
    """Identify every model file that is given; ``needed`` are the settings this program cannot do without.

    A path that is not needed here is looked at all the same, so that a job is judged as a whole.
    """
    roles = {**path_roles(ModelSettings), **path_roles(architecture.settings)}
    paths = {
        **_paths(model, list(path_roles(ModelSettings))),
        **_paths(plugin, _path_names(architecture.settings)),
    }
    problems = [_missing_setting(name, roles[name]) for name in needed if name not in paths]
    headers: dict[str, Header] = {}
    for name in roles:
        if name in paths:
            header, found = _header(name, paths[name])
            problems += found
            if header is not None:
                headers[name] = header
    parts = {
        name: part.of(roles[name])
        for name, header in headers.items()
        if (part := architecture.identify(header)) is not None
    }
    written = {path: name for name, path in paths.items()}
    paths, parts, notes = _put_right(paths, parts, roles)
    found_at = {header.path: header for header in headers.values()}
    sound: dict[str, Part] = {}
    for name in headers:
        found = _misplaced(name, paths[name], parts.get(name), roles)
        problems += found
        if not found:
            sound[name] = parts[name]
    # What is wrong with a file already is not told again by the plugin.
    problems += [
        replace(problem, setting=written.get(paths.get(problem.setting, Path()), problem.setting))
        for problem in architecture.check_files(
            {name: path for name, path in paths.items() if name in sound or name not in roles}, sound
        )
    ]
    told = parts["dit"].variant if "dit" in parts else None
    variant = told or architecture.default_variant
    find = None if problems else architecture.find_tokenizers
    files = ModelFiles(
        paths=paths,
        parts=parts,
        variant=variant,
        notes=(*notes, *([told.note] if told is not None and told.note else [])),
        headers={name: found_at[paths[name]] for name in parts},
        tokenizers=find(paths, variant) if find is not None else None,
    )
    return files, problems


def _path_names(settings_type: type) -> list[str]:
    return [field.name for field in dataclasses.fields(settings_type) if "Path" in str(field.type)]


def _paths(settings: object, names: Sequence[str]) -> dict[str, Path]:
    return {name: path for name in names if isinstance(path := getattr(settings, name), Path)}


def _missing_setting(name: str, role: str) -> Problem:
    return Problem(
        what=f'"{name}" is not set; it is the file of the {role.replace("_", "-")}.',
        remedy=f"{name} = '/path/to/file.safetensors'",
        setting=name,
    )


def _header(name: str, path: Path) -> tuple[Header | None, list[Problem]]:
    if not path.exists():
        near = (
            sorted(other.name for other in path.parent.glob("*.safetensors")) if path.parent.is_dir() else []
        )
        there = f"In that folder: {', '.join(near[:5])}." if near else f"Correct the line  {name} = ..."
        what = f"{name} = '{path}' does not exist."
        return None, [Problem(code="E15", what=what, remedy=there, setting=name)]
    if path.suffix.lower() in NOT_SAFETENSORS and path.is_file():
        return None, [
            Problem(
                code="E16",
                what=f"{name} = '{path}' {NOT_SAFETENSORS[path.suffix.lower()]}.",
                remedy="Use the .safetensors file of the same weights (bf16, fp16 or fp32).",
                setting=name,
            )
        ]
    try:
        return read_header(path), []
    except ProblemsFound as found:
        return None, [_in_setting(name, problem) for problem in found.problems]
    except OSError as error:
        what = f"{name} = '{path}' cannot be read: {error.strerror}."
        remedy = "Let your user read the file, or copy it."
        return None, [Problem(code="E16", what=what, remedy=remedy, setting=name)]


def _in_setting(name: str, problem: Problem) -> Problem:
    return replace(problem, what=f"{name} cannot be used: {problem.what}", setting=name)


def _put_right(
    paths: dict[str, Path], parts: dict[str, Part], roles: Mapping[str, str]
) -> tuple[dict[str, Path], dict[str, Part], list[str]]:
    """Exchange two files that stand in each other's setting, as CLIP-L and T5 often do."""
    for (first, one), (second, other) in combinations(sorted(parts.items()), 2):
        if roles[first] != roles[second] and (one.role, other.role) == (roles[second], roles[first]):
            paths = {**paths, first: paths[second], second: paths[first]}
            note = f"{first} and {second} were given the other way round; read as {first} = '{paths[first]}'"
            return paths, {**parts, first: other, second: one}, [note]
    return paths, parts, []


def _misplaced(name: str, path: Path, part: Part | None, roles: Mapping[str, str]) -> list[Problem]:
    wanted = roles[name].replace("_", "-")
    if part is None:
        return [
            Problem(
                code="E15",
                what=f"{name} = '{path}' is none of the model files known here.",
                remedy=f"It needs the file of the {wanted}:  {name} = '/path/to/{wanted}.safetensors'",
                setting=name,
            )
        ]
    if part.refusal is not None and part.role == roles[name]:
        return [_in_setting(name, part.refusal)]
    if part.role == roles[name]:
        return []
    homes = [setting for setting, role in roles.items() if role == part.role]
    homes += [OTHER_HOMES[part.role]] if part.role in OTHER_HOMES else []
    remedy = f"It belongs in:  {homes[0]} = '{path}'\n" if homes else ""
    return [
        Problem(
            code="E15",
            what=f"{name} = '{path}' is {part.description}; the file of the {wanted} is needed here.",
            remedy=f"{remedy}Write:  {name} = '/path/to/{wanted}.safetensors'",
            setting=name,
        )
    ]


def unfit_lora(path: Path, *, linears: Mapping[str, tuple[int, int]], kohya_prefix: str) -> list[Problem]:
    """Return why ``path`` is no LoRA for a transformer of these linears: module path -> (out, in)."""
    header, problems = _header("network_weights", path)
    if header is None:
        return problems
    sizes = {kohya_name(module, prefix=kohya_prefix): size for module, size in linears.items()}
    strangers: list[str] = []
    for key, entry in header.tensors.items():
        name, _, part = key.partition(".")
        out, width = sizes.get(name, (0, 0))
        fits = {DOWN: entry.shape[1:] == (width,), UP: entry.shape[:1] == (out,), ALPHA: name in sizes}
        if not fits.get(part, False):
            strangers.append(key)
    if not strangers and header.tensors:
        return []
    what = f"does not fit this transformer: {name_some(strangers)}" if strangers else "holds nothing"
    return [
        Problem(
            code="E15",
            what=f"network_weights = '{path}' {what}.",
            remedy="Name a LoRA that was trained on this transformer, or remove the line to begin anew.",
            setting="network_weights",
        )
    ]
