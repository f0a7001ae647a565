"""What is told of the captions before anything is encoded."""

import json
from collections.abc import Sequence

from dataset.folders import counted
from dataset.scan import Item
from host.architecture import Tokenizers
from host.prompts import SamplePrompt
from host.sampling import texts_of

LONGEST_SHOWN = 300
"""Characters of a caption on the screen; the report on the pictures has them all."""


def caption_lines(items: Sequence[Item], *, examples: int = 3) -> list[str]:
    """Return how many texts there are, and what is sent to the encoder for the first pictures.

    Of a picture with several texts the most frequent one is shown; a text stands there as in JSON, so
    that line breaks and invisible characters are seen.
    """
    texts = {caption.text for item in items for caption in item.captions}
    lines = [f"captions: {counted(len(items), 'picture')}, {counted(len(texts), 'text')}"]
    for item in items[:examples]:
        whole = item.caption
        short = whole if len(whole) <= LONGEST_SHOWN else f"{whole[:LONGEST_SHOWN]}..."
        shown = json.dumps(short, ensure_ascii=False)
        several = f", one of {len(item.captions)} texts" if len(item.captions) > 1 else ""
        lines.append(f"caption of {item.image_path.name}{several}: {shown}")
    return lines


def overflow_notes(
    tokenizers: Tokenizers | None, items: Sequence[Item], prompts: Sequence[SamplePrompt]
) -> list[str]:
    """Return which captions and prompts are longer than an encoder reads; of a picture the longest text."""
    if tokenizers is None:
        return []
    longest = {item.image_path: max((text.text for text in item.captions), key=len) for item in items}
    named = {path.name: text for path, text in longest.items()}
    if len(named) < len(longest):
        named = {path.as_posix(): text for path, text in longest.items()}
    named |= {f'prompt "{text[:30]}"': text for text in texts_of(prompts)}
    return tokenizers.overflow_notes(named)
