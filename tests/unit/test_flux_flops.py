"""No gradient nobody uses: FLOPs that torch counts equal the formula, for every set of trained linears.

Two FLOPs are one multiplication and one addition. For a linear of ``t`` rows and a LoRA of rank r on it:

    forward    2 t in out          + 2 t r (in + out)
    backward   2 t in out if the gradient of its input is wanted
               + 2 t r (2 out + in), + 2 t r in again if the gradient of its input is wanted

and for attention over S tokens of width D: forward 4 S S D, backward twice that if a gradient goes through.
Attention is computed by plain matrix products here; a fused kernel computes
q k^T once more in the backward pass.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import pytest
import torch
from small_flux import BATCH, IMAGE, PARAMS, TEXT, velocity
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from host.checkpointing import checkpoint_blocks
from musubi_flux_dev import FLUX_DEV
from musubi_flux_dev.transformer import Flux
from networks.lora import attach
from networks.selection import select_linears

RANK = 3


@dataclass
class Formula:
    """Adds up FLOPs while it follows the order of the model; ``trained`` are the paths that carry a LoRA."""

    trained: Collection[str]
    forward: int = 0
    backward: int = 0
    again: int = 0
    """Forward once more, for blocks that are checkpointed."""

    def linear(self, path: str, tokens: int, n_in: int, n_out: int, *, wanted: bool) -> bool:
        """Count a linear; ``wanted`` is whether its input needs a gradient. Return the same
        of its output."""
        rows = BATCH * tokens
        self.forward += 2 * rows * n_in * n_out
        self.backward += 2 * rows * n_in * n_out * wanted
        if path not in self.trained:
            return wanted
        self.forward += 2 * rows * RANK * (n_in + n_out)
        self.backward += 2 * rows * RANK * (2 * n_out + n_in + n_in * wanted)
        return True

    def attention(self, *, wanted: bool) -> bool:
        """Count the attention of all tokens with all."""
        products = 4 * BATCH * (IMAGE + TEXT) ** 2 * PARAMS.hidden_size
        self.forward += products
        self.backward += 2 * products * wanted
        return wanted

    def embedder(self, path: str, n_in: int) -> bool:
        width = PARAMS.hidden_size
        inside = self.linear(f"{path}.in_layer", 1, n_in, width, wanted=False)
        return self.linear(f"{path}.out_layer", 1, width, width, wanted=inside)

    def stream_end(self, path: str, tokens: int, *, attended: bool, x: bool, mod: bool) -> bool:
        """Count what one stream of a double block does after the attention."""
        width, inner = PARAMS.hidden_size, PARAMS.mlp_hidden
        x = self.linear(f"{path}_attn.proj", tokens, width, width, wanted=attended) or x or mod
        inside = self.linear(f"{path}_mlp.0", tokens, width, inner, wanted=x)
        return self.linear(f"{path}_mlp.2", tokens, inner, width, wanted=inside) or x

    def double(self, path: str, *, img: bool, txt: bool, mods: tuple[bool, bool]) -> tuple[bool, bool]:
        width, before = PARAMS.hidden_size, self.forward
        img_qkv = self.linear(f"{path}.img_attn.qkv", IMAGE, width, 3 * width, wanted=img or mods[0])
        txt_qkv = self.linear(f"{path}.txt_attn.qkv", TEXT, width, 3 * width, wanted=txt or mods[1])
        attended = self.attention(wanted=img_qkv or txt_qkv)
        img = self.stream_end(f"{path}.img", IMAGE, attended=attended, x=img, mod=mods[0])
        image_done = self.forward
        txt = self.stream_end(f"{path}.txt", TEXT, attended=attended, x=txt, mod=mods[1])
        # Text comes last in a block: without a gradient, torch does not compute it again.
        self.again += (self.forward if txt else image_done) - before if img or txt else 0
        return img, txt

    def single(self, path: str, *, x: bool, mod: bool) -> bool:
        width, inner, before = PARAMS.hidden_size, PARAMS.mlp_hidden, self.forward
        tokens = IMAGE + TEXT
        first = self.linear(f"{path}.linear1", tokens, width, 3 * width + inner, wanted=x or mod)
        attended = self.attention(wanted=first)
        x = self.linear(f"{path}.linear2", tokens, width + inner, width, wanted=attended) or x or mod
        self.again += self.forward - before if x else 0
        return x


def counted_by_hand(trained, *, params=PARAMS) -> Formula:
    made, width = Formula(trained), PARAMS.hidden_size
    vec = made.embedder("time_in", 256) | made.embedder("guidance_in", 256)
    vec |= made.embedder("vector_in", PARAMS.vec_in_dim)
    img = made.linear("img_in", IMAGE, PARAMS.in_channels, width, wanted=False)
    txt = made.linear("txt_in", TEXT, PARAMS.context_in_dim, width, wanted=False)

    def modulation(path: str, count: int) -> bool:
        return made.linear(path, 1, width, count * width, wanted=vec)

    doubles = [f"double_blocks.{n}" for n in range(params.depth)]
    singles = [f"single_blocks.{n}" for n in range(params.depth_single_blocks)]
    mods = {
        path: (modulation(f"{path}.img_mod.lin", 6), modulation(f"{path}.txt_mod.lin", 6)) for path in doubles
    }
    mod = {path: modulation(f"{path}.modulation.lin", 3) for path in singles}
    last = modulation("final_layer.adaLN_modulation.1", 2)
    for path in doubles:
        img, txt = made.double(path, img=img, txt=txt, mods=mods[path])
    x = img or txt
    for path in singles:
        x = made.single(path, x=x, mod=mod[path])
    made.linear("final_layer.linear", IMAGE, width, PARAMS.out_channels, wanted=x or last)
    return made


PRESETS = {name: (name, []) for name in FLUX_DEV.adapter_layout.presets}
LATE = {
    "the last two single blocks": [r"single_blocks\.[23]\.linear[12]"],
    "one projection of the image in double block 1": [r"double_blocks\.1\.img_attn\.proj"],
    "one linear of the text in double block 1": [r"double_blocks\.1\.txt_mlp\.0"],
    "the modulation of one late block": [r"single_blocks\.2\.modulation\.lin"],
    "the last linear of all": [r"final_layer\.linear"],
    "the final modulation": [r"final_layer\.adaLN_modulation\.1"],
    "a linear before all blocks": ["img_in"],
    "what every modulation depends on": [r"vector_in\.out_layer"],
    "every linear": [".+"],
}


def chosen(flux, name):
    presets = FLUX_DEV.adapter_layout.presets
    return select_linears(flux, preset=presets.get(name, ()), include=LATE.get(name, ()))


def prepared(name, *, checkpointed, params=PARAMS):
    torch.manual_seed(0)
    flux = Flux(params)
    adapter = attach(flux, chosen(flux, name), rank=RANK, alpha=1.0, dropout=0.0, seed=0)
    if checkpointed:
        checkpoint_blocks(FLUX_DEV.blocks(flux))
    return flux, adapter


class Flops(TorchDispatchMode):
    """torch's own formulas, without the search for decompositions that makes ``FlopCounterMode`` slow."""

    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func.overloadpacket)
        self.total += formula(*args, **(kwargs or {}), out_val=out) if formula else 0
        return out


