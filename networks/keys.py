"""Names of LoRA modules in kohya's files.

Source: kohya-ss/sd-scripts, networks/lora_flux.py: a prefix and the module path with underscores.
"""

from collections.abc import Iterable


def kohya_name(module_path: str, *, prefix: str) -> str:
    """Return the name of a module, such as ``lora_unet_single_blocks_0_linear1``."""
    return prefix + module_path.replace(".", "_")


def kohya_table(module_paths: Iterable[str], *, prefix: str) -> dict[str, str]:
    """Return name -> module path; the only way back, since paths have underscores of their own."""
    table: dict[str, str] = {}
    for path in module_paths:
        name = kohya_name(path, prefix=prefix)
        if table.setdefault(name, path) != path:
            raise ValueError(
                f"the modules {table[name]} and {path} would both be called {name} in a LoRA file; "
                "rename one of them in the model"
            )
    return table
