"""How much memory a process takes while it loads a transformer; the kernel's own count (Linux).

`python benchmarks/loading_memory/measure.py` makes a file of random weights in a temporary folder, loads
it in processes of their own, prints what they took, and deletes it. Each number is the growth of the
process from just before loading to its peak.
"""

import argparse
import json
import math
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from musubi_flux_dev.checkpoints import load_transformer
from musubi_flux_dev.transformer import Flux, FluxParams

MB = 1_000_000
CHUNK = 1 << 23
"""Numbers drawn once and written over and over: the file's bytes do not matter, its size does."""

CASES = ("as_stored", "to_8_bit")


def main() -> None:
    """Make, load and delete; or one of these, as the flags say."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--load", type=Path, help="load this file in this process and print one line of JSON")
    parser.add_argument("--make", type=Path, help="write the file and stop")
    parser.add_argument("--case", choices=CASES, default="as_stored")
    parser.add_argument("--hidden_size", type=int, default=3072)
    parser.add_argument("--double_blocks", type=int, default=5)
    parser.add_argument("--single_blocks", type=int, default=5)
    parser.add_argument("--fp8", action="store_true", help="write 8-bit linears with a scale each")
    options = parser.parse_args()
    if options.load:
        say(json.dumps(load(options.load, case=options.case)))
    elif options.make:
        write(options.make, options)
    else:
        measure_all(sys.argv[1:])


def measure_all(flags: list[str]) -> None:
    """Make the file and load it in every way, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "random.safetensors"
        _run("--make", str(path), *flags)
        say(f"file: {path.stat().st_size / MB:,.0f} MB")
        for case in CASES:
            found = json.loads(_run("--load", str(path), "--case", case))
            say(f"{case}: " + ", ".join(f"{name} {size / MB:,.0f} MB" for name, size in found.items()))


def say(line: str) -> None:
    """Print one line."""
    sys.stdout.write(f"{line}\n")


def _run(*words: str) -> str:
    command = [sys.executable, __file__, *words]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def write(path: Path, options: argparse.Namespace) -> None:
    """Write a transformer of random bfloat16 weights, one tensor at a time."""
    with torch.device("meta"):
        heads = options.hidden_size // 128
        transformer = Flux(
            FluxParams(
                hidden_size=options.hidden_size,
                num_heads=heads,
                depth=options.double_blocks,
                depth_single_blocks=options.single_blocks,
            )
        )
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    types = {name: "BF16" for name in shapes}
    if options.fp8:
        linears = [name for name, shape in shapes.items() if len(shape) == 2]
        types |= dict.fromkeys(linears, "F8_E4M3")
        scales = {f"{name.removesuffix('.weight')}.scale_weight": (1,) for name in linears}
        shapes |= scales
        types |= dict.fromkeys(scales, "F32")
    sizes = {"BF16": 2, "F8_E4M3": 1, "F32": 4}
    header, end = {}, 0
    for name, shape in shapes.items():
        start, end = end, end + math.prod(shape) * sizes[types[name]]
        header[name] = {"dtype": types[name], "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    chunks = {
        word: torch.randn(CHUNK).to(dtype).view(torch.uint8).numpy().tobytes()
        for word, dtype in (
            ("BF16", torch.bfloat16),
            ("F8_E4M3", torch.float8_e4m3fn),
            ("F32", torch.float32),
        )
    }
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in shapes:
            start, stop = header[name]["data_offsets"]
            chunk = chunks[types[name]]
            for position in range(start, stop, len(chunk)):
                file.write(chunk[: stop - position])


def load(path: Path, *, case: str) -> dict[str, int]:
    """Load ``path`` here; return the bytes of the model, of its largest tensor in bf16, and of the peak."""
    place = to_8_bit if case == "to_8_bit" else None
    # From here on the kernel remembers the largest size anew.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    transformer = load_transformer(path, device="cpu", disable_mmap=True, place=place)
    peak = _status("VmHWM")
    sizes = [parameter.nbytes for parameter in transformer.parameters()]
    widest = max(parameter.numel() for parameter in transformer.parameters()) * torch.bfloat16.itemsize
    return {
        "final": sum(sizes),
        "largest_tensor": widest,
        "growth_at_peak": peak - before,
        "beyond_both": peak - before - sum(sizes) - widest,
        "whole_process_at_peak": peak,
    }


def to_8_bit(name: str, tensor: Tensor) -> Tensor:
    """Keep 8 bits of every number, as a host's ``place`` may."""
    return tensor.to(torch.float8_e4m3fn)


def _status(word: str) -> int:
    lines = Path(f"/proc/{os.getpid()}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{word}:"))


if __name__ == "__main__":
    main()
