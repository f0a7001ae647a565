"""Whole jobs on files in other layouts than the published one, and one with every socket closed."""

import os
import subprocess
import sys

import pytest
import toml
from flux_files import all_in_one, diffusers_weights, pipeline, save
from jobs import ROOT, draw_pictures, losses, train, write_job
from safetensors import safe_open
from safetensors.torch import load_file

from dataset.cache import read_text
from musubi_flux_dev.tiny import tiny

ONE_PATH = ("dit", "vae", "text_encoder", "text_encoder2")
NO_SOCKETS = """
import socket
class Refused(socket.socket):
    def __new__(cls, *_, **__):
        raise AssertionError("a socket was opened")
socket.socket = socket.SocketType = Refused
socket.create_connection = socket.getaddrinfo = Refused
"""


def job_on(folder, **files):
    """Write a two-step job on the tiny instance; ``files`` replace some of its own."""
    pictures = folder / "pictures"
    if not pictures.exists():
        draw_pictures(pictures, sizes=[(64, 64), (64, 64)])
    path = write_job(folder, architecture="fd", pictures=pictures, batch_size=1, max_train_steps=2)
    document = toml.loads(path.read_text())
    path.write_text(toml.dumps(document | {name: str(file) for name, file in files.items()}))
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    assert train(job_on(folder)) == 0
    return losses(folder)


@pytest.mark.parametrize("layout", [all_in_one, pipeline])
def test_a_job_on_another_layout_of_the_same_weights_has_the_same_losses(published, tmp_path, layout, capsys):
    files = tiny(tmp_path / "models")
    made = layout(files, tmp_path / f"FLUX{'.safetensors' if layout is all_in_one else ''}")
    job = job_on(tmp_path, **dict.fromkeys(ONE_PATH, made))
    assert train(job) == 0, capsys.readouterr().out
    assert losses(tmp_path) == published
    assert "Verified: " in capsys.readouterr().out
    assert train(job) == 0
    assert "finished before with the same settings" in capsys.readouterr().out


def test_another_piece_of_weights_in_the_folder_is_another_base(tmp_path, capsys):
    folder = pipeline(tiny(tmp_path / "models"), tmp_path / "FLUX")
    job = job_on(tmp_path, dit=folder / "transformer")
    assert train(job) == 0
    piece = folder / "transformer" / "diffusion_pytorch_model-00002-of-00003.safetensors"
    save(piece, {key: tensor * 2 for key, tensor in load_file(piece).items()})
    capsys.readouterr()
    assert train(job) == 2
    assert "--overwrite" in capsys.readouterr().out


def test_schnell_trains_with_one_warning_and_its_lora_says_so(tmp_path, capsys):
    weights = load_file(tiny(tmp_path / "models")["dit"])
    schnell = {key: tensor for key, tensor in weights.items() if not key.startswith("guidance_in.")}
    path = save(tmp_path / "schnell.safetensors", diffusers_weights(schnell))
    assert train(job_on(tmp_path, dit=path)) == 0
    assert capsys.readouterr().out.count("FLUX.1 schnell, a distilled model") == 1
    with safe_open(tmp_path / "out" / "lora.safetensors", framework="pt") as lora:
        assert lora.metadata()["modelspec.architecture"] == "flux-1-schnell/lora"
    (shape,) = {read_text(file)["t5_vec"].shape for file in tmp_path.glob("cached/*_fd_te.safetensors")}
    assert shape == (256, 64)


def test_missing_keys_are_found_before_anything_is_cached(tmp_path, capsys):
    weights = load_file(tiny(tmp_path / "models")["dit"])
    gone = [key for key in weights if key.startswith("double_blocks.0.img_mod")]
    path = save(tmp_path / "cut.safetensors", {k: t for k, t in weights.items() if k not in gone})
    assert train(job_on(tmp_path, dit=path)) == 2
    said = capsys.readouterr().out
    assert f"2 tensors of {len(weights)} are missing: double_blocks.0.img_mod.lin." in said
    assert not (tmp_path / "cached").exists()


def test_the_whole_job_runs_with_every_socket_closed(tmp_path):
    job = job_on(tmp_path)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(NO_SOCKETS)
    places = os.pathsep.join([str(tmp_path / "site"), str(ROOT)])
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1", "HF_HOME": str(tmp_path)}
    for offline in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        environment.pop(offline, None)
    probe = [sys.executable, "-c", "import socket; socket.socket()"]
    assert subprocess.run(probe, env=environment, capture_output=True, check=False).returncode == 1
    words = [sys.executable, str(ROOT / "train.py"), str(job)]
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Verified: " in ended.stdout
