#!/usr/bin/env bash
# Counts the instructions of attention's AVX2 kernels anew and writes them to
# tests/instructions/counts.txt, for this compiler. Needs valgrind.
#   scripts/instructions.sh
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"
need_packages "${build_packages[@]}" valgrind
configure release
cmake --build build/release -j "$jobs" --target update_instructions
git diff --stat tests/instructions/counts.txt
