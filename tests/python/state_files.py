"""Files of state dictionaries between C++ and Python: state_files.py PROGRAM npz|safetensors"""

import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

EXPECTED = {
    "layer1.0.bn1.weight": np.array([1.5, 0.5, -0.5], np.float32),
    "layer1.0.bn1.bias": np.zeros(3, np.float32),
    "layer1.0.bn1.running_mean": np.zeros(3, np.float32),
    "layer1.0.bn1.running_var": np.ones(3, np.float32),
    "layer1.0.bn1.num_batches_tracked": np.array(1 << 40),
    "layer1.0.bn2.weight": np.ones(2),
    "layer1.0.bn2.bias": np.zeros(2),
    "layer1.0.bn2.running_mean": np.array([0, 1 / 3]),
    "layer1.0.bn2.running_var": np.ones(2),
    "layer1.0.bn2.num_batches_tracked": np.array(0),
}


def check(found):
    assert set(found) == set(EXPECTED), sorted(found)
    for name, expected in EXPECTED.items():
        array = found[name]
        assert array.dtype == expected.dtype and array.shape == expected.shape, (name, array)
        assert np.array_equal(array, expected), (name, array)


def read_by_us(program, path):
    """What the library makes of a file: arrays of double, by name."""
    run = subprocess.run([program, "read", path], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout
    result = {}
    for line in run.stdout.splitlines():
        name, rest = line.split(" [", 1)
        shape, values = rest.split("]", 1)
        result[name] = np.array(values.split(), float).reshape([int(n) for n in shape.split()])
    return result


def check_safetensors(program, folder):
    from safetensors.numpy import load_file, save_file

    check(load_file(folder / "state.safetensors"))

    generator = np.random.default_rng(1)
    written = {
        "model.bn.weight": generator.standard_normal(5).astype(np.float32),
        "model.bn.running_var": generator.standard_normal(3),
        "model.bn.num_batches_tracked": np.array(12345678901, np.int64),
        "conv.weight": generator.standard_normal((2, 3, 1, 2)).astype(np.float16),
        "empty": np.zeros((0, 4), np.float32),
        "flags": np.array([True, False]),
        "small": np.array([[-3, 7]], np.int8),
        "größe": np.array([2.0]),
    }
    for metadata in (None, {"format": "np", "anything": "else"}):
        path = folder / "python.safetensors"
        save_file(written, path, metadata)
        read = read_by_us(program, path)
        assert set(read) == set(written), sorted(read)
        for name, array in written.items():
            assert read[name].shape == array.shape, name
            assert np.array_equal(read[name], array.astype(float)), name


def main():
    program, form = sys.argv[1:]
    if form == "safetensors":
        try:
            import safetensors
        except ImportError:
            print("skipped: this Python has no module safetensors")
            sys.exit(77)
        print("safetensors", safetensors.__version__)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        subprocess.run([program, "write", folder], check=True)
        if form == "npz":
            with np.load(folder / "state.npz") as arrays:
                check(dict(arrays))
        else:
            check_safetensors(program, folder)


main()
