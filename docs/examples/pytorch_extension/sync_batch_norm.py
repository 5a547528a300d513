"""Batch normalization over the processes of torch.distributed, for tensors in host memory, where PyTorch has none.

    model = SyncBatchNorm.convert_sync_batchnorm(model)
    model = torch.nn.parallel.DistributedDataParallel(model)
"""

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm

from sync_batch_norm_engine import Normalizer

_groups = {}


def _group_for_statistics():
    """A group of gloo over all processes, for our sums alone: those of DistributedDataParallel come when they like, and in
    one group they would meet ours. All processes make it in their first synchronized pass."""
    world = dist.group.WORLD
    if world not in _groups:
        _groups.clear()  # of a world that was destroyed
        _groups[world] = dist.new_group(backend="gloo")
    return _groups[world]


class SyncBatchNorm(_BatchNorm):
    """As torch.nn.SyncBatchNorm, with the same arguments, state and gradients; for inputs (N, C, ...) in host memory.

    A process may have few samples or none: each counts alike. Whatever is wrong on one process raises on all of them.
    process_group: of gloo or MPI, that nobody else uses; None: all processes.
    timeout: seconds that a process may take to come to a sum.
    """

    def __init__(self, num_features, eps=1e-5, momentum=0.1, affine=True, track_running_stats=True, process_group=None,
                 device=None, dtype=None, *, bias=True, timeout=600.0):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        if not bias:  # which the base has in newer versions of PyTorch only
            self.register_parameter("bias", None)
        self.process_group = process_group
        self.timeout = timeout
        self._converted_from = None
        self._normalizer = None
        self._group = None  # of the normalizer

    def forward(self, x):
        training = self.training or self.running_mean is None
        if training and dist.is_available() and dist.is_initialized():
            group = self.process_group or _group_for_statistics()
        else:
            group = self._group  # is not asked for anything now
        if self._normalizer is None or group is not self._group:
            self._normalizer = Normalizer(self.num_features, self.affine, self.track_running_stats, group, self.timeout)
            self._group = group
        bias = torch.zeros_like(self.weight) if self.affine and self.bias is None else self.bias
        return self._normalizer.forward(x, self.weight, bias, self.running_mean, self.running_var,
                                        self.num_batches_tracked, self.eps, self.momentum, training)

    def __getstate__(self):
        return {**self.__dict__, "_normalizer": None, "_group": None}  # copies and files hold no group of processes

    @classmethod
    def convert_sync_batchnorm(cls, module, process_group=None):
        """As torch.nn.SyncBatchNorm.convert_sync_batchnorm: the module, with ours in place of every batch normalization, with
        its parameters, buffers and hooks. A module that is there several times stays one; ours get the process group."""
        for lazy in module.modules():
            if isinstance(lazy, _BatchNorm) and isinstance(lazy, torch.nn.modules.lazy.LazyModuleMixin):
                raise TypeError("a lazy module has to see its first batch before it can be converted")

        def convert(norm):
            if not isinstance(norm, cls):
                ours = _remade(norm, cls)
                ours._converted_from = type(norm)
                norm = ours
            norm.process_group = process_group
            return norm

        return _replace(module, _BatchNorm, convert, {})

    @classmethod
    def revert_sync_batchnorm(cls, module, to=None):
        """The module with PyTorch's own in place of ours: the class that was converted, or `to`, for example
        torch.nn.BatchNorm2d, which modules that were made as ours need."""
        if to is None and any(isinstance(m, cls) and m._converted_from is None for m in module.modules()):
            raise TypeError("a module was not converted: say what it should become")
        return _replace(module, cls, lambda ours: _remade(ours, to or ours._converted_from), {})


def _remade(norm, kind):
    """A module of another class with the same settings, parameters, which optimizers may have already, buffers and hooks."""
    result = kind(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    result._parameters.update(norm._parameters)
    result._buffers.update(norm._buffers)
    vars(result).update({name: value for name, value in vars(norm).items() if "_hook" in name})
    return result.train(norm.training)


def _replace(module, kind, make, done):
    if module not in done:
        done[module] = make(module) if isinstance(module, kind) else module
        # Not named_children(), which gives one name of a child that has two.
        for name, child in module._modules.items():
            if child is not None:
                done[module].add_module(name, _replace(child, kind, make, done))
    return done[module]
