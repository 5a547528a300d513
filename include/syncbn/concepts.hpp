#pragma once

#include <syncbn/backend_concepts.hpp>
#include <syncbn/communicator_concepts.hpp>
#include <syncbn/tensor_concepts.hpp>

/// @file
/// What a tensor, a communicator and a backend must offer.
