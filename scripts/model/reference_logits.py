#!/usr/bin/env python3
"""Forward pass in NumPy float64, for the expected values of the tests.

It shares no code with the training scripts (only this file and NumPy), so that
one mistake cannot hide in both. It reads a Hugging Face folder: Llama, Mistral
or Qwen2, f32/f16/bf16 weights, plain, linear or llama3 rotary scaling.

  reference_logits.py FOLDER --text "..." --positions 0,17,95 --out expected.json
  reference_logits.py --random tests/data/llama    writes the small random folders
"""

import argparse
import json
import math
import os
import struct

import numpy as np


def read_safetensors(path):
    with open(path, "rb") as f:
        raw = f.read()
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    tensors = {}
    for name, info in header.items():
        if name == "__metadata__":
            continue
        begin, end = info["data_offsets"]
        data = raw[8 + size + begin : 8 + size + end]
        if info["dtype"] == "BF16":
            # bf16 is the upper half of an f32.
            flat = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            flat = np.frombuffer(data, {"F32": "<f4", "F16": "<f2"}[info["dtype"]])
        tensors[name] = flat.astype(np.float64).reshape(info["shape"])
    return tensors


def write_safetensors(path, tensors, dtype):
    """tensors: name -> float32 array. Rounds to nearest even for bf16."""
    header, chunks, offset = {}, [], 0
    for name, t in tensors.items():
        if dtype == "BF16":
            u = t.astype("<f4").view(np.uint32)
            data = ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype("<u2").tobytes()
        else:
            data = t.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
        header[name] = {"dtype": dtype, "shape": list(t.shape), "data_offsets": [offset, offset + len(data)]}
        chunks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + b"".join(chunks))


def rope_frequencies(c, dim):
    inv = c.get("rope_theta", 10000.0) ** (-np.arange(0, dim, 2, dtype=np.float64) / dim)
    s = c.get("rope_scaling")
    if not s:
        return inv
    kind = s.get("rope_type", s.get("type"))
    if kind == "linear":
        return inv / s["factor"]
    if kind == "llama3":
        factor, low, high = s["factor"], s["low_freq_factor"], s["high_freq_factor"]
        old = s["original_max_position_embeddings"]
        out = []
        for f in inv:
            wave = 2 * math.pi / f
            if wave < old / high:
                out.append(f)  # fast pairs are left alone
            elif wave > old / low:
                out.append(f / factor)  # slow pairs are stretched
            else:
                mix = (old / wave - low) / (high - low)
                out.append((1 - mix) * f / factor + mix * f)
        return np.array(out)
    raise ValueError(f"rope type {kind}")


