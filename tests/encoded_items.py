"""Items whose pictures and texts are really encoded, by an autoencoder that averages 8 x 8 pixels."""

import torch
import toy_architecture
from torch.nn import functional

from dataset.buckets import Size
from dataset.cache import write_text
from dataset.images import decode
from host.caching import Encoder, cache_latents
from host.logs import Screen
from tests.items import small_item


class Averaging:
    """Latents are the mean colour of each place, so that what lies where can be read off."""

    def encode(self, pixels):
        colours = functional.avg_pool2d(pixels, 8)
        return torch.cat([colours, colours[:, :1]], dim=1)

    def decode(self, latents):
        return functional.interpolate(latents[:, :3], scale_factor=8)


def item_of(picture, *, folder, bucket, **changes):
    """Return the item of a picture file, with an encoded text and its caches in ``folder``."""
    height, width, _ = decode(picture).shape
    made = small_item(
        picture.stem, directory=folder, size=Size(height, width), bucket=bucket, image_path=picture, **changes
    )
    text = made.captions[0]
    write_text(text.cache, {"w_vec": torch.ones(8)}, architecture="toy", caption="", fingerprint={})
    return made


def cache(items, *, fingerprint="1"):
    """Cache the latents of ``items`` as a run does; return what that found and did."""
    encoder = Encoder(
        architecture=toy_architecture.SPEC,
        variant=toy_architecture.VARIANT,
        fingerprint=fingerprint,
        load=Averaging,
    )
    return cache_latents(items, encoder=encoder, screen=Screen(quiet=True), stopping=lambda: False)
