"""Seconds and peak memory of a step at full geometry: ours, diffusers + peft in turn, and ours when capped.

Needs what benchmarks/real_geometry/make_model.py wrote. Every case runs in a process of its own. Ours is
train.py itself; its seconds and its memory are those that it writes to its log.
"""

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from host.scripting import estimate_memory

HERE = Path(__file__).parent
RUN = HERE.parent / "real_geometry" / "run.py"
THEIRS = HERE / "theirs.py"
WARM_UP = 2
"""Steps that are not counted."""
PRECISIONS = {"bf16": (), "fp8": ("--fp8_base", "--fp8_scaled")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One run."""

    who: str
    """``ours`` or ``theirs``."""
    side: int
    """Pixels."""
    precision: str
    limit: str | None = None
    """The most that the allocator may take; only ours knows how to do with less."""

    @property
    def name(self) -> str:
        """For files and the table."""
        return "-".join([self.who, str(self.side), self.precision, self.limit or "free"])


def cases(options: argparse.Namespace) -> Iterator[Case]:
    """Yield both in turn for every side and precision, in rounds; then ours under each limit."""
    for _ in range(options.rounds):
        for side in options.sides:
            for precision in options.precisions:
                yield Case(who="ours", side=side, precision=precision)
                yield Case(who="theirs", side=side, precision=precision)
    for limit in options.limits:
        for side in options.sides:
            yield Case(who="ours", side=side, precision="bf16", limit=limit)


def measure(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Run a case; return seconds a step, the peak in bytes, what was predicted; or how it failed."""
    found = (ours if case.who == "ours" else theirs)(case, options)
    return {"case": case.name, **found}


def ours(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Train with train.py; the peak is what its account of memory adds up to."""
    flags = [
        *PRECISIONS[case.precision],
        *("--resolution", str(case.side), "--max_train_steps", str(options.steps)),
        *("--device", options.device),
    ]
    if case.limit is not None:
        flags += ["--vram_limit", case.limit]
    folder = options.folder.absolute()
    command = [sys.executable, RUN, folder, "--name", case.name, *flags]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    predicted = estimate_memory(
        folder / f"{case.name}.toml", *_without_device(flags), vram=case.limit or options.vram
    )
    told = {
        "predicted": next(phase.device for phase in predicted.phases if phase.name == "training"),
        "predicted_to_fit": predicted.fits,
        "chosen": predicted.chosen,
    }
    if ended.returncode != 0:
        return {**told, "exit": ended.returncode, "said": _last_words(folder / f"{case.name}.log")}
    record = json.loads((folder / f"{case.name}.json").read_text())
    seconds = [step["seconds"] for step in record["steps"]]
    return {
        "seconds": round(statistics.median(seconds[WARM_UP:] or seconds), 3),
        "peak": sum(record["steps"][-1]["memory"].values()),
        **told,
    }


def theirs(case: Case, options: argparse.Namespace) -> dict[str, Any]:
    """Train with diffusers and peft."""
    dit = options.folder.absolute() / "flux1-random.safetensors"
    flags = ["--side", str(case.side), "--steps", str(options.steps), "--device", options.device]
    flags += ["--fp8"] if case.precision == "fp8" else []
    ended = subprocess.run([sys.executable, THEIRS, dit, *flags], capture_output=True, text=True, check=False)
    if ended.returncode != 0:
        return {"exit": ended.returncode, "said": ended.stderr.splitlines()[-1:]}
    found = json.loads(ended.stdout.splitlines()[-1])
    return {"seconds": found["seconds"], "peak": found["peak"]}


def _without_device(flags: list[str]) -> list[str]:
    """Return ``flags`` as an estimate for a GPU wants them, wherever it is made."""
    return [*flags[: flags.index("--device")], *flags[flags.index("--device") + 2 :], "--device", "cuda"]


def _last_words(log: Path) -> list[str]:
    return [line for line in log.read_text().splitlines() if "%|" not in line][-3:]


def main() -> None:
    """Print one line of JSON for each case, as it ends, and keep them in gpu.jsonl in the folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="what make_model.py wrote")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sides", type=int, nargs="+", default=[512, 768, 1024], help="pixels")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS))
    parser.add_argument("--limits", nargs="*", default=["4GB", "8GB", "12GB", "16GB", "24GB"])
    parser.add_argument("--vram", help="memory of the card, for the predictions without a limit")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    with (options.folder / "gpu.jsonl").open("a") as record:
        for case in cases(options):
            line = json.dumps(measure(case, options))
            print(line, flush=True)  # noqa: T201
            record.write(f"{line}\n")
            record.flush()


if __name__ == "__main__":
    main()
