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
                 device=None, dtype=None, timeout=600.0):
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.process_group = process_group
        self.timeout = timeout
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
        return self._normalizer.forward(x, self.weight, self.bias, self.running_mean, self.running_var,
                                        self.num_batches_tracked, self.eps, self.momentum, training)

    def __getstate__(self):
        return {**self.__dict__, "_normalizer": None, "_group": None}  # copies and files hold no group of processes

    @classmethod
    def convert_sync_batchnorm(cls, module, process_group=None):
        """As torch.nn.SyncBatchNorm.convert_sync_batchnorm: the module, with ours in place of every batch normalization. A
        module that is there several times stays one."""
        return _replace(module, _BatchNorm, cls, lambda ours: setattr(ours, "process_group", process_group), {})

    @classmethod
    def revert_sync_batchnorm(cls, module, to=torch.nn.BatchNorm2d):
        """The module with PyTorch's own in place of ours."""
        return _replace(module, cls, to, lambda theirs: None, {})


def _replace(module, old, new, prepare, done):
    if module in done:
        return done[module]
    result = module
    if isinstance(module, old) and not isinstance(module, new):
        if isinstance(module, torch.nn.modules.lazy.LazyModuleMixin):
            raise TypeError("a lazy module has to see its first batch before it can be converted")
        result = new(module.num_features, module.eps, module.momentum, module.affine, module.track_running_stats)
        # The same parameters, which optimizers may have already, and the same buffers.
        result._parameters.update(module._parameters)
        result._buffers.update(module._buffers)
        result.train(module.training)
        prepare(result)
    done[module] = result
    for name, child in module.named_children():
        result.add_module(name, _replace(child, old, new, prepare, done))
    return result
