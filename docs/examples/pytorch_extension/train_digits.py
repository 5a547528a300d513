"""Trains a small network on handwritten digits with 2 and 4 processes under DistributedDataParallel, some of which get fewer
samples or none, and compares it with one process that has the whole batches. Usage: train_digits.py digits.csv"""

import copy
import io
import os
import sys
import tempfile
import warnings

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from sync_batch_norm import SyncBatchNorm

BATCH, STEPS = 64, 8
SHARES = {1: [64], 2: [45, 19], 4: [23, 0, 40, 1]}  # of the samples of a batch; none in place of the second for a while


def make_model():
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 4 * 4, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10),
    ).double()


def read_digits(path):
    with open(path) as file:
        rows = [[int(v) for v in line.split(",")] for line in file if line[0].isdigit()]
    rows = torch.tensor(rows)
    return rows[:, :64].double().reshape(-1, 1, 8, 8) / 16, rows[:, 64]


def train(model, images, labels, rank, size):
    """The losses of the batches. The gradients' average over processes, which is what DistributedDataParallel makes, becomes
    their sum by the factor `size`."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    losses = []
    for step in range(STEPS):
        first = step * BATCH + sum(SHARES[size][:rank])
        mine = slice(first, first + SHARES[size][rank])
        loss = nn.functional.cross_entropy(model(images[mine]), labels[mine], reduction="sum") / BATCH
        optimizer.zero_grad()
        (loss * size).backward()
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses)


def check_errors(rank, size):
    """What is wrong on one process is raised by all, which then go on."""
    layer = SyncBatchNorm(3)
    x = torch.ones(2, 4 if rank == 1 else 3)
    try:
        layer(x)
    except (ValueError, RuntimeError) as error:
        assert layer.num_batches_tracked == 0
        if rank != 1:
            assert "rank 1" in str(error), error
    else:
        raise AssertionError("a wrong number of channels was not noticed")
    y = layer(torch.full((2, 3), float(rank)))
    mean = (size - 1) / 2
    deviation = (sum((r - mean) ** 2 for r in range(size)) / size + layer.eps) ** 0.5
    assert torch.allclose(y, torch.tensor((rank - mean) / deviation), rtol=8 * torch.finfo(torch.float32).eps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            nn.SyncBatchNorm(3)(x[:, :3])
        except ValueError as error:
            if rank == 0 and size == 2:
                print("PyTorch's own:", error)


def work(rank, size, digits, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=size)
    check_errors(rank, size)
    model = make_model()
    # [begin use]
    model = SyncBatchNorm.convert_sync_batchnorm(model)  # from sync_batch_norm, not from torch.nn
    parallel = DistributedDataParallel(model)
    # [end use]
    losses = train(parallel, *read_digits(digits), rank, size)
    dist.all_reduce(losses)
    if rank == size - 1:
        torch.save({"losses": losses, **model.state_dict()}, f"{folder}/result.pt")
    dist.barrier()
    dist.destroy_process_group()


def check_module():
    """Conversion, copies, files: as PyTorch's."""
    shared = nn.BatchNorm2d(4, eps=0.5, momentum=None)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), shared, nn.Sequential(shared, nn.BatchNorm2d(4, affine=False)))
    keys, parameters = list(model.state_dict()), list(model.parameters())
    converted = SyncBatchNorm.convert_sync_batchnorm(model.eval())
    assert isinstance(converted[1], SyncBatchNorm) and converted[1] is converted[2][0]
    assert list(converted.state_dict()) == keys
    assert all(a is b for a, b in zip(converted.parameters(), parameters))
    assert not converted[1].training and converted[1].eps == 0.5 and converted[1].momentum is None
    x = torch.randn(2, 3, 5, 5)
    y = converted(x)
    file = io.BytesIO()
    torch.save(converted, file)
    file.seek(0)
    read = torch.load(file) if torch.__version__.startswith("1.") else torch.load(file, weights_only=False)
    assert torch.equal(copy.deepcopy(converted)(x), y) and torch.equal(read(x), y)
    print(converted[1])
    group = object()
    assert SyncBatchNorm.convert_sync_batchnorm(converted, group) is converted
    assert converted[1].process_group is group and converted[2][1].process_group is group
    reverted = SyncBatchNorm.revert_sync_batchnorm(converted)
    assert type(reverted[1]) is nn.BatchNorm2d and reverted[1] is reverted[2][0]
    # Three layers, each of which rounds a few times.
    assert torch.allclose(reverted(x), y, rtol=0, atol=16 * torch.finfo(y.dtype).eps * (1 + y.abs().max().item()))


