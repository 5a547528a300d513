/// @file
/// The memory of a block that the library's kernels share, under the emulator.

CUDA_EMULATION_DYNAMIC_SHARED(syncbn::v0::cuda, shared_memory)
