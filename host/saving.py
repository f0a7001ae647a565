"""LoRA files: written, and believed only after they were opened again and compared; found again by name."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from host.errors import ConfigError, FailedRunError, Problem, name_some
from host.headers import Header, read_header
from host.outputs import OutputSettings
from networks.dialects import read_foreign_lora
from networks.diffusers_files import verify_diffusers_lora, write_diffusers_lora
from networks.files import read_lora, write_lora
from networks.keys import kohya_table
from networks.layouts import NameTable, OtherLayout
from networks.lora import Adapter
from networks.verify import LoraRefusedError, Verification, verify_lora

KOHYA, DIFFUSERS = "kohya", "diffusers"
BEST = "-best-step"
"""What comes between the name of a run and the step of its best LoRA."""
SECOND = "-diffusers"
"""What follows the name of the second file when a LoRA is saved in both layouts."""

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "float": torch.float32}


def check_format(save_format: str, *, diffusers: OtherLayout | None) -> list[Problem]:
    """Return the refusal of a layout that an architecture without diffusers' names cannot be saved in."""
    if save_format == KOHYA or diffusers is not None:
        return []
    what = f'save_format = "{save_format}": this architecture has no table of the names that diffusers '
    what += "gives its linears."
    return [Problem(what=what, remedy='Write:  save_format = "kohya"', setting="save_format")]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraFiles:
    """Writes a LoRA in the layouts that are asked for; knows what the files have to match."""

    output: OutputSettings
    adapter: Adapter
    linears: Mapping[str, tuple[int, int]]
    """Every linear of the base: module path -> (out, in)."""
    kohya_prefix: str
    diffusers: OtherLayout | None = None
    """The names that diffusers has for the linears; None where it has none."""

    def __post_init__(self) -> None:
        """Refuse a layout that this architecture cannot be saved in, or a name that another run has."""
        wanted, name = self.output.save_format, self.output.output_name
        if problems := check_format(wanted, diffusers=self.diffusers):
            raise ConfigError(problems)
        second = second_file(final_path(self.output.output_dir, name))
        if wanted == "both" and is_of_another_run(second):
            raise ConfigError.of(
                f'save_format = "both" would replace {second} of another run.',
                f"Choose another name:   --output_name {name}-2",
            )

    def write(self, path: Path, metadata: Mapping[str, str], *, must_change: bool) -> Verification:
        """Write every layout that is asked for and verify each file; return what was found in the first.

        Raises ValueError for a file that fails; it is never put in place.
        """
        files = {path: self.output.save_format}
        if self.output.save_format == "both":
            files = {path: KOHYA, second_file(path): DIFFUSERS}
        writers = {KOHYA: self._save_kohya, DIFFUSERS: self._save_diffusers}
        found = [writers[layout](file, metadata, must_change=must_change) for file, layout in files.items()]
        return found[0]

    def _save_kohya(self, path: Path, metadata: Mapping[str, str], *, must_change: bool) -> Verification:
        live, found = self.adapter.factors(), list[Verification]()

        def check(partial: Path) -> None:
            found.append(
                verify_lora(
                    partial,
                    linears=self.linears,
                    live=live,
                    prefix=self.kohya_prefix,
                    must_change=must_change,
                )
            )

        write_lora(path, live, prefix=self.kohya_prefix, dtype=self._dtype(), metadata=metadata, verify=check)
        return found[0]

    def _save_diffusers(self, path: Path, metadata: Mapping[str, str], *, must_change: bool) -> Verification:
        layout, live, found = self.diffusers, self.adapter.factors(), list[Verification]()
        assert layout is not None

        def check(partial: Path) -> None:
            found.append(
                verify_diffusers_lora(
                    partial, layout=layout, live=live, kohya_prefix=self.kohya_prefix, must_change=must_change
                )
            )

        write_diffusers_lora(path, live, layout=layout, dtype=self._dtype(), metadata=metadata, verify=check)
        return found[0]

    def _dtype(self) -> torch.dtype:
        return DTYPES[self.output.save_precision]


