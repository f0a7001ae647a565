"""A new architecture is made by copying the template; no file of the host changes."""

import hashlib
import os
import subprocess
import sys

import pytest
import toml
from jobs import ROOT, TESTS, draw_pictures, settings_of_files

NAME = "mymodel"


def hash_of_the_host():
    files = sorted(
        path for folder in ("host", "dataset", "networks") for path in (ROOT / folder).rglob("*.py")
    )
    return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()


@pytest.fixture
def copy(tmp_path):
    """Copy and rename the template with the very commands of its README."""
    readme = (ROOT / "docs" / "plugin_template" / "README.md").read_text()
    commands = [line.strip() for line in readme.splitlines() if line.startswith("    ")]
    assert commands.pop() == "pip install -e ."
    commands[0] = commands[0].replace("docs/plugin_template", str(ROOT / "docs" / "plugin_template"))
    place = tmp_path / "checkout"
    place.mkdir()
    subprocess.run(["bash", "-euc", "\n".join(commands)], cwd=place, check=True)
    return tmp_path / f"musubi_{NAME}"


def run(script, *words, cwd):
    return subprocess.run(
        [sys.executable, str(script), *map(str, words)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{cwd}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_renamed_template_caches_and_trains_three_steps_and_the_host_stays_as_it_is(copy):
    before = hash_of_the_host()
    assert not any("template" in path.read_text() for path in copy.rglob("*.py"))
    write = f"from pathlib import Path; from musubi_{NAME} import SPEC as S; print(S.code); S.tiny(Path())"
    made = subprocess.run(
        [sys.executable, "-c", write],
        cwd=copy,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert made.stdout.strip() == NAME
    files = {name: copy / f"{name}.safetensors" for name in ("dit", "vae", "text_encoder")}
    document = {
        **settings_of_files(files),
        "architecture": f"musubi_{NAME}:SPEC",
        "max_train_steps": 3,
        "device": "cpu",
        "general": {"resolution": 64, "enable_bucket": True},
        "datasets": [{"image_directory": str(draw_pictures(copy / "pictures"))}],
    }
    job = copy / "job.toml"
    job.write_text(toml.dumps(document))

    for script in ("cache_latents.py", "cache_text_encoder_outputs.py"):
        cached = run(copy / script, job, cwd=copy)
        assert "FINISHED" in cached.stdout, cached.stdout + cached.stderr
    trained = run(ROOT / "train.py", job, cwd=copy)
    assert "5 reused, 0 made" in trained.stdout
    assert "Verified: 4 of 4 modules" in trained.stdout, trained.stdout + trained.stderr
    assert trained.returncode == 0
    assert hash_of_the_host() == before


def test_the_toy_is_a_whole_architecture_in_under_a_hundred_lines():
    assert len((TESTS / "toy_architecture.py").read_text().splitlines()) < 100
