# The backends and communicators under test. The laws of tests/conformance hold for each of them, and for the layer on
# each backend with each communicator: on all pairs in a full test, on enough to have each of them once in a usual one.

# Name, type, headers, components that it needs; and for a communicator: numbers of ranks, launcher.
macro(syncbn_backend name type)
  list(APPEND backends ${name})
  set(type_of_${name} "${type}")
  cmake_parse_arguments(${name} "" "" "HEADER;NEEDS" ${ARGN})
endmacro()
macro(syncbn_communicator name type)
  list(APPEND communicators ${name})
  set(type_of_${name} "${type}")
  cmake_parse_arguments(${name} "" "" "HEADER;NEEDS;RANKS;LAUNCHER" ${ARGN})
endmacro()

set(cpu syncbn/backends/cpu_backend.hpp)
syncbn_backend(serial "syncbn::CpuBackend<float>" HEADER ${cpu})
syncbn_backend(serial_f64 "syncbn::CpuBackend<double>" HEADER ${cpu})
syncbn_backend(openmp "syncbn::CpuBackend<float, syncbn::OpenMpExecutor>"
  HEADER ${cpu} syncbn/backends/openmp_executor.hpp NEEDS openmp)
syncbn_backend(openmp_f64 "syncbn::CpuBackend<double, syncbn::OpenMpExecutor>"
  HEADER ${cpu} syncbn/backends/openmp_executor.hpp NEEDS openmp)
syncbn_backend(loop "syncbn::CpuBackend<float, syncbn_test::LoopExecutor>" HEADER ${cpu} support/loop_executor.hpp)
syncbn_backend(loop_f64 "syncbn::CpuBackend<double, syncbn_test::LoopExecutor>"
  HEADER ${cpu} support/loop_executor.hpp)

# On the emulator.
set(cuda syncbn/backends/cuda_backend.cuh)
syncbn_backend(cuda "syncbn::CudaBackend<float>" HEADER ${cuda} NEEDS emulated_kernels)
syncbn_backend(cuda_f64 "syncbn::CudaBackend<double>" HEADER ${cuda} NEEDS emulated_kernels)
set(host_backends serial serial_f64 openmp openmp_f64 loop loop_f64)
set(device_backends cuda cuda_f64)

syncbn_communicator(single_process syncbn::SingleProcessCommunicator
  HEADER syncbn/backends/single_process_communicator.hpp RANKS 1)
syncbn_communicator(thread syncbn::ThreadCommunicator HEADER syncbn/backends/thread_communicator.hpp RANKS 1 2 3 4)
syncbn_communicator(any syncbn::AnyCommunicator HEADER support/any_launcher.hpp RANKS 1 2 3)
syncbn_communicator(mpi syncbn::MpiCommunicator
  HEADER syncbn/backends/mpi_communicator.hpp RANKS 1 2 3 4 LAUNCHER mpi NEEDS mpi)
syncbn_communicator(deferred_thread "syncbn_test::DeferredCommunicator<syncbn::ThreadCommunicator>"
  HEADER syncbn/backends/thread_communicator.hpp support/deferred_communicator.hpp RANKS 1 2 3)

syncbn_communicator(staged_thread "syncbn::Staged<syncbn::ThreadCommunicator>"
  HEADER syncbn/backends/thread_communicator.hpp support/staged_launcher.hpp RANKS 1 2 3 NEEDS emulated_kernels)
syncbn_communicator(staged_mpi "syncbn::Staged<syncbn::MpiCommunicator>"
  HEADER syncbn/backends/mpi_communicator.hpp support/staged_launcher.hpp RANKS 1 2 3 LAUNCHER mpi
  NEEDS mpi emulated_kernels)

# Of a stand-in for its library.
set(nccl syncbn/backends/nccl_communicator.hpp support/emulated_devices.hpp)
syncbn_communicator(nccl syncbn::NcclCommunicator
  HEADER ${nccl} support/nccl_launcher.hpp RANKS 1 2 3 NEEDS emulated_kernels nccl_stand_in)
syncbn_communicator(nccl_mpi syncbn::NcclCommunicator
  HEADER ${nccl} support/nccl_mpi_launcher.hpp RANKS 1 2 3 LAUNCHER mpi NEEDS mpi emulated_kernels nccl_stand_in)
# On the emulator memory of devices is the host's, and every MPI takes it.
syncbn_communicator(cuda_aware_mpi syncbn::CudaAwareMpiCommunicator
  HEADER support/emulated_devices.hpp support/cuda_aware_mpi_launcher.hpp RANKS 1 2 3 LAUNCHER mpi
  NEEDS mpi emulated_kernels)
