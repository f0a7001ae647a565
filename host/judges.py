"""Who can say what is in a picture: a seam of the contract, empty by default.

Axes: H W pixels.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Holds pictures against the prompts that they were drawn for."""

    answers: Callable[[str, UInt8[np.ndarray, "H W 3"]], Mapping[str, bool] | None]
    """(prompt, picture) -> whether each thing that the prompt asks for is there, by name.

    None where the prompt is not in the judge's language: that depends on the prompt alone.
    """
    new_words: Collection[str] = ()
    """Words that the base model never learnt; a prompt with one of them asks for a new concept."""
