#!/usr/bin/env bash
# Builds kvcodec::cuda for the card of this machine, runs the device tests, compute-sanitizer and the
# device benchmark, and writes one JSON file and one Markdown page. Needs an NVIDIA card, the CUDA
# toolkit (12 or later) and g++; no network. CMake, GoogleTest, Highway and PyTorch are used where they
# are. Ends within nine minutes.
#
#   scripts/gpu-check.sh [--out DIR] [--quick] [--bin DIR] [--arch N] [--build-only]
#
#   --out DIR     where results go (default build/gpu-check)
#   --quick       fewer shapes and repeats in the benchmark
#   --bin DIR     take ready programs from DIR (OUT/bin of an earlier run) and build nothing
#   --arch N      build for this compute capability (90 for 9.0) instead of the card's
#   --build-only  stop after the build; needs no card
#
# Exit code: 0 all steps good, 1 a step failed (the others ran all the same), 2 something is missing.
set -euo pipefail
SECONDS=0
# shellcheck source=scripts/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

readonly time_limit=530
readonly self="scripts/gpu-check.sh${*:+ $*}"

missing() {
  printf 'gpu-check: %s\n' "$*" >&2
  exit 2
}

# ---- Arguments. ----

out=$root/build/gpu-check
bin=
arch=
quick=
build_only=
while (($#)); do
  case $1 in
    --out | --bin | --arch)
      (($# > 1)) || missing "$1 needs a value"
      case $1 in
        --out) out=$2 ;;
        --bin) bin=$2 ;;
        --arch) arch=$2 ;;
      esac
      shift
      ;;
    --quick) quick=1 ;;
    --build-only) build_only=1 ;;
    -h | --help)
      sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
      exit 0
      ;;
    *) missing "argument \"$1\", allowed: --out DIR, --quick, --bin DIR, --arch N, --build-only" ;;
  esac
  shift
done
[[ -z $arch || $arch =~ ^[1-9][0-9]{1,2}$ ]] || missing "--arch = \"$arch\", allowed: 80, 90, 100, ..."
if [[ -n $bin ]]; then
  bin=$(cd "$bin" 2>/dev/null && pwd) || missing "--bin: no such folder"
fi
mkdir -p "$out"
out=$(cd "$out" && pwd)
logs=$out/log
rm -rf "$logs"
mkdir -p "$logs"
rm -f "$out"/{report,bench,torch}.{json,md} "$out/peers.txt"
cd "$root"

# ---- Steps: each has a limit of its own, a log, and a line in the report. ----

step_names=() step_results=() step_seconds=() step_notes=()
failed=0

record() { # record <name> <passed|failed|skipped> <seconds> <note>
  step_names+=("$1") step_results+=("$2") step_seconds+=("$3") step_notes+=("$4")
  if [[ $2 == failed ]]; then failed=1; fi
  say "== $1: $2, $3 s${4:+ ($4)}"
}

# limited <seconds> <seconds to leave for what follows>: the time a step gets, 0 if none is left. A
# build by itself may take an hour.
limited() {
  local left=$((time_limit - SECONDS - $2))
  if [[ -n $build_only ]]; then left=3600; fi
  if ((left > $1)) && [[ -z $build_only ]]; then left=$1; fi
  if ((left < 5)); then left=0; fi
  echo "$left"
}

# attempt <log> <seconds> <command>...: its exit code; 124 and 137 for a time-out.
attempt() {
  local log=$1 seconds=$2 rc=0
  shift 2
  ((seconds > 0)) || return 124
  timeout --kill-after=5 "$seconds" "$@" >"$log" 2>&1 </dev/null || rc=$?
  return "$rc"
}

why() { # why <exit code> <log>
  if (($1 == 124 || $1 == 137)); then
    echo "out of time"
  else
    echo "exit code $1, see $2"
  fi
}

# ---- What is here. ----