def forward(folder, ids):
    """Logits of all positions, [tokens, vocabulary], in float64."""
    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    w = read_safetensors(os.path.join(folder, "model.safetensors"))
    heads, kv = c["num_attention_heads"], c["num_key_value_heads"]
    dim = c.get("head_dim", c["hidden_size"] // heads)
    eps = c["rms_norm_eps"]
    # The window of a Mistral model: a query sees this many positions, itself included.
    window = c.get("sliding_window") if c["architectures"][0].startswith("Mistral") else None
    n = len(ids)

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w[name]

    def linear(x, name):
        y = x @ w[name + ".weight"].T
        return y + w[name + ".bias"] if name + ".bias" in w else y

    angle = np.arange(n)[:, None] * rope_frequencies(c, dim)[None]
    cos, sin = np.cos(angle), np.sin(angle)

    def rotate(x):
        a, b = x[:, : dim // 2], x[:, dim // 2 :]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    back = np.arange(n)[:, None] - np.arange(n)[None, :]
    seen = back >= 0
    if window:
        seen &= back < window
    x = w["model.embed_tokens.weight"][np.asarray(ids)]
    for layer in range(c["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        h = norm(x, p + "input_layernorm.weight")
        q, k, v = (linear(h, p + f"self_attn.{t}_proj") for t in "qkv")
        out = np.empty_like(q)
        for i in range(heads):
            j = i // (heads // kv)
            qi = rotate(q[:, i * dim : (i + 1) * dim])
            kj = rotate(k[:, j * dim : (j + 1) * dim])
            score = np.where(seen, qi @ kj.T / math.sqrt(dim), -np.inf)
            e = np.exp(score - score.max(-1, keepdims=True))
            out[:, i * dim : (i + 1) * dim] = e / e.sum(-1, keepdims=True) @ v[:, j * dim : (j + 1) * dim]
        x = x + linear(out, p + "self_attn.o_proj")
        h = norm(x, p + "post_attention_layernorm.weight")
        gate = linear(h, p + "mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, p + "mlp.up_proj"), p + "mlp.down_proj")
    x = norm(x, "model.norm.weight")
    head = w["model.embed_tokens.weight"] if c.get("tie_word_embeddings") else w["lm_head.weight"]
    return x @ head.T


def write_expected(folder, ids, positions, out, text=None):
    logits = forward(folder, ids)
    value = {"computed": "NumPy float64 from the stored weights", "positions": positions}
    if text is not None:
        value["text"] = text
    value["token_ids"] = [int(i) for i in ids]
    value["logits"] = [[float(f"{x:.9g}") for x in logits[p]] for p in positions]
    with open(out, "w") as f:
        json.dump(value, f)
        f.write("\n")


# name: (config changes, dtype)
RANDOM = {
    "random-mistral": (
        {"architectures": ["MistralForCausalLM"], "model_type": "mistral", "num_attention_heads": 4,
         "num_key_value_heads": 2, "sliding_window": 16, "intermediate_size": 32, "tie_word_embeddings": False,
         "torch_dtype": "bfloat16"}, "BF16"),
    "random-llama3rope": (
        {"num_attention_heads": 2, "num_key_value_heads": 1, "rope_theta": 500000.0,
         "max_position_embeddings": 512, "torch_dtype": "float16",
         "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                          "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}, "F16"),
    "random-linear-rope": (
        {"num_attention_heads": 1, "num_key_value_heads": 1, "intermediate_size": 48, "torch_dtype": "float32",
         "rope_scaling": {"type": "linear", "factor": 4.0}}, "F32"),
}


def write_random(root):
    for seed, (name, (changes, dtype)) in enumerate(RANDOM.items()):
        c = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 64, "hidden_size": 64,
             "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
             "head_dim": 64, "max_position_embeddings": 256, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
             "hidden_act": "silu", "tie_word_embeddings": True, "rope_scaling": None, **changes}
        rng = np.random.default_rng(1000 + seed)
        h, d, m = c["hidden_size"], c["head_dim"], c["intermediate_size"]
        q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d

        def matrix(rows, cols, gain):
            # Large enough gains that attention is far from uniform: a wrong rotation must show.
            return (rng.standard_normal((rows, cols)) * gain / math.sqrt(cols)).astype(np.float32)

        t = {"model.embed_tokens.weight": matrix(c["vocab_size"], h, 4.0)}
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            for norm in ("input_layernorm", "post_attention_layernorm"):
                t[p + norm + ".weight"] = rng.uniform(0.5, 1.5, h).astype(np.float32)
            for proj, rows, cols, gain in (("self_attn.q_proj", q, h, 1.5), ("self_attn.k_proj", kv, h, 1.5),
                                           ("self_attn.v_proj", kv, h, 1.0), ("self_attn.o_proj", h, q, 1.0),
                                           ("mlp.gate_proj", m, h, 1.0), ("mlp.up_proj", m, h, 1.0),
                                           ("mlp.down_proj", h, m, 1.0)):
                t[p + proj + ".weight"] = matrix(rows, cols, gain)
        t["model.norm.weight"] = rng.uniform(0.5, 1.5, h).astype(np.float32)
        if not c["tie_word_embeddings"]:
            t["lm_head.weight"] = matrix(c["vocab_size"], h, 4.0)
        folder = os.path.join(root, name)
        os.makedirs(folder, exist_ok=True)
        with open(os.path.join(folder, "config.json"), "w") as f:
            json.dump(c, f, indent=2)
            f.write("\n")
        write_safetensors(os.path.join(folder, "model.safetensors"), t, dtype)
        ids = rng.integers(0, c["vocab_size"], 96)
        write_expected(folder, ids, [0, 17, 40, 95], os.path.join(folder, "expected.json"))


def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("folder", nargs="?", help="Hugging Face folder")
    ap.add_argument("--text", help="prompt; token id = byte; backslash-n is a newline")
    ap.add_argument("--positions", default="0,17,95")
    ap.add_argument("--out")
    ap.add_argument("--random", metavar="ROOT", help="write the small random-weight folders under ROOT")
    args = ap.parse_args()
    if args.random:
        write_random(args.random)
        return
    if not args.folder or args.text is None or not args.out:
        ap.error("FOLDER, --text and --out are needed")
    text = args.text.replace("\\n", "\n")
    write_expected(args.folder, list(text.encode("ascii")), [int(p) for p in args.positions.split(",")], args.out, text)


if __name__ == "__main__":
    main()
