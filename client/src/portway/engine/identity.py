"""Who a tunnel is: its hash chain, and the epochs it has used up (DESIGN §4, "Labels prove themselves").

One chain is kept ready, because walking it costs 4 ms that `forward()` need not wait for.
"""

import threading

from portway_proto.wire.labels import CHAIN_LENGTH, Chain, Epoch, Label

from portway.errors import RemoteError


class LabelChain:
    """A tunnel's label, and the proofs of its epochs in turn."""

    __slots__ = ("_chain", "epoch")

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self.epoch = Epoch(0)

    @property
    def label(self) -> Label:
        return self._chain.label

    @property
    def proof(self) -> bytes:
        """That of the epoch that was used last."""
        return self._chain.proof(self.epoch)

    def next_proof(self) -> tuple[Epoch, bytes]:
        """The next epoch and its proof. Raises RemoteError when the chain is used up."""
        if self.epoch == CHAIN_LENGTH:
            raise RemoteError(f"its {CHAIN_LENGTH} epochs are used up: open a new tunnel")
        self.epoch = Epoch(self.epoch + 1)
        return self.epoch, self.proof


class ReadyChains:
    """New identities, of which one is ready before it is asked for."""

    def __init__(self) -> None:
        self._ready: list[Chain] = []
        self._making: threading.Thread | None = None

    def take(self) -> LabelChain:
        """A new identity: at once when one is ready, else after about 4 ms."""
        return LabelChain(self._ready.pop() if self._ready else Chain())

    def prepare(self) -> None:
        """Have one made ready, on a thread of its own."""
        if not self._ready and (self._making is None or not self._making.is_alive()):
            self._making = threading.Thread(target=self._make, name="portway chain", daemon=True)
            self._making.start()

    def _make(self) -> None:
        self._ready.append(Chain())
