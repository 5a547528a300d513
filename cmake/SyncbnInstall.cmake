# What is installed beside the headers: the package files, and the conformance suite with what it includes.

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_DATADIR}/cmake/syncbn)
set(suite_dir ${CMAKE_INSTALL_DATADIR}/syncbn)

configure_package_config_file(
  ${CMAKE_CURRENT_LIST_DIR}/syncbnConfig.cmake.in ${PROJECT_BINARY_DIR}/syncbnConfig.cmake
  INSTALL_DESTINATION ${package_dir}
  PATH_VARS suite_dir)
write_basic_package_version_file(
  ${PROJECT_BINARY_DIR}/syncbnConfigVersion.cmake
  COMPATIBILITY SameMinorVersion
  ARCH_INDEPENDENT)
install(FILES ${PROJECT_BINARY_DIR}/syncbnConfig.cmake ${PROJECT_BINARY_DIR}/syncbnConfigVersion.cmake
              ${CMAKE_CURRENT_LIST_DIR}/FindLibZip.cmake ${CMAKE_CURRENT_LIST_DIR}/FindNCCL.cmake
              ${CMAKE_CURRENT_LIST_DIR}/SyncbnTesting.cmake DESTINATION ${package_dir})
install(DIRECTORY tests/conformance tests/support DESTINATION ${suite_dir})

# For builds without CMake. Components are left to their own flags there: -fopenmp, mpicxx, pkg-config --libs libzip.
set(pkg_config_dir ${CMAKE_INSTALL_FULL_DATADIR}/pkgconfig)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY ${pkg_config_dir} OUTPUT_VARIABLE prefix)
cmake_path(RELATIVE_PATH CMAKE_INSTALL_FULL_INCLUDEDIR BASE_DIRECTORY ${pkg_config_dir} OUTPUT_VARIABLE includedir)
configure_file(${CMAKE_CURRENT_LIST_DIR}/syncbn.pc.in ${PROJECT_BINARY_DIR}/syncbn.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/syncbn.pc DESTINATION ${CMAKE_INSTALL_DATADIR}/pkgconfig)

install(FILES LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
