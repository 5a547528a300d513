import re
from pathlib import Path

from conan import ConanFile
from conan.tools.build import check_min_cppstd
from conan.tools.cmake import CMake, CMakeToolchain, cmake_layout
from conan.tools.files import load
from conan.tools.system.package_manager import Apt


class Syncbn(ConanFile):
    name = "syncbn"
    description = "Batch normalization synchronized over ranks, header-only"
    license = "Apache-2.0"
    package_type = "header-library"
    settings = "os", "arch", "compiler", "build_type"
    exports_sources = "CMakeLists.txt", "LICENSE", "cmake/*", "include/*", "tests/conformance/*", "tests/support/*"
    no_copy_source = True
    test_package_folder = "tests/packaging/conan"

    def set_version(self):
        header = load(self, Path(self.recipe_folder) / "include/syncbn/version.hpp")
        self.version = ".".join(re.findall(r"^#define SYNCBN_VERSION_\w+ (\d+)$", header, re.MULTILINE))

    def layout(self):
        cmake_layout(self)

    def validate(self):
        check_min_cppstd(self, 20)

    # Eigen is the system's, like what components need. The package files find an Eigen of Conan too, if a project requires one.
    def system_requirements(self):
        Apt(self).install(["libeigen3-dev"])

    def generate(self):
        toolchain = CMakeToolchain(self)
        for what in "TESTS", "EXAMPLES", "DOCS":
            toolchain.cache_variables[f"SYNCBN_BUILD_{what}"] = False
        toolchain.generate()

    def build(self):
        CMake(self).configure()

    def package(self):
        CMake(self).install()

    def package_id(self):
        self.info.clear()

    # find_package gets the library's own package files, not generated ones, which would know no components.
    def package_info(self):
        self.cpp_info.bindirs = []
        self.cpp_info.libdirs = []
        self.cpp_info.builddirs = ["share/cmake/syncbn"]
        self.cpp_info.set_property("cmake_find_mode", "none")