def verify_finished(
    path: Path,
    *,
    linears: Mapping[str, tuple[int, int]],
    kohya_prefix: str,
    diffusers: OtherLayout | None = None,
) -> Verification:
    """Hold a finished LoRA, in whatever layout, against the base alone: keys, shapes, finite, not idle."""
    second = second_file(path)
    try:
        if diffusers is not None and second.exists() and not is_of_another_run(second):
            _verify_diffusers(second, linears=linears, kohya_prefix=kohya_prefix, layout=diffusers)
        if diffusers is not None and not _has_kohya_keys(path, kohya_prefix):
            return _verify_diffusers(path, linears=linears, kohya_prefix=kohya_prefix, layout=diffusers)
        saved = read_lora(path, table=kohya_table(linears, prefix=kohya_prefix))
        return verify_lora(path, linears=linears, live=saved, prefix=kohya_prefix, must_change=True)
    except ValueError as error:
        raise FailedRunError.of(str(error), "Train it again with  --overwrite") from error


def _has_kohya_keys(path: Path, kohya_prefix: str) -> bool:
    return any(key.startswith(kohya_prefix) for key in read_header(path).tensors)


def _verify_diffusers(
    path: Path, *, linears: Mapping[str, tuple[int, int]], kohya_prefix: str, layout: OtherLayout
) -> Verification:
    saved = read_foreign_lora(path, names=NameTable(layout), kohya_prefix=kohya_prefix).factors
    wrong = [
        name for name, pair in saved.items() if linears.get(name) != (pair.up.shape[0], pair.down.shape[1])
    ]
    if wrong:
        raise LoraRefusedError(f"{path}: modules that fit no linear of the base ({name_some(wrong)})")
    return verify_diffusers_lora(path, layout=layout, live=saved, kohya_prefix=kohya_prefix, must_change=True)


def linears_in(header: Header, *, key_prefix: str) -> dict[str, tuple[int, int]]:
    """Return module path -> (out, in) of every two-dimensional weight of a model file."""
    return {
        name.removeprefix(key_prefix).removesuffix(".weight"): (entry.shape[0], entry.shape[1])
        for name, entry in header.tensors.items()
        if name.startswith(key_prefix) and name.endswith(".weight") and len(entry.shape) == 2
    }


def final_path(output_dir: Path, name: str) -> Path:
    """Return where the finished LoRA or transformer of the run called ``name`` goes."""
    return output_dir / f"{name}.safetensors"


def second_file(path: Path) -> Path:
    """Return where the file in the other layout goes when the first one is ``path``."""
    return path.with_name(f"{path.stem}{SECOND}{path.suffix}")


def all_loras(output_dir: Path, name: str) -> list[Path]:
    """Return every LoRA that runs called ``name`` saved, the finished one first, in all layouts."""
    first = [
        final_path(output_dir, name),
        *intermediate_loras(output_dir, name),
        *best_loras(output_dir, name).values(),
    ]
    second = [path for path in map(second_file, first) if not is_of_another_run(path)]
    return [path for path in [*first, *second] if path.exists()]


def is_of_another_run(path: Path) -> bool:
    """Whether a run that is really called ``cat-diffusers`` lies where the second file of ``cat`` goes."""
    return path.with_suffix(".run.json").exists()


def intermediate_loras(output_dir: Path, name: str) -> list[Path]:
    """Return ``name``'s step and epoch files, the oldest first; without the second files."""
    found: list[Path] = []
    for path in output_dir.glob("*.safetensors"):
        rest = path.stem.removeprefix(f"{name}-") if path.stem.startswith(f"{name}-") else ""
        on_the_way = (rest.startswith("step") and rest[4:].isdigit()) or (len(rest) == 6 and rest.isdigit())
        # A run may be called cat-240101: its LoRA is not one of the run called cat.
        if on_the_way and not is_of_another_run(path):
            found.append(path)
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))


def best_path(output_dir: Path, name: str, step: int) -> Path:
    """Return where the LoRA of the best held-out loss goes."""
    return output_dir / f"{name}{BEST}{step:08d}.safetensors"


def best_loras(output_dir: Path, name: str) -> dict[int, Path]:
    """Return step -> the LoRA of the best held-out loss; more than one only where a start was killed."""
    pattern = re.compile(f"{re.escape(name)}{BEST}" + r"(\d{8})")
    found = {path: pattern.fullmatch(path.stem) for path in sorted(output_dir.glob("*.safetensors"))}
    return {
        int(match[1]): path
        for path, match in found.items()
        if match is not None and not is_of_another_run(path)
    }
