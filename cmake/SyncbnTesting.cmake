# The conformance suite for backends and communicators, yours as well as ours. Installed with the package.
#
#   enable_testing()
#   find_package(syncbn REQUIRED)    # or add_subdirectory, or FetchContent_MakeAvailable
#   include(SyncbnTesting)
#   syncbn_add_conformance(NAME mine KIND communicator TYPE acme::Mine HEADER acme/mine.hpp RANKS 1 2 3 4 LIBS acme::acme)
#
# Needs Catch2, version 2.13 or 3.

include_guard(GLOBAL)
find_package(Catch2 REQUIRED GLOBAL)

# Laws and support files lie side by side, in the source tree as in an installation.
if(NOT DEFINED syncbn_SUITE_DIR)
  cmake_path(SET syncbn_SUITE_DIR NORMALIZE "${CMAKE_CURRENT_LIST_DIR}/../tests")
endif()
set_property(GLOBAL PROPERTY syncbn_suite_dir "${syncbn_SUITE_DIR}")

# Most of the time that Catch2 costs is its own implementation: compiled once, for every test of the build.
add_library(syncbn_test_runner STATIC EXCLUDE_FROM_ALL "${syncbn_SUITE_DIR}/support/run_catch.cpp")
target_compile_features(syncbn_test_runner PUBLIC cxx_std_20)
target_include_directories(syncbn_test_runner PUBLIC "${syncbn_SUITE_DIR}")
target_link_libraries(syncbn_test_runner PUBLIC Catch2::Catch2)

# syncbn_test_main(result [MPI]): the library with main() for tests, made when first asked for.
function(syncbn_test_main result)
  cmake_parse_arguments(PARSE_ARGV 1 arg "MPI" "" "")
  set(name main)
  if(arg_MPI)
    set(name mpi_main)
  endif()
  set(target syncbn_test_${name})
  if(NOT TARGET ${target})
    get_property(suite_dir GLOBAL PROPERTY syncbn_suite_dir)
    add_library(${target} STATIC EXCLUDE_FROM_ALL "${suite_dir}/support/${name}.cpp")
    target_link_libraries(${target} PRIVATE syncbn_test_runner)
    if(arg_MPI)
      target_link_libraries(${target} PRIVATE MPI::MPI_CXX)
    endif()
  endif()
  set(${result} ${target} PARENT_SCOPE)
endfunction()

# syncbn_add_to_group(group target): the target syncbn_tests_<group> builds all of a group, and nothing else.
function(syncbn_add_to_group group target)
  if(NOT TARGET syncbn_tests_${group})
    add_custom_target(syncbn_tests_${group})
  endif()
  add_dependencies(syncbn_tests_${group} ${target})
endfunction()

# syncbn_add_test_executable(target [MPI] SOURCES file... [LIBS target...]): sources with Catch2 tests, and a main.
function(syncbn_add_test_executable target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "MPI" "" "SOURCES;LIBS")
  add_executable(${target} ${arg_SOURCES})
  set(mpi "")
  if(arg_MPI)
    set(mpi MPI)
    target_link_libraries(${target} PRIVATE MPI::MPI_CXX)
    syncbn_add_to_group(mpi ${target})
  endif()
  syncbn_test_main(main ${mpi})
  target_link_libraries(${target} PRIVATE syncbn::syncbn ${main} syncbn_test_runner ${arg_LIBS})
endfunction()

# syncbn_add_ranked_tests(target [MPI] RANKS n... [LABELS label...] [TIMEOUT seconds]): the tests <target>.np<n>, each
# with SYNCBN_TEST_RANKS=<n>, as n processes where MPI is given and as one that makes its own ranks where not.
function(syncbn_add_ranked_tests target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "MPI" "TIMEOUT" "RANKS;LABELS")
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  if(arg_MPI)
    list(APPEND arg_LABELS mpi)
  endif()
  foreach(ranks IN LISTS arg_RANKS)
    set(launcher "")
    if(arg_MPI)
      set(launcher ${MPIEXEC_EXECUTABLE} ${MPIEXEC_NUMPROC_FLAG} ${ranks} ${MPIEXEC_PREFLAGS})
    endif()
    set(test ${target}.np${ranks})
    add_test(NAME ${test} COMMAND ${launcher} $<TARGET_FILE:${target}>)
    set_tests_properties(
      ${test}
      PROPERTIES LABELS "${arg_LABELS}"
                 TIMEOUT ${arg_TIMEOUT} # a deadlock is a failure
                 PROCESSORS ${ranks}
                 SKIP_RETURN_CODE 77)
    # Open MPI refuses root, and more ranks than cores, unless told. OpenMP's threads would keep the cores busy while they
    # wait, and ranks share cores.
    set_property(
      TEST ${test}
      PROPERTY ENVIRONMENT SYNCBN_TEST_RANKS=${ranks} OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
               OMPI_MCA_rmaps_base_oversubscribe=1 OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive)
  endforeach()
