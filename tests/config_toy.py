"""A toy architecture for the tests of the configuration: only its settings matter."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from toy_architecture import SPEC

from host.config import Config, load_config
from host.errors import ConfigError
from host.setting import setting, setting_given

PLACE = "config_toy:TOY"
"""What ``architecture`` is set to."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToySettings:
    """Settings of the toy architecture."""

    text_encoder: Path | None = setting(None, help="CLIP-L's file.", role="clip_l", in_metadata=False)
    text_encoder2: Path | None = setting(None, help="T5-XXL's file.", role="t5", in_metadata=False)
    toy_folder: Path | None = setting(None, help="A path that its author forgot to keep to himself.")
    fp8_t5: bool = setting(False, help="Keep T5 in 8 bit.")
    toy_level: int = setting(3, help="A number.", maximum=9, used_when=setting_given("text_encoder"))


TOY = replace(SPEC, settings=ToySettings)


def load(*argv: str) -> Config:
    """Return what the command line asks for, with the toy architecture."""
    return load_config([*argv, "--architecture", PLACE], prog="train.py")


def refusal(*argv: str) -> str:
    """Return the message with which the command line is refused."""
    try:
        config = load(*argv)
    except ConfigError as error:
        return str(error)
    raise AssertionError(f"nothing was refused: {config.settings}")


def write(folder: Path, text: str, *, name: str = "train.toml") -> str:
    """Write a file and return its path as a word of the command line."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def problems_of(argv: Sequence[str]) -> list[str]:
    """Return the refused command line's messages one by one; none when it is accepted."""
    try:
        load(*argv)
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []
