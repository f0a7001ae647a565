"""Compares LoRA files and strengths by pictures: ``evaluate.py``, from the command line to the table."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial

import torch

from host.atomic import write_json, write_text
from host.config import Config, load_config, metadata_values
from host.drawing import find_drawing_files, lora_problems, open_sampler
from host.embedded import write_embedded
from host.errors import ConfigError, StoppedByUser
from host.evaluation_choice import Choice, choose_by_judge
from host.evaluation_grid import Cell, draw_comparison
from host.evaluation_losses import choose_by_losses
from host.evaluation_numbers import ALL, CONCEPT, OLD, RIGHT, Measured, measure, see
from host.evaluation_order import PROGRAM, Order, names, prompts_of, read_order
from host.evaluation_pictures import (
    BASE,
    Column,
    LoraFile,
    Shelf,
    Shot,
    decode_missing,
    draw_missing,
    shots_of,
)
from host.evaluation_report import by_prompt, document, page, rows_of, table_lines
from host.fingerprints import file_fingerprint, fingerprint_of
from host.judges import Judge
from host.logs import Screen
from host.model_files import ModelFiles
from host.phases import Encoding, text_encoders_fingerprint
from host.placing import placed
from host.prepare import ModelSettings, attach_lora_file, release_memory
from host.processes import join_processes
from host.prompts import SamplePrompt
from host.remedies import circumstances, remedy
from host.sampling import Sampler, SamplingStopped, save_picture
from host.shortage import during
from host.stopping import StopRequest
from networks.lora import Adapter

NAME = "evaluation"
"""Of the three files that are written."""
PICTURES = "pictures"


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A checked order, with everything that it needs."""

    order: Order
    prompts: Sequence[SamplePrompt]
    files: ModelFiles
    judges: Mapping[str, Judge]


def evaluate(argv: Sequence[str]) -> str:
    """Draw, measure and compare; return the table, the recommendation and the closing line."""
    stopping = StopRequest().listen()
    task, config = _checked(argv)
    device, screen = join_processes(config.settings.model.device).device, Screen()
    using = Encoding(config=config, files=task.files, device=device, screen=screen, stopping=stopping)
    for note in [*config.notes, *task.files.notes, *_notes_of(task.prompts)]:
        screen.say("note", note)
    columns = [BASE, *(_columns(task.order))]
    shots = shots_of(
        columns,
        task.prompts,
        seeds=task.order.seeds,
        seed=config.settings.fit.seed,
        made_with=_made_with(config, task.files, device),
    )
    shelf = Shelf(task.order.save_path / PICTURES)
    try:
        _make(shots, shelf=shelf, prompts=task.prompts, using=using)
    except SamplingStopped:
        done = len(shots) - len(shelf.undrawn(shots))
        raise StoppedByUser(
            f"after {done} of {len(shots)} pictures, which stay in {shelf.folder}; the same command goes on"
        ) from None
    return _conclude(task, columns, shots, shelf)


def _checked(argv: Sequence[str]) -> tuple[Task, Config]:
    """Return the order and the configuration; raises ``ConfigError`` with everything that is wrong."""
    order, rest, problems = read_order(argv)
    try:
        config = load_config(rest, prog=PROGRAM)
    except ConfigError as error:
        prompts_of(order, None, problems)
        raise ConfigError([*problems, *error.problems]) from error
    prompts = prompts_of(order, config, problems)
    write_embedded(config)
    files, found = find_drawing_files(config)
    problems += placed(found, config)
    for path in dict.fromkeys(order.loras):
        if path.suffix != ".toml":
            problems += lora_problems(path, flag="--lora", config=config, files=files)
    if problems:
        raise ConfigError(problems)
    judges = config.architecture.judges(files.headers["dit"])
    return Task(order=order, prompts=prompts, files=files, judges=judges), config


def _notes_of(prompts: Sequence[SamplePrompt]) -> list[str]:
    return [note for prompt in prompts for note in prompt.notes]


def _columns(order: Order) -> list[Column]:
    often = Counter(path.stem for path in order.loras)
    files = [
        LoraFile(
            path=path,
            label=path.stem if often[path.stem] == 1 else path.with_suffix("").as_posix(),
            fingerprint=file_fingerprint(path),
        )
        for path in order.loras
    ]
    return [Column(lora=file, strength=strength) for file in files for strength in order.strengths]


def _made_with(config: Config, files: ModelFiles, device: torch.device) -> str:
    """Return what stands for all that makes a picture beside prompt and LoRA."""
    model = fingerprint_of([*files.files_of("dit"), *files.files_of("vae")])
    own = {field.name for kind in (ModelSettings, config.architecture.settings) for field in fields(kind)}
    said = {name: value for name, value in metadata_values(config).items() if name in own}
    texts = text_encoders_fingerprint(config, files)
    return f"{config.architecture.full_name} {model} {texts} {device.type} {sorted(said.items())}"


