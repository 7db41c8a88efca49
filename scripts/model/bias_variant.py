#!/usr/bin/env python3
"""Turns the trained Llama into a Qwen2 with the K outliers of large Qwen2 models.

  bias_variant.py --model examples/models/tiny-llama --out start.pt
  train.py --bias --init start.pt --out DIR        fine-tunes it

Two changes per KV head, both in RoPE pairs that turn slowly (their angle moves by
less than one radian over 2.3k positions), where large models have them too:

  offset    a K bias of 5 to 10 standard deviations. In a pair that hardly turns it
            adds nearly the same amount to all scores of a query, and softmax ignores
            that: the model keeps working, while a quantizer that spreads one scale
            over the channel group loses most of its levels to a constant.
  outlier   K of a pair times 4 and Q of it divided by 4. Scores are unchanged to the
            last bit but for rounding, yet the channel is 4 times as wide as the rest.
"""

import argparse
import random

import numpy as np
import torch

import generate
from llama import Llama, load_folder

OFFSET_PAIRS = 3
OUTLIER_PAIRS = 2
OUTLIER_GAIN = 4.0
SLOW = range(27, 32)  # pair i is channels i and i + 32 of a head


@torch.no_grad()
def main():
    ap = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ap.add_argument("--model", required=True, help="trained Llama folder")
    ap.add_argument("--out", required=True, help="checkpoint to write")
    ap.add_argument("--seed", type=int, default=7)
    args = ap.parse_args()
    base = load_folder(args.model)
    model = Llama(bias=True)
    model.load_state_dict(base.state_dict(), strict=False)

    # Channel spreads of K on one document: the offsets are set relative to them.
    doc = generate.make_document(random.Random(args.seed), 2048)
    tokens = torch.from_numpy(np.frombuffer(doc.bytes(), np.uint8)[:2048].astype(np.int64))[None]
    for layer in base.model.layers:
        layer.self_attn.watch = []
    base(tokens)

    rng = random.Random(args.seed)
    dim, group = model.config["head_dim"], model.config["num_attention_heads"] // model.config["num_key_value_heads"]
    for index, (source, layer) in enumerate(zip(base.model.layers, model.model.layers)):
        a = layer.self_attn
        std = source.self_attn.watch[0][1][0].std(1)  # kv heads, channels
        for head in range(model.config["num_key_value_heads"]):
            offsets = rng.sample(list(SLOW), OFFSET_PAIRS)
            outliers = rng.sample(offsets, 1) + rng.sample(range(18, 27), OUTLIER_PAIRS - 1)
            gain = torch.ones(dim)
            for pair in outliers:
                # Both halves of a pair: the rotation mixes them.
                gain[pair] = gain[pair + dim // 2] = OUTLIER_GAIN
            rows = slice(head * dim, (head + 1) * dim)
            a.k_proj.weight[rows] *= gain[:, None]
            for q in range(head * group, (head + 1) * group):
                a.q_proj.weight[q * dim : (q + 1) * dim] /= gain[:, None]
            for pair in offsets:
                channel = pair + rng.choice([0, dim // 2])
                times = rng.uniform(5, 10) * rng.choice([-1, 1])
                a.k_proj.bias[head * dim + channel] = times * std[head, channel] * gain[channel]
            turn = max(2304 * model.config["rope_theta"] ** (-2 * p / dim) for p in offsets)
            print(f"layer {index} kv head {head}: offset pairs {sorted(offsets)} (turn at most {turn:.2f} rad),"
                  f" outlier pairs {sorted(outliers)}, largest bias {a.k_proj.bias[rows].abs().max():.2f},"
                  f" median K std {std[head].median():.2f}")
    torch.save(model.state_dict(), args.out)
    print(f"wrote {args.out}; {sum(p.numel() for p in model.parameters())} parameters")


if __name__ == "__main__":
    main()
