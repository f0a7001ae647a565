"""Saves the LoRA, and believes the file only after it was opened again and compared."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from host.errors import FailedRunError
from host.headers import Header
from host.outputs import OutputSettings
from networks.files import read_lora, write_lora
from networks.keys import kohya_table
from networks.lora import Adapter
from networks.verify import LoraRefusedError, Verification, verify_lora

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32, "float": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSaver:
    """Knows where the run's LoRA files go and what they have to match."""

    output: OutputSettings
    adapter: Adapter
    linears: Mapping[str, tuple[int, int]]
    """Every linear of the base: module path -> (out, in)."""
    kohya_prefix: str
    metadata: Callable[[int, int], Mapping[str, str]]
    """(steps done, epoch) -> the header of the file."""

    def final_path(self) -> Path:
        """Where the finished LoRA goes."""
        return self.output.output_dir / f"{self.output.output_name}.safetensors"

    def step_path(self, step: int) -> Path:
        """Where the LoRA of a step goes."""
        return self.output.output_dir / f"{self.output.output_name}-step{step:08d}.safetensors"

    def epoch_path(self, epoch: int) -> Path:
        """Where the LoRA of an epoch, counted from 1, goes."""
        return self.output.output_dir / f"{self.output.output_name}-{epoch:06d}.safetensors"

    def save(self, path: Path, *, step: int, epoch: int, must_change: bool = True) -> Verification:
        """Write the LoRA, verify it, put it in place; a file that fails is never put in place."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found: list[Verification] = []

        def check(partial: Path) -> None:
            found.append(self.verify(partial, must_change=must_change))

        try:
            write_lora(
                path,
                self.adapter.factors(),
                prefix=self.kohya_prefix,
                dtype=DTYPES[self.output.save_precision],
                metadata=self.metadata(step, epoch),
                verify=check,
            )
        except ValueError as error:
            raise self._refused(path, error) from error
        return found[0]

    def verify(self, path: Path, *, must_change: bool = True) -> Verification:
        """Open ``path`` anew and hold it against the base and the live adapter."""
        return verify_lora(
            path,
            linears=self.linears,
            live=self.adapter.factors(),
            prefix=self.kohya_prefix,
            must_change=must_change,
        )

    def try_out(self) -> None:
        """Save and verify the untrained adapter, then remove the file: saving works here."""
        path = self.output.output_dir / f".{self.output.output_name}.trial.safetensors"
        try:
            self.save(path, step=0, epoch=0, must_change=False)
        finally:
            path.unlink(missing_ok=True)

    def prune(self) -> list[Path]:
        """Remove all but the newest LoRAs saved on the way; the final one always stays."""
        if self.output.save_last_n is None:
            return []
        surplus = self.intermediates()[: -self.output.save_last_n]
        for path in surplus:
            path.unlink()
        return surplus

    def intermediates(self) -> list[Path]:
        """Return the run's LoRAs saved on the way, the oldest first."""
        return intermediate_loras(self.output.output_dir, self.output.output_name)

    def _refused(self, path: Path, error: ValueError) -> FailedRunError:
        cure = " A lower learning_rate is the usual cure." if isinstance(error, LoraRefusedError) else ""
        return FailedRunError.of(
            f"The LoRA was not saved as {path}: {error}",
            f"Nothing bad was written; earlier files are as they were.{cure}",
        )


def verify_finished(path: Path, *, linears: Mapping[str, tuple[int, int]], kohya_prefix: str) -> Verification:
    """Hold a finished LoRA against the base alone: keys, shapes, finite, not without effect."""
    try:
        saved = read_lora(path, table=kohya_table(linears, prefix=kohya_prefix))
        return verify_lora(path, linears=linears, live=saved, prefix=kohya_prefix, must_change=True)
    except ValueError as error:
        raise FailedRunError.of(str(error), "Train it again with  --overwrite") from error


def linears_in(header: Header, *, key_prefix: str) -> dict[str, tuple[int, int]]:
    """Return module path -> (out, in) of every two-dimensional weight of a model file."""
    return {
        name.removeprefix(key_prefix).removesuffix(".weight"): (entry.shape[0], entry.shape[1])
        for name, entry in header.tensors.items()
        if name.startswith(key_prefix) and name.endswith(".weight") and len(entry.shape) == 2
    }


def intermediate_loras(output_dir: Path, name: str) -> list[Path]:
    """Return ``name``'s step and epoch files, the oldest first."""
    found: list[Path] = []
    for path in output_dir.glob("*.safetensors"):
        rest = path.stem.removeprefix(f"{name}-") if path.stem.startswith(f"{name}-") else ""
        if (rest.startswith("step") and rest[4:].isdigit()) or (len(rest) == 6 and rest.isdigit()):
            found.append(path)
    return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))
