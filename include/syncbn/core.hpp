#pragma once

/// @file
/// Everything that needs no third-party header: for use with a backend of your own.

#include <syncbn/all_reduce.hpp>
#include <syncbn/backends/executors.hpp>
#include <syncbn/backends/single_process_communicator.hpp>
#include <syncbn/backends/thread_communicator.hpp>
#include <syncbn/batch_norm.hpp>
#include <syncbn/borrowed.hpp>
#include <syncbn/convert.hpp>
#include <syncbn/functional.hpp>
#include <syncbn/lazy.hpp>
#include <syncbn/print.hpp>
#include <syncbn/state_dict.hpp>
#include <syncbn/version.hpp>
