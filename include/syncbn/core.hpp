#pragma once

/// @file
/// Everything that needs no third-party header: for use with a backend of your own.

#include <syncbn/backends/executors.hpp>
#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/functional.hpp>