def check_without_bias():
    """Layers that scale and do not shift, which newer versions of PyTorch have."""
    x = torch.randn(4, 3, dtype=torch.float64)
    ours = SyncBatchNorm(3, dtype=torch.float64, bias=False)
    y = ours(x)
    y.square().sum().backward()
    assert torch.equal(y, SyncBatchNorm(3, dtype=torch.float64)(x))
    assert list(dict(ours.named_parameters())) == ["weight"] and ours.weight.grad is not None


def check_conversion():
    """What a conversion keeps, and what it refuses before it has changed anything."""
    model = nn.Module()
    model.one = model.two = nn.BatchNorm1d(3)  # two names in one module
    model.none = None
    calls = []
    handle = model.one.register_forward_hook(lambda *call: calls.append(call))
    SyncBatchNorm.convert_sync_batchnorm(model)
    assert isinstance(model.one, SyncBatchNorm) and model.two is model.one and model.none is None
    model.one(torch.randn(4, 3))
    handle.remove()
    model.one(torch.randn(4, 3))
    assert len(calls) == 1
    SyncBatchNorm.revert_sync_batchnorm(model)
    assert type(model.one) is nn.BatchNorm1d and model.two is model.one and model.one.num_batches_tracked == 2
    assert isinstance(SyncBatchNorm.revert_sync_batchnorm(SyncBatchNorm(3), nn.BatchNorm2d), nn.BatchNorm2d)
    convert, revert = SyncBatchNorm.convert_sync_batchnorm, SyncBatchNorm.revert_sync_batchnorm
    check_refused(convert, nn.BatchNorm1d(3), nn.LazyBatchNorm1d())
    check_refused(revert, convert(nn.BatchNorm1d(3)), SyncBatchNorm(3))


def check_refused(replace, *modules):
    model = nn.Sequential(*modules)
    try:
        replace(model)
    except TypeError:
        assert tuple(model) == modules
    else:
        raise AssertionError("what cannot be replaced was not noticed")


def main():
    check_module()
    check_conversion()
    check_without_bias()
    digits = sys.argv[1]
    torch.set_num_threads(1)
    whole = make_model()
    expected = {"losses": train(whole, *read_digits(digits), 0, 1), **whole.state_dict()}
    print(f"1 process:   loss {expected['losses'][0]:.6f}, then {expected['losses'][-1]:.6f}")
    assert expected["losses"][-1] < expected["losses"][0] / 2  # it learns
    # Each step adds the roundings of sums over a batch's pixels and doubles what there was, at worst.
    tolerance = 64 * torch.finfo(torch.float64).eps * 2**STEPS
    for size in (2, 4):
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(work, (size, digits, folder), size)
            result = torch.load(os.path.join(folder, "result.pt"))
        assert set(result) == set(expected)
        difference = max(((result[k] - v).abs().max() / (1 + v.abs().max())).item() for k, v in expected.items())
        print(f"{size} processes: loss {result['losses'][0]:.6f}, then {result['losses'][-1]:.6f};"
              f" all parameters and statistics to {difference:.1e} of {tolerance:.1e}")
        assert difference <= tolerance


if __name__ == "__main__":
    main()