set(host_communicators single_process thread any mpi deferred_thread)
set(device_communicators single_process staged_thread staged_mpi nccl nccl_mpi cuda_aware_mpi)

# Each executor, and each parameter type, with each communicator; on the emulator, which takes its time, with processes
# staged and threads not.
set(pairs serial.single_process serial_f64.thread serial.mpi openmp_f64.single_process openmp.thread openmp_f64.mpi
  loop.single_process loop_f64.thread loop.mpi serial.any serial.deferred_thread cuda_f64.single_process cuda_f64.staged_mpi
  cuda.nccl)
if(SYNCBN_TEST_REDUCED)
  set(pairs openmp.thread serial_f64.mpi serial.deferred_thread)
elseif(SYNCBN_TEST_FULL)
  set(pairs "")
  foreach(memory host device)
    foreach(backend IN LISTS ${memory}_backends)
      list(TRANSFORM ${memory}_communicators PREPEND ${backend}. OUTPUT_VARIABLE more)
      list(APPEND pairs ${more})
    endforeach()
  endforeach()
endif()

# syncbn_add_plug(NEEDS component... WHAT argument...): syncbn_add_conformance(argument...) where the components were found.
function(syncbn_add_plug)
  cmake_parse_arguments(PARSE_ARGV 0 arg "" "" "NEEDS;WHAT")
  syncbn_all_found(found ${arg_NEEDS})
  if(found)
    list(TRANSFORM arg_NEEDS PREPEND syncbn::)
    syncbn_add_conformance(${arg_WHAT} LIBS syncbn_test_dev ${arg_NEEDS})
  endif()
endfunction()

set(backends_alone ${backends})
if(SYNCBN_TEST_REDUCED)
  set(backends_alone serial openmp_f64 cuda)
endif()
foreach(b IN LISTS backends_alone)
  syncbn_add_plug(NEEDS ${${b}_NEEDS} WHAT NAME ${b} KIND backend TYPE "${type_of_${b}}" HEADER ${${b}_HEADER} RANKS 1)
endforeach()
foreach(c IN LISTS communicators)
  syncbn_add_plug(
    NEEDS ${${c}_NEEDS}
    WHAT NAME ${c} KIND communicator TYPE ${type_of_${c}} HEADER ${${c}_HEADER} RANKS ${${c}_RANKS}
         LAUNCHER ${${c}_LAUNCHER})
endforeach()
foreach(pair IN LISTS pairs)
  string(REPLACE "." ";" pair_list ${pair})
  list(GET pair_list 0 b)
  list(GET pair_list 1 c)
  syncbn_add_plug(
    NEEDS ${${b}_NEEDS} ${${c}_NEEDS}
    WHAT NAME ${pair} KIND layer BACKEND "${type_of_${b}}" COMMUNICATOR ${type_of_${c}}
         HEADER ${${b}_HEADER} ${${c}_HEADER} RANKS ${${c}_RANKS} LAUNCHER ${${c}_LAUNCHER})
endforeach()

# The same laws where the emulator runs threads and blocks in another order, and streams as late as it can: what is right in
# one order alone is a race.
function(syncbn_add_orders target ranks)
  if(NOT TARGET ${target})
    return()
  endif()
  foreach(order IN LISTS ARGN)
    string(REPLACE "_" ";" words ${order}) # order, seed, whether streams are late
    list(GET words 0 name)
    list(GET words 1 seed)
    list(GET words 2 late)
    set(test ${target}.np${ranks}.${order})
    add_test(NAME ${test} COMMAND ${target})
    set_tests_properties(
      ${test}
      PROPERTIES
        LABELS "conformance;cuda" TIMEOUT 300 PROCESSORS ${ranks}
        ENVIRONMENT "SYNCBN_TEST_RANKS=${ranks};CUDA_EMULATION_ORDER=${name};CUDA_EMULATION_SEED=${seed};CUDA_EMULATION_DEFERRED=${late}")
  endforeach()
endfunction()
if(SYNCBN_TEST_FULL)
  set(orders descending_1_0 shuffled_1_0 shuffled_2_1 shuffled_3_1)
  foreach(target cuda cuda_f64 cuda.single_process)
    syncbn_add_orders(conformance.${target} 1 ${orders})
  endforeach()
  syncbn_add_orders(conformance.cuda.staged_thread 2 ${orders})
  # Streams of these work in the background, and are as late as they happen to be.
  syncbn_add_orders(conformance.cuda.nccl 2 descending_1_0 shuffled_1_0 shuffled_2_0)
elseif(NOT SYNCBN_TEST_REDUCED)
  syncbn_add_orders(conformance.cuda 1 shuffled_1_1)
  syncbn_add_orders(conformance.cuda.nccl 2 shuffled_2_0)
endif()
