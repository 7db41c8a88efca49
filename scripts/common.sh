# Shared by the scripts; source it, do not run it.
# Gives: root, jobs, say, die, need_packages, need_compiler, configure.

# THE LIST of Debian and Ubuntu packages: to build everything, and for the checks of .ci/run.
build_packages=(g++ cmake ninja-build libhwy-dev nlohmann-json3-dev libcli11-dev
  libgtest-dev libbenchmark-dev libboost-context-dev)
# libsentencepiece-dev is optional for a build: `kvcodec eval --text` then reads tokenizer.model.
check_packages=(ccache clang-format-14 clang libclang-rt-14-dev libsentencepiece-dev)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { printf '%s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

# NPROC, else CMAKE_BUILD_PARALLEL_LEVEL, else one job per core and per 1.5 GB of free memory.
default_jobs() {
  local cores free_kb limit by_memory
  cores=$(nproc)
  free_kb=$(awk '/^MemAvailable:/ {print $2}' /proc/meminfo)
  if limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) && [[ $limit =~ ^[0-9]+$ ]]; then
    limit=$((limit / 1024))
    if ((limit < free_kb)); then free_kb=$limit; fi
  fi
  by_memory=$((free_kb / 1500000))
  if ((by_memory < 1)); then by_memory=1; fi
  if ((by_memory < cores)); then echo "$by_memory"; else echo "$cores"; fi
}
jobs=${NPROC:-${CMAKE_BUILD_PARALLEL_LEVEL:-$(default_jobs)}}
[[ $jobs =~ ^[1-9][0-9]*$ ]] ||
  die "NPROC or CMAKE_BUILD_PARALLEL_LEVEL = \"$jobs\", allowed: a whole number from 1"

# A tool counts as present wherever it comes from, a library only as a package.
have_package() {
  case $1 in
    g++) command -v "${CXX:-g++}" >/dev/null ;;
    cmake | ccache | clang | clang-format-14) command -v "$1" >/dev/null ;;
    ninja-build) command -v ninja >/dev/null ;;
    *) [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]] ;;
  esac
}

# need_packages <package>...: installs what is missing and says nothing when nothing is.
# KVCODEC_NO_APT=1 trusts the machine to have everything.
need_packages() {
  [[ -z ${KVCODEC_NO_APT:-} ]] || return 0
  local missing=() package as_root=() log
  for package in "$@"; do
    have_package "$package" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null ||
    die "apt-get is not here; install ${missing[*]} by hand and run again with KVCODEC_NO_APT=1"
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "installing ${missing[*]} needs root or sudo"
    as_root=(sudo)
  fi
  say "Installing ${missing[*]}"
  log=$(mktemp)
  if ! { "${as_root[@]}" apt-get -q update &&
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
      apt-get -q -y install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
    tail -n 5 "$log" >&2
    die "apt-get could not install ${missing[*]} (all of its output: $log)"
  fi
  rm -f "$log"
}

# Dies unless the compiler that CMake will pick is new enough.
need_compiler() {
  local cxx=${CXX:-c++} version
  command -v "$cxx" >/dev/null || die "no C++ compiler: $cxx"
  if "$cxx" --version | grep -qi clang; then
    version=$("$cxx" -dumpversion)
    ((${version%%.*} >= 14)) || die "$cxx is clang $version, kvcodec needs clang 14 or g++ 12"
  else
    version=$("$cxx" -dumpfullversion)
    ((${version%%.*} >= 12)) || die "$cxx is g++ $version, kvcodec needs g++ 12 (set CXX)"
  fi
}

# configure <preset> [cmake argument...]: silent unless it fails.
configure() {
  local log="$root/build/$1-configure.log"
  mkdir -p "$root/build"
  cmake -S "$root" --preset "$@" >"$log" 2>&1 || {
    cat "$log" >&2
    die "cmake --preset $1 failed"
  }
}
