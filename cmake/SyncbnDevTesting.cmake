# How this tree's own tests are declared. Names: a test is called as its executable, with .np<ranks> behind it where it
# runs with several ranks; tests/mutants/run relies on that.

include("${CMAKE_CURRENT_LIST_DIR}/SyncbnTesting.cmake")
set(syncbn_compile_fail_script "${CMAKE_CURRENT_LIST_DIR}/compile_fail.cmake")

# What each of our tests links: the warnings, and whether products are tested whole or pairwise.
add_library(syncbn_test_dev INTERFACE)
target_link_libraries(syncbn_test_dev INTERFACE syncbn_dev)
target_compile_definitions(syncbn_test_dev INTERFACE SYNCBN_TEST_FULL=$<BOOL:${SYNCBN_TEST_FULL}>)

# Catch2 itself is not under test, and takes a minute to compile with sanitizers. Not so with that of threads: the linker may
# take std::shared_ptr's functions from there, and it would not see who releases what before whom.
if(CMAKE_CXX_FLAGS MATCHES "-fsanitize=" AND NOT CMAKE_CXX_FLAGS MATCHES "-fsanitize=thread")
  target_compile_options(syncbn_test_runner PRIVATE -fno-sanitize=all)
endif()

# syncbn_all_found(result component...): whether this build looked for what each component needs.
function(syncbn_all_found result)
  set(found ON)
  foreach(component IN LISTS ARGN)
    string(TOUPPER ${component} option)
    if(NOT SYNCBN_WITH_${option})
      set(found OFF)
    endif()
  endforeach()
  set(${result} ${found} PARENT_SCOPE)
endfunction()

