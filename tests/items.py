"""Small items for tests that need no picture files."""

from pathlib import Path

from dataset.buckets import Size
from dataset.scan import Caption, Item

SIZE = Size(32, 32)


def small_item(key="a", *, directory=Path(), size=SIZE, text="", **changes):
    """Return an item whose files would lie in ``directory``; none of them is there."""
    facts = {
        "key": key,
        "image_path": directory / f"{key}.png",
        "captions": (Caption(text=text, share=1.0, cache=directory / f"{key}_fd_te.safetensors"),),
        "size": size,
        "bucket": size,
        "dataset": 0,
        "repeats": 1,
        "latent_cache": directory / f"{key}_fd.safetensors",
    }
    return Item(**{**facts, **changes})
