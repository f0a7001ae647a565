"""What a step of the transformer holds in memory, told from its sizes.

Follows ``transformer.py`` line by line: what autograd keeps, what a variable keeps until its
function ends, what lives for a moment only. ``tests/unit/test_flux_memory.py`` replays real steps.
"""

from collections.abc import Callable
from functools import partial

from host.architecture import BlockBytes, Header, StepBytes, Workload
from musubi_flux_dev.identify import sizes_of
from musubi_flux_dev.ledger import FLOAT32, Replay, Stream
from musubi_flux_dev.transformer import FluxParams, params_from_header
from musubi_flux_dev.variants import variant_of

PIXELS_OF_TOKEN = 2


def step_bytes(header: Header) -> Callable[[Workload], StepBytes]:
    """Return what tells how much a step of the file's transformer holds."""
    return partial(step_of, params_from_header(sizes_of(header, "transformer"), ""))


def step_of(params: FluxParams, work: Workload) -> StepBytes:
    """Return what a forward pass, and in training the backward pass, holds outside and inside the blocks."""
    pictures = work.batch * (work.height // PIXELS_OF_TOKEN) * (work.width // PIXELS_OF_TOKEN)
    captions = work.batch * (variant_of(params).conditioning["t5_hidden"].shape[0] or 0)
    img, txt = Stream("img", pictures), Stream("txt", captions)
    paths = [f"double_blocks.{number}" for number in range(params.depth)]
    paths += [f"single_blocks.{number}" for number in range(params.depth_single_blocks)]
    trained = [_carries_lora(path, work) for path in paths]
    blocks = []
    for number, path in enumerate(paths):
        before = any(trained[:number])
        replay = Replay(
            work=work,
            path=path,
            hidden=params.hidden_size,
            heads=params.num_heads,
            keeps=before or trained[number],
            onward=before,
            modulated=any(name.startswith(f"{path}.") and "mod" in name for name in work.ranks),
        )
        build = _double if path.startswith("double") else _single
        blocks.append(build(replay, params.mlp_hidden, img, txt))
    return StepBytes(around=_around(params, work, pictures, captions), blocks=tuple(blocks))


def _carries_lora(path: str, work: Workload) -> bool:
    return work.training and any(name.startswith(f"{path}.") for name in work.ranks)


def _around(params: FluxParams, work: Workload, pictures: int, captions: int) -> int:
    """Rotary table, captions, the picture's tokens, what the loss keeps, and the modulation of all blocks."""
    table = (pictures + captions) * params.head_dim * 2 * FLOAT32
    latents = pictures * params.in_channels * (2 * FLOAT32 + work.itemsize)
    vectors = 12 * params.depth + 3 * params.depth_single_blocks + 2
    modulation = work.batch * vectors * params.hidden_size * work.itemsize
    return table + latents + captions * params.context_in_dim * work.itemsize + modulation


def _bytes(replay: Replay, inputs: int, *, forward: int, kept: int) -> BlockBytes:
    return BlockBytes(
        path=replay.path,
        inputs=inputs,
        kept=kept if replay.keeps else 0,
        forward=forward,
        backward=replay.ledger.peak if replay.keeps else 0,
    )


def _forward_ends(replay: Replay, *local: str) -> tuple[int, int]:
    """Return the forward pass's most, and what is kept once the variables are gone."""
    ledger = replay.ledger
    forward = ledger.peak
    ledger.free(*local)
    ledger.peak = ledger.live
    return forward, ledger.live


def _single(replay: Replay, mlp: int, img: Stream, txt: Stream) -> BlockBytes:
    both, hidden, ledger = Stream("both", img.rows + txt.rows), replay.hidden, replay.ledger
    state, inner = replay.state(both), replay.wide(both, mlp)
    first, second = (hidden, 3 * hidden + mlp), (hidden + mlp, hidden)

    replay.modulate(both, "mod")
    replay.linear("linear1", both, "mod", widths=first, result="qkv and mlp")
    replay.norm(both, "q")
    replay.norm(both, "k")
    replay.attend(both)
    ledger.touch(inner + state + inner)  # gelu and what it is joined to
    ledger.hold(joined=state + inner)
    replay.linear("linear2", both, "joined", widths=second, result="out")
    replay.gate(both, "out")
    forward, kept = _forward_ends(replay, "q", "k")

    ledger.free("out")
    ledger.hold(residual=state, gradient=state)
    replay.linear_backward("linear2", both, "joined", widths=second)
    ledger.hold(d_mlp=inner)
    replay.attend_backward(both, "qkv and mlp", "gradient")
    replay.norm_backward(both, "k")
    replay.norm_backward(both, "q")
    ledger.free("dq", "dk", "dv")
    ledger.touch(3 * state + replay.wide(both, first[1]))
    ledger.free("d_mlp")
    ledger.hold(gradient=replay.wide(both, first[1]))
    replay.linear_backward("linear1", both, "mod", widths=first, onward=replay.onward)
    ledger.free("mod plain")
    ledger.touch(2 * state)
    return _bytes(replay, state, forward=forward, kept=kept)


def _double(replay: Replay, mlp: int, img: Stream, txt: Stream) -> BlockBytes:
    both, hidden, ledger = Stream("both", img.rows + txt.rows), replay.hidden, replay.ledger
    state = replay.state(both)
    for stream in (img, txt):
        name = stream.name
        replay.modulate(stream, f"{name} mod")
        widths = (hidden, 3 * hidden)
        replay.linear(f"{name}_attn.qkv", stream, f"{name} mod", widths=widths, result=f"{name} qkv")
        replay.norm(stream, f"{name} q")
        replay.norm(stream, f"{name} k")
    ledger.hold(q=state, k=state, v=state)
    replay.attend(both)
    ledger.hold(gathered=state)
    for stream in (img, txt):
        _tail(replay, mlp, stream)
    # In float32 the norms keep the projections themselves, as they need no copy.
    local = [f"{s.name} {what}" for s in (img, txt) for what in ("q", "k", "out")]
    local += [f"{s.name} qkv" for s in (img, txt)] if replay.work.itemsize != FLOAT32 else []
    forward, kept = _forward_ends(replay, "q", "k", *local)

    ledger.hold(residual=state)
    for stream in (txt, img):
        _tail_backward(replay, mlp, stream)
    ledger.free("gathered")
    ledger.hold(gradient=state)
    ledger.free("d img", "d txt")
    replay.attend_backward(both, "v", "gradient")
    for stream in (txt, img):
        _head_backward(replay, stream)
    return _bytes(replay, state, forward=forward, kept=kept)


def _tail(replay: Replay, mlp: int, stream: Stream) -> None:
    """From the attention's output to the end of the block."""
    name, hidden, ledger = stream.name, replay.hidden, replay.ledger
    step = partial(replay.linear, stream=stream)
    step(f"{name}_attn.proj", source="", widths=(hidden, hidden), result=f"{name} projected")
    replay.gate(stream, f"{name} projected")
    ledger.hold(**{f"{name} middle": replay.state(stream)})
    replay.modulate(stream, f"{name} mod2")
    step(f"{name}_mlp.0", source=f"{name} mod2", widths=(hidden, mlp), result=f"{name} mlp")
    ledger.hold(**{f"{name} gelu": replay.wide(stream, mlp)})
    if not replay.keeps:
        ledger.free(f"{name} mlp")
    step(f"{name}_mlp.2", source=f"{name} gelu", widths=(mlp, hidden), result=f"{name} mixed")
    replay.gate(stream, f"{name} mixed")
    ledger.hold(**{f"{name} out": replay.state(stream)})
    if not replay.keeps:
        ledger.free(f"{name} middle")


def _tail_backward(replay: Replay, mlp: int, stream: Stream) -> None:
    name, hidden, ledger = stream.name, replay.hidden, replay.ledger
    ledger.free(f"{name} mixed")
    ledger.hold(gradient=replay.state(stream))
    replay.linear_backward(f"{name}_mlp.2", stream, f"{name} gelu", widths=(mlp, hidden))
    ledger.touch(replay.wide(stream, mlp))
    ledger.free(f"{name} mlp")
    replay.linear_backward(f"{name}_mlp.0", stream, f"{name} mod2", widths=(hidden, mlp))
    ledger.touch(2 * replay.state(stream))
    ledger.free(f"{name} middle", f"{name} mod2 plain", f"{name} projected", "gradient")
    ledger.hold(gradient=replay.state(stream))
    replay.linear_backward(f"{name}_attn.proj", stream, "", widths=(hidden, hidden))
    ledger.free("gradient")
    ledger.hold(**{f"d {name}": replay.state(stream)})


def _head_backward(replay: Replay, stream: Stream) -> None:
    """From the gradients of q, k and v to the block's input."""
    name, hidden, ledger = stream.name, replay.hidden, replay.ledger
    replay.norm_backward(stream, f"{name} k")
    replay.norm_backward(stream, f"{name} q")
    ledger.free(f"{name} qkv")
    ledger.touch(6 * replay.state(stream))
    ledger.hold(gradient=replay.wide(stream, 3 * hidden))
    widths = (hidden, 3 * hidden)
    replay.linear_backward(f"{name}_attn.qkv", stream, f"{name} mod", widths=widths, onward=replay.onward)
    ledger.touch(2 * replay.state(stream))
    ledger.free("gradient")
