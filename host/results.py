"""What already lies where the results go, and what a new start means there.

Finished with the same settings: verify again. Unfinished: offer to resume. Different: refuse, with
``--overwrite`` and a free name to paste.
"""

import json
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path
from typing import NamedTuple

from dataset.cache import content_hash
from host.atomic import remove_all, write_json
from host.errors import ConfigError, Problem
from host.outputs import OutputSettings
from host.sample_files import samples_of
from host.saving import all_loras, final_path
from host.states import Progress, compare, find_states, is_complete, latest_state, read_progress, state_path
from host.validation_record import validation_path

LONGEST_NAME = 200
"""Bytes of an output_name: file systems allow 255, and suffixes are added."""


class StartKind(Enum):
    """What a start does."""

    BEGIN = "begin"
    RESUME = "resume"
    FINISHED = "finished"


class ReportPaths(NamedTuple):
    """The three files of a report."""

    page: Path
    document: Path
    local: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How this start goes on from what is there."""

    kind: StartKind
    state: Path | None = None
    notes: tuple[str, ...] = ()


def record_path(output: OutputSettings) -> Path:
    """Where the run's record lies: what was run, and whether it came to its end."""
    return output.output_dir / f"{output.output_name}.run.json"


def report_paths(output: OutputSettings) -> ReportPaths:
    """Where the report on the run lies, and the record that is not to be passed on."""
    ends = ("_report.html", "_report.json", "_record_local.json")
    return ReportPaths(*(output.output_dir / f"{output.output_name}{end}" for end in ends))


def write_record(output: OutputSettings, *, progress: Progress, finished: bool) -> None:
    """Write what is being run and, of a finished run, what its LoRA's bytes are."""
    document = {
        "finished": finished,
        "run": asdict(progress.run),
        "steps": progress.step,
        "sha256": content_hash(final_path(output.output_dir, output.output_name)) if finished else None,
    }
    write_json(record_path(output), document)


def is_as_it_was_finished(output: OutputSettings) -> bool:
    """Whether the finished LoRA still has the bytes that the run gave it."""
    record = _read_record(output) or {}
    return record.get("sha256") == content_hash(final_path(output.output_dir, output.output_name))


def decide_start(output: OutputSettings, *, now: Progress, total_steps: int) -> Start:
    """Return how to start; raises ``ConfigError`` when that would lose or mix up results."""
    _refuse_place(output)
    if output.resume is not None:
        return _resume(output, now=now, total_steps=total_steps)
    if output.overwrite:
        return Start(kind=StartKind.BEGIN)
    record = _read_record(output)
    there = all_loras(output.output_dir, output.output_name)
    if record is None and not there:
        return Start(kind=StartKind.BEGIN)
    same = record is not None and record["run"] == json.loads(json.dumps(asdict(now.run)))
    if (
        same
        and record is not None
        and record["finished"]
        and final_path(output.output_dir, output.output_name).exists()
    ):
        return Start(kind=StartKind.FINISHED)
    state, _ = latest_state(output.output_dir, output.output_name)
    if record is not None and not record["finished"]:
        if state is not None:
            raise _unfinished(output, state)
        if not there:
            return Start(kind=StartKind.BEGIN, notes=("an earlier start left no state; beginning anew",))
    raise _in_the_way(output, there)


def clear(output: OutputSettings) -> None:
    """Remove the results of an earlier run of this name: LoRAs, states, samples, log and record."""
    name, folder = output.output_name, output.output_dir
    remove_all(
        [
            *all_loras(folder, name),
            *find_states(folder, name),
            *samples_of(folder, name),
            folder / f"{name}.jsonl",
            validation_path(folder, name),
            record_path(output),
            *report_paths(output),
        ]
    )


