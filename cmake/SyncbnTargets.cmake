# The targets of the library. Headers, and what they need, are listed in the project's CMakeLists.txt.

# What our own tests and examples link, and nobody else: warnings never reach a user of the library. Whether a warning
# is an error is the presets' choice (CMAKE_COMPILE_WARNING_AS_ERROR).
add_library(syncbn_dev INTERFACE)
target_compile_options(
  syncbn_dev
  INTERFACE -Wall
            -Wextra
            -Wpedantic
            -Wconversion
            -Wshadow
            -Wold-style-cast
            -Wnon-virtual-dtor
            -Woverloaded-virtual
            $<$<CXX_COMPILER_ID:GNU>:-Wduplicated-cond>
            $<$<CXX_COMPILER_ID:GNU>:-Wlogical-op>
            # GCC 12 sees overlapping copies in `"(" + std::string()` (its bug 105651).
            $<$<AND:$<CXX_COMPILER_ID:GNU>,$<VERSION_LESS:$<CXX_COMPILER_VERSION>,13>>:-Wno-restrict>
            $<$<CXX_COMPILER_ID:GNU>:-fconcepts-diagnostics-depth=3>)

# syncbn_component(name [LINKS target...] [FOUND yes] HEADERS file...): the target syncbn::<name>, and its installation.
# FOUND is false where the linked targets were not looked for: then its headers cannot be verified here.
function(syncbn_component name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "FOUND" "HEADERS;LINKS")
  if(NOT DEFINED arg_FOUND)
    set(arg_FOUND ON)
  endif()
  string(REPLACE "syncbn_syncbn" "syncbn" target "syncbn_${name}")

  add_library(${target} INTERFACE)
  add_library(syncbn::${name} ALIAS ${target})
  target_compile_features(${target} INTERFACE cxx_std_20)
  target_link_libraries(${target} INTERFACE ${arg_LINKS})
  set_property(GLOBAL APPEND PROPERTY syncbn_headers ${arg_HEADERS})
  list(TRANSFORM arg_HEADERS PREPEND include/syncbn/)
  # CMake can verify those of host compilers alone; tests/cuda does the others.
  set(device_headers ${arg_HEADERS})
  list(FILTER device_headers INCLUDE REGEX "\\.cuh$")
  list(FILTER arg_HEADERS EXCLUDE REGEX "\\.cuh$")
  target_sources(
    ${target} INTERFACE FILE_SET HEADERS BASE_DIRS include FILES ${arg_HEADERS}
                        FILE_SET device_headers TYPE HEADERS BASE_DIRS include FILES ${device_headers})
  set_target_properties(
    ${target} PROPERTIES EXPORT_NAME ${name} VERIFY_INTERFACE_HEADER_SETS ${arg_FOUND}
                         INTERFACE_HEADER_SETS_TO_VERIFY HEADERS)
  if(SYNCBN_INSTALL)
    # An export of its own: find_package loads a component only for those who ask for it.
    install(TARGETS ${target} EXPORT ${target} FILE_SET HEADERS FILE_SET device_headers)
    install(
      EXPORT ${target}
      NAMESPACE syncbn::
      FILE ${target}Targets.cmake
      DESTINATION ${CMAKE_INSTALL_DATADIR}/cmake/syncbn)
  endif()
endfunction()
