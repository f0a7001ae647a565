"""Every test runs with shapes checked, without network, and on one thread: two tests run at a time."""

import gc
import os

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the programs that tests start, too

from jaxtyping import install_import_hook

install_import_hook(["host", "dataset", "networks", "musubi_flux_dev"], "shape_checker.check")

import socket

import pytest
import torch

torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def pytest_collection_finish():
    """Keep what was imported out of later collections: a run makes some, and each would walk over it all."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Make every connection that leaves this machine an error."""
    connect = socket.socket.connect

    def refuse(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"the code tried to reach the network: {address}")
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)
