# cmake -D SOURCE=folder -D FOLDER=folder -P run_portfile.cmake
# Runs the portfile of tools/vcpkg, with what vcpkg's functions do for a library of headers in their place. The package comes
# to FOLDER/packages.

cmake_minimum_required(VERSION 3.24)
set(PORT syncbn)
set(CURRENT_PORT_DIR "${SOURCE}/tools/vcpkg/${PORT}")
set(CURRENT_PACKAGES_DIR "${FOLDER}/packages")
set(build_dir "${FOLDER}/build")
file(REMOVE_RECURSE "${FOLDER}")

function(run)
  execute_process(COMMAND ${ARGV} COMMAND_ERROR_IS_FATAL ANY)
endfunction()

# Their arguments are read no further than the portfile uses them.
function(read_arguments)
  cmake_parse_arguments(arg "" "SOURCE_PATH;CONFIG_PATH" "OPTIONS;FILE_LIST" ${ARGV})
  if(arg_UNPARSED_ARGUMENTS)
    message(FATAL_ERROR "unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
  endif()
  foreach(name SOURCE_PATH CONFIG_PATH OPTIONS FILE_LIST)
    set(arg_${name} "${arg_${name}}" PARENT_SCOPE)
  endforeach()
endfunction()

function(vcpkg_cmake_configure)
  read_arguments(${ARGV})
  run(${CMAKE_COMMAND} -G Ninja -S ${arg_SOURCE_PATH} -B ${build_dir} -DCMAKE_BUILD_TYPE=Release
      -DCMAKE_INSTALL_PREFIX=${CURRENT_PACKAGES_DIR} -DBUILD_SHARED_LIBS=OFF ${arg_OPTIONS})
endfunction()

function(vcpkg_cmake_install)
  run(${CMAKE_COMMAND} --build ${build_dir} --target install)
endfunction()

# Moves the package files to share/syncbn, two folders below the prefix, and tells them so.
function(vcpkg_cmake_config_fixup)
  read_arguments(${ARGV})
  set(from "${CURRENT_PACKAGES_DIR}/${arg_CONFIG_PATH}")
  set(to "${CURRENT_PACKAGES_DIR}/share/${PORT}")
  file(GLOB files "${from}/*")
  file(COPY ${files} DESTINATION "${to}")
  cmake_path(GET from PARENT_PATH parent)
  file(REMOVE_RECURSE "${parent}") # share/cmake
  set(up [[get_filename_component(_IMPORT_PREFIX "${_IMPORT_PREFIX}" PATH)]])
  file(GLOB_RECURSE files "${to}/*.cmake")
  foreach(file IN LISTS files)
    file(READ "${file}" text)
    string(REPLACE "${up}\n${up}\n${up}\n" "${up}\n${up}\n" text "${text}")
    string(REPLACE "{CMAKE_CURRENT_LIST_DIR}/../../../" "{CMAKE_CURRENT_LIST_DIR}/../../" text "${text}")
    file(WRITE "${file}" "${text}")
  endforeach()
endfunction()

# Makes paths relative: ours are.
function(vcpkg_fixup_pkgconfig)
endfunction()

function(vcpkg_install_copyright)
  read_arguments(${ARGV})
  file(INSTALL "${arg_FILE_LIST}" DESTINATION "${CURRENT_PACKAGES_DIR}/share/${PORT}" RENAME copyright)
endfunction()

include("${CURRENT_PORT_DIR}/portfile.cmake")
