"""Replays which tensors are held, and the most at one moment; sizes are bytes of a whole batch."""

from dataclasses import dataclass, field

from host.architecture import Workload

FLOAT32 = 4


@dataclass(slots=True)
class Ledger:
    """Tensors that are held, by name, and the most that was ever held at one moment."""

    held: dict[str, int] = field(default_factory=dict)
    peak: int = 0

    @property
    def live(self) -> int:
        """Bytes held now."""
        return sum(self.held.values())

    def hold(self, **sizes: int) -> None:
        """Take note of new tensors."""
        assert not sizes.keys() & self.held.keys(), f"held twice: {sizes.keys() & self.held.keys()}"
        self.held |= sizes
        self.touch()

    def touch(self, size: int = 0) -> None:
        """Take note of ``size`` more bytes that live for this moment only."""
        self.peak = max(self.peak, self.live + size)

    def free(self, *names: str) -> None:
        """Let go of tensors; one that nobody kept is passed over."""
        for name in names:
            self.held.pop(name, None)


@dataclass(frozen=True, slots=True)
class Stream:
    """Tokens that go through linears together; ``rows`` is batch times tokens."""

    name: str
    rows: int


@dataclass(slots=True, kw_only=True)
class Replay:
    """The operations of a transformer block, as far as they hold memory."""

    work: Workload
    path: str
    """Of the block."""
    hidden: int
    heads: int
    keeps: bool
    """Whether a backward pass will come through the block."""
    onward: bool
    """Whether it goes on to the blocks before."""
    modulated: bool
    """Whether it goes to the modulation too, whose gradients want to know what was scaled and gated."""
    ledger: Ledger = field(default_factory=Ledger)

    def wide(self, stream: Stream, width: int) -> int:
        """``width`` numbers for each row, in the type that is computed in."""
        return stream.rows * width * self.work.itemsize

    def state(self, stream: Stream) -> int:
        """One hidden state."""
        return self.wide(stream, self.hidden)

    def precise(self, stream: Stream) -> int:
        """One hidden state in float32."""
        return stream.rows * self.hidden * FLOAT32

    def copied(self, stream: Stream) -> int:
        """Its copy in float32; what is float32 already is not copied."""
        return 0 if self.work.itemsize == FLOAT32 else self.precise(stream)

    def keep(self, name: str, size: int) -> None:
        """Hold what only the backward pass wants."""
        if self.keeps:
            self.ledger.hold(**{name: size})

    def modulate(self, stream: Stream, result: str) -> None:
        """Tokens normalised (mean and deviation are kept), scaled, shifted: two of the three at a time."""
        size, moments = self.state(stream), 2 * stream.rows * FLOAT32
        self.keep(f"{result} plain", moments + (size if self.modulated else 0))
        self.ledger.touch(2 * size)
        self.ledger.hold(**{result: size})

    def gate(self, stream: Stream, ungated: str) -> None:
        """``gate * ungated``, to be added to the stream at once."""
        self.ledger.touch(self.state(stream))
        if not (self.modulated and self.keeps):
            self.ledger.free(ungated)

    def linear(
        self, linear: str, stream: Stream, source: str, *, widths: tuple[int, int], result: str
    ) -> None:
        """From ``source`` to ``result`` by a linear of ``widths`` (in, out), with its LoRA if it has one."""
        module, ledger = f"{self.path}.{linear}", self.ledger
        out, rank = self.wide(stream, widths[1]), self.work.ranks.get(module, 0)
        self._multiply(module, widths, out)
        if rank:
            cast = 0 if self.work.itemsize == FLOAT32 else rank * sum(widths) * self.work.itemsize
            beside = cast + self.wide(stream, rank)
            ledger.touch(beside + 3 * out)  # the base's output, the LoRA's and their sum
            self.keep(f"{linear} lora", beside)
        if not (rank and self.keeps):
            ledger.free(source)
        ledger.hold(**{result: out})

    def _multiply(self, module: str, widths: tuple[int, int], product: int) -> None:
        """A product with a frozen weight, which is widened before there is any product."""
        widened = self.work.widened.get(module, 0)
        weight = widths[0] * widths[1] * self.work.itemsize if widened else 0
        self.ledger.touch(max(widened, weight + product))

    def linear_backward(
        self, linear: str, stream: Stream, source: str, *, widths: tuple[int, int], onward: bool = True
    ) -> None:
        """From the held "gradient" of a linear's output to that of its input."""
        module, ledger = f"{self.path}.{linear}", self.ledger
        size = self.wide(stream, widths[0]) if onward else 0
        rank = self.work.ranks.get(module, 0)
        if rank:
            ledger.touch(max(ledger.held["gradient"], size))  # the LoRA's share, scaled; then its input's
            ledger.free(f"{linear} lora", source)
            ledger.hold(through_lora=size)
        self._multiply(module, widths, size)
        ledger.free("gradient")
        ledger.hold(gradient=size)
        if rank:
            ledger.touch(size)  # both ways add up to a third tensor
            ledger.free("through_lora")

    def norm(self, stream: Stream, result: str) -> None:
        """``RMSNorm``: float32 inside; keeps its input, and the inverse root of each head and token."""
        roots = stream.rows * self.heads * FLOAT32
        self.ledger.touch(self.copied(stream) + roots + 2 * self.precise(stream))
        self.keep(f"{result} precise", self.copied(stream) + roots)
        self.ledger.hold(**{result: self.state(stream)})

    def norm_backward(self, stream: Stream, result: str) -> None:
        """Four products in float32 at a time, and the gradient."""
        self.ledger.touch(self.copied(stream) + 4 * self.precise(stream))
        self.ledger.free(f"{result} precise")

    def attend(self, stream: Stream) -> None:
        """``rotary_attention``: q and k turned in float32, and with v kept for the backward pass."""
        for name in ("q rotated", "k rotated"):
            self.ledger.touch(self.copied(stream) + 3 * self.precise(stream))  # two products and their sum
            self.ledger.hold(**{name: self.state(stream)})
        self.ledger.hold(attn=self.state(stream))
        if self.keeps:
            self.ledger.hold(log_sums=stream.rows * self.heads * FLOAT32)
        else:
            self.ledger.free("q rotated", "k rotated")

    def attend_backward(self, stream: Stream, *freed: str) -> None:
        """From the gradient of its output, which the caller holds, to those of q, k and v."""
        size = self.state(stream)
        self.ledger.hold(dq=size, dk=size, dv=size)
        self.ledger.free("q rotated", "k rotated", "attn", "log_sums", *freed)
        self.ledger.touch(self.copied(stream) + 3 * self.precise(stream))
