"""Masks that lie there and are not read, because the dataset does not ask for them."""

from collections.abc import Sequence
from pathlib import Path

from dataset.config import DatasetConfig
from dataset.folders import counted, folders_beside
from dataset.kinds import is_picture
from dataset.problems import name_some

_SUFFIXES = ("_mask", "-mask", "_masklabel")
"""How people call the mask of a picture that lies beside it."""


def unused_masks(pictures: Sequence[Path], config: DatasetConfig) -> str | None:
    """Return what looks like masks of ``pictures`` and is not used as such, with the line that uses it."""
    if config.alpha_mask or config.mask_suffix or config.mask_directory:
        return None
    stems = {picture.stem for picture in pictures}
    for suffix in _SUFFIXES:
        names = [
            picture.name
            for picture in pictures
            if picture.stem.endswith(suffix) and picture.stem.removesuffix(suffix) in stems
        ]
        if names:
            what = (
                f"{counted(len(names), 'picture')} called like masks of others ({name_some(names, most=2)})"
            )
            return f'{what} are trained on as pictures; if they are masks:  mask_suffix = "{suffix}"'
    folder = config.image_directory
    for beside in folders_beside(folder, "mask_directory") if folder else ():
        count = sum(is_picture(path) and path.stem in stems for path in beside.iterdir())
        if count:
            masks = f"{counted(count, 'mask')} in {beside} not used; to use them:"
            return f'{masks}  mask_directory = "{beside.as_posix()}"'
    return None
