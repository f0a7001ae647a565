"""A device whose clock is simulated: computing and copying take time, and every race is an error."""

from fractions import Fraction


class SimulatedDevice:
    """A ``Mover``. Asking takes no time, as with a GPU that the program runs far ahead of.

    ``now`` is when the computing that was asked for is done; a mark is a time.
    """

    def __init__(self, *, seconds_per_byte=Fraction(0)):
        self.seconds_per_byte = seconds_per_byte
        self.now = Fraction(0)
        self.bus_free = Fraction(0)
        self.stall = Fraction(0)
        self.copied = []
        """(place, bytes) of every copy."""
        self._arrives = {}
        """Address -> (place, when it is there), of what was copied there last."""
        self._used_until = {}
        self._open = None

    def fetch(self, place, target, *, after):
        address = target.data_ptr()
        start = max(self.bus_free, after)
        if address == self._open or self._used_until.get(address, 0) > start:
            raise AssertionError("a buffer was written over while it was in use")
        self.bus_free = start + target.numel() * self.seconds_per_byte
        self._arrives[address] = (place, self.bus_free)
        self.copied.append((place, target.numel()))
        target.fill_(place)
        return self.bus_free

    def wait(self, mark):
        self.stall += max(Fraction(0), mark - self.now)
        self.now = max(self.now, mark)

    def mark(self):
        return self.now

    def open(self, whole, place):
        """Begin to use the bytes ``whole``, which must be those of ``place`` by now."""
        address = whole.data_ptr()
        assert self._arrives[address][0] == place, "the buffer holds another block"
        assert self._arrives[address][1] <= self.now, "a buffer was read before its block was there"
        self._open = address

    def close(self, seconds):
        """Compute for ``seconds`` on what was opened."""
        self.now += seconds
        self._used_until[self._open] = self.now
        self._open = None

    def compute(self, seconds):
        """Compute on what is always on the device."""
        self.now += seconds
