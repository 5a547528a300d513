# `cpack` in the build directory packs what is installed, as a .deb.

set(CPACK_GENERATOR DEB)
set(CPACK_PACKAGE_NAME libsyncbn-dev)
set(CPACK_PACKAGE_CONTACT "the syncbn authors")
set(CPACK_PACKAGE_DESCRIPTION
    "Batch normalization for C++20 whose statistics may span threads, MPI processes or devices.
Headers, files for CMake and pkg-config, and the conformance suite for backends and communicators of your own.")

set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_ARCHITECTURE all)
set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_PACKAGE_DEPENDS "libeigen3-dev (>= 3.4)")
# What components need, and Catch2 for the conformance suite.
set(CPACK_DEBIAN_PACKAGE_SUGGESTS
    "catch2, libdlib-dev, libdlpack-dev, libtorch-dev, libxtensor-dev, libzip-dev, mpi-default-dev, nlohmann-json3-dev")

# Where Debian looks for it; LICENSE is installed as everywhere else, too.
set(syncbn_debian "${PROJECT_BINARY_DIR}/debian")
file(WRITE "${syncbn_debian}/copyright" "Copyright: the syncbn authors

Licensed under the Apache License, Version 2.0. On Debian systems its text is in
/usr/share/common-licenses/Apache-2.0.
")
set(CPACK_INSTALLED_DIRECTORIES "${syncbn_debian};usr/share/doc/${CPACK_PACKAGE_NAME}")

include(CPack)
