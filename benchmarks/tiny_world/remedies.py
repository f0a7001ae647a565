"""Measures what common remedies do: trains variants of one job, draws with each, writes one table.

    OMP_NUM_THREADS=1 python benchmarks/tiny_world/remedies.py --output output/remedies

A variant that lies finished in the folder is not trained again, and no picture is drawn twice.
"""

import argparse
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import toml
import torch
from variants import VARIANTS, Variant

from musubi_flux_dev.tiny_world.scenes import probe_captions
from musubi_flux_dev.tiny_world.shipped import CONCEPT, demo

ROOT = Path(__file__).resolve().parents[2]
JOB = Path(__file__).with_suffix(".toml")
PROMPTS, PROMPT_SEED = 16, 78
"""Of the new shape, and as many of what the base model knows."""
SEEDS = 2
"""Pictures of each prompt."""
FLAGS = "--w 64 --h 64 --s 12 --g 3.5"
STRENGTHS = (0.6, 1.0)
ASKED = ("colour", "shape", "place", "background")
SMOOTHED = 50
"""The final loss is the mean of so many steps."""
HEADINGS = (
    "variant", "new right", "its colour, shape, place, background", "old right", "new at 0.6", "old at 0.6",
    "drift", "loss", "validation", "highest gradient", "s/step", "how it ended",
)  # fmt: skip

Row = dict[str, Any]


def main() -> None:
    """Train what is missing, draw with all of it, and write the table."""
    parser = argparse.ArgumentParser(description="Measure what common remedies do on the tiny world.")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--variants", nargs="*", default=[one.name for one in VARIANTS], metavar="NAME")
    options = parser.parse_args()
    folder: Path = options.output.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    demo(folder / "cache" / "tiny_fd")
    job = tomllib.loads(JOB.read_text(encoding="utf-8"))
    chosen = [one for one in VARIANTS if one.name in options.variants]
    rows = []
    for variant in chosen:
        path = folder / f"{variant.name}.json"
        if not path.is_file():
            path.write_text(json.dumps(train(variant, job, folder)), encoding="utf-8")
        rows.append({"says": variant.says, **json.loads(path.read_text(encoding="utf-8"))})
    drawn = draw(rows, folder)
    write(folder, [{**row, **drawn.get(row["name"], {})} for row in rows], base=drawn["base"])


def job_of(variant: Variant, job: Mapping[str, Any], folder: Path) -> Path:
    """Write the training file of a variant."""
    document = dict(job)
    document["training"] = {**document["training"]}
    document["training"]["learning_rate"] *= variant.rate
    document["output"] = {"output_dir": variant.name, "output_name": variant.name, "overwrite": True}
    document |= {"device": "cpu", "report": False}
    concept, known = document["datasets"]
    concept = {**concept, "num_repeats": variant.repeats * concept["num_repeats"]}
    if variant.change is not None:
        pictures = folder / f"{variant.name}_pictures"
        shutil.rmtree(pictures, ignore_errors=True)
        shutil.copytree(folder / "cache" / "tiny_fd" / CONCEPT, pictures)
        variant.change(pictures)
        places = {"image_directory": pictures.name, "cache_directory": f"{pictures.name}_cached"}
        concept = {**concept, **places}
    document["datasets"] = [concept, known] if variant.known else [concept]
    path = folder / f"{variant.name}.toml"
    path.write_text(toml.dumps(document), encoding="utf-8")
    return path


def flags(variant: Variant) -> list[object]:
    """Return the words that follow the training file."""
    steps = {} if variant.steps is None else {"max_train_steps": variant.steps}
    return [word for name, value in {**steps, **variant.settings}.items() for word in (f"--{name}", value)]