def _refuse_place(output: OutputSettings) -> None:
    name, folder = output.output_name, output.output_dir
    if Path(name).name != name or not name.strip("."):
        what = f'output_name = "{name}" is no plain file name.'
        plain = Path(name).name.strip(".") or "lora"
        remedy = f'Write  output_name = "{plain}"  and put folders into output_dir.'
        raise ConfigError.of(what, remedy, setting="output_name")
    if not name.isprintable() or len(name.encode()) > LONGEST_NAME or name.endswith(".safetensors"):
        what = f"output_name = {json.dumps(name, ensure_ascii=False)} is no good name: "
        what += f"it is to be printable, at most {LONGEST_NAME} bytes long, and without .safetensors."
        plain = "".join(letter for letter in name.removesuffix(".safetensors") if letter.isprintable())
        remedy = f'Write  output_name = "{plain.encode()[:60].decode(errors="ignore") or "lora"}"'
        raise ConfigError.of(what, remedy, setting="output_name")
    there = next(place for place in [folder, *folder.absolute().parents] if place.exists())
    if not there.is_dir():
        what = f"output_dir = '{folder}' cannot be a folder: {there} is a file."
        raise ConfigError.of(what, "Correct output_dir, or move that file.", setting="output_dir")


def _resume(output: OutputSettings, *, now: Progress, total_steps: int) -> Start:
    notes: list[str] = []
    if output.resume == "latest":
        state, broken = latest_state(output.output_dir, output.output_name)
        notes += [f"{path.name} is not whole and was passed over" for path in broken]
        if state is None:
            raise ConfigError.of(
                f'resume = "latest", but {output.output_dir} holds no whole state of "{output.output_name}".',
                "Remove  resume  to begin anew; states are saved with  save_state = true.",
                code="E23",
                setting="resume",
            )
    else:
        state = Path(str(output.resume)).expanduser()
        _refuse_wrong_state(output, state)
    saved = read_progress(state)
    problems, applied = compare(saved, now=now)
    if saved.step > total_steps:
        what = f"{state} is of step {saved.step}, and the run is to end at step {total_steps}."
        problems.append(
            Problem(
                code="E23",
                what=what,
                remedy="Resume from an earlier state, or train longer.",
                setting="resume",
            )
        )
    if problems:
        raise ConfigError(problems)
    return Start(kind=StartKind.RESUME, state=state, notes=(*notes, *applied))


def _refuse_wrong_state(output: OutputSettings, state: Path) -> None:
    newest, _ = latest_state(output.output_dir, output.output_name)
    remedy = (
        f"To go on exactly:   resume = '{newest}'"
        if newest
        else "States are folders, saved with  save_state = true."
    )
    if state.is_file():
        continuing = f"\nTo start a new run from this LoRA:   network_weights = '{state}'"
        raise ConfigError.of(
            f"resume = '{state}' is a file (a finished LoRA?), not a saved state.",
            remedy + (continuing if state.suffix == ".safetensors" else ""),
            code="E23",
            setting="resume",
        )
    if not state.is_dir():
        raise ConfigError.of(f"resume = '{state}' does not exist.", remedy, code="E23", setting="resume")
    if not is_complete(state):
        what = f"resume = '{state}' is not a whole saved state."
        raise ConfigError.of(what, remedy, code="E23", setting="resume")


def _read_record(output: OutputSettings) -> dict | None:
    try:
        record = json.loads(record_path(output).read_text(encoding="utf-8"))
        return {name: record[name] for name in ("finished", "run", "steps", "sha256")}
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):
        return {"finished": False, "run": None, "steps": 0, "sha256": None}


def _unfinished(output: OutputSettings, state: Path) -> ConfigError:
    step = read_progress(state).step
    return ConfigError.of(
        f'The run "{output.output_name}" in {output.output_dir} stopped before its end; '
        f"its newest state is of step {step}.",
        "To go on exactly:   --resume latest\nTo begin anew and lose it:   --overwrite",
        code="E23",
    )


def _in_the_way(output: OutputSettings, there: list[Path]) -> ConfigError:
    found = there[0] if there else record_path(output)
    return ConfigError.of(
        f"{found} is there already, from a run with other settings or pictures.",
        f"To keep it, choose another name:   --output_name {_free_name(output)}\n"
        "To replace it:   --overwrite",
    )


def _free_name(output: OutputSettings) -> str:
    number = 2
    while True:
        name = f"{output.output_name}-{number}"
        candidate = replace(output, output_name=name)
        taken = [
            final_path(output.output_dir, name),
            record_path(candidate),
            state_path(output.output_dir, name),
        ]
        if not any(path.exists() for path in taken):
            return name
        number += 1
