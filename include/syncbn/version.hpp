#pragma once

/// @file
/// The version of the library. These three lines are its only copy: CMake reads them, and so may a preprocessor check.

/// @brief First number of the version; while it is 0, the second changes with every incompatible change.
#define SYNCBN_VERSION_MAJOR 0
/// @brief Second number of the version.
#define SYNCBN_VERSION_MINOR 1
/// @brief Third number of the version: corrections only.
#define SYNCBN_VERSION_PATCH 0