def counted_by_torch(flux):
    with Flops() as counter, sdpa_kernel(SDPBackend.MATH):
        out = velocity(flux)
        forward = counter.total
        out.square().mean().backward()
    return forward, counter.total - forward


@pytest.mark.parametrize("name", [*PRESETS, *LATE])
def test_flops_are_those_of_the_formula_with_and_without_checkpointing(name):
    flux, adapter = prepared(name, checkpointed=False)
    formula = counted_by_hand(adapter.layers)
    assert counted_by_torch(flux) == (formula.forward, formula.backward)
    flux, adapter = prepared(name, checkpointed=True)
    assert counted_by_torch(flux) == (formula.forward, formula.backward + formula.again)


def test_flop_counter_mode_counts_the_same_at_the_depth_of_dev():
    params = replace(PARAMS, depth=19, depth_single_blocks=38)
    flux, adapter = prepared("single_blocks", checkpointed=True, params=params)
    formula = counted_by_hand(adapter.layers, params=params)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        velocity(flux).square().mean().backward()
    assert counter.get_total_flops() == formula.forward + formula.backward + formula.again


def leaves(node) -> Iterator[torch.Tensor]:
    seen, waiting = set(), [node]
    while waiting:
        here = waiting.pop()
        if here is None or here in seen:
            continue
        seen.add(here)
        if hasattr(here, "variable"):
            yield here.variable
        waiting += [before for before, _ in here.next_functions]


@pytest.mark.parametrize("name", ["token_linears", "all_linears", "the last two single blocks"])
def test_the_graph_of_a_loss_ends_in_the_adapter_and_nowhere_else(name):
    flux, adapter = prepared(name, checkpointed=False)
    found = {id(leaf) for leaf in leaves(velocity(flux).grad_fn)}
    assert found == {id(parameter) for parameter in adapter.parameters()}


@pytest.mark.parametrize("checkpointed", [False, True])
def test_what_lies_before_the_first_trained_block_keeps_nothing(checkpointed):
    flux, _ = prepared("the last two single blocks", checkpointed=checkpointed)
    kept, at = [], {}
    blocks = FLUX_DEV.blocks(flux)
    for number, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, number=number: at.update({number: len(kept)}))
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one) or one, lambda one: one):
        velocity(flux)
    first = PARAMS.depth + 2
    assert at[first] == 0
    assert at[first + 1] > 0 or checkpointed
    assert len(kept) > 0


def test_a_block_is_checkpointed_from_the_first_trained_one_on_and_never_without_gradients(monkeypatch):
    ran = []
    flux, _ = prepared("the last two single blocks", checkpointed=False)
    real = checkpoint
    monkeypatch.setattr("host.checkpointing.checkpoint", lambda *a, **k: ran.append(1) or real(*a, **k))
    checkpoint_blocks(FLUX_DEV.blocks(flux))
    with torch.no_grad():
        velocity(flux)
    assert ran == []
    velocity(flux)
    assert len(ran) == 2
