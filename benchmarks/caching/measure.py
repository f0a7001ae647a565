"""Pictures cached in a second, against the encoder alone; see README.md beside this."""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dataset.buckets import Size
from dataset.cache import write_latents
from dataset.images import decode, fit_to_bucket, to_pixels
from dataset.scan import Caption, Item
from host.architecture import Autoencoder
from host.caching import Encoder, cache_latents
from host.logs import Screen
from host.registry import find_architecture

FLUX = find_architecture("fd")
BUCKET = Size(1024, 1024)


class Paced:
    """Stands for an encoder on a GPU: takes its time and none of the processor's."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def encode(self, pixels: Tensor) -> Tensor:
        """Return small latents after a while."""
        time.sleep(self.seconds)
        return functional.avg_pool2d(pixels, 8).repeat(1, 6, 1, 1)[:, :16]

    def decode(self, latents: Tensor) -> Tensor:
        """Return pixels of no meaning."""
        return functional.interpolate(latents[:, :3], scale_factor=8)


def pictures(folder: Path, *, count: int, side: int) -> list[Item]:
    """Draw ``count`` JPEG files of 3:2, ``side`` pixels wide."""
    items = []
    for number in range(count):
        noise = torch.rand(3, side // 24, side // 16, generator=torch.Generator().manual_seed(number))
        whole = functional.interpolate(noise[None], size=(side * 2 // 3, side), mode="bicubic")[0]
        path = folder / f"{number}.jpg"
        Image.fromarray((whole.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(path, quality=92)
        items.append(
            Item(
                key=path.stem,
                image_path=path,
                captions=(Caption(text="", share=1.0, cache=folder / f"{number}_fd_te.safetensors"),),
                size=Size(side * 2 // 3, side),
                bucket=BUCKET,
                dataset=0,
                repeats=1,
                latent_cache=folder / f"{number}_fd.safetensors",
            )
        )
    return items


def encoder_alone(items: list[Item], autoencoder: Autoencoder) -> float:
    """Return the seconds that encoding takes when the pixels are there already."""
    pixels = to_pixels(fit_to_bucket(decode(items[0].image_path), BUCKET)).unsqueeze(0)
    began = time.perf_counter()
    with torch.no_grad():
        for _ in items:
            autoencoder.encode(pixels)[0].float().cpu()
    return time.perf_counter() - began


def one_after_the_other(items: list[Item], autoencoder: Autoencoder) -> float:
    """Return the seconds of decoding, encoding and writing in turn."""
    began = time.perf_counter()
    for item in items:
        pixels = to_pixels(fit_to_bucket(decode(item.image_path), item.bucket))
        with torch.no_grad():
            latents = autoencoder.encode(pixels.unsqueeze(0))[0].float().cpu()
        write_latents(item.latent_cache, latents, architecture=FLUX.full_name, size=item.size, fingerprint={})
        item.latent_cache.unlink()
    return time.perf_counter() - began


def as_a_run_does(items: list[Item], autoencoder: Autoencoder) -> float:
    """Return the seconds of ``cache_latents``."""
    encoder = Encoder(
        architecture=FLUX, variant=FLUX.default_variant, fingerprint="", load=lambda: autoencoder
    )
    began = time.perf_counter()
    cache_latents(items, encoder=encoder, screen=Screen(quiet=True), stopping=lambda: False)
    return time.perf_counter() - began


def main() -> None:
    """Print one line a case: pictures in a second, and their share of the encoder's own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vae", type=Path, help="a real autoencoder; without it paced ones stand in")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--side", type=int, default=3000, help="width of the pictures")
    options = parser.parse_args()
    if options.vae is None:
        encoders: dict[str, Autoencoder] = {
            f"{pause} s a picture": Paced(pause) for pause in (0.2, 0.1, 0.05)
        }
    else:
        loaded = FLUX.load_autoencoder(options.vae, device=options.device, dtype=torch.bfloat16)
        encoders = {f"{options.vae.name} on {options.device}": loaded}
    for name, autoencoder in encoders.items():
        with tempfile.TemporaryDirectory() as folder:
            items = pictures(Path(folder), count=options.count, side=options.side)
            encoder_alone(items[:2], autoencoder)
            alone = encoder_alone(items, autoencoder)
            in_turn, ahead = one_after_the_other(items, autoencoder), as_a_run_does(items, autoencoder)
        speeds = (options.count / seconds for seconds in (alone, in_turn, ahead))
        print(name, *(f"{speed:.2f}" for speed in speeds), f"{alone / in_turn:.2f} -> {alone / ahead:.2f}")  # noqa: T201


if __name__ == "__main__":
    main()
