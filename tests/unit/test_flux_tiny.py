"""The embedded tiny instance: complete, the same each time, in the published layouts."""

import subprocess
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from host.architecture import read_header
from musubi_flux_dev.checkpoints import load_autoencoder, load_transformer
from musubi_flux_dev.packing import image_ids, pack, text_ids
from musubi_flux_dev.text_encoders import load_text_encoders
from musubi_flux_dev.tiny import tiny
from musubi_flux_dev.tiny_weights import Drawn, draw


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    return tiny(tmp_path_factory.mktemp("tiny"))


def all_files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_every_setting_names_something_that_is_there(paths):
    assert set(paths) == {
        "dit",
        "vae",
        "text_encoder",
        "text_encoder2",
        "tokenizer",
        "tokenizer2",
        "image_directory",
    }
    assert all(path.exists() for path in paths.values())


def test_two_instances_have_the_same_bytes(paths, tmp_path):
    first, second = paths["dit"].parent, tiny(tmp_path)["dit"].parent
    assert len(all_files(first)) == 4 + 3 + 2 + 24
    for one, other in zip(all_files(first), all_files(second), strict=True):
        assert one.relative_to(first) == other.relative_to(second)
        assert one.read_bytes() == other.read_bytes()


def test_a_weight_depends_on_its_name_alone():
    drawn = draw({"some.weight": Drawn(shape=(3,), std=1.0)}, dtype=torch.float32)["some.weight"]
    assert drawn.tolist() == pytest.approx([0.7777637, -0.1313327, 1.5518131], abs=1e-6)


def test_sound_files_stay_and_broken_ones_are_replaced(paths):
    folder = paths["dit"].parent
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in all_files(folder)}
    cut, changed, lost = paths["vae"], paths["tokenizer"] / "merges.txt", paths["text_encoder"]
    cut.write_bytes(before[cut][0][:-9])
    changed.write_bytes(before[changed][0].replace(b"r e", b"r x", 1))
    lost.unlink()
    tiny(folder)
    for path, (content, written) in before.items():
        assert path.read_bytes() == content
        assert (path.stat().st_mtime_ns == written) == (path not in (cut, changed, lost))
    assert all_files(folder) == sorted(before)


@pytest.mark.parametrize(
    ("setting", "count", "dtype"),
    [
        ("dit", 12 + 8 + 2 * 24 + 4 * 8, "BF16"),
        ("vae", 244, "F32"),
        ("text_encoder", 36, "F16"),
        ("text_encoder2", 22, "BF16"),
    ],
)
def test_each_file_has_the_published_keys_and_precision(paths, setting, count, dtype):
    tensors = read_header(paths[setting]).tensors
    assert len(tensors) == count
    assert {entry.dtype for entry in tensors.values()} == {dtype}


def test_the_file_of_t5_has_its_embedding_twice_and_clip_s_keys_have_their_prefix(paths):
    t5 = load_file(paths["text_encoder2"])
    assert torch.equal(t5["shared.weight"], t5["encoder.embed_tokens.weight"])
    assert all(key.startswith("text_model.") for key in read_header(paths["text_encoder"]).tensors)


@pytest.fixture(scope="module")
def conditioning(paths):
    return load_text_encoders(paths, device="cpu", dtype=torch.float32).encode(["a red circle", "a blue cat"])


def test_the_text_encoders_load_and_tell_captions_apart(conditioning):
    assert conditioning["t5_hidden"].shape == (2, 512, 64)
    assert conditioning["clip_pooled"].shape == (2, 64)
    for tensor in conditioning.values():
        assert 0.5 < tensor.std() < 2
        assert (tensor[0] - tensor[1]).abs().max() > 1


def test_the_transformer_loads_strictly_and_predicts_a_velocity_of_spread_one(paths, conditioning):
    transformer = load_transformer(paths["dit"], device="cpu", dtype=torch.float32)
    assert (len(transformer.double_blocks), len(transformer.single_blocks)) == (2, 4)
    latents = torch.randn(2, 16, 8, 12, generator=torch.Generator().manual_seed(0))
    velocity = transformer(
        img=pack(latents),
        img_ids=image_ids(height=4, width=6, batch=2, device="cpu"),
        txt=conditioning["t5_hidden"],
        txt_ids=text_ids(length=512, batch=2, device="cpu"),
        timesteps=torch.tensor([0.1, 0.9]),
        y=conditioning["clip_pooled"],
        guidance=torch.ones(2),
    )
    assert velocity.shape == (2, 24, 64)
    assert 0.7 < velocity.std() < 1.4
    assert velocity.abs().max() < 8


def test_the_autoencoder_loads_strictly_and_keeps_latents_and_pixels_in_range(paths):
    autoencoder = load_autoencoder(paths["vae"], device="cpu")
    pixels = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        latents = autoencoder.encode(pixels)
        decoded = autoencoder.decode(latents)
    assert latents.shape == (1, 16, 8, 6)
    assert decoded.shape == pixels.shape
    assert 0.5 < latents.std() < 2
    assert (decoded.abs() > 1).float().mean() < 0.2


def size_and_colours(path):
    with Image.open(path) as image:
        return image.size, len(image.getcolors() or ())


def test_the_pictures_have_several_sizes_and_captions_in_known_words(paths):
    pictures = sorted(paths["image_directory"].glob("*.png"))
    sizes, counts = zip(*map(size_and_colours, pictures), strict=True)
    assert len(pictures) == 12
    assert len(set(sizes)) > 8
    assert min(width / height for width, height in sizes) < 0.6
    assert max(width / height for width, height in sizes) > 1.6
    assert min(counts) > 1
    for path in pictures:
        colour, shape = path.stem.split("_")[1:]
        caption = path.with_suffix(".txt").read_text(encoding="utf-8")
        assert caption.startswith(f"a {colour} {shape} on a ")


def test_importing_the_plugin_s_text_side_does_not_import_transformers():
    modules = "musubi_flux_dev.text_encoders, musubi_flux_dev.tiny"
    code = f"import sys, {modules}; sys.exit('transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
