# A port to be laid over vcpkg's own, in a clone of the library: vcpkg install syncbn --overlay-ports=tools/vcpkg
#
# Not tested with vcpkg itself: the test packaging.vcpkg_steps runs this file with plain CMake in place of vcpkg's functions.

set(SOURCE_PATH "${CURRENT_PORT_DIR}/../../..")
set(VCPKG_BUILD_TYPE release) # headers are the same in a debug build

vcpkg_cmake_configure(
  SOURCE_PATH "${SOURCE_PATH}"
  OPTIONS -DSYNCBN_BUILD_TESTS=OFF -DSYNCBN_BUILD_EXAMPLES=OFF -DSYNCBN_BUILD_DOCS=OFF)
vcpkg_cmake_install()
vcpkg_cmake_config_fixup(CONFIG_PATH share/cmake/syncbn)
vcpkg_fixup_pkgconfig()

file(REMOVE_RECURSE "${CURRENT_PACKAGES_DIR}/debug" "${CURRENT_PACKAGES_DIR}/lib")
file(INSTALL "${CURRENT_PORT_DIR}/usage" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}")
vcpkg_install_copyright(FILE_LIST "${SOURCE_PATH}/LICENSE")
