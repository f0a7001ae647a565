"""Saves what a run trains, under the names that tell when: by step, by epoch, and at the end."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from host.errors import FailedRunError
from host.outputs import OutputSettings
from host.saving import intermediate_loras, second_file
from host.shortage import at_work_on, during
from host.trained import Verified, Write
from networks.verify import LoraRefusedError


@dataclass(frozen=True, slots=True, kw_only=True)
class Saver:
    """Knows where the run's files go; a file that fails is never put in place."""

    output: OutputSettings
    noun: str
    """What is saved, in words."""
    remedy: str
    """What helps when there is no memory to save with."""
    write: Write
    metadata: Callable[[int, int], Mapping[str, str]]
    """(steps done, epoch) -> the header of the file."""

    def step_path(self, step: int) -> Path:
        """Where the file of a step goes."""
        return self.output.output_dir / f"{self.output.output_name}-step{step:08d}.safetensors"

    def epoch_path(self, epoch: int) -> Path:
        """Where the file of an epoch, counted from 1, goes."""
        return self.output.output_dir / f"{self.output.output_name}-{epoch:06d}.safetensors"

    def save(self, path: Path, *, step: int, epoch: int, must_change: bool = True) -> Verified:
        """Write the file, verify it, put it in place."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with during("saving", remedy=self.remedy), at_work_on(path.name):
                return self.write(path, self.metadata(step, epoch), must_change=must_change)
        except ValueError as error:
            raise self._refused(path, error) from error

    def try_out(self) -> None:
        """Save and verify what is not trained yet, then remove the file: saving works here."""
        path = self.output.output_dir / f".{self.output.output_name}.trial.safetensors"
        try:
            self.save(path, step=0, epoch=0, must_change=False)
        finally:
            path.unlink(missing_ok=True)
            second_file(path).unlink(missing_ok=True)

    def prune(self) -> list[Path]:
        """Remove all but the newest files saved on the way; the final one always stays."""
        if self.output.save_last_n is None:
            return []
        surplus = intermediate_loras(self.output.output_dir, self.output.output_name)
        surplus = surplus[: -self.output.save_last_n]
        for path in surplus:
            path.unlink()
            second_file(path).unlink(missing_ok=True)
        return surplus

    def _refused(self, path: Path, error: ValueError) -> FailedRunError:
        cure = " A lower learning_rate is the usual cure." if isinstance(error, LoraRefusedError) else ""
        return FailedRunError.of(
            f"The {self.noun} was not saved as {path}: {error}",
            f"Nothing bad was written; earlier files are as they were.{cure}",
        )
