#pragma once

/// @file
/// The library: core, CPU backend and Eigen's tensors. Communicators for MPI lie in backends/mpi_communicator.hpp.

#include <syncbn/backends/cpu_backend.hpp>
#include <syncbn/core.hpp>
#include <syncbn/interop/eigen.hpp>