def _make(shots: Sequence[Shot], *, shelf: Shelf, prompts: Sequence[SamplePrompt], using: Encoding) -> None:
    """See to it that every picture is there."""
    architecture, screen = using.config.architecture, using.screen
    found = circumstances(using.config, using.files, device_type=using.device.type)

    def attach(sampler: Sampler, lora: LoraFile) -> Adapter:
        try:
            return attach_lora_file(sampler.transformer, architecture, lora.path)
        except ValueError as error:
            what, remedy = f"--lora {lora.path} cannot be attached: {error}.", "Save or fetch the file again."
            raise ConfigError.of(what, remedy, code="E15") from error

    with during("sampling", remedy=remedy("sampling", found)):
        draw_missing(
            shots,
            shelf=shelf,
            open_sampler=partial(open_sampler, prompts, using=using),
            attach=attach,
            screen=screen,
        )
        release_memory()
        load = partial(architecture.load_autoencoder, using.files.paths["vae"], device=using.device)
        decode_missing(shots, shelf=shelf, load=load, stopping=using.stopping, screen=screen)


def _conclude(task: Task, columns: Sequence[Column], shots: Sequence[Shot], shelf: Shelf) -> str:
    """Measure the pictures, write the three files, and return what is printed."""
    order, prompts = task.order, task.prompts
    judges = list(task.judges.values())
    seen = iter([see(shelf.whole(shot), shot.prompt.prompt, judges=judges) for shot in shots])
    looks = [[[next(seen) for _ in range(order.seeds)] for _ in prompts] for _ in columns]
    measured = measure(looks)
    groups, notes = _groups(task)
    notes += _unread(measured, len(prompts), judges=task.judges)
    rows = rows_of(columns, measured, groups)
    choice = _choose(columns, measured, groups)
    folder = order.save_path
    write_json(
        folder / f"{NAME}.json",
        {
            **document(rows, notes=notes, choice=choice),
            "prompts": [prompt.prompt for prompt in prompts],
            "groups": groups,
            "pictures": _pictures(columns, shots, measured, seeds=order.seeds),
        },
    )
    write_text(folder / f"{NAME}.md", page(rows, notes=notes, choice=choice))
    _write_grid(task, columns, shots, shelf, measured=measured)
    return "\n".join(
        [
            *table_lines(rows),
            *notes,
            choice.says,
            f"FINISHED {len(shots)} pictures compared in {folder / NAME}.md",
        ]
    )


def _groups(task: Task) -> tuple[dict[str, list[int]], list[str]]:
    """Return group -> numbers of its prompts, and what is to be said of that."""
    words = task.order.concept or [word for judge in task.judges.values() for word in judge.new_words]
    numbers = range(len(task.prompts))
    concept = [number for number in numbers if words and names(task.prompts[number], words)]
    if not concept:
        why = "no prompt has a word that the judge knows as new" if words else "--concept does not say"
        return {ALL: list(numbers)}, [
            f"which prompts name the new concept cannot be known: {why}; drift is that of all prompts"
        ]
    old = [number for number in numbers if number not in concept]
    notes = [f"new concept ({', '.join(words)}): {len(concept)} prompts; old knowledge: {len(old)} prompts"]
    if not old:
        notes.append("every prompt names the new concept: drift and old knowledge are not measured")
    return {CONCEPT: concept, OLD: old}, notes


def _unread(measured: Measured, count: int, *, judges: Mapping[str, Judge]) -> list[str]:
    """Say which prompts nobody can judge."""
    if not judges:
        return ["nobody judges the pictures of this model: what is right in them is not measured"]
    right = measured.answers.get(RIGHT)
    unread = [number + 1 for number in range(count) if right is None or math.isnan(right[0, number, 0])]
    if not unread:
        return []
    told = ", ".join(str(number) for number in unread)
    return [f"not in the language of the judge ({', '.join(judges)}), and not judged: prompts {told}"]


def _choose(columns: Sequence[Column], measured: Measured, groups: Mapping[str, Sequence[int]]) -> Choice:
    by_judge = choose_by_judge(measured, groups, labels=[column.label for column in columns])
    if by_judge is not None:
        return by_judge
    drifting = list(groups.get(OLD, groups.get(ALL, ())))
    return choose_by_losses(columns, measured.drift[:, drifting].mean(axis=1).tolist() if drifting else None)


def _pictures(
    columns: Sequence[Column], shots: Sequence[Shot], measured: Measured, *, seeds: int
) -> list[dict[str, object]]:
    """Return for every column and prompt its pictures, and what was measured on them."""
    sets = [shots[start : start + seeds] for start in range(0, len(shots), seeds)]
    return [
        {
            "column": some[0].column.label,
            "prompt": some[0].number,
            "files": [f"{PICTURES}/{shot.key}.png" for shot in some],
            "seeds": [shot.seed for shot in some],
            **by_prompt(measured, columns.index(some[0].column), some[0].number),
        }
        for some in sets
    ]


def _write_grid(
    task: Task, columns: Sequence[Column], shots: Sequence[Shot], shelf: Shelf, *, measured: Measured
) -> None:
    right, seeds = measured.answers.get(RIGHT), task.order.seeds

    def cell(column: int, number: int) -> Cell:
        shot = shots[(column * len(task.prompts) + number) * seeds]
        said = math.nan if right is None else float(right[column, number, 0])
        return Cell(picture=shelf.whole(shot), right=None if math.isnan(said) else said == 1)

    grid = draw_comparison(
        [[cell(column, number) for column in range(len(columns))] for number in range(len(task.prompts))],
        prompts=[prompt.prompt for prompt in task.prompts],
        columns=[column.heading for column in columns],
    )
    text = "rows: prompts; columns: base, then each file at each strength; the first seed of each prompt"
    save_picture(grid, task.order.save_path / f"{NAME}.png", parameters=text)
