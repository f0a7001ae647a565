"""What may be said beside ``--replay``: where things lie and how the run is driven, not what it computes."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from host.errors import Problem
from host.flags import Flags
from host.foreign_words import FOREIGN_WORDS
from host.given import Given
from host.reading import Reading
from host.setting import facts_of
from host.values import as_flag

PROGRAM = "train.py"


def misplaced_beside_replay(
    flags: Flags, layers: Sequence[Sequence[Given]], reading: Reading, *, prog: str
) -> Iterator[Problem]:
    """Yield a refusal of another program, of a training file, and of each word that makes another run.

    ``layers`` are the words that go before those of the record.
    """
    if prog != PROGRAM:
        what = f"{prog} does no run again: --replay belongs to {PROGRAM} (the command line)."
        yield Problem(code="E03", what=what, remedy=f"Write:  python {PROGRAM} --replay RECORD")
    if flags.config_file is not None:
        what = f"{flags.config_file} and --replay {flags.replay} both say what to train (the command line)."
        remedy = f"Write only:  python {PROGRAM} {as_flag('replay', flags.replay)}"
        yield Problem(code="E03", what=what, remedy=remedy)
    computes = _what_computes(reading)
    for given in (given for layer in layers for given in layer):
        if computes.get(given.name, False):
            said = f"{given.form.shown(given.name)} ({given.place})"
            yield Problem(
                code="E03",
                what=f"{said} would make another run than the one in the record.",
                remedy="Leave it out, or train anew from the .toml file that lies beside the record.",
                setting=given.name,
            )


def _what_computes(reading: Reading) -> Mapping[str, bool]:
    """Return of every known word whether it says what is computed."""
    found = dict.fromkeys(reading.dataset_defaults, True)
    for name, field in reading.fields.items():
        found[name] = facts_of(field).in_metadata and reading.kinds[name] is not Path
    found |= {"output_name": False, "preset": True}
    return found | {name: found.get(word.means, True) for name, word in FOREIGN_WORDS.items() if word.means}
