# Inside another project the library is a guest: it builds and installs nothing of its own, and its flags stay at home.

foreach(option TESTS EXAMPLES DOCS)
  if(SYNCBN_BUILD_${option})
    message(FATAL_ERROR "SYNCBN_BUILD_${option} is on in a project that did not ask")
  endif()
endforeach()
if(SYNCBN_INSTALL)
  message(FATAL_ERROR "SYNCBN_INSTALL is on in a project that did not ask")
endif()

foreach(target ${targets})
  get_target_property(options ${target} INTERFACE_COMPILE_OPTIONS)
  if(options)
    message(FATAL_ERROR "${target} passes ${options} on to those who link it")
  endif()
endforeach()

find_file(conformance_suite SyncbnTesting.cmake PATHS ${CMAKE_MODULE_PATH} NO_DEFAULT_PATH NO_CACHE)
if(NOT conformance_suite)
  message(FATAL_ERROR "include(SyncbnTesting) would not find the conformance suite")
endif()
