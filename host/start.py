"""How every program begins and ends: the last line says how it went, the exit code too.

This file is read by any Python 3, so that an old one is told what it lacks; torch comes later.
"""

import io
import os
import sys
import traceback

OLDEST = (3, 11)

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Set before any import: nothing here reaches the network unless the user asks for it by name."""


def start(program, argv=None):
    """Run ``host.run.<program>`` and return the exit code.

    0 finished, 2 bad input, 3 stopped by the user, 4 machine limits, 5 failed run, 1 a bug of ours.
    """
    if sys.version_info < OLDEST:
        found = ".".join(str(number) for number in sys.version_info[:3])
        print("FAILED: this needs Python 3.11 or newer; this is Python " + found)
        print("    Make the virtual environment with a newer one:  python3.11 -m venv .venv")
        return 2
    for name, value in OFFLINE.items():
        os.environ.setdefault(name, value)
    _print_anything()
    try:
        return _run(program, sys.argv[1:] if argv is None else argv)
    except ModuleNotFoundError as error:
        if _is_ours(error):
            raise
        print("FAILED: the package " + str(error.name) + " is not installed in " + sys.prefix)
        print("    Install the project into this environment:  pip install -e .")
        return 2
    except (ImportError, OSError) as error:
        if _is_ours(error):
            raise
        print("FAILED: a package cannot be loaded: " + str(error))
        print("    Install the system library that is named (apt-get install libgl1 for libGL.so.1),")
        print("    or the package anew:  pip install --force-reinstall PACKAGE")
        return 2
    except KeyboardInterrupt:
        print("STOPPED by you before anything was begun")
        return 3


def _print_anything():
    """Let no character of a caption or file name that the terminal does not know stop a run."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _is_ours(error):
    return (getattr(error, "name", None) or "").split(".")[0] in ("host", "dataset", "networks")


def _run(program, argv):
    import torch

    from host import convert, evaluation, generate, run
    from host.errors import MusubiError, ProblemsFound, StoppedByUser

    rank = os.environ.get("RANK", "0")
    say = print if rank == "0" else _nothing
    fail = print if rank == "0" else _Prefixed("[process " + rank + "] ")
    try:
        programs = {
            "train": run.train,
            "cache_latents": run.cache_latents_only,
            "cache_text_encoder_outputs": run.cache_text_encoder_outputs_only,
            "generate_image": generate.generate_image,
            "convert_lora": convert.convert_lora,
            "evaluate": evaluation.evaluate,
        }
        say(programs[program](argv))
    except StoppedByUser as stopped:
        say("STOPPED by you " + str(stopped))
        return stopped.exit_code
    except (MusubiError, ProblemsFound) as error:
        # Bad input is found by every process alike; what only one met, it tells itself.
        code = getattr(error, "exit_code", 2)
        (say if code == 2 else fail)("FAILED: " + str(error))
        return code
    except (MemoryError, torch.OutOfMemoryError) as error:
        fail("FAILED: E22 out of memory: " + (str(error) or "main memory").splitlines()[0])
        fail("    Choose a smaller resolution or batch_size, and gradient_checkpointing = true.")
        return 4
    except OSError as error:
        fail("FAILED: E22 the disk or a folder: " + str(error))
        fail("    Free space, or choose an output_dir and cache_directory that can be written to.")
        return 4
    except Exception as error:
        return _unforeseen(error, fail)
    finally:
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _unforeseen(error, fail):
    if "can't allocate memory" in str(error):
        fail("FAILED: E22 out of main memory: " + str(error).splitlines()[0])
        fail("    Choose a smaller network_dim, resolution or batch_size.")
        return 4
    traceback.print_exception(error)
    fail("FAILED: an error nobody foresaw; the lines above tell where")
    return 1


class _Prefixed:
    """Prints lines with the number of the process that says them."""

    def __init__(self, prefix):
        self.prefix = prefix

    def __call__(self, line):
        print(self.prefix + line)


def _nothing(_line):
    """Say nothing: another process speaks for all."""
