"""The small model that a plugin brings along, written where ``tiny_directory`` says."""

from host.config import Config
from host.logs import Screen
from host.processes import Processes


def write_embedded(config: Config) -> None:
    """Let the plugin write its demo, or else its tiny instance, where ``tiny_directory`` asks for it."""
    folder, architecture = config.settings.model.tiny_directory, config.architecture
    if folder is not None:
        (architecture.demo or architecture.tiny)(folder)


def make_embedded(config: Config, processes: Processes, screen: Screen) -> None:
    """Write what ``tiny_directory`` asks for, before anything is looked at; one of several processes does."""
    folder = config.settings.model.tiny_directory
    if folder is None:
        return
    if processes.is_main:
        write_embedded(config)
        screen.say("tiny", f"a small {config.architecture.full_name} and pictures in {folder}")
    processes.wait()
