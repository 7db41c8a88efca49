#!/usr/bin/env bash
# Builds everything and runs the tests; arguments go to ctest (-L codec, -R name, -E name, ...).
# KVCODEC_CMAKE_ARGS goes to CMake.
# On Debian 12 or Ubuntu 24.04 it first installs what the build needs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need_packages "${build_packages[@]}"
need_compiler
say "Building everything (build/release, $jobs jobs)"
# shellcheck disable=SC2086  # several arguments
configure release ${KVCODEC_CMAKE_ARGS:-}
cmake --build "$root/build/release" -j "$jobs" >&2
exec ctest --test-dir "$root/build/release" -j "$jobs" --output-on-failure --no-label-summary \
  --no-tests=error "$@"