card_name='' card_arch='' card_driver='' card_memory=''
find_card() {
  local all first
  if command -v nvidia-smi >/dev/null &&
    all=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total \
      --format=csv,noheader 2>/dev/null) && [[ -n $all ]]; then
    first=${all%%$'\n'*}
    IFS=, read -r card_name card_arch card_driver card_memory <<<"$first"
    card_arch=${card_arch//[ .]/}
    card_driver=${card_driver# } card_memory=${card_memory# }
    [[ $card_arch =~ ^[0-9]+$ ]] && return 0
  fi
  [[ -n ${nvcc:-} ]] || return 1
  cat >"$out/probe.cu" <<'PROBE'
#include <cuda_runtime.h>
#include <cstdio>
int main() {
  cudaDeviceProp p{};
  int driver = 0;
  const cudaError_t e = cudaGetDeviceProperties(&p, 0);
  if (e != cudaSuccess) return std::printf("%s\n", cudaGetErrorString(e)), 1;
  cudaDriverGetVersion(&driver);
  std::printf("%s,%d%d,CUDA %d,%zu MiB\n", p.name, p.major, p.minor, driver, p.totalGlobalMem >> 20);
}
PROBE
  attempt "$logs/probe.log" 60 "$nvcc" -o "$out/probe" "$out/probe.cu" || return 1
  attempt "$logs/probe.log" 30 "$out/probe" || return 1
  IFS=, read -r card_name card_arch card_driver card_memory <"$logs/probe.log"
}

find_nvcc() {
  local candidate
  for candidate in "${CUDACXX:-}" "$(command -v nvcc || true)" "${CUDA_HOME:-/none}/bin/nvcc" \
    "${CUDA_PATH:-/none}/bin/nvcc" /usr/local/cuda/bin/nvcc /opt/cuda/bin/nvcc; do
    if [[ -n $candidate && -x $candidate ]]; then
      nvcc=$candidate
      return 0
    fi
  done
  return 1
}

nvcc='' nvcc_version=''
if find_nvcc; then
  nvcc_version=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')
fi
if [[ -z $bin ]]; then
  [[ -n $nvcc ]] || missing "no nvcc (looked at CUDACXX, PATH, CUDA_HOME, CUDA_PATH, /usr/local/cuda)"
  [[ ${nvcc_version%%.*} -ge 12 ]] || missing "nvcc $nvcc_version at $nvcc, needed: CUDA 12 or later"
  command -v "${CXX:-g++}" >/dev/null || missing "no C++ compiler ${CXX:-g++}"
fi
if ! find_card && [[ -z $build_only && -z $bin ]]; then
  tail -n 1 "$logs/probe.log" >&2 2>/dev/null || true
  missing "no NVIDIA card, or no driver for one (nvidia-smi and the CUDA runtime find none)"
fi
[[ -n $arch ]] || arch=$card_arch
say "card: ${card_name:-none found}${card_arch:+, sm_$card_arch}${card_driver:+, driver $card_driver}; nvcc: ${nvcc_version:-none}"

# ---- Build. ----

# What nvcc and CMake are told: machine code for the card, or PTX where this nvcc does not know it.
choose_code() {
  local known best=
  [[ -n $arch ]] || missing "--build-only without a card needs --arch"
  ((arch >= 80)) || missing "compute capability $arch, needed: 80 or later"
  known=$("$nvcc" --list-gpu-code | sed -n 's/^sm_\([0-9]*\)$/\1/p' | sort -n)
  local code
  for code in $known; do
    if ((code <= arch)); then best=$code; fi
  done
  [[ -n $best ]] || missing "nvcc $nvcc_version knows no capability up to $arch"
  if ((best == arch)); then
    gencode="arch=compute_$best,code=[sm_$best,compute_$best]" cmake_code=$best
  else
    gencode="arch=compute_$best,code=compute_$best" cmake_code=$best-virtual
  fi
}

have_cmake() {
  local version
  command -v cmake >/dev/null || return 1
  version=$(cmake --version | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
  ((${version%%.*} > 3 || (${version%%.*} == 3 && ${version##*.} >= 25)))
}

device_tests() {
  local file
  for file in tests/cuda/*_test.cpp; do basename "$file" .cpp; done
}

build_with_cmake() {
  local tree=$out/cmake generator=() targets=(device_bench) name
  if command -v ninja >/dev/null; then generator=(-G Ninja); fi
  for name in $(device_tests); do targets+=("cuda_$name"); done
  attempt "$logs/configure.log" "$(limited 60 200)" cmake -S "$root" -B "$tree" "${generator[@]}" \
    -DCMAKE_BUILD_TYPE=Release -DKVCODEC_TEST_OPTIONS=-O1 -DKVCODEC_CUDA=ON \
    "-DCMAKE_CUDA_COMPILER=$nvcc" "-DCMAKE_CUDA_ARCHITECTURES=$cmake_code" \
    -DKVCODEC_BUILD_BENCH=OFF -DKVCODEC_BUILD_EXAMPLES=OFF || return 1
  attempt "$logs/build.log" "$(limited 300 150)" \
    cmake --build "$tree" -j "$jobs" --target "${targets[@]}" || return 1
  rm -rf "${out:?}/bin"
  mkdir -p "$out/bin"
  for name in "${targets[@]}"; do cp "$tree/bin/$name" "$out/bin/" || return 1; done
}

# Tests of the golden cases read JSON and are built by CMake alone.
tests_without_json() {
  local name
  for name in $(device_tests); do
    grep -q KVCODEC_NO_JSON "tests/cuda/$name.cpp" || echo "$name"
  done
}

# One compiler call per line of $out/jobs, device code first; then one link per program. No Highway, no
# JSON, no GoogleTest: KVCODEC_NO_SIMD, KVCODEC_NO_JSON and tests/cuda/mini_gtest.
build_directly() {
  local objects=$out/objects cxx=${CXX:-g++} source name sources
  local common="-std=c++20 -O2 -DNDEBUG -DKVCODEC_NO_SIMD=1 -DKVCODEC_NO_JSON=1 -I. -Iinclude"
  local device="-std=c++20 -O3 -DNDEBUG -I. -Iinclude -gencode $gencode -ccbin $cxx"
  local toolkit library=()
  toolkit=$(cd "$(dirname "$(readlink -f "$nvcc")")/.." && pwd)
  rm -rf "$objects" "${out:?}/bin"
  mkdir -p "$objects" "$out/bin"
  object_of() {
    name=${1//\//_}
    printf '%s/%s.o' "$objects" "$name"
  }
  job() { printf '%s -c %s -o %s\n' "$2" "$1" "$(object_of "$1")"; }
  mapfile -t sources < <(sed -n 's/^ *\([a-z0-9_/]*\.cu\)$/cuda\/\1/p' cuda/sources.cmake)
  {
    for source in "${sources[@]}"; do
      case $source in
        cuda/codec/* | cuda/policy/*) job "$source" "'$nvcc' $device --fmad=false" ;;
        *) job "$source" "'$nvcc' $device -Xptxas -warn-spills" ;;
      esac
    done
    for name in $(tests_without_json); do
      job "tests/cuda/$name.cpp" "$cxx -ffp-contract=off $common -O1 -Itests/cuda/mini_gtest \
        -isystem '$toolkit/include'"
    done
    job tests/cuda/mini_gtest/main.cpp "$cxx $common -Itests/cuda/mini_gtest"
    job bench/cuda/device_tools.cu "'$nvcc' $device"
    for source in bench/cuda/*.cpp; do job "$source" "$cxx -ffp-contract=off $common"; done
    for source in src/verify/npy.cpp \
      $(sed -n 's/^  \([a-z0-9_/]*\.cpp\)$/src\/\1/p' src/CMakeLists.txt); do
      job "$source" "$cxx -ffp-contract=off $common -Isrc/cpu"
    done
  } >"$out/jobs"
  # shellcheck disable=SC2016
  attempt "$logs/build.log" "$(limited 330 120)" \
    xargs -a "$out/jobs" -P "$jobs" -d '\n' -n 1 \
    bash -c 'eval "$1" || { echo "failed: $1"; exit 255; }' job || return 1
  for name in "$toolkit/lib64" "$toolkit/targets/x86_64-linux/lib" "$toolkit/targets/sbsa-linux/lib" \
    "$toolkit/lib"; do
    if [[ -e $name/libcudart_static.a ]]; then library=(-L "$name") && break; fi
  done
  rm -f "$objects/libkvcodec.a"
  ar rcs "$objects/libkvcodec.a" "$objects"/src_*.o "$objects"/cuda_*.o
  local end=("$objects/libkvcodec.a" "${library[@]}" -lcudart_static -ldl -lrt -lpthread -s)
  for name in $(tests_without_json); do
    "$cxx" "$objects/tests_cuda_$name.cpp.o" "$objects/tests_cuda_mini_gtest_main.cpp.o" \
      "${end[@]}" -o "$out/bin/cuda_$name" >>"$logs/build.log" 2>&1 || return 1
  done
  "$cxx" "$objects"/bench_cuda_*.o "${end[@]}" -o "$out/bin/device_bench" \
    >>"$logs/build.log" 2>&1
}

how_built="ready programs from $bin"
if [[ -z $bin ]]; then
  choose_code
  say "building for $gencode ($jobs jobs)"
  start=$SECONDS
  bin=$out/bin
  how_built=
  if have_cmake; then
    if build_with_cmake; then
      how_built="CMake"
    else
      say "CMake cannot build it here (see $logs/configure.log and build.log): calling the compilers"
    fi
  fi
  if [[ -z $how_built ]] && build_directly; then how_built="compilers called directly"; fi
  if [[ -n $how_built ]]; then
    record build passed $((SECONDS - start)) "$how_built, $gencode"
  else
    record build failed $((SECONDS - start)) "see $logs/build.log"
  fi
fi

# ---- Device tests. ----

# total <PASSED|SKIPPED|FAILED> <log>: that total of a test program, empty if it has none.
total() { sed -n "s/^\[  $1 *\] \([0-9]*\) tests\{0,1\}[.,].*/\1/p" "$2" | tail -n 1; }

run_test() { # run_test <program> <seconds> <seconds to leave>
  local name log start=$SECONDS rc=0 passed skipped lost note
  name=$(basename "$1")
  log=$logs/$name.log
  attempt "$log" "$(limited "$2" "$3")" "$1" || rc=$?
  passed=$(total PASSED "$log") skipped=$(total SKIPPED "$log") lost=$(total FAILED "$log")
  note="${passed:-0} passed, ${skipped:-0} skipped, ${lost:-0} failed"
  if ((rc != 0)); then
    record "$name" failed $((SECONDS - start)) "$note; $(why "$rc" "$log")"
  elif ((${passed:-0} == 0 || ${skipped:-0} > 0)); then
    # Device tests skip themselves where the program finds no device.
    record "$name" failed $((SECONDS - start)) "$note: no device was found"
  else
    record "$name" passed $((SECONDS - start)) "$note"
  fi
}

# ---- compute-sanitizer, on few cases: it slows kernels down by up to a thousand times. ----

find_sanitizer() {
  local candidate
  for candidate in "$(command -v compute-sanitizer || true)" \
    ${nvcc:+"$(dirname "$nvcc")/compute-sanitizer"} \
    ${nvcc:+"$(dirname "$nvcc")/../compute-sanitizer/compute-sanitizer"} \
    /usr/local/cuda/bin/compute-sanitizer; do
    if [[ -n $candidate && -x $candidate ]]; then
      sanitizer=$candidate
      return 0
    fi
  done
  return 1
}

few_cases() { # few_cases <test program>
  case $1 in
    *attend_test) echo '*IsTheReference/kv_nqsym_g128*:*IsTheReference/kv_lm_b2*:*IsTheReference/kv_int8_d80*:*IsTheReference/k_qjl_m128*' ;;
    *tiles_test) echo '*ValuesOfSixteenBits/int8:*ValuesOfSixteenBits/nqkv_g64:*ValuesOfSixteenBits/kivi_b2*:*ValuesOfSixteenBits/lm_b4' ;;
    *rows_test) echo 'EncodeRowsTest.CodecsOfOneTypeInOneLaunch:EncodeRowsTest.TilesThat*' ;;
    *memory_test) echo '*BuffersCopyBothWays*' ;;
  esac
}

sanitize() { # sanitize <tool> <seconds> <seconds to leave>
  local program filter name log start=$SECONDS rc n=0 bad=() seconds
  seconds=$(limited "$2" "$3")
  local stop=$((SECONDS + seconds))
  for program in "${tests[@]}"; do
    name=$(basename "$program")
    filter=$(few_cases "$name")
    [[ -n $filter ]] || continue
    log=$logs/$1-$name.log
    rc=0
    attempt "$log" $((stop > SECONDS ? stop - SECONDS : 0)) "$sanitizer" --tool "$1" \
      --report-api-errors no --error-exitcode 9 "$program" "--gtest_filter=$filter" || rc=$?
    if ((rc != 0)); then
      bad+=("$name: $(why "$rc" "$log")")
    elif [[ $(total PASSED "$log") -eq 0 ]]; then
      bad+=("$name: no case ran, see $log")
    else
      n=$((n + 1))
    fi
  done
  if ((${#bad[@]})); then
    record "$1" failed $((SECONDS - start)) "${bad[*]}"
  else
    record "$1" passed $((SECONDS - start)) "$n programs"
  fi
}

# ---- PyTorch on the same shapes, then ours: their times go into the same table. ----

run_torch() {
  local start=$SECONDS rc=0 python=${PYTHON:-python3}
  if ! command -v "$python" >/dev/null ||
    ! timeout 60 "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' \
      >"$logs/torch.log" 2>&1 </dev/null; then
    record torch skipped $((SECONDS - start)) "no Python with PyTorch for CUDA"
    return
  fi
  attempt "$logs/torch.log" "$(limited 90 100)" "$python" bench/cuda/torch_baseline.py \
    --json "$out/torch.json" --peers "$out/peers.txt" --seconds 70 ${quick:+--quick} || rc=$?
  if ((rc == 0)); then
    record torch passed $((SECONDS - start)) ""
  else
    record torch failed $((SECONDS - start)) "$(why "$rc" "$logs/torch.log")"
  fi
}

run_bench() { # run_bench <program> [argument...]
  local start=$SECONDS rc=0 seconds peers=() program=$1
  shift
  seconds=$(limited 300 10)
  if [[ -s $out/peers.txt ]]; then peers=(--peers "$out/peers.txt"); fi
  attempt "$logs/bench.log" "$seconds" "$program" "$@" --json "$out/bench.json" \
    --markdown "$out/bench.md" --seconds $((seconds > 40 ? seconds - 20 : seconds / 2)) \
    "${peers[@]}" ${quick:+--quick} || rc=$?
  if ((rc == 0)); then
    record bench passed $((SECONDS - start)) "$(grep '^bandwidth' "$logs/bench.log" || true)"
  else
    record bench failed $((SECONDS - start)) "$(why "$rc" "$logs/bench.log")"
  fi
}

if [[ -z $build_only ]] && ((failed == 0)); then
  tests=()
  for program in "$bin"/cuda_*_test; do
    if [[ -x $program ]]; then tests+=("$program"); fi
  done
  bench=$bin/device_bench
  bench_arguments=()
  emulated=
  if ((${#tests[@]} == 0)) && compgen -G "$bin/simt_cuda_*_test" >/dev/null; then
    # Kernels on the CPU (docs/simt.md): tries this script out, says nothing about a card.
    tests=("$bin"/simt_cuda_*_test) bench=$bin/simt_device_bench
    emulated=1 bench_arguments=(--tiny) card_name="emulator"
  fi
  ((${#tests[@]})) || missing "no device tests (cuda_*_test) in $bin"
  [[ -x $bench ]] || missing "no device_bench in $bin"
  for program in "${tests[@]}"; do run_test "$program" 120 100; done
  if [[ -n $emulated ]]; then
    record sanitizers skipped 0 "emulated"
  elif find_sanitizer; then
    sanitize memcheck 60 170
    sanitize racecheck 60 140
  else
    record sanitizers skipped 0 "no compute-sanitizer"
  fi
  if [[ -z $emulated ]]; then run_torch; fi
  run_bench "$bench" "${bench_arguments[@]}"
fi

# ---- Report. ----

json_text() { # one JSON string
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//[$'\001'-$'\037']/ }
  printf '"%s"' "$text"
}
json_file() { if [[ -s $1 ]]; then cat "$1"; else echo null; fi; }

date=$(date -u +%Y-%m-%dT%H:%M:%SZ)
revision=$(git -C "$root" describe --always --dirty 2>/dev/null || echo unknown)
{
  printf '{"date": %s, "command": %s, "revision": %s,\n' "$(json_text "$date")" \
    "$(json_text "$self")" "$(json_text "$revision")"
  printf ' "card": %s, "sm": %s, "driver": %s, "memory": %s, "nvcc": %s, "built_by": %s,\n' \
    "$(json_text "$card_name")" "$(json_text "$card_arch")" "$(json_text "$card_driver")" \
    "$(json_text "$card_memory")" "$(json_text "$nvcc_version")" "$(json_text "$how_built")"
  printf ' "seconds": %d, "steps": [' "$SECONDS"
  for i in "${!step_names[@]}"; do
    ((i == 0)) || printf ','
    printf '\n  {"name": %s, "result": %s, "seconds": %d, "note": %s}' \
      "$(json_text "${step_names[i]}")" "$(json_text "${step_results[i]}")" "${step_seconds[i]}" \
      "$(json_text "${step_notes[i]}")"
  done
  printf '],\n "bench": '
  json_file "$out/bench.json"
  printf ',\n "torch": '
  json_file "$out/torch.json"
  printf '}\n'
} >"$out/report.json"
{
  printf '# kvcodec on %s\n\n' "${card_name:-no card}"
  printf '| | |\n|---|---|\n| date | %s |\n| card | %s |\n| driver | %s |\n| nvcc | %s |\n' "$date" \
    "${card_name:--}, sm_${card_arch:--}, ${card_memory:--}" "${card_driver:--}" "${nvcc_version:--}"
  # shellcheck disable=SC2016
  printf '| revision | %s |\n| command | `%s` |\n\n' "$revision" "$self"
  printf '| step | result | s | note |\n|---|---|---|---|\n'
  for i in "${!step_names[@]}"; do
    printf '| %s | %s | %s | %s |\n' "${step_names[i]}" "${step_results[i]}" "${step_seconds[i]}" \
      "${step_notes[i]//|/ }"
  done
  if [[ -s $out/bench.md ]]; then
    printf '\n'
    cat "$out/bench.md"
  fi
} >"$out/report.md"
say "results: $out/report.md and report.json, after $SECONDS s"
exit "$failed"
