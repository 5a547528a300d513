# shellcheck shell=bash
# Sourced by the scripts of this folder, by .ci/run and by tests/mutants/run. They run in the root of the repository.

build_packages=(g++ cmake ninja-build libeigen3-dev)
openmpi_packages=(libopenmpi-dev openmpi-bin)
mpich_packages=(libmpich-dev mpich)
bench_packages=(libbenchmark-dev libdnnl-dev libtorch-dev ocl-icd-opencl-dev opencl-headers python3-matplotlib)
library_packages=(libdlpack-dev libxtensor-dev libzip-dev nlohmann-json3-dev python3-numpy
  libarmadillo-dev libboost-dev libopencv-core-dev)
framework_packages=(libtorch-dev libgloo-dev libdlib-dev python3-torch python3-setuptools)
test_packages=("${build_packages[@]}" "${openmpi_packages[@]}" "${library_packages[@]}" catch2 pkg-config)

die() {
  printf '%s\n' "$*" >&2
  exit 1
}

as_root() {
  if [ "$(id -u)" = 0 ]; then
    "$@"
  elif command -v sudo >/dev/null; then
    sudo -- "$@"
  else
    die "installing needs root or sudo, and here is neither; by hand, as root: $*"
  fi
}

# install_packages NAME...: installs those that are missing; touches nothing, and asks for no rights, if none is.
install_packages() {
  local name missing=()
  command -v dpkg-query >/dev/null || die "this is no Debian; install by hand what these packages contain: $*"
  for name; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null)" = installed ] || missing+=("$name")
  done
  [ ${#missing[@]} -gt 0 ] || return 0
  printf 'installing %s\n' "${missing[*]}"
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends "${missing[@]}" >/dev/null
}

# counts_of REPORT: passed, failed and skipped tests of a ctest JUnit report. A test that did not run (no executable, a
# fixture that failed) is a failure, unless it said so itself.
counts_of() {
  awk '
    /<testcase / { passed += /status="run"/; failed += /status="(fail|notrun)"/; skipped += /status="disabled"/ }
    /<skipped message="SKIP_/ { failed--; skipped++ }
    END { print passed + 0, failed + 0, skipped + 0 }' "$1"
}

run_under=() # what ctest itself is started by

# run_ctest PRESET [ctest argument...]: the last line says the counts; fails if a test did, or if none ran.
run_ctest() {
  local preset=$1 report=$PWD/build/$1/tests.xml status=0 passed=0 failed=0 skipped=0
  shift
  rm -f "$report"
  "${run_under[@]}" ctest --preset "$preset" --output-junit "$report" "$@" || status=$?
  [ ! -f "$report" ] || read -r passed failed skipped < <(counts_of "$report")
  if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
    failed=1 # ctest itself, or no test at all
  fi
  printf '%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