# syncbn_add_unit_test(name [THOROUGH] [THREADS] [HEAVY] [WIDER] [NEEDS component...] [LIBS target...] [LABELS label...]
# [TIMEOUT seconds]): the test unit.<name> from tests/unit/<name>_test.cpp. Absent from builds without a component that it
# needs, if THOROUGH from reduced ones, and from those for THREADS alone if it does not say so. HEAVY: computes so much that it is
# optimised in reduced builds, too. WIDER: on x86-64 once more for each wider instruction set, unit.<name>.avx2 and .avx512.
function(syncbn_add_unit_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "THOROUGH;THREADS;HEAVY;WIDER" "TIMEOUT" "NEEDS;LIBS;LABELS")
  set_property(GLOBAL APPEND PROPERTY syncbn_unit_tests ${name})
  syncbn_all_found(found ${arg_NEEDS})
  if(NOT found OR (arg_THOROUGH AND SYNCBN_TEST_REDUCED) OR (SYNCBN_TEST_THREADS AND NOT arg_THREADS))
    return()
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 300)
  endif()
  string(REPLACE "/" "." test unit.${name})
  list(TRANSFORM arg_NEEDS PREPEND syncbn::)
  syncbn_add_test_executable(
    ${test} SOURCES ${syncbn_SOURCE_DIR}/tests/unit/${name}_test.cpp LIBS syncbn_test_dev ${arg_NEEDS} ${arg_LIBS})
  if(arg_HEAVY AND SYNCBN_TEST_REDUCED)
    target_compile_options(${test} PRIVATE -O1)
  endif()
  add_test(NAME ${test} COMMAND ${test})
  set_tests_properties(
    ${test} PROPERTIES LABELS "unit;${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} SKIP_RETURN_CODE 77)
  if(NOT arg_WIDER OR SYNCBN_TEST_REDUCED OR NOT CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
    return()
  endif()
  set(avx2 avx2,fma,f16c)
  set(avx512 avx512f,avx512bw,avx512dq,avx512vl,${avx2})
  foreach(isa avx2 avx512)
    syncbn_add_test_executable(
      ${test}.${isa} SOURCES ${syncbn_SOURCE_DIR}/tests/unit/${name}_test.cpp LIBS syncbn_test_dev ${arg_NEEDS}
                             ${arg_LIBS})
    string(REPLACE "," ";-m" flags "-m${${isa}}")
    target_compile_options(${test}.${isa} PRIVATE ${flags})
    add_test(NAME ${test}.${isa} COMMAND ${syncbn_SOURCE_DIR}/tests/support/if_cpu_has ${${isa}}
                                         $<TARGET_FILE:${test}.${isa}>)
    set_tests_properties(
      ${test}.${isa} PROPERTIES LABELS "unit;${arg_LABELS}" TIMEOUT ${arg_TIMEOUT} SKIP_RETURN_CODE 77)
  endforeach()
endfunction()

# syncbn_add_mpi_test(name [THOROUGH] RANKS n... [NEEDS component...] [LIBS target...] [LABELS label...] [TIMEOUT seconds]):
# the tests unit.<name>.np<n> from tests/unit/<name>_test.cpp, each run by mpiexec; MPI is initialised around them.
function(syncbn_add_mpi_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "THOROUGH" "TIMEOUT" "RANKS;NEEDS;LIBS;LABELS")
  set_property(GLOBAL APPEND PROPERTY syncbn_unit_tests ${name})
  list(APPEND arg_NEEDS mpi)
  syncbn_all_found(found ${arg_NEEDS})
  if(NOT found OR (arg_THOROUGH AND SYNCBN_TEST_REDUCED))
    return()
  endif()
  list(TRANSFORM arg_NEEDS PREPEND syncbn::)
  string(REPLACE "/" "." test unit.${name})
  syncbn_add_test_executable(
    ${test} MPI SOURCES ${syncbn_SOURCE_DIR}/tests/unit/${name}_test.cpp LIBS syncbn_test_dev ${arg_NEEDS} ${arg_LIBS})
  syncbn_add_ranked_tests(${test} MPI RANKS ${arg_RANKS} LABELS unit ${arg_LABELS} TIMEOUT ${arg_TIMEOUT})
endfunction()

# syncbn_add_compile_fail_test(name [NEEDS component...]): tests/compile_fail/<name>.cpp has one mistake, between
# #ifdef SYNCBN_MISTAKE and #endif. With it, compilation must fail and print the text of every line "// expect: text";
# without it (the test <name>.twin) it must succeed, or the failure would prove nothing.
function(syncbn_add_compile_fail_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "" "NEEDS")
  set_property(GLOBAL APPEND PROPERTY syncbn_compile_fail_tests ${name})
  syncbn_all_found(found ${arg_NEEDS})
  if(NOT found)
    return()
  endif()
  list(TRANSFORM arg_NEEDS PREPEND syncbn_)
  # The compiler itself, not a build: it reads the file, says what it thinks and writes nothing.
  set(compiler ${CMAKE_CXX_COMPILER} -std=c++20 -fsyntax-only)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU")
    list(APPEND compiler -fconcepts-diagnostics-depth=3)
  endif()
  foreach(target syncbn ${arg_NEEDS})
    set(directories $<TARGET_PROPERTY:${target},INTERFACE_INCLUDE_DIRECTORIES>)
    list(APPEND compiler "-I$<JOIN:${directories},$<SEMICOLON>-I>")
  endforeach()
  set(source ${syncbn_SOURCE_DIR}/tests/compile_fail/${name}.cpp)
  set(test compile_fail.${name})
  add_test(
    NAME ${test}
    COMMAND ${CMAKE_COMMAND} -D SOURCE=${source} -P ${syncbn_compile_fail_script} -- ${compiler} -DSYNCBN_MISTAKE ${source}
    COMMAND_EXPAND_LISTS)
  add_test(NAME ${test}.twin COMMAND ${compiler} ${source} COMMAND_EXPAND_LISTS)
  set_tests_properties(${test} ${test}.twin PROPERTIES LABELS compile_fail TIMEOUT 120)
endfunction()

# syncbn_check_listed(folder suffix entry...): the entries name every file of the folder that ends so. A source that
# nobody declared looks like coverage, and a header that nobody declared is not installed.
function(syncbn_check_listed folder suffix)
  file(GLOB_RECURSE present CONFIGURE_DEPENDS RELATIVE ${folder} "${folder}/*${suffix}")
  foreach(entry IN LISTS ARGN)
    list(REMOVE_ITEM present "${entry}${suffix}")
  endforeach()
  if(present)
    message(FATAL_ERROR "in ${folder}, but declared in no CMakeLists.txt: ${present}")
  endif()
endfunction()
