"""Pictures are decoded ahead and entries written behind; what is written does not know of it."""

import threading
from dataclasses import replace
from functools import partial

import pytest
import torch
import toy_architecture
from encoded_items import Averaging, item_of
from PIL import Image

from dataset.buckets import Size
from host import caching
from host.caching import Encoder, cache_latents
from host.errors import StoppedByUser
from host.logs import Screen
from host.read_ahead import writing_behind
from musubi_flux_dev import FLUX_DEV

PICTURES = 9


def made(folder, *, picture_size=(52, 40)):
    (folder / "pictures").mkdir(parents=True)
    (folder / "cached").mkdir()
    items = []
    for number in range(PICTURES):
        image = Image.linear_gradient("L").resize(picture_size).rotate(10 * number)
        path = folder / "pictures" / f"{number}.png"
        Image.merge("RGB", (image, image.rotate(90), image)).save(path)
        bucket = Size(32, 48) if number % 3 else Size(48, 32)
        masked = {"mask_path": path} if number == 4 else {}
        items.append(item_of(path, folder=folder / "cached", bucket=bucket, flip=number == 2, **masked))
    return items


def cache(items, *, load=Averaging, architecture=toy_architecture.SPEC, stopping=lambda: False):
    encoder = Encoder(architecture=architecture, variant=toy_architecture.VARIANT, fingerprint="1", load=load)
    return cache_latents(items, encoder=encoder, screen=Screen(quiet=True), stopping=stopping)


def entries(items):
    return {item.key: item.latent_cache.read_bytes() for item in items if item.latent_cache.exists()}


@pytest.mark.parametrize("model", ["toy", "flux"])
def test_entries_are_those_of_pictures_encoded_one_by_one(tmp_path, model, monkeypatch):
    monkeypatch.setattr(
        caching, "decode_mask", lambda path, picture: torch.ones(40, 52).mul(99).byte().numpy()
    )
    words = {}
    if model == "flux":
        path = FLUX_DEV.tiny(tmp_path / "models")["vae"]
        words["load"] = partial(FLUX_DEV.load_autoencoder, path, device="cpu", dtype=torch.float32)
        words["architecture"] = FLUX_DEV
    together, alone = made(tmp_path / "together"), made(tmp_path / "alone")
    assert cache(together, **words).made == PICTURES
    for item in alone:
        cache([item], **words)
    assert entries(together) == entries(alone)
    assert len(entries(alone)) == PICTURES


def test_the_next_picture_is_decoded_while_one_is_encoded_and_no_more_than_a_few_wait(tmp_path, monkeypatch):
    decoded, most = [], []
    ahead = threading.Event()
    real = caching.decode

    def decode(path):
        decoded.append(path.stem)
        if len(decoded) > 1:
            ahead.set()
        return real(path)

    class Waiting(Averaging):
        def encode(self, pixels):
            assert ahead.wait(timeout=10), "nothing was decoded while this picture is encoded"
            most.append(len(decoded) - len(most))
            return super().encode(pixels)

    monkeypatch.setattr(caching, "decode", decode)
    monkeypatch.setattr(caching, "DECODERS", 2)
    monkeypatch.setattr(caching, "DECODED_AHEAD", 3)
    items = made(tmp_path)
    decoded.clear()
    cache([item for item in items if not item.flip and item.mask_path is None], load=Waiting)
    assert max(most) <= 1 + 3 + 1


def test_a_picture_that_went_bad_is_named_and_those_before_it_are_kept(tmp_path):
    items = made(tmp_path)
    bad = items[6]
    bad.image_path.write_bytes(b"not a picture")
    with pytest.raises(ValueError, match="not an image"):
        cache(items)
    assert sorted(entries(items)) == ["0", "3"]
    assert threads() == []


def test_who_stops_keeps_what_was_encoded(tmp_path):
    items, asked = made(tmp_path), []

    def stopping():
        asked.append(1)
        return len(asked) > 2

    with pytest.raises(StoppedByUser):
        cache(items, stopping=stopping)
    assert sorted(entries(items)) == ["0", "3"]
    assert threads() == []


def test_the_largest_pictures_come_first_and_equal_sizes_together(tmp_path):
    seen = []

    class Seeing(Averaging):
        def encode(self, pixels):
            seen.append(tuple(pixels.shape[2:]))
            return super().encode(pixels)

    items = made(tmp_path)
    for number, bucket in ((5, Size(64, 64)), (8, Size(16, 16))):
        items[number] = replace(items[number], bucket=bucket)
    cache([item for item in items if not item.flip and item.mask_path is None], load=Seeing)
    assert seen == [(64, 64), *[(48, 32)] * 3, *[(32, 48)] * 2, (16, 16)]


def threads():
    names = ("read-ahead", "writing-behind")
    return [one.name for one in threading.enumerate() if one.name.startswith(names)]


def test_writes_are_done_in_order_and_what_fails_is_raised():
    done = []
    with writing_behind() as write:
        for number in range(20):
            write(partial(done.append, number))
    assert done == list(range(20))

    def fail():
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"), writing_behind() as write:
        write(fail)
    with writing_behind(behind=0) as write, pytest.raises(OSError, match="No space"):
        write(fail)
    assert threads() == []


def test_what_waits_is_still_written_when_the_block_fails():
    done, go_on = [], threading.Event()

    def block():
        with writing_behind() as write:
            write(lambda: go_on.wait(timeout=10) and done.append(1))
            write(lambda: done.append(2))
            go_on.set()
            raise LookupError

    with pytest.raises(LookupError):
        block()
    assert done == [1, 2]
