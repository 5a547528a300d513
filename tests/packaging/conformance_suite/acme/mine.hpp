#pragma once

#include <syncbn/backends/thread_communicator.hpp>

// Stands for a user's own communicator.
namespace acme {
using Mine = syncbn::ThreadCommunicator;
}
