"""The optimizer where torch shares the work: on several devices, and with a scaled loss, it ends where one device ends."""

import subprocess
import sys

import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch import nn
from torch.nn.functional import cross_entropy

import fptt

STEPS, BATCH = 6, 8


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.readout = nn.GRUCell(3, 8), nn.Linear(8, 2)

    def forward(self, x, state):
        state = self.cell(x, state)
        return self.readout(state), state


def data():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(STEPS, BATCH, 3, generator=generator), torch.randint(0, 2, (BATCH,), generator=generator)


def train(model, xs, y, scaler=None):
    optimizer = fptt.FPTT(torch.optim.Adamax(model.parameters(), lr=0.01), alpha=0.1, max_norm=0.1)
    for _ in range(5):
        state = torch.zeros(xs.shape[1], 8)
        for t, x in enumerate(xs):
            output, state = model(x, fptt.detach(state))
            loss = (t + 1) / STEPS * cross_entropy(output, y)
            optimizer.zero_grad()
            if scaler is None:
                loss.backward()
                optimizer.step()
            else:
                scaler.scale(loss).backward()
                scaler.step(optimizer)
                scaler.update()
    return optimizer


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    from torch.distributed.fsdp import fully_shard

    half = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    xs, y = data()
    for kind, spread in {"DDP": nn.parallel.DistributedDataParallel, "FSDP": fully_shard}.items():
        model = spread(Network())
        optimizer = train(model, xs[:, half], y[half])
        trained = [whole(p) for p in model.parameters()]
        with optimizer.averaged_weights():
            trained += [whole(p) for p in model.parameters()]
        if rank == 0:
            torch.save(trained, f"{folder}/{kind}.pt")
    torch.distributed.destroy_process_group()


def whole(parameter):
    """A copy of a parameter, gathered from all processes where each holds a part."""
    return (parameter.full_tensor() if hasattr(parameter, "full_tensor") else parameter).detach().clone()


@pytest.mark.skipif(sys.platform != "linux", reason="forks processes that meet on the interface lo")
def test_two_processes_with_half_of_the_batch_each_train_as_one_with_all_of_it(tmp_path, monkeypatch):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    subprocess.run([sys.executable, __file__, tmp_path], check=True)
    model = Network()
    optimizer = train(model, *data())
    expected = [whole(p) for p in model.parameters()]
    assert all(not torch.allclose(p, fresh, atol=1e-3) for p, fresh in zip(expected, Network().parameters(), strict=True))
    with optimizer.averaged_weights():
        expected += [whole(p) for p in model.parameters()]
    for kind in ("DDP", "FSDP"):
        torch.testing.assert_close(torch.load(tmp_path / f"{kind}.pt"), expected, rtol=0, atol=1e-6)


def test_a_scaled_loss_is_scaled_back_before_the_regulariser_and_the_clipping():
    scaled, plain = Network(), Network()
    train(scaled, *data(), torch.amp.GradScaler("cpu", init_scale=1024.0))
    train(plain, *data())
    torch.testing.assert_close(dict(scaled.named_parameters()), dict(plain.named_parameters()), rtol=0, atol=1e-7)


if __name__ == "__main__":  # a fresh process, which two are forked from: what they need is imported once
    import torch._dynamo
    import torch.distributed.fsdp

    torch.multiprocessing.start_processes(worker, (sys.argv[1],), nprocs=2, start_method="fork")
