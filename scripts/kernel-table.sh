#!/usr/bin/env bash
# Prints docs/cuda-kernels.md: what the compiler says of the attention kernels on every architecture, and
# what the emulator counts. Needs nvcc and build/release; about eight minutes of processor time.
#   scripts/kernel-table.sh > docs/cuda-kernels.md
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"
cd "$root"

codes=(80 86 89 90 100 120)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

counters=build/release/bin/simt_attend_counters_test
[[ -x $counters ]] || die "no $counters: run scripts/test.sh first"
"$counters" | grep '^kernel ' >"$work/counted" || die "$counters printed no kernels"

list=$(printf ',sm_%s' "${codes[@]}")
for source in cuda/attend/instances/*.cu; do
  printf '%s\0' "$source"
done | xargs -0 -P "$jobs" -I{} bash -c \
  'nvcc -std=c++20 -O3 -I. -Iinclude -gencode "arch=compute_80,code=[$1]" -Xptxas -v \
     -c "$2" -o "$3/$(basename "$2").o" >"$3/$(basename "$2").ptxas" 2>&1 || { cat "$3/$(basename "$2").ptxas"; exit 1; }' \
  _ "${list:1}" {} "$work" >&2

# One line per kernel and architecture: "K width V head_dim octets zeros arch registers spilled".
cat "$work"/*.ptxas | c++filt | awk '
  /Compiling entry function/ {
    name = $0; arch = $0
    sub(/.*sm_/, "", arch); sub(/[^0-9].*/, "", arch)
    wanted = match(name, /TilesConfig<[^>]*>/)
    key = substr(name, RSTART + 12, RLENGTH - 13)
    gsub(/\(kvcodec::cuda::CodeKind\)/, "", key); gsub(/,/, "", key)
    sub(/false$/, "0", key); sub(/true$/, "1", key)
  }
  wanted && /spill stores/ { spilled = $5 + $9 }
  wanted && /Used [0-9]+ registers/ {
    match($0, /Used [0-9]+/); print key, arch, substr($0, RSTART + 5, RLENGTH - 5), spilled; wanted = 0
  }' >"$work/compiled"

cat <<'TEXT'
# Attention kernels by architecture

Written by `scripts/kernel-table.sh`. The fused kernels at head_dim 128, up to 8 query rows. From
`ptxas`: registers of a thread and spilled bytes. Occupancy is theoretical: warps that registers, shared
memory and the limits of a multiprocessor let stand together, of those it has room for; a CTA has four.
From the emulator (`tests/simt/attend_counters_test.cpp`), of the loop over tiles: sectors a request
needs at least over those it touches, wavefronts of the worst shared access over the least, bytes read
per token and head, and what the tiles hold.

TEXT
printf '| keys and values | sectors | worst conflict | bytes per token | ideal | shared KiB | spills |'
for code in "${codes[@]}"; do printf ' %s |' "$code"; done
printf '\n|---|---|---|---|---|---|---|'
for code in "${codes[@]}"; do printf -- '---|'; done
printf '\n'
awk -v codes="${codes[*]}" '
  BEGIN {
    n = split(codes, code, " ")
    # Warps, CTAs and KiB of shared memory of a multiprocessor (CUDA programming guide, compute capabilities).
    split("80 64 32 164  86 48 16 100  89 48 24 100  90 64 32 228  100 64 32 228  120 48 24 100", limit, " ")
    for (i = 1; i + 3 in limit; i += 4) {
      warps[limit[i]] = limit[i + 1]; ctas[limit[i]] = limit[i + 2]; kib[limit[i]] = limit[i + 3]
    }
  }
  NR == FNR { key = $1 " " $2 " " $3 " " $4 " " $5 " " $6; regs[key, $7] = $8; spills[key] += $9; next }
  {
    key = $2 " " $3 " " $4 " " $5 " " $6 " " $7; sub(/:$/, "", key)
    if (!((key, code[1]) in regs)) { print "no kernel " key > "/dev/stderr"; exit 1 }
    shared = $15
    printf "| `%s` | %.0f %% | %s | %s | %s | %.1f | %d |", $9, 100 * $11, $13, $17, $19, shared / 1024, spills[key]
    for (i = 1; i <= n; ++i) {
      c = code[i]
      per_warp = int((regs[key, c] * 32 + 255) / 256) * 256
      fit = int(16384 / per_warp)  # each of four schedulers runs one warp of a CTA
      by_shared = int(kib[c] * 1024 / (shared + 1024))
      if (by_shared < fit) fit = by_shared
      if (ctas[c] < fit) fit = ctas[c]
      if (warps[c] / 4 < fit) fit = warps[c] / 4
      printf " %d registers, %.0f %% |", regs[key, c], 400 * fit / warps[c]
    }
    printf "\n"
  }' "$work/compiled" "$work/counted"
