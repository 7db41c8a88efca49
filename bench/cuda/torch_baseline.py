#!/usr/bin/env python3
"""Decode attention of PyTorch (and of flash_attn, where it is installed) on the shapes of device_bench:
one query token per sequence, 8 KV heads, head_dim 128. Prints JSON.

  python3 bench/cuda/torch_baseline.py [--json FILE] [--peers FILE] [--quick] [--seconds N]

--peers writes lines "<gqa> <context> <batch> <name> <ms>" for device_bench --peers: the fastest f16 path
as torch-f16, the fastest fp8 path as fp8 where there is one. A call that takes less than about 20 us is
bound by Python, not by the card: do not compare short contexts at batch 1."""

import argparse
import contextlib
import json
import math
import statistics
import sys
import time

import torch
import torch.nn.functional as F

KV_HEADS = 8
HEAD_DIM = 128
ROTATED_BYTES = 512 << 20  # caches are taken in turn until this much was read: more than any L2


def median_ms(run, samples):
    """Milliseconds of one run(i), i counting up; the median of samples of about 3 ms each."""
    start = torch.cuda.Event(enable_timing=True)
    stop = torch.cuda.Event(enable_timing=True)
    count = 0

    def sample(n):
        nonlocal count
        start.record()
        for _ in range(n):
            run(count)
            count += 1
        stop.record()
        stop.synchronize()
        return start.elapsed_time(stop) / n

    sample(2)
    n = max(1, min(200, int(3.0 / max(sample(2), 1e-4))))
    return statistics.median(sample(n) for _ in range(samples))


def sdpa(folded):
    """scaled_dot_product_attention. folded: the query heads of a group as query rows of one head, which
    reads K and V once; otherwise the backend's own grouped-query path."""
    def make(q, caches, gqa):
        batch = q.shape[0]
        rows = q.view(batch, KV_HEADS, gqa, HEAD_DIM) if folded else q.view(batch, -1, 1, HEAD_DIM)
        grouped = {} if folded or gqa == 1 else {"enable_gqa": True}

        def run(i):
            k, v = caches[i % len(caches)]
            return F.scaled_dot_product_attention(rows, k, v, **grouped)

        return run

    return make


def flash_with_kvcache(q, caches, gqa):
    from flash_attn import flash_attn_with_kvcache

    rows = q.view(q.shape[0], 1, KV_HEADS * gqa, HEAD_DIM)
    turned = [(k.transpose(1, 2), v.transpose(1, 2)) for k, v in caches]

    def run(i):
        k, v = turned[i % len(turned)]
        return flash_attn_with_kvcache(rows, k, v)

    return run


def flash3_fp8(q, caches, gqa):
    from flash_attn_interface import flash_attn_with_kvcache

    rows = q.view(q.shape[0], 1, KV_HEADS * gqa, HEAD_DIM).to(torch.float8_e4m3fn)
    turned = [tuple(x.transpose(1, 2).contiguous().to(torch.float8_e4m3fn) for x in c)
              for c in caches]

    def run(i):
        k, v = turned[i % len(turned)]
        return flash_attn_with_kvcache(rows, k, v)

    return run


def paths():
    """name -> (type of its cache, context to run in, maker)."""
    found = {}
    try:
        from torch.nn.attention import SDPBackend, sdpa_kernel
    except ImportError:
        SDPBackend = None
    for name in ("FLASH_ATTENTION", "CUDNN_ATTENTION", "EFFICIENT_ATTENTION"):
        backend = getattr(SDPBackend, name, None)
        if backend is None:
            continue
        short = name.split("_")[0].lower()
        scope = lambda backend=backend: sdpa_kernel(backend)
        found[f"sdpa-{short}"] = ("f16", scope, sdpa(False))
        found[f"sdpa-{short}-folded"] = ("f16", scope, sdpa(True))
    if not found:  # before PyTorch 2.3
        found["sdpa-folded"] = ("f16", contextlib.nullcontext, sdpa(True))
    found["flash_attn"] = ("f16", contextlib.nullcontext, flash_with_kvcache)
    found["flash_attn3-fp8"] = ("fp8", contextlib.nullcontext, flash3_fp8)
    return found


def measure(shape, names, samples):
    gqa, context, batch = shape
    of_cache = 2 * batch * KV_HEADS * context * HEAD_DIM * 2
    row = {"gqa": gqa, "context": context, "batch": batch, "ms": {}, "failed": {}}
    free = torch.cuda.mem_get_info()[0]
    if of_cache * 2 > free:  # the fp8 copy and its intermediate need room too
        row["failed"]["all"] = "not enough memory"
        return row
    copies = max(1, min(math.ceil(ROTATED_BYTES / of_cache), int(free // (2 * of_cache))))
    size = (batch, KV_HEADS, context, HEAD_DIM)
    caches = [tuple(torch.randn(size, device="cuda", dtype=torch.float16) for _ in range(2))
              for _ in range(copies)]
    q = torch.randn((batch, KV_HEADS * gqa, HEAD_DIM), device="cuda", dtype=torch.float16)
    for name, (_, scope, make) in names.items():
        try:
            with scope():
                row["ms"][name] = median_ms(make(q, caches, gqa), samples)
        except Exception as e:  # a backend that does not take the shape says so by any exception
            row["failed"][name] = f"{type(e).__name__}: {e}".splitlines()[0][:200]
    for kind in ("f16", "fp8"):
        times = {n: ms for n, ms in row["ms"].items() if names[n][0] == kind}
        if times:
            best = min(times, key=times.get)
            row[kind] = {"path": best, "ms": times[best]}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json")
    parser.add_argument("--peers")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=float, default=1e9, help="start no shape after this time")
    args = parser.parse_args()
    start = time.monotonic()
    if not torch.cuda.is_available():
        sys.exit("torch_baseline: PyTorch sees no CUDA device")
    contexts = [4096, 32768] if args.quick else [4096, 16384, 32768, 65536, 131072]
    # First the contexts that the goals are about, in case time runs out.
    shapes = [(gqa, context, batch) for context in contexts for batch in (1, 8, 64)
              for gqa in (1, 4, 8)]
    shapes.sort(key=lambda s: (s[1] != 32768, s[1] != 65536, s[1]))
    names = paths()
    report = {"torch": torch.__version__, "device": torch.cuda.get_device_name(),
              "complete": True, "rows": []}
    with torch.inference_mode():
        for shape in shapes:
            if time.monotonic() - start > args.seconds:
                report["complete"] = False
                break
            report["rows"].append(measure(shape, names, 3 if args.quick else 5))
            torch.cuda.empty_cache()
    text = json.dumps(report, indent=1)
    if args.json:
        with open(args.json, "w") as out:
            out.write(text + "\n")
    else:
        print(text)
    if args.peers:
        with open(args.peers, "w") as out:
            for row in report["rows"]:
                for kind, name in (("f16", "torch-f16"), ("fp8", "fp8")):
                    if kind in row:
                        out.write(f"{row['gqa']} {row['context']} {row['batch']} {name} "
                                  f"{row[kind]['ms']:.6f}\n")


if __name__ == "__main__":
    main()