endfunction()

# syncbn_write_plug(folder LAUNCHER name [BACKEND type] [COMMUNICATOR type] HEADER file...): plug_under_test.hpp, which tells the
# laws what they are about; those of ranks are run by conformance/<name>.hpp.
function(syncbn_write_plug folder)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "LAUNCHER;BACKEND;COMMUNICATOR" "HEADER")
  set(aliases "")
  if(arg_BACKEND)
    string(APPEND aliases "using BackendUnderTest = ${arg_BACKEND};\n")
  endif()
  if(arg_COMMUNICATOR)
    string(APPEND aliases "using CommunicatorUnderTest = ${arg_COMMUNICATOR};\n")
  endif()
  list(TRANSFORM arg_HEADER REPLACE "(.+)" "#include <\\1>" OUTPUT_VARIABLE includes)
  list(JOIN includes "\n" includes)
  file(CONFIGURE OUTPUT "${folder}/plug_under_test.hpp" @ONLY CONTENT [[
#pragma once

@includes@

#include "conformance/@arg_LAUNCHER@.hpp"

namespace syncbn_test {
@aliases@}
]])
endfunction()

# syncbn_add_conformance(NAME name KIND backend|communicator TYPE type | KIND layer BACKEND type COMMUNICATOR type
#                        HEADER file... RANKS n...
#                        [LAUNCHER mpi] [LIBS target...] [LABELS label...] [TIMEOUT seconds])
#
# One executable, conformance.<name>, that runs the laws of its kind on the types, and one test for each number of ranks.
# Types are spelled as C++ spells them after the headers were included; LIBS are what the headers need. LAUNCHER mpi: the
# ranks are processes (the caller has found MPI), and the communicator is constructed from MPI_COMM_WORLD. With the
# variable SYNCBN_TEST_FULL, every combination of formats and dimensions is tested instead of a selection.
function(syncbn_add_conformance)
  set(types TYPE BACKEND COMMUNICATOR)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "NAME;KIND;LAUNCHER;TIMEOUT;${types}" "HEADER;RANKS;LIBS;LABELS")
  set(required NAME KIND HEADER RANKS TYPE)
  if(arg_KIND STREQUAL "layer")
    list(REMOVE_ITEM required TYPE)
    list(APPEND required BACKEND COMMUNICATOR)
  endif()
  foreach(word IN LISTS required)
    if(NOT arg_${word})
      message(FATAL_ERROR "syncbn_add_conformance: ${word} is missing")
    endif()
  endforeach()
  if(NOT CMAKE_TESTING_ENABLED)
    message(WARNING "syncbn_add_conformance: no tests without enable_testing() in the project's CMakeLists.txt")
  endif()
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "syncbn_add_conformance: unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  if(arg_LAUNCHER AND NOT arg_LAUNCHER STREQUAL "mpi")
    message(FATAL_ERROR "syncbn_add_conformance: LAUNCHER is mpi or absent, not ${arg_LAUNCHER}")
  endif()
  get_property(suite_dir GLOBAL PROPERTY syncbn_suite_dir)
  set(laws "${suite_dir}/conformance/${arg_KIND}_laws.cpp")
  if(NOT EXISTS "${laws}")
    message(FATAL_ERROR "syncbn_add_conformance: no laws for KIND ${arg_KIND}")
  endif()

  set(target conformance.${arg_NAME})
  set(mpi "")
  set(launcher launcher)
  if(arg_LAUNCHER)
    set(mpi MPI)
    set(launcher mpi_launcher)
  endif()

  string(TOUPPER ${arg_KIND} kind)
  if(arg_TYPE)
    set(arg_${kind} "${arg_TYPE}")
  endif()
  set(plug_dir "${CMAKE_CURRENT_BINARY_DIR}/${target}.plug")
  syncbn_write_plug(
    "${plug_dir}" LAUNCHER ${launcher} BACKEND "${arg_BACKEND}" COMMUNICATOR "${arg_COMMUNICATOR}" HEADER ${arg_HEADER})
  syncbn_add_test_executable(${target} ${mpi} SOURCES "${laws}" LIBS ${arg_LIBS})
  target_include_directories(${target} PRIVATE "${plug_dir}")
  target_compile_definitions(${target} PRIVATE SYNCBN_TEST_FULL=$<BOOL:${SYNCBN_TEST_FULL}>)
  syncbn_add_ranked_tests(${target} ${mpi} RANKS ${arg_RANKS} LABELS conformance ${arg_LABELS} TIMEOUT ${arg_TIMEOUT})
endfunction()