def program(name: str, words: Sequence[object], folder: Path) -> tuple[int, str]:
    """Run one of the programs in ``folder``; return its exit code and what it said."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / name), *map(str, words)]
    ran = subprocess.run(
        command, cwd=folder, env=environment, check=False, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    return ran.returncode, ran.stdout


def train(variant: Variant, job: Mapping[str, Any], folder: Path) -> Row:
    """Train one variant and return what its log says."""
    began = time.monotonic()
    code, said = program("train.py", [job_of(variant, job, folder), *flags(variant)], folder)
    seconds = time.monotonic() - began
    (folder / f"{variant.name}.log").write_text(said, encoding="utf-8")
    print(f"{variant.name}: {seconds:.0f} s, exit code {code}", flush=True)  # noqa: T201
    found = re.search(r"\bE\d\d\b", said) if code else None
    ended = "finished" if code == 0 else found[0] if found else f"exit code {code}"
    row: Row = {"name": variant.name, "ended": ended, "seconds": round(seconds)}
    row["warnings"] = re.findall(r"^warning +(.+)", said, flags=re.MULTILINE)
    out = folder / variant.name
    log = entries(out / f"{variant.name}.jsonl")
    if log:
        row |= {
            "steps": len(log),
            "loss": statistics.fmean(step["loss"] for step in log[-SMOOTHED:]),
            "highest_gradient": max(step["gradient_norm"] for step in log),
            "usual_gradient": statistics.median(step["gradient_norm"] for step in log),
            "seconds_per_step": statistics.median(step["seconds"] for step in log),
        }
    rounds = entries(out / f"{variant.name}_validation.jsonl")
    return row | {"validation": [(one["step"], one["loss"]) for one in rounds]}


def entries(path: Path) -> list[Any]:
    """Return the entries of a log, none where there is no such file."""
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def prompts() -> list[str]:
    """Return captions that no picture of the training shows: of the new shape first, then of known ones."""
    return probe_captions(new=PROMPTS, known=PROMPTS, seed=PROMPT_SEED)


def draw(rows: Sequence[Row], folder: Path) -> dict[str, Row]:
    """Draw every prompt with every LoRA; name -> shares of right pictures and drift, the base as well."""
    lines = [f"{text} {FLAGS} --d {number}\n" for number, text in enumerate(prompts())]
    (folder / "prompts.txt").write_text("".join(lines), encoding="utf-8")
    loras = [f"{row['name']}/{row['name']}.safetensors" for row in rows]
    there = [lora for lora in loras if (folder / lora).is_file()]
    words = [
        folder / f"{rows[0]['name']}.toml",
        "--lora",
        *there,
        "--strengths",
        *STRENGTHS,
        "--seeds",
        SEEDS,
    ]
    code, said = program(
        "evaluate.py", [*words, "--from_file", "prompts.txt", "--save_path", "drawn"], folder
    )
    (folder / "evaluate.log").write_text(said, encoding="utf-8")
    if code:
        sys.exit(said)
    found: dict[str, Row] = {}
    for row in json.loads((folder / "drawn" / "evaluation.json").read_text(encoding="utf-8"))["rows"]:
        name = Path(row["lora"]).stem if row["lora"] else "base"
        values = {
            "new": row["rates"]["concept"]["right"]["value"],
            "old": row["rates"]["old"]["right"]["value"],
            "drift": row["drift"]["value"],
            "asked": [row["rates"]["concept"][name]["value"] for name in ASKED],
        }
        found.setdefault(name, {})[f"{row['strength']:g}"] = values
    return {name: {"drawn": values} for name, values in found.items()}


def write(folder: Path, rows: Sequence[Row], *, base: Row) -> None:
    """Write the table, as Markdown and as JSON with every number."""
    machine = f"{platform.processor() or platform.machine()}, Python {platform.python_version()}"
    machine += f", torch {torch.__version__}, {os.environ.get('OMP_NUM_THREADS', 'all')} thread(s)"
    record = {"machine": machine, "prompts": prompts(), "base": base, "variants": rows}
    (folder / "remedies.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    lines = [HEADINGS, ["---"] * len(HEADINGS), *map(cells, rows)]
    table = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    (folder / "remedies.md").write_text(f"{table}\n{machine}\n", encoding="utf-8")
    print(table)  # noqa: T201


def cells(row: Row) -> list[str]:
    """Return one line of the table."""
    drawn = row.get("drawn", {})
    full, weak = drawn.get("1", {}), drawn.get("0.6", {})
    shown = [(full, "new"), (full, "old"), (weak, "new"), (weak, "old"), (full, "drift"), (row, "loss")]
    numbers = [f"{place[name]:.2f}" if name in place else "-" for place, name in shown]
    asked = " ".join(f"{value:.2f}" for value in full.get("asked", ())) or "-"
    numbers.insert(1, asked)
    rounds = row["validation"]
    numbers.append(f"{rounds[0][1]:.3f} -> {rounds[-1][1]:.3f}" if len(rounds) > 1 else "-")
    numbers += [
        f"{row[name]:.2g}" if name in row else "-" for name in ("highest_gradient", "seconds_per_step")
    ]
    return [row["says"], *numbers, f"{row['ended']}, {row.get('steps', 0)} steps"]


if __name__ == "__main__":
    main()
