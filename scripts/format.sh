#!/usr/bin/env bash
# Formats the C++ and CUDA sources in place; with --check it only reports and fails.
# clang-format 14, because other versions format differently.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

tool=clang-format-14
command -v $tool >/dev/null || tool=clang-format
[[ $($tool --version 2>/dev/null) == *"version 14."* ]] ||
  die "scripts/format.sh needs clang-format 14 (package clang-format-14)"
case ${1:-} in
  --check) mode=(--dry-run --Werror) ;;
  "") mode=(-i) ;;
  *) die "argument \"$1\", allowed: --check" ;;
esac
cd "$root"
find include src cuda tests examples bench -type f \
  \( -name '*.hpp' -o -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' \) -print0 |
  xargs -0 -r "$tool" --style=file "${mode[@]}"
