"""A model's state from Python to C++ and back. Usage: python_checkpoints.py PROGRAM pickle|safetensors"""

import subprocess
import sys
import tempfile

import torch
from torch import nn


def main():
    program, form = sys.argv[1:]
    torch.manual_seed(1)
    # [begin model]
    model = nn.Sequential()
    model.conv = nn.Conv2d(3, 4, 1)
    model.bn = nn.BatchNorm2d(4)
    model.last = nn.Sequential(nn.BatchNorm2d(4))
    # [end model]
    for _ in range(3):
        model(torch.randn(8, 3, 5, 5))
    with tempfile.TemporaryDirectory() as folder:
        if form == "pickle":
            written = f"{folder}/state.pt"
            # [begin save]
            torch.save(dict(model.state_dict()), written)
            # [end save]
        else:
            try:
                from safetensors.torch import save_file
            except ImportError:
                print("skipped: this Python has no module safetensors")
                sys.exit(77)
            written = f"{folder}/state.safetensors"
            save_file(model.state_dict(), written)
        returned = f"{folder}/from_cpp.pt"
        subprocess.run([program, written, returned], check=True)
        # [begin read]
        state = torch.jit.load(returned).state_dict()
        # [end read]
        model.load_state_dict(state)  # every name, and no other
    for name, value in model.state_dict().items():
        assert state[name].dtype == value.dtype and torch.equal(state[name], value), name
    assert state["bn.num_batches_tracked"] == 3
    print("PyTorch", torch.__version__, "agrees:", ", ".join(state))


main()
