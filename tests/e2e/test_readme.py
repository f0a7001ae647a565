"""Every command of the README runs, with the tiny files in place of the published ones."""

import os
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import toml
from jobs import ROOT, draw_pictures, settings_of_files

from host.registry import find_architecture

BLOCKS = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
COMMANDS = [line for block in BLOCKS[2:] for line in block.strip().splitlines()]
# A state of two processes is not resumed by one, so the launched command comes last.
COMMANDS.sort(key=lambda command: command.startswith("accelerate"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with my_lora.toml: the shipped file with paths, sizes and lengths changed."""
    folder = tmp_path_factory.mktemp("checkout")
    document = tomllib.loads((ROOT / "toml" / "flux_dev.toml").read_text())
    document["memory"]["blocks_to_swap"] = 6  # of the tiny model: all
    for name, path in settings_of_files(find_architecture("fd").tiny(folder / "models")).items():
        document["models"][name] = path
    document["datasets"][0]["image_directory"] = str(draw_pictures(folder / "pictures"))
    document["general"]["resolution"] = 64
    document["training"]["max_train_steps"] = 4
    document["scheduler"]["lr_warmup_steps"] = 1
    document["output"]["save_every_n_steps"] = 2
    prompts = (ROOT / "toml" / "prompts_portrait.txt").read_text()
    (folder / "prompts.txt").write_text(
        re.sub(r"--w \d+ --h \d+(.*) --s \d+", r"--w 64 --h 64\1 --s 2", prompts)
    )
    document["samples"]["sample_prompts"] = str(folder / "prompts.txt")
    document["device"] = "cpu"
    (folder / "my_lora.toml").write_text(toml.dumps(document))
    return folder


def test_the_first_two_blocks_are_what_ci_runs():
    ci = (ROOT / ".ci" / "run").read_text()
    assert "readme_block 1" in ci
    assert "readme_block 2" in ci
    assert "python train.py toml/flux_dev_tiny.toml" in BLOCKS[0]
    assert BLOCKS[1].strip().splitlines()[-1] == "pytest -n 2"
    assert all("python3 -m venv .venv" in block for block in BLOCKS[:2])


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_command_of_the_readme_runs(command, checkout):
    """Later commands use what earlier ones made."""
    words = shlex.split(command)
    launcher = {
        "python": [sys.executable],
        "accelerate": [sys.executable, "-m", "accelerate.commands.accelerate_cli"],
    }
    words = [*launcher[words[0]], *words[1:]]
    words = [str(ROOT / word) if word.endswith(".py") else word for word in words]
    words = [word.replace("--w 1024 --h 1024", "--w 64 --h 64 --s 2") for word in words]
    done = subprocess.run(
        words,
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = done.stdout.strip().splitlines()[-1]
    assert last.startswith("CHECKED" if "--check" in command else "FINISHED")
    assert Path(checkout / "output").exists() or "--check" in command
