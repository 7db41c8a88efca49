#!/usr/bin/env bash
# Builds the command and runs `kvcodec demo` with the arguments given here.
# On Debian 12 or Ubuntu 24.04 it first installs what the build needs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

need_packages "${build_packages[@]}"
need_compiler
say "Building the kvcodec command (build/release, $jobs jobs)"
configure release
cmake --build "$root/build/release" --target kvcodec_cli -j "$jobs" >&2
exec "$root/build/release/bin/kvcodec" demo "$@"
