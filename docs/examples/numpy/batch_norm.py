"""Batch normalization of NumPy arrays, where they are. Usage: batch_norm.py LIBRARY"""

import ctypes
import sys

import numpy as np

library = ctypes.CDLL(sys.argv[1])
library.layer_new.restype = ctypes.c_void_p
library.layer_new.argtypes = [ctypes.c_int64]
library.layer_delete.argtypes = [ctypes.c_void_p]
library.layer_forward.restype = ctypes.c_char_p
library.layer_forward.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
library.layer_running_mean.restype = ctypes.c_void_p
library.layer_running_mean.argtypes = [ctypes.c_void_p]
capsule_pointer = ctypes.pythonapi.PyCapsule_GetPointer
capsule_pointer.restype = ctypes.c_void_p
capsule_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
capsule_name = ctypes.pythonapi.PyCapsule_SetName
capsule_name.argtypes = [ctypes.py_object, ctypes.c_char_p]
capsule = ctypes.pythonapi.PyCapsule_New
capsule.restype = ctypes.py_object
capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
USED = ctypes.c_char_p(b"used_dltensor")  # outlives the capsules that it names
NAME = ctypes.c_char_p(b"dltensor")


def taken(array):
    """What DLPack hands over; whoever takes it gives it back."""
    held = array.__dlpack__()
    pointer = capsule_pointer(held, NAME)
    capsule_name(held, USED)
    return pointer


class View:
    """A tensor from the library, for numpy.from_dlpack."""

    def __init__(self, pointer):
        self.pointer = pointer

    def __dlpack__(self, **_):
        return capsule(self.pointer, NAME, None)

    def __dlpack_device__(self):
        return (1, 0)


class BatchNorm:
    def __init__(self, channels):
        self.layer = library.layer_new(channels)

    def __del__(self):
        library.layer_delete(self.layer)

    def forward(self, x, out=None, train=True):
        out = np.empty_like(x) if out is None else out
        problem = library.layer_forward(self.layer, taken(x), taken(out), train)
        if problem:
            raise ValueError(problem.decode())
        return out

    def running_mean(self):
        return np.from_dlpack(View(library.layer_running_mean(self.layer)))


def main():
    generator = np.random.default_rng(1)
    x = generator.standard_normal((8, 5, 6, 7)).astype(np.float32)
    expected = x.astype(np.float64)
    mean = expected.mean(axis=(0, 2, 3))
    deviation = np.sqrt(expected.var(axis=(0, 2, 3)) + 1e-5)
    expected = (expected - mean[:, None, None]) / deviation[:, None, None]
    tolerance = 4 * np.finfo(np.float32).eps * np.abs(expected).max()

    # [begin use]
    layer = BatchNorm(5)
    y = layer.forward(x)  # x is a NumPy array of any strides
    mean_so_far = layer.running_mean()  # the layer's own memory
    # [end use]
    assert np.abs(y - expected).max() <= tolerance
    assert np.abs(mean_so_far - 0.1 * mean).max() <= tolerance

    # Any strides: channels last, every other sample, in place.
    wide = np.zeros((16, 6, 7, 5), np.float32)
    part = wide[::2].transpose(0, 3, 1, 2)
    part[...] = x
    assert layer.forward(part, out=part) is part
    assert np.abs(part - expected).max() <= tolerance
    assert not wide[1::2].any()

    # Half precision, to one unit in the last place of float16.
    half = x.astype(np.float16)
    assert np.abs(layer.forward(half) - expected).max() <= 4 * np.finfo(np.float16).eps * np.abs(expected).max()

    for bad, reason in ((x.astype(np.float64), "double"), (x.astype(np.int32), "another format"), (x[:, :4], "channels")):
        try:
            layer.forward(bad)
        except ValueError as error:
            print("refused:", error)
        else:
            raise AssertionError(reason)
    print("NumPy", np.__version__, "agrees")


main()
