/// @file
/// Ranks that mpiexec has started; on the emulator each process has devices of its own.
#pragma once

#include <syncbn/backends/cuda_aware_mpi_communicator.hpp>

#include "conformance/mpi_launcher.hpp"
#include "support/device_frames.hpp"
